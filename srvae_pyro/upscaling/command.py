"""Upscale image files: the command ``upscale`` from its arguments to its report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from srvae_pyro.errors import UserError, out_of_memory
from srvae_pyro.models import SRVAE, load
from srvae_pyro.runs import find_run, results_folder
from srvae_pyro.system.console import Bar, print_error
from srvae_pyro.system.device import choose_device, start
from srvae_pyro.system.files import check_output
from srvae_pyro.system.hub import is_cached_copy
from srvae_pyro.upscaling import LESS_MEMORY
from srvae_pyro.upscaling.arguments import UpscaleArguments
from srvae_pyro.upscaling.files import (
    Outputs,
    Writer,
    check_outputs,
    find_inputs,
    names_for,
    pixels_of,
    tell,
)
from srvae_pyro.upscaling.photographs import Photograph, named, read_photograph, shown
from srvae_pyro.upscaling.upscaler import (
    Upscaler,
    default_decoding,
    is_consistent,
    passes_for,
    upscaling_model,
)


def upscale(arguments: UpscaleArguments) -> int:
    """Upscale as asked; what is wrong with one image does not stop the others.

    Returns:
        The exit code: 2 if any image failed.

    Raises:
        UserError: a mistake that concerns all images, or the only one.
    """
    folder = find_run(arguments.run)
    if arguments.out is None and is_cached_copy(folder):
        raise UserError(f"{arguments.run} is a copy from the Hub: say with --out where to write")
    out = arguments.out or results_folder(arguments.run, folder) / "figures" / "upscaled"
    check_output(out, "--out DIR")
    device = choose_device(arguments.device)
    start(device, arguments.precision, threads=arguments.threads)
    model = upscaling_model(load(folder, device))
    factor = model.guide.d.factor if arguments.factor is None else arguments.factor
    passes = passes_for(model, factor)
    writer = Writer(upscaler_for(model, arguments), passes, arguments.samples, arguments.gif)
    inputs = find_inputs(arguments.images, out)
    names = names_for(inputs.paths, inputs.places)
    check_outputs(out, inputs.paths, names, factor)
    if inputs.left_out:
        tell(f"left out, no image files: {named(inputs.left_out)}")
    if inputs.outputs:
        tell(f"left out, as outputs go there: {inputs.outputs} images in {shown(out)}")
    stems = [out / f"{name}-x{factor}" for name in names]
    errors = inputs.errors + _write_all(writer, inputs.paths, stems)
    count = len(names) + len(inputs.errors)
    if errors and count == 1:
        raise UserError(errors[0])
    for error in errors:
        print_error(f"upscale: {error}")
    done = count - len(errors)
    tell(f"{done} of {count} images upscaled {factor} times in {shown(out)}")
    if done and is_consistent(model):
        tell("Keep them as PNG: JPEG would lose their exact consistency with the photographs")
    return 2 if errors else 0


def upscaler_for(model: SRVAE, arguments: UpscaleArguments) -> Upscaler:
    """The upscaler that is asked for; what is left open depends on the number of samples.

    Raises:
        UserError: several samples that would all be the same, or what the model cannot do.
    """
    several = arguments.samples > 1
    temperature = arguments.temperature
    # A temperature that is asked for is one of what has it.
    one = "mean" if temperature else default_decoding(model)
    decode = arguments.decode or ("sample" if several else one)
    if temperature is None:
        temperature = 1.0 if several or decode == "sample" else 0.0
    if several and decode != "sample" and temperature == 0:
        raise UserError(
            f"--decode {decode} at temperature 0 has one output: leave out --samples, or give a "
            "--temperature above 0"
        )
    return Upscaler(
        model,
        decode,
        temperature,
        arguments.image_temperature,
        seed=arguments.seed,
        tile=arguments.tile,
        memory_gb=arguments.memory_gb,
        precision=arguments.precision,
    )


def _write_all(writer: Writer, paths: Sequence[Path], stems: Sequence[Path]) -> list[str]:
    """Upscale one file after the other; the mistakes, each in a line."""
    errors = []
    expected = [writer.pixels(pixels_of(path)) for path in paths]
    options: dict[str, Any] = {"unit": "pixel", "unit_scale": True, "miniters": 1, "leave": False}
    with Bar(total=sum(expected), **options) as bar:
        writer.made = bar.update
        for path, stem, pixels in zip(paths, stems, expected, strict=True):
            before = bar.n
            try:
                upscale_file(writer, path, stem)
            except UserError as error:
                errors.append(str(error).splitlines()[0])
                if len(paths) > 1:
                    tell(f"{shown(path)} is left out, as told at the end")
            bar.total += bar.n - before - pixels  # not there, or not as its header says
    return errors


def upscale_file(writer: Writer, path: Path, stem: Path) -> tuple[Photograph, Outputs]:
    """Upscale one file and report; outputs go to ``stem`` with an ending each.

    Returns:
        What is in the file, and its outputs.

    Raises:
        UserError: it cannot be read or its outputs written, or memory does not suffice.
    """
    photograph = read_photograph(path, writer.upscaler.model.lower_channels)
    height, width = photograph.levels.shape[-2:]
    writer.check(path, photograph.levels.shape, stem)
    note = f" ({photograph.note})" if photograph.note else ""
    writer.tell(f"{shown(path)}, {width}x{height}{note}")
    try:
        return photograph, writer.write(photograph, stem)
    except OSError as error:
        raise UserError(f"cannot write {shown(stem)}: {error.strerror or error}") from None
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise UserError(f"{shown(path)} does not fit into memory: {LESS_MEMORY}") from None
