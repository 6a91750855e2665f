"""One process a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from srvae_pyro.errors import UserError

__all__ = ["locked"]


@contextmanager
def locked(folder: Path, refusal: str) -> Iterator[None]:
    """Make ``folder`` and let no other process work in it meanwhile.

    The operating system holds the lock (``.lock``) for the process, so one that dies frees it.

    Args:
        folder: the folder.
        refusal: what to say after "it is in use: " where another process is there.

    Raises:
        UserError: another process is.
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
