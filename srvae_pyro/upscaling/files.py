"""The files of upscaling: which are inputs, what outputs are called, how they are written."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from srvae_pyro.data.image_files import find_images
from srvae_pyro.errors import UserError
from srvae_pyro.models import InputKind
from srvae_pyro.system.console import print_line, shown
from srvae_pyro.system.device import process_memory
from srvae_pyro.system.files import distinct_names, longest_name, replaced
from srvae_pyro.upscaling.photographs import Photograph, named, save_gif, save_photograph
from srvae_pyro.upscaling.quality import PixelStatistics, lr_psnr, shown_psnr
from srvae_pyro.upscaling.tiling import Canvas, Levels, MemoryCanvas, Scratch, bands
from srvae_pyro.upscaling.upscaler import Upscaler, at_least, rounded

# Bytes for each pixel of an output, measured: of Pillow's image and what makes a file of it; of
# an animation, and for each of its images.
FILE_BYTES = 7
GIF_BYTES, FRAME_BYTES = 30, 3
GIF_SIDE = 2**16 - 1
ENDING = re.compile(r"(-\d{2,}|-mean|-std)?\.png|\.gif")  # of an output's file, behind its stem


@dataclass
class Outputs:
    """The files of a photograph's outputs."""

    # LR-PSNR of each, their mean too; empty where the input is not exact.
    consistencies: dict[Path, str] = field(default_factory=dict)
    deviation: Path | None = None  # the map of where several differ
    white: float = 0.0  # the standard deviation, in levels, that is white there


