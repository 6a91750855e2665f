"""Enlarge photographs by a trained srVAE: ``python -m srvae_pyro.upscale --help``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from srvae_pyro.commands import at_least, check_folder, option, run_command
from srvae_pyro.errors import UserError, out_of_memory

if TYPE_CHECKING:
    from srvae_pyro.evaluation.enlarge import Enlarger

__all__ = ["UpscaleArguments", "main"]

BYTES = (14, 57)  # for each value of an answer, measured: where there is one, and where several
LESS_MEMORY = "give a smaller --memory-gb or --tile"


@dataclass
class UpscaleArguments:
    """Enlarge photographs of any size by a srVAE whose y is a downscaled x.

    Writes NAME-x2.png for each, the number being the factor; with --samples K the plausible answers
    NAME-x2-01.png to K, their mean, and NAME-x2-std.png, a map of where they differ (the standard
    deviation; white is the largest, which is printed). LR-PSNR, printed for each answer, is how
    well it agrees with its question: the PSNR of the answer made small again against the
    photograph.
    Transparency is enlarged by bicubic interpolation. A gray photograph's answers are gray; EXIF,
    XMP, resolution and colour profile are kept, and what is not is said. All files are checked
    before any is enlarged.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """a run's name under runs/, its folder, or a Hub id"""
    images: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="IMAGE...", help_behavior_hint="(at least one)"),
    ]
    """picture files; of an animation the first picture is taken"""
    out: Annotated[Path | None, option("DIR", "the run's figures/upscaled")] = None
    """folder for the answers"""
    factor: Annotated[int | None, option("N", "the model's")] = None
    """how many times larger: the model's own factor or a power of it"""
    samples: int = 1
    """how many different answers for each, K"""
    decode: Annotated[
        Literal["sample", "mode", "mean"] | None,
        option("sample|mode|mean", "mode for one answer, sample for several"),
    ] = None
    """draw each pixel, take the likeliest component's mean, or the expectation"""
    temperature: Annotated[
        float | None, option("T", "0 for one answer that is not sampled, else 1")
    ] = None
    """factor on the standard deviations of the latents; with 0 and mode the one most faithful"""
    image_temperature: float = 1.0
    """the same for the pixels that are sampled"""
    seed: int = 0
    """of all noise: a picture has the same answers with the same seed"""
    tile: Annotated[int | None, option("PIXELS", "as --memory-gb allows")] = None
    """enlarge in overlapping tiles of so many pixels of the photograph a side; 0: whole"""
    memory_gb: float = 4.0
    """gigabytes for the networks; a photograph that needs more is enlarged in tiles"""
    gif: bool = False
    """also NAME-x2.gif, the samples as an animation"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU if there is one"""


def main(arguments: UpscaleArguments) -> int:
    """Enlarge as asked; the exit code: 2 if any picture failed."""
    check(arguments)
    import pyro

    from srvae_pyro.evaluation.enlarge import Enlarger, enlarging, factor_of, passes_for
    from srvae_pyro.evaluation.photographs import names_for, read_photograph, shown
    from srvae_pyro.models import load
    from srvae_pyro.runs import find_run
    from srvae_pyro.runtime import choose_device, tune_allocator
    from srvae_pyro.system.hub import is_cached_copy

    folder = find_run(arguments.run)
    if arguments.out is None and is_cached_copy(folder):
        raise UserError(f"{arguments.run} is a copy from the Hub: say with --out where to write")
    out = arguments.out or folder / "figures" / "upscaled"
    device = choose_device(arguments.device)
    if device.type == "cpu":
        tune_allocator()
    model = enlarging(load(folder, device))
    factor = factor_of(model) if arguments.factor is None else arguments.factor
    passes = passes_for(model, factor)
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
    enlarger = Enlarger(
        model,
        decode,
        temperature,
        arguments.image_temperature,
        arguments.seed,
        arguments.tile,
        arguments.memory_gb,
        progress=True,
    )
    names = names_for(arguments.images)
    for path in arguments.images:
        # And thrown away: many would not fit in memory.
        photograph = read_photograph(path, model.lower_channels)
        check_memory(path, photograph.levels.shape, factor, several)
    check_out(out, arguments.images, names, factor)
    check_lengths(out, arguments, names, factor)
    pyro.enable_validation(False)
    failed = 0
    for path, name in zip(arguments.images, names, strict=True):
        try:
            enlarge_one(enlarger, path, out / f"{name}-x{factor}", passes, arguments)
        except UserError as error:
            failed += 1
            print(f"upscale: {error}", file=sys.stderr)
    done = len(names) - failed
    print(f"{done} of {len(names)} pictures enlarged {factor} times in {shown(out)}")
    return 2 if failed else 0


