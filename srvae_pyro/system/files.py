"""Files that are written whole or not at all, locks on folders, checksums."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import stat
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from srvae_pyro.errors import UserError
from srvae_pyro.system.console import print_line, shown

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


# Errors of limited file systems, such as exFAT, CIFS or FUSE.
UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


def expanded(path: str | Path) -> Path:
    """With the home folder for ``~``; an unknown user's stays, where Path.expanduser raises."""
    return Path(os.path.expanduser(path))


_SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_place(path: Path) -> None:
    """Raise an OSError of ``path`` if neither a file nor a folder could be written there."""
    with contextlib.suppress(FileNotFoundError):
        if kind := special_kind(path):  # it refuses names that are too long, too
            raise OSError(errno.EINVAL, f"it is {kind}", os.fspath(path))
    folder = _existing(path)
    parts = path.absolute().relative_to(folder).parts
    try:
        for place in (path, *(folder / part for part in parts)):
            with contextlib.suppress(FileNotFoundError):
                os.lstat(place)  # refuses names that are too long
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def check_output(path: Path, flag: str, ours: Callable[[Path], bool] | None = None) -> None:
    """Refuse an output that cannot be written, or would replace another program's file.

    The path is a folder, or a file if ``ours`` is given, which recognises earlier outputs. ``flag``
    names another place, such as ``--out DIR``.
    """
    try:
        check_place(path)
    except OSError as error:
        raise UserError(f"cannot write {shown(path)} ({error.strerror}): give {flag}") from None
    right = path.is_file() and ours(path) if ours else path.is_dir()
    if os.path.lexists(path) and not right:
        raise UserError(
            f"{shown(path)} exists and was not written by this command: choose another {flag}"
        )


def check_new(folder: Path, names: Sequence[str]) -> None:
    """Refuse a folder that has a file of one of these names."""
    for name in names:
        if os.path.lexists(folder / name):
            raise UserError(f"{shown(folder / name)} already exists: choose another `out`")


def replaced(path: Path) -> str:
    """The end of a message about an output that is about to be written."""
    return ", replacing an earlier one" if os.path.lexists(path) else ""


