"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "check_place",
    "filling",
    "holding",
    "set_aside",
    "unwinding",
    "write_json",
    "write_text",
    "write_whole",
]


def check_place(path: Path) -> None:
    """Find out whether a file could be written at ``path``, before it is worked for.

    Raises:
        OSError: it could not.
    """
    with contextlib.suppress(FileNotFoundError):
        os.lstat(path)  # refuses names that are too long
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    with tempfile.TemporaryFile(dir=folder):
        pass


def set_aside(path: Path) -> Path:
    """Rename a file that is damaged to ``NAME.damaged-1`` or the next number that is free."""
    names = (path.with_name(f"{path.name}.damaged-{number}") for number in itertools.count(1))
    free = next(name for name in names if not name.exists())
    os.rename(path, free)
    return free


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in ``path``'s place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _partial(path) as partial:
        try:
            write(partial)
            os.chmod(partial, 0o666 & ~_umask())  # some writers make private files
            with partial.open("r+b") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
            _sync_folder(path.parent)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """A temporary folder whose files come into ``folder`` at the end, or none if there is an error.

    By one renaming where ``folder`` is not there yet. What a killed process left goes.
    """
    name = hashlib.blake2b(os.fsencode(folder.name), digest_size=8).hexdigest()
    there = folder.is_dir()
    place = folder if there else folder.parent  # a folder may be another file system's
    place.mkdir(parents=True, exist_ok=True)
    partial = place / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if there:
            for file in sorted(partial.iterdir()):
                os.rename(file, folder / file.name)
        else:
            os.rename(partial, folder)
        _sync_folder(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def unwinding() -> Iterator[None]:
    """Within it SIGTERM ends the process by an exception, so that no temporary file is left."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return

    def stop(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """The temporary file for ``path``, which no other process writes to.

    It has one name always, so that what a killed process left is written over; but a name of its
    own while another process, or thread, writes into the same folder.
    """
    # A name may have no more bytes than the path's own. Image libraries choose the format by the
    # suffix.
    name = hashlib.blake2b(os.fsencode(path.name), digest_size=8).hexdigest()
    suffix = path.suffix if len(path.suffix) < 16 else ""
    with holding(path.parent) as alone:
        own = "" if alone else f"-{secrets.token_hex(4)}"
        yield path.with_name(f".{name}{own}.partial{suffix}")


@contextlib.contextmanager
def holding(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Whether nobody else is within this for the folder. Ends with the process in any case.

    Args:
        folder: the folder, which is there.
        wait: until nobody is, where the system can tell.
    """
    if fcntl is None:
        yield False
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        alone = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # taken, or on a file system that locks no folders
            alone = False
        try:
            yield alone
        finally:
            if alone:  # closing does not suffice where a process was forked meanwhile
                fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def write_json(path: Path, values: Any) -> None:
    """Write ``values`` as indented JSON, lists of numbers in one line each."""
    text = json.dumps(values, indent=2)
    text = re.sub(r"\[[-+.eE\d,\s]*\]", lambda m: "[" + " ".join(m[0][1:-1].split()) + "]", text)
    write_text(path, text + "\n")


def write_text(path: Path, text: str) -> None:
    """Write ``text``."""

    def write(partial: Path) -> None:
        partial.write_text(text, encoding="utf-8")

    write_whole(path, write)


def _sync_folder(folder: Path) -> None:
    """Have the folder's entries on the disk too, where the system allows it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
