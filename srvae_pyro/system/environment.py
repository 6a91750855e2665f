"""Variables of the environment: those that other programs set, and some that hold for a while."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["in_group", "number", "variable"]


def number(name: str, default: int) -> int:
    """The whole number in a variable; ``default`` where there is none, or something else in it."""
    try:
        return int(os.environ.get(name, default))
    except ValueError:
        return default


def in_group() -> bool:
    """Whether torchrun's variables tell of other processes to meet.

    All that a meeting takes must be there: batch systems, and jobs that have ended, leave some.
    """
    return (
        0 <= number("RANK", -1) < number("WORLD_SIZE", 1) > 1
        and bool(os.environ.get("MASTER_ADDR"))
        and number("MASTER_PORT", 0) > 0
    )


@contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    """Within it a variable of the environment has a value; then it is as it was, or not there."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
