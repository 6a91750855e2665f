"""Which files are to be enlarged, and what their answers are called."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from srvae_pyro.data.image_files import find_pictures, size_by_header
from srvae_pyro.errors import UserError
from srvae_pyro.system.files import distinct_names
from srvae_pyro.upscaling.photographs import shown

__all__ = ["Questions", "check_answers", "find_questions", "names_for", "pixels_of"]


@dataclass
class Questions:
    """What the command's arguments name.

    Attributes:
        paths: the picture files, each once.
        places: for each the folder, relative to ``--out``, of its answers.
        left_out: files in the folders that are no pictures: by their names, or named pipes.
        answers: how many pictures in the folders are in the folder of the answers, and left out.
        mistakes: what cannot be had, a line each.
    """

    paths: list[Path] = field(default_factory=list)
    places: list[Path] = field(default_factory=list)
    left_out: list[Path] = field(default_factory=list)
    answers: int = 0
    mistakes: list[str] = field(default_factory=list)


def find_questions(given: Sequence[Path], out: Path) -> Questions:
    """The picture files that are named, and those in the folders that are named and below.

    Hidden files are left out, and what is in ``out``: answers of earlier calls.

    Args:
        given: files and folders.
        out: the folder of the answers.

    Raises:
        UserError: answers would go among the pictures of a folder, to be questions the next time.
    """
    questions = Questions()
    seen: set[Path] = set()

    def add(path: Path, place: Path) -> None:
        if (real := path.resolve()) not in seen:
            seen.add(real)
            questions.paths.append(path)
            questions.places.append(place)

    for path in given:
        if not path.is_dir():
            if path.exists():
                add(path, Path())
            else:
                questions.mistakes.append(f"there is no file {shown(path)}")
            continue
        if path.resolve() == out.resolve():
            raise UserError(
                f"{shown(path)} has the photographs and would have the answers, which would be "
                "enlarged too the next time: give another --out"
            )
        # Where the folder is within ``out`` its answers are beside it, not in it.
        answers = out.resolve() if out.resolve().is_relative_to(path.resolve()) else None
        others: list[Path] = []
        errors: list[OSError] = []
        pictures = find_pictures(path, other=others.append, unread=errors.append)
        inside = [picture for picture in pictures if not _is_within(picture, answers)]
        questions.answers += len(pictures) - len(inside)
        for found in inside:
            add(found, found.relative_to(path).parent)
        if not inside:
            questions.mistakes.append(f"there are no pictures in the folder {shown(path)}")
        questions.left_out += sorted(other for other in others if not _is_within(other, answers))
        questions.mistakes += [
            f"cannot read the folder {shown(Path(error.filename))}: {error.strerror}"
            for error in errors
        ]
    return questions


def _is_within(path: Path, folder: Path | None) -> bool:
    return folder is not None and path.resolve().is_relative_to(folder)


def names_for(pictures: Sequence[Path], places: Sequence[Path] | None = None) -> list[Path]:
    """Where the answers to each picture go: its place and name, no two alike.

    Pictures whose names differ in their extensions alone have these in their answers' names, and
    where that is not enough a number.

    Args:
        pictures: their files.
        places: for each the folder of its answers, relative to that of all.
    """
    places = [Path()] * len(pictures) if places is None else places
    stems = [str(place / path.stem) for place, path in zip(places, pictures, strict=True)]
    counts = Counter(stem.casefold() for stem in stems)
    wanted = [
        stem if counts[stem.casefold()] == 1 else str(place / path.name.replace(".", "-"))
        for path, place, stem in zip(pictures, places, stems, strict=True)
    ]
    return [Path(name) for name in distinct_names(wanted)]


def check_answers(out: Path, pictures: Sequence[Path], names: Sequence[Path], factor: int) -> None:
    """Refuse answers that would take the place of a question.

    Raises:
        UserError: one would.
    """
    written = {(out / name).parent.resolve() / name.name for name in names}
    answer = re.compile(rf"(.+)-x{factor}(-\d+|-mean|-std)?\.(png|gif)", re.DOTALL)
    for path in pictures:
        real = path.resolve()
        match = answer.fullmatch(real.name)
        if match and real.with_name(match[1]) in written:
            raise UserError(
                f"{shown(path)} would be written over by the answer to another picture: give "
                "another --out"
            )


def pixels_of(path: Path) -> int:
    """How many pixels a picture has by its header; 0 if that cannot be read."""
    try:
        width, height = size_by_header(path)
    except MemoryError:
        raise
    except Exception:  # what is wrong is told when it is read
        return 0
    return width * height
