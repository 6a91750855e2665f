"""A lock on a folder, so that one process works in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from srvae_pyro.errors import UserError

__all__ = ["locked"]


@contextmanager
def locked(folder: Path, refusal: str) -> Iterator[None]:
    """Make ``folder`` and lock it.

    The operating system holds the lock (``.lock``) for the process and frees it if that dies.

    Args:
        folder: the folder.
        refusal: what to say after "is in use: " if another process holds the lock.

    Raises:
        UserError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{folder} is in use: {refusal}") from None
    try:
        yield
    finally:
        lock.release()