@dataclass
class Writer:
    """Makes the outputs to photographs and writes them, as an animation too if ``gif``."""

    upscaler: Upscaler
    gif: bool = False
    report: Callable[[str], object] = print_line  # takes each line of the report

    @property
    def samples(self) -> int:
        """How many outputs each photograph has."""
        return self.upscaler.options.samples

    def pixels(self, pixels: int) -> int:
        """How many pixels are made of a photograph of so many, in all passes."""
        return self.samples * self.upscaler.pixels(pixels)

    def check(self, path: Path, shape: Sequence[int], stem: Path) -> None:
        """Refuse a photograph (c, h, w) whose outputs are too large, or have too long a name."""
        _, height, width = self.upscaler.shape_of(shape)
        gif = GIF_BYTES + FRAME_BYTES * self.samples if self.gif else 0
        if gif and max(height, width) > GIF_SIDE:
            raise UserError(
                f"{shown(path)} would become {width}x{height} pixels, and a GIF has at most "
                f"{GIF_SIDE} a side: leave out `gif`"
            )
        need = (shape[0] + 1) * shape[1] * shape[2] + max(FILE_BYTES, gif) * height * width
        memory, allowed = process_memory(), self.upscaler.options.memory_gb
        becomes = f"{shown(path)} would become {width}x{height} pixels, which need"
        if need > memory:
            raise UserError(
                f"{becomes} {need / 1e9:.1f} GB of memory, and {memory / 1e9:.1f} GB are "
                "available: crop it"
            )
        if need > allowed * 1e9:
            raise UserError(
                f"{becomes} more memory than `memory_gb={allowed:g}`: use at least {at_least(need)}"
            )
        self._check_length(path, stem)

    def _check_length(self, path: Path, stem: Path) -> None:
        most = longest_name(stem.parent)
        endings = [".png"]
        if self.samples > 1:
            endings = ["-mean.png", "-std.png", f"-{self.samples}.png"]
        room = most - max(map(len, endings))
        if len(os.fsencode(stem.name)) > room:
            room -= len(f"-x{self.upscaler.factor}")
            raise UserError(
                f"the name of {shown(path)} is too long: an output's name is limited to {most} "
                f"bytes; shorten it to {room} bytes, excluding the extension"
            )

    def write(self, photograph: Photograph, stem: Path) -> Outputs:
        """Write the outputs to ``stem`` with an ending each, and report.

        Raises:
            OSError: they cannot be written.
            UserError: not even a small tile fits into the memory allowed.
        """
        lr = MemoryCanvas(photograph.levels)
        shape = self.upscaler.shape_of(lr.shape)
        stem.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        written = Outputs()
        with Scratch(stem.parent) as scratch:
            outputs = [scratch.canvas(shape) for _ in range(self.samples)]
            kind = self.upscaler.kind_of(photograph)
            self.upscaler.upscale(lr, outputs, gray=photograph.gray, kind=kind)
            seconds = (time.monotonic() - began) / self.samples
            for number, output in enumerate(outputs):
                began = time.monotonic()
                file = self._file(stem, number)
                earlier = replaced(file)
                save_photograph(file, output, photograph)
                consistency = lr_psnr_of(self.upscaler, output, lr, kind)
                written.consistencies[file] = consistency
                taken = seconds + time.monotonic() - began
                name, size = shown(Path(file.name)), f"{shape[2]}x{shape[1]}"
                said = f"{consistency and f'LR-PSNR {consistency}, '}{taken:.1f} s{earlier}"
                self.report(f"  {name}, {size}: {said}")
            files = list(written.consistencies)
            if self.samples > 1:
                self._write_statistics(outputs, photograph, stem, written, kind)
        made = {*written.consistencies, written.deviation}
        if self.gif:
            animation = stem.with_name(f"{stem.name}.gif")
            earlier = replaced(animation)
            save_gif(animation, files)
            made.add(animation)
            if earlier:
                self.report(f"  {shown(Path(animation.name))}{earlier}")
        if left := [Path(file.name) for file in _outputs_at(stem) if file not in made]:
            self.report(f"  unchanged from an earlier call: {named(left)}")
        return written

    def _file(self, stem: Path, number: int) -> Path:
        """The file of an output: STEM.png, or STEM-01.png and so on where there are several."""
        digits = max(len(str(self.samples)), 2)
        ending = f"-{number + 1:0{digits}d}.png" if self.samples > 1 else ".png"
        return stem.with_name(stem.name + ending)

    def _write_statistics(
        self,
        outputs: Sequence[Canvas],
        photograph: Photograph,
        stem: Path,
        written: Outputs,
        kind: InputKind,
    ) -> None:
        """Write the outputs' mean, and the map of where they differ, and report."""
        model, lr = self.upscaler.model, MemoryCanvas(photograph.levels)
        factor, passes = self.upscaler.factor, self.upscaler.passes
        shape, white = outputs[0].shape, 0.0
        mean, deviation = (outputs[0].like((channels, *shape[1:])) for channels in (shape[0], 1))
        parts = list(bands(shape, factor))
        for start, stop in parts:
            statistics = _statistics(outputs, start, stop)
            y = lr.rows(start // factor, stop // factor)
            levels = statistics.mean()
            consistent = rounded(levels, y, model, passes) if kind.trusted else levels.round()
            mean.append(consistent.byte())
            white = max(white, statistics.deviation().max().item())
        # Anew rather than kept, which would take eight times the memory of an output.
        for start, stop in parts:
            levels = _statistics(outputs, start, stop).deviation() * (255 / white if white else 0)
            deviation.append(levels.round().byte())
        consistency = lr_psnr_of(self.upscaler, mean, lr, kind)
        file = stem.with_name(f"{stem.name}-mean.png")
        earlier = replaced(file)
        save_photograph(file, mean, photograph)
        written.consistencies[file] = consistency
        said = f"mean of {len(outputs)} outputs{consistency and f', LR-PSNR {consistency}'}"
        self.report(f"  {shown(Path(file.name))}: {said}{earlier}")
        scale = f"standard deviation of {len(outputs)} outputs: white is {white:.2f} levels"
        file = stem.with_name(f"{stem.name}-std.png")
        earlier = replaced(file)
        save_photograph(file, deviation, comment=scale)
        written.deviation, written.white = file, white
        self.report(f"  {shown(Path(file.name))}: {scale} of 255, black 0{earlier}")


def _outputs_at(stem: Path) -> list[Path]:
    """The files of outputs that are there, of whatever call."""
    files = (file for file in stem.parent.iterdir() if file.name.startswith(stem.name))
    return sorted(file for file in files if ENDING.fullmatch(file.name, len(stem.name)))


def _statistics(outputs: Sequence[Levels], start: int, stop: int) -> PixelStatistics:
    """Of some rows of all outputs."""
    statistics = PixelStatistics()
    for output in outputs:
        statistics.add(output.rows(start, stop))
    return statistics


def lr_psnr_of(upscaler: Upscaler, x: Levels, y: Levels, kind: InputKind) -> str:
    """LR-PSNR as it is printed; empty if the output need not agree with the input."""
    if not kind.trusted or not upscaler.passes:  # restored, or no d(x) has this factor
        return ""
    value = shown_psnr(lr_psnr(upscaler.model, x, y, upscaler.passes))
    return value if value == "exact" else f"{value} dB"


@dataclass
class InputFiles:
    """What the command's arguments name."""

    paths: list[Path] = field(default_factory=list)  # the image files, each once
    places: list[Path] = field(
        default_factory=list
    )  # for each its outputs' folder, within that of all
    left_out: list[Path] = field(default_factory=list)  # files in the folders that are no images
    outputs: int = 0  # images left out as they are in the folder of the outputs
    errors: list[str] = field(default_factory=list)  # a line each


def find_inputs(given: Sequence[Path], out: Path) -> InputFiles:
    """The image files that are named, and those in the folders that are named and below.

    Hidden files are left out, and what is in ``out``: outputs of earlier calls. A folder that is
    ``out`` itself is refused: its outputs would be inputs the next time.
    """
    inputs = InputFiles()
    seen: set[Path] = set()

    def add(path: Path, place: Path) -> None:
        if (real := path.resolve()) not in seen:
            seen.add(real)
            inputs.paths.append(path)
            inputs.places.append(place)

    for path in given:
        if not path.is_dir():
            if path.exists():
                add(path, Path())
            else:
                inputs.errors.append(f"there is no file {shown(path)}")
            continue
        if path.resolve() == out.resolve():
            raise UserError(
                f"{shown(path)} would hold photographs and outputs together, so that the "
                "outputs would be upscaled next time: choose another `out`"
            )
        # Where the folder is within ``out`` its outputs are beside it, not in it.
        outputs = out.resolve() if out.resolve().is_relative_to(path.resolve()) else None
        others: list[Path] = []
        errors: list[OSError] = []
        images = find_images(path, other=others.append, unread=errors.append)
        inside = [image for image in images if not _is_within(image, outputs)]
        inputs.outputs += len(images) - len(inside)
        for found in inside:
            add(found, found.relative_to(path).parent)
        if not inside:
            inputs.errors.append(f"there are no images in the folder {shown(path)}")
        inputs.left_out += sorted(other for other in others if not _is_within(other, outputs))
        inputs.errors += [
            f"cannot read the folder {shown(Path(error.filename))}: {error.strerror}"
            for error in errors
        ]
    return inputs


def _is_within(path: Path, folder: Path | None) -> bool:
    return folder is not None and path.resolve().is_relative_to(folder)


def names_for(images: Sequence[Path], places: Sequence[Path] | None = None) -> list[Path]:
    """Where the outputs to each image go: its place and name, no two alike.

    Images whose names differ in their extensions alone have these in their outputs' names, and a
    number if that is not enough.
    """
    places = [Path()] * len(images) if places is None else places
    stems = [str(place / path.stem) for place, path in zip(places, images, strict=True)]
    counts = Counter(stem.casefold() for stem in stems)
    wanted = [
        stem if counts[stem.casefold()] == 1 else str(place / path.name.replace(".", "-"))
        for path, place, stem in zip(images, places, stems, strict=True)
    ]
    return [Path(name) for name in distinct_names(wanted)]


def check_outputs(out: Path, images: Sequence[Path], names: Sequence[Path], factor: int) -> None:
    """Refuse outputs that would take the place of an input."""
    written = {(out / name).parent.resolve() / name.name for name in names}
    output = re.compile(rf"(.+)-x{factor}(-\d+|-mean|-std)?\.(png|gif)", re.DOTALL)
    for path in images:
        real = path.resolve()
        match = output.fullmatch(real.name)
        if match and real.with_name(match[1]) in written:
            raise UserError(
                f"{shown(path)} would be overwritten by the output for another image: choose "
                "another `out`"
            )
