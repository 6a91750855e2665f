"""Messages beside the progress bar."""

from __future__ import annotations

import sys

from tqdm import tqdm

from srvae_pyro.talk import steady

__all__ = ["say"]


def say(text: str) -> None:
    """Print a line above the bar; a full disk under the log is no reason to end."""
    tqdm.write(text, file=steady(sys.stdout))
