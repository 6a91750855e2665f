"""Messages beside the progress bar."""

from __future__ import annotations

import contextlib

from tqdm import tqdm

__all__ = ["say"]


def say(text: str) -> None:
    """Print a line above the bar; a full disk under the log is no reason to end."""
    with contextlib.suppress(OSError):
        tqdm.write(text)
