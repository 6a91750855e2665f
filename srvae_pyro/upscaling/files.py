"""The files of upscaling: which are inputs, what outputs are called, how they are written."""

from __future__ import annotations

import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from srvae_pyro.data.image_files import find_pictures, size_by_header
from srvae_pyro.errors import UserError
from srvae_pyro.models import SRVAE
from srvae_pyro.system.console import say
from srvae_pyro.system.device import process_memory
from srvae_pyro.system.files import distinct_names, longest_name, replaced
from srvae_pyro.upscaling.enlarger import Enlarger, at_least, rounded
from srvae_pyro.upscaling.photographs import Photograph, named, save_gif, save_photograph, shown
from srvae_pyro.upscaling.quality import PixelStatistics, lr_psnr, shown_psnr
from srvae_pyro.upscaling.tiling import Canvas, Levels, MemoryCanvas, Scratch, bands

# Bytes for each pixel of an answer, measured: of Pillow's picture and what makes a file of it; of
# an animation, and for each of its pictures.
FILE_BYTES = 7
GIF_BYTES, FRAME_BYTES = 30, 3
ENDING = re.compile(r"(-\d{2,}|-mean|-std)?\.png|\.gif")  # of an answer's file, behind its stem


def tell(text: str) -> None:
    """Print a line, at once, above the bar."""
    say(text)
    sys.stdout.flush()


@dataclass
class Answers:
    """The files of a photograph's answers.

    Attributes:
        agreements: LR-PSNR as it is printed, by the file of each answer and of their mean.
        deviation: the map of where they differ, if there are several.
        white: the standard deviation, in levels, that is white there.
    """

    agreements: dict[Path, str] = field(default_factory=dict)
    deviation: Path | None = None
    white: float = 0.0


