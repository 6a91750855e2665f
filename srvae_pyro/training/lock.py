"""One process a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from srvae_pyro.errors import UserError

__all__ = ["locked"]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the run's ``folder`` and let no other process train in it meanwhile.

    The operating system holds the lock (``.lock``) for the process, so one that dies frees it.

    Raises:
        UserError: another process trains in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{folder} is in use: another process trains there; wait for it, stop it, or choose "
            "another name with --run"
        ) from None
    try:
        yield
    finally:
        lock.release()
