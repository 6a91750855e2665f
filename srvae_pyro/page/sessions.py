"""The visitors of the page: what is computed for them, and the files that they are shown."""

from __future__ import annotations

import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from srvae_pyro.errors import UserError

MOST_KEPT = 1000  # uploads and folders of finished work, however small


class StoppedError(Exception):
    """The visitor has asked to stop, or has left."""


@dataclass
class Work:
    """Something that is computed for a visitor, with a folder of its own for its files."""

    folder: Path
    report: Callable[[float, str], object] = lambda *_: None  # the share that is done, and words
    visitor: str = ""
    kind: str = ""
    _stopped: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        self._stopped.set()

    def at(self, done: float, words: str = "") -> None:
        """Report the share that is done, from 0 to 1; raise StoppedError after :meth:`stop`."""
        if self._stopped.is_set():
            raise StoppedError
        self.report(min(done, 1.0), words)


class Sessions:
    """All visitors, by keys that nobody can guess, and their files; safe in threads.

    Files are removed when others of the same kind replace them, when the visitor leaves, or, the
    oldest first, when there are more than :data:`MOST_KEPT` or their room is needed. Those in the
    folder ``examples`` stay, for all.
    """

    def __init__(self, folder: Path, most_bytes: float = inf) -> None:
        self.folder = folder
        self.examples = folder / "examples"
        self.most_bytes = most_bytes
        self._reserved = 0.0
        self._lock = threading.Lock()
        self._running: list[Work] = []
        # For each visitor the last folder of each kind of work, and uploads by their paths.
        self._files: dict[str, dict[str, Path]] = {}

    @contextmanager
    def work(
        self, visitor: str, kind: str, report: Callable[[float, str], object] = lambda *_: None
    ) -> Iterator[Work]:
        """Something to compute; its folder replaces the last of this kind, or goes if it fails."""
        work = Work(self.folder / secrets.token_hex(16), report, visitor, kind)
        work.folder.mkdir(parents=True)
        with self._lock:
            self._running.append(work)
        outdated: Path | None = work.folder
        try:
            yield work
            with self._lock:
                if work in self._running:  # else the visitor has left
                    files = self._files.setdefault(visitor, {})
                    outdated, files[kind] = files.get(kind), work.folder
        finally:
            with self._lock:
                if work in self._running:
                    self._running.remove(work)
                _remove(outdated)
                self._make_room()

    @contextmanager
    def room(self, size: float) -> Iterator[None]:
        """Reserve so many bytes for new files, or refuse."""
        with self._lock:
            if not self._make_room(size):
                raise UserError(
                    f"this needs up to {size / 1e9:.2g} GB on disk, and too little of the "
                    f"{self.most_bytes / 1e9:g} GB for all visitors is free: ask for less, or try "
                    "again later"
                )
            self._reserved += size
        try:
            yield
        finally:
            with self._lock:
                self._reserved -= size

    def uploaded(self, visitor: str, path: Path) -> None:
        """Note an upload; another visitor may have sent the same file to the same path."""
        if self.examples not in path.parents:  # which a program may name
            with self._lock:
                self._files.setdefault(visitor, {})[str(path)] = path

    def stop(self, visitor: str, kind: str) -> None:
        """Stop a kind of a visitor's work at the next tile or image."""
        with self._lock:
            for work in self._running:
                if (work.visitor, work.kind) == (visitor, kind):
                    work.stop()

    def leave(self, visitor: str) -> None:
        """Stop a visitor's work, and remove the files that nobody else sent too."""
        with self._lock:
            for work in [work for work in self._running if work.visitor == visitor]:
                work.stop()
                self._running.remove(work)
            files = set(self._files.pop(visitor, {}).values())
            for path in files.difference(*(other.values() for other in self._files.values())):
                _remove(path)

    def _make_room(self, size: float = 0) -> bool:
        """Remove the oldest files until so many bytes more fit; whether they do."""
        visitors = {work.visitor for work in self._running}
        uploads = (path for visitor in visitors for path in self._files.get(visitor, {}).values())
        busy = {self.examples, *(work.folder for work in self._running)}
        busy |= {path.parent for path in uploads}
        idle: list[tuple[float, int, Path]] = []
        excess = self._reserved + size - self.most_bytes
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            with suppress(OSError):  # it is gone already
                statuses = [p.stat() for p in (path, *path.rglob("*"))]
                taken = sum(status.st_size for status in statuses)
                excess += taken
                if path not in busy:
                    idle.append((max(status.st_mtime for status in statuses), taken, path))
        if size and excess > sum(taken for _, taken, _ in idle):
            return False
        for index, (_, taken, path) in enumerate(sorted(idle)):
            if excess <= 0 and len(idle) - index <= MOST_KEPT:
                break
            _remove(path)
            excess -= taken
        for visitor, files in list(self._files.items()):
            self._files[visitor] = {key: path for key, path in files.items() if path.exists()}
            if not self._files[visitor]:
                del self._files[visitor]
        return True


def _remove(path: Path | None) -> None:
    """Remove a folder, or a file with the folder that it was alone in."""
    if path is None:
        return
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
        with suppress(OSError):  # there are others in it
            path.parent.rmdir()