def check(arguments: UpscaleArguments) -> None:
    """Refuse what makes no sense whatever the model."""
    if not arguments.images:
        raise UserError("name at least one picture file after the run")
    at_least(arguments, samples=1, tile=0)
    check_folder(arguments.out)
    if arguments.gif and arguments.samples < 2:
        raise UserError("--gif animates several answers: give --samples 2 or more")


def check_memory(path: Path, shape: Sequence[int], factor: int, several: bool) -> None:
    """Refuse a photograph (C, H, W) whose answer is too large for this process."""
    from srvae_pyro.evaluation.photographs import shown
    from srvae_pyro.runtime import process_memory

    channels, height, width = shape
    need, memory = BYTES[several] * factor**2 * channels * height * width, process_memory()
    if need > memory:
        raise UserError(
            f"{shown(path)} would become {factor * width}x{factor * height} pixels, which take "
            f"{need / 1e9:.1f} GB of memory, and there are {memory / 1e9:.1f}: cut out a part of it"
        )


def check_out(out: Path, images: tuple[Path, ...], names: list[str], factor: int) -> None:
    """Make the folder of the answers, and refuse to write over a question."""
    from srvae_pyro.evaluation.photographs import shown

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
    """Refuse a photograph whose answers would have longer names than the file system takes."""
    from srvae_pyro.evaluation.photographs import shown

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


def enlarge_one(
    enlarger: Enlarger, path: Path, stem: Path, passes: int, arguments: UpscaleArguments
) -> None:
    """Enlarge one file and report; answers go to ``stem`` with an ending each.

    Raises:
        UserError: it cannot be read or written any more, or memory does not suffice.
    """
    from srvae_pyro.evaluation.enlarge import Spread, lr_psnr
    from srvae_pyro.evaluation.photographs import (
        read_photograph,
        save_gif,
        save_photograph,
        shown,
    )

    photograph = read_photograph(path, enlarger.model.lower_channels)
    height, width = photograph.levels.shape[-2:]
    note = f" ({photograph.note})" if photograph.note else ""
    print(f"{shown(path)}, {width}x{height}{note}", flush=True)
    digits = max(len(str(arguments.samples)), 2)
    spread, files = Spread(), []
    try:
        for sample in range(arguments.samples):
            start = time.monotonic()
            x = photograph.toned(enlarger(photograph.levels, passes, sample))
            several = arguments.samples > 1
            ending = f"-{sample + 1:0{digits}d}.png" if several else ".png"
            files.append(stem.with_name(stem.name + ending))
            save_photograph(files[-1], x, photograph)
            agreement = lr_psnr(enlarger.model, x, photograph.levels, passes)
            seconds = time.monotonic() - start
            print(
                f"  {shown(Path(files[-1].name))}, {x.shape[-1]}x{x.shape[-2]}: "
                f"LR-PSNR {agreement:.1f} dB, {seconds:.1f} s",
                flush=True,
            )
            if several:
                spread.add(x)
        if spread.count:
            mean, deviation, white = spread.pictures()
            agreement = lr_psnr(enlarger.model, mean, photograph.levels, passes)
            save_photograph(stem.with_name(f"{stem.name}-mean.png"), mean, photograph)
            print(f"  {shown(Path(stem.name))}-mean.png: LR-PSNR {agreement:.1f} dB")
            scale = f"standard deviation of {spread.count} answers: white is {white:.2f} levels"
            save_photograph(stem.with_name(f"{stem.name}-std.png"), deviation, comment=scale)
            print(f"  {shown(Path(stem.name))}-std.png: {scale} of 255, black 0")
        if arguments.gif:
            save_gif(stem.with_name(f"{stem.name}.gif"), files)
    except OSError as error:
        raise UserError(f"cannot write {shown(stem)}: {error.strerror or error}") from None
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise UserError(f"{shown(path)} does not fit into memory: {LESS_MEMORY}") from None


if __name__ == "__main__":
    run_command(UpscaleArguments, main, "upscale", LESS_MEMORY)
