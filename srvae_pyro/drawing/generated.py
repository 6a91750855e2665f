"""A folder of generated pictures and the settings that they were drawn with."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from srvae_pyro.errors import UserError
from srvae_pyro.system.digest import digest
from srvae_pyro.system.files import read_json, write_json
from srvae_pyro.system.lock import locked

__all__ = ["GeneratedPictures", "chunks"]

RECORD = "generate.json"
GRID = "grid.png"


class GeneratedPictures:
    """Pictures 0 to ``count - 1`` of some settings, in ``FOLDER/pictures`` with no others.

    ``FOLDER/grid.png`` shows the first of them and ``FOLDER/generate.json`` tells the settings.
    What an earlier call drew and this one does not ask for is kept in ``FOLDER/earlier``, in a
    folder for each settings, until it is asked for again.

    Args:
        folder: the folder.
        run: the run that draws them, for people.
        settings: all that decides what the pictures are, fit for JSON.
        count: how many pictures.
    """

    def __init__(self, folder: Path, run: str, settings: dict[str, Any], count: int) -> None:
        self.folder = folder
        self.run = run
        self.settings = settings
        self.count = count
        self.pictures = folder / "pictures"
        self.grid = folder / GRID

    def path(self, index: int) -> Path:
        """Where a picture is or will be."""
        return self.pictures / f"{index:05d}.png"

    def missing(self, indices: range) -> list[int]:
        """Which of these pictures are still to be drawn."""
        return [index for index in indices if not self.path(index).exists()]

    @contextmanager
    def claimed(self) -> Iterator[int]:
        """Hold the folder, with no pictures of other settings or indices in its ``pictures``.

        Yields:
            How many were moved to ``earlier``.

        Raises:
            UserError: another process draws there, or there is what this command did not write.
        """
        refusal = "another process draws there; wait for it, or give another --out"
        with locked(self.folder, refusal):
            yield self._make_room()

    def _make_room(self) -> int:
        """Move out what is not asked for, and back what is; how many went out."""
        record = self._record()
        present = _by_index(self.pictures, nothing_else=True)
        others = [*present.values(), *([self.grid] if os.path.lexists(self.grid) else [])]
        if others and not record:
            raise _not_ours(others[0])
        same = record.get("settings") == self.settings
        others = [path for index, path in present.items() if not same or index >= self.count]
        if others:
            self._move_out(others, record, with_grid=not same)
        now = {"run": self.run, "settings": self.settings, "count": self.count}
        write_json(self.folder / RECORD, now)
        self.pictures.mkdir(exist_ok=True)
        for partial in self.pictures.glob(".*.partial.png"):  # of a process that was killed
            partial.unlink()
        self._move_back()
        return len(others)

    def _move_out(self, paths: list[Path], record: dict[str, Any], with_grid: bool) -> None:
        """Move pictures, and perhaps the grid, to the folder of the settings in their record."""
        aside = self._aside(record["settings"])
        aside.mkdir(parents=True, exist_ok=True)
        for path in paths:
            os.replace(path, aside / path.name)
        if with_grid and self.grid.exists():
            os.replace(self.grid, aside / GRID)
        write_json(aside / RECORD, {**record, "count": len(_by_index(aside))})

    def _move_back(self) -> None:
        """Move back the pictures of these settings that are asked for again."""
        aside = self._aside(self.settings)
        kept = _by_index(aside)
        for index in [index for index in kept if index < self.count]:
            os.replace(kept.pop(index), self.path(index))
        if not kept:
            for name in (RECORD, GRID):
                (aside / name).unlink(missing_ok=True)
            for empty in (aside, aside.parent):
                with suppress(OSError):  # it is not empty, or was never there
                    empty.rmdir()

    def _aside(self, settings: dict[str, Any]) -> Path:
        """The folder for pictures of these settings that are not asked for."""
        return self.folder / "earlier" / digest(settings)[:8]

    def _record(self) -> dict[str, Any]:
        """What the pictures in the folder were drawn with; nothing where there are none.

        Raises:
            UserError: that cannot be read.
        """
        path = self.folder / RECORD
        try:
            record = read_json(path)
            return {"run": record["run"], "settings": {**record["settings"]}}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, KeyError, RecursionError):
            raise UserError(
                f"{path} is damaged, so it is unknown what {self.pictures} holds: move both "
                "elsewhere, or give another --out"
            ) from None


def _not_ours(path: Path) -> UserError:
    return UserError(
        f"{path} is not a picture that this command drew, and such a folder has no others: move "
        "it elsewhere, or give another --out"
    )


def _by_index(folder: Path, nothing_else: bool = False) -> dict[int, Path]:
    """The pictures in a folder by their indices.

    Raises:
        UserError: there shall be nothing else, and there is.
    """
    pictures = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if re.fullmatch(r"\d{5,}\.png", path.name):
            pictures[int(path.stem)] = path
        elif nothing_else and not path.name.startswith("."):
            raise _not_ours(path)
    return pictures


def chunks(indices: Sequence[int], size: int) -> Iterator[range]:
    """Ascending indices as ranges without gaps, each of at most ``size``."""
    start = 0
    for end in range(1, len(indices) + 1):
        last = end == len(indices) or indices[end] != indices[end - 1] + 1
        if last or end - start == size:
            yield range(indices[start], indices[end - 1] + 1)
            start = end