@dataclass
class Writer:
    """Makes the answers to photographs and writes them.

    Args:
        enlarger: makes them.
        passes: how often each photograph is enlarged.
        samples: how many answers each has.
        gif: whether they are animated too.
        made: told how many pixels have been made, of each pass.
        tell: told each line of the report.
    """

    enlarger: Enlarger
    passes: int
    samples: int = 1
    gif: bool = False
    made: Callable[[int], object] = lambda _: None
    tell: Callable[[str], object] = tell

    @property
    def factor(self) -> int:
        """How many times larger answers are."""
        return int(self.enlarger.model.guide.d.factor**self.passes)

    def pixels(self, pixels: int) -> int:
        """How many pixels are made of a photograph of so many, in all passes."""
        square = self.enlarger.model.guide.d.factor**2
        return self.samples * sum(pixels * square ** (n + 1) for n in range(self.passes))

    def check(self, path: Path, shape: Sequence[int], stem: Path) -> None:
        """Refuse a photograph (c, h, w) whose answers are too large, or would be named too long.

        Raises:
            UserError: they are.
        """
        _, height, width = self.enlarger.shape_of(shape, self.passes)
        gif = GIF_BYTES + FRAME_BYTES * self.samples if self.gif else 0
        need = (shape[0] + 1) * shape[1] * shape[2] + max(FILE_BYTES, gif) * height * width
        memory, allowed = process_memory(), self.enlarger.memory_gb * 1e9
        becomes = f"{shown(path)} would become {width}x{height} pixels, which take"
        if need > memory:
            raise UserError(
                f"{becomes} {need / 1e9:.1f} GB of memory, and there are {memory / 1e9:.1f}: cut "
                "out a part of it"
            )
        if need > allowed:
            raise UserError(
                f"{becomes} more memory than --memory-gb {self.enlarger.memory_gb:g}: give at "
                f"least {at_least(need)}"
            )
        self._check_length(path, stem)

    def _check_length(self, path: Path, stem: Path) -> None:
        most = longest_name(stem.parent)
        endings = [".png"]
        if self.samples > 1:
            endings = ["-mean.png", "-std.png", f"-{self.samples}.png"]
        room = most - max(map(len, endings))
        if len(os.fsencode(stem.name)) > room:
            room -= len(f"-x{self.factor}")
            raise UserError(
                f"{shown(path)} has a name too long for its answer's, which may have {most} bytes: "
                f"rename it to at most {room} without its extension"
            )

    def write(self, photograph: Photograph, stem: Path) -> Answers:
        """Write the answers to ``stem`` with an ending each, and report.

        Raises:
            OSError: they cannot be written.
            UserError: not even a small tile fits into the memory allowed.
        """
        model, question = self.enlarger.model, MemoryCanvas(photograph.levels)
        shape = self.enlarger.shape_of(question.shape, self.passes)
        stem.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        written = Answers()
        with Scratch(stem.parent) as scratch:
            answers = [scratch.canvas(shape) for _ in range(self.samples)]
            self.enlarger.enlarge(
                question,
                answers,
                self.passes,
                gray=photograph.gray,
                finish=photograph.toned,
                made=self.made,
                scratch=scratch.canvas,
            )
            seconds = (time.monotonic() - began) / self.samples
            for number, answer in enumerate(answers):
                began = time.monotonic()
                file = self._file(stem, number)
                earlier = replaced(file)
                save_photograph(file, answer, photograph)
                agreement = lr_psnr_of(model, answer, question, self.passes)
                written.agreements[file] = agreement
                taken = seconds + time.monotonic() - began
                name, size = shown(Path(file.name)), f"{shape[2]}x{shape[1]}"
                self.tell(f"  {name}, {size}: LR-PSNR {agreement}, {taken:.1f} s{earlier}")
            files = list(written.agreements)
            if self.samples > 1:
                self._write_statistics(answers, photograph, stem, scratch.canvas, written)
        made = {*written.agreements, written.deviation}
        if self.gif:
            animation = stem.with_name(f"{stem.name}.gif")
            earlier = replaced(animation)
            save_gif(animation, files)
            made.add(animation)
            if earlier:
                self.tell(f"  {shown(Path(animation.name))}{earlier}")
        if left := [Path(file.name) for file in _answers_at(stem) if file not in made]:
            self.tell(f"  of an earlier call, as they were: {named(left)}")
        return written

    def _file(self, stem: Path, number: int) -> Path:
        """The file of an answer: STEM.png, or STEM-01.png and so on where there are several."""
        digits = max(len(str(self.samples)), 2)
        ending = f"-{number + 1:0{digits}d}.png" if self.samples > 1 else ".png"
        return stem.with_name(stem.name + ending)

    def _write_statistics(
        self,
        answers: Sequence[Levels],
        photograph: Photograph,
        stem: Path,
        canvas: Callable[[Sequence[int]], Canvas],
        written: Answers,
    ) -> None:
        """Write the answers' mean, and the map of where they differ, and report."""
        model, question = self.enlarger.model, MemoryCanvas(photograph.levels)
        shape, white = answers[0].shape, 0.0
        mean, deviation = canvas(shape), canvas((1, *shape[1:]))
        parts = list(bands(shape, self.factor))
        for start, stop in parts:
            statistics = _statistics(answers, start, stop)
            y = question.rows(start // self.factor, stop // self.factor)
            mean.append(rounded(statistics.mean(), model, y, self.passes))
            white = max(white, statistics.deviation().max().item())
        # Anew rather than kept, which would take eight times the memory of an answer.
        for start, stop in parts:
            levels = _statistics(answers, start, stop).deviation() * (255 / white if white else 0)
            deviation.append(levels.round().byte())
        agreement = lr_psnr_of(model, mean, question, self.passes)
        file = stem.with_name(f"{stem.name}-mean.png")
        earlier = replaced(file)
        save_photograph(file, mean, photograph)
        written.agreements[file] = agreement
        self.tell(f"  {shown(Path(file.name))}: LR-PSNR {agreement}{earlier}")
        scale = f"standard deviation of {len(answers)} answers: white is {white:.2f} levels"
        file = stem.with_name(f"{stem.name}-std.png")
        earlier = replaced(file)
        save_photograph(file, deviation, comment=scale)
        written.deviation, written.white = file, white
        self.tell(f"  {shown(Path(file.name))}: {scale} of 255, black 0{earlier}")


def _answers_at(stem: Path) -> list[Path]:
    """The files of answers that are there, of whatever call."""
    files = (file for file in stem.parent.iterdir() if file.name.startswith(stem.name))
    return sorted(file for file in files if ENDING.fullmatch(file.name, len(stem.name)))


def _statistics(answers: Sequence[Levels], start: int, stop: int) -> PixelStatistics:
    """Of some rows of all answers."""
    statistics = PixelStatistics()
    for answer in answers:
        statistics.add(answer.rows(start, stop))
    return statistics


def lr_psnr_of(model: SRVAE, x: Levels, y: Levels, passes: int) -> str:
    """LR-PSNR as it is printed."""
    shown = shown_psnr(lr_psnr(model, x, y, passes))
    return shown if shown == "exact" else f"{shown} dB"


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
