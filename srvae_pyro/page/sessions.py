"""Those who look at the page: what is computed for them, and the files that they are shown."""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from srvae_pyro.errors import UserError

__all__ = ["KEPT_SECONDS", "MOST_KEPT", "Sessions", "StoppedError", "Work"]

KEPT_SECONDS = 1800.0  # of files whose visitor has not said goodbye: programs do not, nor do phones
MOST_KEPT = 1000  # uploads and folders of finished work, however small
SWEEP_SECONDS = 60.0


class StoppedError(Exception):
    """The visitor has asked to stop, or has left."""


def _untold(_: float, __: str) -> None:
    pass


@dataclass
class Work:
    """Something that is computed for a visitor.

    Attributes:
        folder: where its files go; there is nothing else in it.
        tell: told how much is done, from 0 to 1, and in words.
        kind: what it is.
    """

    folder: Path
    tell: Callable[[float, str], object] = _untold
    kind: str = ""
    _stopped: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        """Let it end at the next :meth:`at`."""
        self._stopped.set()

    def at(self, done: float, words: str = "") -> None:
        """Tell how much is done, and end here if that is wanted.

        Raises:
            StoppedError: it is.
        """
        if self._stopped.is_set():
            raise StoppedError
        self.tell(min(done, 1.0), words)


@dataclass
class _Visitor:
    running: list[Work] = field(default_factory=list)
    shown: dict[str, Path] = field(default_factory=dict)  # the last folder of each kind of work
    uploads: set[Path] = field(default_factory=set)


class Sessions:
    """All visitors, by keys that nobody can guess, and their files.

    Safe in threads. A visitor's files are removed when others of the same kind take their place,
    when the visitor leaves, when :meth:`sweep` finds them old, and the oldest of all visitors when
    there are more than :data:`MOST_KEPT` or their room is needed.

    Args:
        folder: for all files, uploads too; it belongs to the page alone.
        most_bytes: that all files may take.
    """

    def __init__(self, folder: Path, most_bytes: float = inf) -> None:
        self.folder = folder
        self.most_bytes = most_bytes
        self._reserved = 0.0
        self._lock = threading.Lock()
        self._visitors: dict[str, _Visitor] = {}

    @contextmanager
    def work(
        self, visitor: str, kind: str, tell: Callable[[float, str], object] = _untold
    ) -> Iterator[Work]:
        """Something to compute, with a folder of its own.

        If it succeeds, the folder replaces that of the visitor's last work of this kind; else it is
        removed.

        Args:
            visitor: for whom.
            kind: what it is.
            tell: as of :class:`Work`.
        """
        work = Work(self.folder / secrets.token_hex(16), tell, kind)
        work.folder.mkdir(parents=True)
        with self._lock:
            self._visitors.setdefault(visitor, _Visitor()).running.append(work)
        before: Path | None = work.folder
        try:
            yield work
            with self._lock:
                # Who left meanwhile needs no files.
                if (known := self._visitors.get(visitor)) and work in known.running:
                    before = known.shown.get(kind)
                    known.shown[kind] = work.folder
        finally:
            with self._lock:
                if (known := self._visitors.get(visitor)) and work in known.running:
                    known.running.remove(work)
            _remove(before)
            with self._lock:
                self._make_room()

    @contextmanager
    def room(self, size: float) -> Iterator[None]:
        """Within it so many bytes are reserved for new files.

        Raises:
            UserError: there is no such room, even without the files that nobody works on.
        """
        with self._lock:
            if not self._make_room(size):
                raise UserError(
                    f"this takes up to {size / 1e9:.2g} GB on disk, and of the "
                    f"{self.most_bytes / 1e9:g} for all visitors too little is free: ask for less, "
                    "or try again later"
                )
            self._reserved += size
        try:
            yield
        finally:
            with self._lock:
                self._reserved -= size

    def uploaded(self, visitor: str, path: Path) -> None:
        """Note that a visitor has sent a file; another may have sent the same, to the same path."""
        with self._lock:
            self._visitors.setdefault(visitor, _Visitor()).uploads.add(path)

    def stop(self, visitor: str, kind: str) -> None:
        """Stop what of a kind is computed for a visitor, at the next tile or image."""
        with self._lock:
            for work in self._visitors.get(visitor, _Visitor()).running:
                if work.kind == kind:
                    work.stop()

    def leave(self, visitor: str) -> None:
        """Stop what is computed for a visitor, and remove the files that nobody else sent too."""
        with self._lock:
            gone = self._visitors.pop(visitor, _Visitor())
            for work in gone.running:
                work.stop()
            others = {path for known in self._visitors.values() for path in known.uploads}
            for path in [*gone.shown.values(), *(gone.uploads - others)]:
                _remove(path)

    def sweep(self, kept_seconds: float = KEPT_SECONDS) -> None:
        """Remove what is older and not of work that is running, and forget who has nothing left."""
        oldest = time.time() - kept_seconds
        with self._lock:
            for changed, _, path in self._idle()[0]:
                if changed < oldest:
                    _remove(path)
            self._forget()

    def _idle(self) -> tuple[list[tuple[float, int, Path]], int]:
        """What nobody works on, the oldest first, with its last change and bytes; all bytes."""
        idle: list[tuple[float, int, Path]] = []
        total = 0
        busy = {work.folder for known in self._visitors.values() for work in known.running}
        for known in self._visitors.values():
            if known.running:
                busy |= {path.parent for path in known.uploads}
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            with suppress(OSError):  # it is gone already
                found = [p.stat() for p in (path, *path.rglob("*"))]
                size = sum(status.st_size for status in found)
                total += size
                if path not in busy:
                    idle.append((max(status.st_mtime for status in found), size, path))
        return sorted(idle), total

    def _make_room(self, size: float = 0) -> bool:
        """Remove the oldest until so many bytes more would fit; whether they do."""
        idle, total = self._idle()
        excess = self._reserved + size + total - self.most_bytes
        if size and excess > sum(freed for _, freed, _ in idle):
            return False
        for number, (_, freed, path) in enumerate(idle):
            if excess <= 0 and len(idle) - number <= MOST_KEPT:
                break
            _remove(path)
            excess -= freed
        self._forget()
        return True

    def _forget(self) -> None:
        """Forget files that are gone, and who has nothing left."""
        for key, known in list(self._visitors.items()):
            known.shown = {k: path for k, path in known.shown.items() if path.exists()}
            known.uploads = {path for path in known.uploads if path.exists()}
            if not (known.running or known.shown or known.uploads):
                del self._visitors[key]

    def sweep_until(self, ended: threading.Event) -> None:
        """Sweep each minute, in a thread of its own."""
        while not ended.wait(SWEEP_SECONDS):
            self.sweep()


def _remove(path: Path | None) -> None:
    """Remove a file or folder, if it is there."""
    if path is None:
        return
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
        with suppress(OSError):  # there are others in it
            path.parent.rmdir()
