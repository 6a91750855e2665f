"""A lock on a folder, so that one process works in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from srvae_pyro.errors import UserError
from srvae_pyro.system.console import say, shown
from srvae_pyro.system.files import has_locks

__all__ = ["locked"]


@contextmanager
def locked(folder: Path, refusal: str) -> Iterator[None]:
    """Make ``folder`` and lock it.

    The operating system holds the lock (``.lock``) for the process and frees it if that dies. Where
    a file system has no locks, a line says so.

    Args:
        folder: the folder.
        refusal: what to say after "is in use: " if another process holds the lock.

    Raises:
        UserError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not has_locks(folder):
        say(f"{shown(folder)} cannot be locked on its file system: start no second process there")
        yield
        return
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{folder} is in use: {refusal}") from None
    try:
        yield
    finally:
        lock.release()
