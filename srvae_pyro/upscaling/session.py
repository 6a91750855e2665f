"""Enlarge picture files: the command ``upscale`` from its arguments to its report."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from srvae_pyro.errors import UserError, out_of_memory
from srvae_pyro.models import SRVAE, load
from srvae_pyro.runs import find_run, results_folder
from srvae_pyro.system.device import choose_device, process_memory, start
from srvae_pyro.system.hub import is_cached_copy
from srvae_pyro.upscaling import LESS_MEMORY
from srvae_pyro.upscaling.agreement import is_exact, rounded
from srvae_pyro.upscaling.arguments import UpscaleArguments
from srvae_pyro.upscaling.enlarger import Enlarger
from srvae_pyro.upscaling.enlarging import enlarging, passes_for
from srvae_pyro.upscaling.photographs import (
    Photograph,
    names_for,
    read_photograph,
    save_gif,
    save_photograph,
    shown,
)
from srvae_pyro.upscaling.quality import PixelStatistics, lr_psnr, shown_psnr

__all__ = ["upscale"]

# Bytes for each value of an answer, measured.
BYTES_OF_ONE = 14
BYTES_OF_SEVERAL = 57


def upscale(arguments: UpscaleArguments) -> int:
    """Enlarge as asked, all files checked before any is enlarged.

    Returns:
        The exit code: 2 if any picture failed.
    """
    folder = find_run(arguments.run)
    if arguments.out is None and is_cached_copy(folder):
        raise UserError(f"{arguments.run} is a copy from the Hub: say with --out where to write")
    out = arguments.out or results_folder(arguments.run, folder) / "figures" / "upscaled"
    device = choose_device(arguments.device)
    start(device)
    model = enlarging(load(folder, device))
    factor = model.guide.d.factor if arguments.factor is None else arguments.factor
    passes = passes_for(model, factor)
    enlarger = _enlarger(model, arguments)
    names = names_for(arguments.images)
    for path in arguments.images:
        # And thrown away: many would not fit in memory.
        photograph = read_photograph(path, model.lower_channels)
        check_memory(path, photograph.levels.shape, factor, arguments.samples)
    check_out(out, arguments.images, names, factor)
    check_lengths(out, arguments, names, factor)
    failed = 0
    for path, name in zip(arguments.images, names, strict=True):
        try:
            enlarge_file(enlarger, path, out / f"{name}-x{factor}", passes, arguments)
        except UserError as error:
            failed += 1
            print(f"upscale: {error}", file=sys.stderr)
    done = len(names) - failed
    print(f"{done} of {len(names)} pictures enlarged {factor} times in {shown(out)}")
    if done and is_exact(model):
        print("Keep them as PNG: JPEG would lose their exact agreement with the photographs")
    return 2 if failed else 0


def _enlarger(model: SRVAE, arguments: UpscaleArguments) -> Enlarger:
    """The enlarger that is asked for; what is left open depends on the number of samples.

    Raises:
        UserError: several samples that would all be the same.
    """
    several = arguments.samples > 1
    decode = arguments.decode or ("sample" if several else "mode")
    temperature = arguments.temperature
    if temperature is None:
        temperature = 1.0 if several or decode == "sample" else 0.0
    if several and decode != "sample" and temperature == 0:
        raise UserError(
            f"--decode {decode} at temperature 0 has one answer: leave out --samples, or give a "
            "--temperature above 0"
        )
    return Enlarger(
        model,
        decode,
        temperature,
        arguments.image_temperature,
        arguments.seed,
        arguments.tile,
        arguments.memory_gb,
        progress=True,
    )


def check_memory(path: Path, shape: Sequence[int], factor: int, samples: int) -> None:
    """Refuse a photograph (C, H, W) whose answers are too large for this process.

    Raises:
        UserError: they are.
    """
    channels, height, width = shape
    bytes_of_value = BYTES_OF_SEVERAL if samples > 1 else BYTES_OF_ONE
    need, memory = bytes_of_value * factor**2 * channels * height * width, process_memory()
    if need > memory:
        raise UserError(
            f"{shown(path)} would become {factor * width}x{factor * height} pixels, which take "
            f"{need / 1e9:.1f} GB of memory, and there are {memory / 1e9:.1f}: cut out a part of it"
        )


def check_out(out: Path, images: tuple[Path, ...], names: list[str], factor: int) -> None:
    """Make the folder of the answers.

    Raises:
        UserError: it cannot be made, or a question would be written over.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {shown(out)}: {error.strerror}") from None
    questions = {path.resolve(): path for path in images}
    for name in names:
        for written in (*out.glob("*.png"), *out.glob("*.gif")):
            if written.name.startswith(f"{name}-x{factor}") and written.resolve() in questions:
                raise UserError(
                    f"{shown(questions[written.resolve()])} would be written over by the answer "
                    f"to another picture: give another --out"
                )


