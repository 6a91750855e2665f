"""Which process of a group talks."""

from __future__ import annotations

import os

__all__ = ["hide_bar", "talks"]


def talks() -> bool:
    """Whether this process shows notes and warnings: the first of torchrun's, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def hide_bar() -> bool | None:
    """tqdm's ``disable``: None, so on a terminal only, in the process that talks."""
    return None if talks() else True