def longest_name(path: Path) -> int:
    """How many bytes a name may have in a folder, which may not exist yet."""
    try:
        return os.pathconf(_existing(path), "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # not every system tells
        return 255


def _existing(path: Path) -> Path:
    """The folder at a path, or its nearest existing parent."""
    folder = path.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder


def special_kind(path: Path) -> str | None:
    """What is at ``path`` if neither file nor folder, such as "a named pipe", else None.

    Reading it may never end, and a file must not replace it. An OSError if nothing is there.
    """
    return _SPECIAL.get(stat.S_IFMT(os.stat(path).st_mode))


def distinct_names(wanted: Iterable[str]) -> list[str]:
    """The names, repeated ones with ``-2`` or the next free number; case does not count."""
    names: list[str] = []
    taken: set[str] = set()
    numbers: dict[str, int] = {}
    for plain in wanted:
        name, folded = plain, plain.casefold()
        while name.casefold() in taken:
            numbers[folded] = numbers.get(folded, 1) + 1
            name = f"{plain}-{numbers[folded]}"
        taken.add(name.casefold())
        names.append(name)
    return names


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in ``path``'s place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _partial(path) as partial:
        try:
            write(partial)
            with contextlib.suppress(OSError):  # not all file systems have permissions
                os.chmod(partial, 0o666 & ~_umask())  # some writers make private files
            with partial.open("r+b") as file:
                _sync(file.fileno())
            os.replace(partial, path)
            _sync_folder(path.parent)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def filling(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """A temporary folder whose named files move into ``folder`` at the end, if without an error.

    Several processes may fill one folder, each by its own; what killed ones left is removed. A
    UserError if a named file is there already, an OSError if one is missing at the end.
    """
    place = folder if folder.is_dir() else folder.parent  # a folder may be another file system's
    place.mkdir(parents=True, exist_ok=True)
    stem = _hidden(folder)
    partial = place / f"{stem}-{secrets.token_hex(4)}.partial"
    with contextlib.ExitStack() as stack:
        with holding(place, wait=True):  # one process at a time looks for what is left
            for left in place.glob(f"{stem}*.partial"):
                with holding(left) as alone:
                    if alone:  # its process is dead
                        shutil.rmtree(left, ignore_errors=True)
            partial.mkdir()
            stack.callback(shutil.rmtree, partial, ignore_errors=True)
            stack.enter_context(holding(partial))
        yield partial
        for name in names:
            os.lstat(partial / name)
        if not folder.is_dir():
            with contextlib.suppress(OSError):  # it is there now, or folders cannot be renamed
                os.rename(partial, folder)
        if partial.is_dir():
            folder.mkdir(exist_ok=True)
            with holding(folder, wait=True):
                check_new(folder, names)
                for name in names:
                    os.rename(partial / name, folder / name)
        _sync_folder(folder)
        _sync_folder(place)


@contextmanager
def unwinding() -> Iterator[None]:
    """Within it SIGTERM raises an exception, so that no temporary file is left."""
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


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """The temporary file for ``path``: its name is fixed, unless others write into the folder.

    So the leftovers of killed processes are overwritten.
    """
    # The name is no longer than the path's own; image libraries choose the format by the suffix.
    suffix = path.suffix if len(path.suffix) < 16 else ""
    with holding(path.parent) as alone:
        own = "" if alone else f"-{secrets.token_hex(4)}"
        yield path.with_name(f"{_hidden(path)}{own}.partial{suffix}")


def _hidden(path: Path) -> str:
    """The start of temporary names for a path."""
    return "." + hashlib.blake2b(os.fsencode(path.name), digest_size=8).hexdigest()


@contextmanager
def holding(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Hold the folder, if no other process does, or ``wait`` for it; yields whether it is held."""
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
            if alone:  # closing does not suffice if a process was forked meanwhile
                fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def has_locks(folder: Path) -> bool:
    """Whether files in a folder can be locked, which some file systems refuse."""
    if fcntl is None:
        return True  # Windows has locks of its own
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # nobody else can hold this one
            return False
    return True


def read_json(path: Path) -> Any:
    """The values in a JSON file, in UTF-8, 16 or 32."""
    return json.loads(path.read_bytes())


def write_json(path: Path, values: Any) -> None:
    """Write ``values`` as indented JSON, lists of numbers in one line each."""
    text = json.dumps(values, indent=2)
    # A string has no line breaks, so brackets in one are not a list's.
    text = re.sub(r"\[\n[-+.eE\d,\s]*\]", lambda m: "[" + " ".join(m[0][1:-1].split()) + "]", text)
    write_text(path, text + "\n")


def append_whole(path: Path, text: str) -> None:
    """Append lines to a file, or none and raise an OSError; a line that was cut off is ended."""
    with path.open("a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - 1, 0))
        cut_off = file.read(1) not in (b"", b"\n")
        content = b"\n" * cut_off + text.encode()
        try:
            if file.write(content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(end)
            raise


def write_text(path: Path, text: str) -> None:
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _sync(descriptor: int) -> None:
    """Flush a file to the disk, if the file system supports it."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, if the system supports it."""
    with contextlib.suppress(OSError):  # Windows opens no folders; some network file systems
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def digest(value: Any) -> str:
    """A checksum of nested tensors, numbers and strings, types and order included.

    A TypeError if there is something else in the value.
    """
    checksum = hashlib.blake2b(digest_size=16)

    def add(part: Any) -> None:
        if isinstance(part, Tensor):
            checksum.update(f"tensor {part.dtype} {tuple(part.shape)};".encode())
            flat = part.detach().cpu().contiguous().reshape(-1)
            checksum.update(flat.view(torch.uint8).numpy().data)
        elif isinstance(part, dict):
            checksum.update(f"dict {len(part)};".encode())
            for key, item in part.items():
                add(key)
                add(item)
        elif isinstance(part, list | tuple):
            checksum.update(f"list {len(part)};".encode())
            for item in part:
                add(item)
        elif part is None or isinstance(part, bool | int | float | str):
            checksum.update(f"{type(part).__name__} {part!r};".encode())
        else:
            raise TypeError(f"{type(part).__name__} is nothing that a checkpoint holds")

    add(value)
    return checksum.hexdigest()


@contextmanager
def locked(folder: Path, refusal: str) -> Iterator[None]:
    """Make ``folder`` and lock it, or raise a UserError "is in use: ``refusal``".

    The system frees the lock (``.lock``) if the process dies. Without locks a warning is printed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not has_locks(folder):
        print_line(
            f"{shown(folder)} cannot be locked on its file system: start only one process there"
        )
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