def check_lengths(out: Path, arguments: UpscaleArguments, names: list[str], factor: int) -> None:
    """Refuse a photograph whose answers would have longer names than the file system takes.

    Raises:
        UserError: they would.
    """
    try:
        most = os.pathconf(out, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # not every system tells
        most = 255
    endings = [".png"]
    if arguments.samples > 1:
        endings = ["-mean.png", "-std.png", f"-{arguments.samples}.png"]
    room = most - max(len(f"-x{factor}{ending}") for ending in endings)
    for path, name in zip(arguments.images, names, strict=True):
        if len(os.fsencode(name)) > room:
            raise UserError(
                f"{shown(path)} has a name too long for its answer's, which may have {most} bytes: "
                f"rename it to at most {room} without its extension"
            )


def enlarge_file(
    enlarger: Enlarger,
    path: Path,
    stem: Path,
    passes: int,
    arguments: UpscaleArguments,
) -> None:
    """Enlarge one file and report; answers go to ``stem`` with an ending each.

    Raises:
        UserError: it cannot be read or written any more, or memory does not suffice.
    """
    photograph = read_photograph(path, enlarger.model.lower_channels)
    height, width = photograph.levels.shape[-2:]
    note = f" ({photograph.note})" if photograph.note else ""
    print(f"{shown(path)}, {width}x{height}{note}", flush=True)
    statistics, files = PixelStatistics(), []
    try:
        for sample in range(arguments.samples):
            file = _answer_file(stem, sample, arguments.samples)
            x = _write_answer(enlarger, photograph, file, passes, sample)
            files.append(file)
            if arguments.samples > 1:
                statistics.add(x)
        if statistics.count:
            _write_statistics(statistics, enlarger.model, photograph, stem, passes)
        if arguments.gif:
            save_gif(stem.with_name(f"{stem.name}.gif"), files)
    except OSError as error:
        raise UserError(f"cannot write {shown(stem)}: {error.strerror or error}") from None
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise UserError(f"{shown(path)} does not fit into memory: {LESS_MEMORY}") from None


def _answer_file(stem: Path, sample: int, samples: int) -> Path:
    """The file of an answer: STEM.png, or STEM-01.png and so on where there are several."""
    digits = max(len(str(samples)), 2)
    ending = f"-{sample + 1:0{digits}d}.png" if samples > 1 else ".png"
    return stem.with_name(stem.name + ending)


def lr_psnr_of(model: SRVAE, x: Tensor, y: Tensor, passes: int) -> str:
    """LR-PSNR as it is printed."""
    shown = shown_psnr(lr_psnr(model, x, y, passes))
    return shown if shown == "exact" else f"{shown} dB"


def _write_answer(
    enlarger: Enlarger, photograph: Photograph, file: Path, passes: int, sample: int
) -> Tensor:
    """Make an answer, write it and report; the answer, uint8 (C, H, W)."""
    began = time.monotonic()
    x = photograph.toned(enlarger(photograph.levels, passes, sample, photograph.gray))
    save_photograph(file, x, photograph)
    agreement = lr_psnr_of(enlarger.model, x, photograph.levels, passes)
    seconds = time.monotonic() - began
    print(
        f"  {shown(Path(file.name))}, {x.shape[-1]}x{x.shape[-2]}: "
        f"LR-PSNR {agreement}, {seconds:.1f} s",
        flush=True,
    )
    return x


def _write_statistics(
    statistics: PixelStatistics, model: SRVAE, photograph: Photograph, stem: Path, passes: int
) -> None:
    """Write the answers' mean, and the map of where they differ, and report."""
    average, deviation, white = statistics.pictures()
    mean = rounded(average, model, photograph.levels, passes)
    agreement = lr_psnr_of(model, mean, photograph.levels, passes)
    save_photograph(stem.with_name(f"{stem.name}-mean.png"), mean, photograph)
    print(f"  {shown(Path(stem.name))}-mean.png: LR-PSNR {agreement}")
    scale = f"standard deviation of {statistics.count} answers: white is {white:.2f} levels"
    save_photograph(stem.with_name(f"{stem.name}-std.png"), deviation, comment=scale)
    print(f"  {shown(Path(stem.name))}-std.png: {scale} of 255, black 0")
