"""Upscale image files: the command ``upscale`` from its arguments to its report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from srvae_pyro.data.image_files import pixels_of
from srvae_pyro.errors import UserError, counted, out_of_memory, with_flags
from srvae_pyro.models import InputKind, load
from srvae_pyro.runs import find_run, results_folder
from srvae_pyro.system.console import Bar, print_error, print_line, shown
from srvae_pyro.system.device import choose_device, start
from srvae_pyro.system.files import check_output
from srvae_pyro.system.hub import is_cached_copy
from srvae_pyro.upscaling.arguments import UpscaleArguments
from srvae_pyro.upscaling.files import Outputs, Writer, check_outputs, find_inputs, names_for
from srvae_pyro.upscaling.photographs import Photograph, named, read_photograph
from srvae_pyro.upscaling.upscaler import Upscaler, upscaling_model


def upscale(arguments: UpscaleArguments) -> int:
    """Upscale as asked; the exit code is 2 if any image failed.

    Errors that concern all images, or the only one, are raised.
    """
    folder = find_run(arguments.run)
    if arguments.out is None and is_cached_copy(folder):
        raise UserError(f"{arguments.run} is a copy from the Hub: use `out` to say where to write")
    out = arguments.out or results_folder(arguments.run, folder) / "figures" / "upscaled"
    check_output(out, "--out DIR")
    device = choose_device(arguments.device)
    start(device, "fp32", threads=arguments.threads)
    model = upscaling_model(load(folder, device))
    upscaler = Upscaler(model, arguments.upscaling)
    writer, factor = Writer(upscaler, arguments.gif), upscaler.factor
    inputs = find_inputs(arguments.images, out)
    names = names_for(inputs.paths, inputs.places)
    check_outputs(out, inputs.paths, names, factor)
    if inputs.left_out:
        print_line(f"left out, not images: {named(inputs.left_out)}")
    if inputs.outputs:
        print_line(
            f"left out, from the output folder {shown(out)}: {counted(inputs.outputs, 'image')}"
        )
    stems = [out / f"{name}-x{factor}" for name in names]
    errors = inputs.errors + _write_all(writer, inputs.paths, stems)
    count = len(names) + len(inputs.errors)
    if errors and count == 1:
        raise UserError(errors[0])
    for error in errors:
        print_error(f"upscale: {with_flags(error)}")
    done = count - len(errors)
    number = f"{done} of {count} images" if errors else counted(done, "image")
    how = "restored" if factor == 1 else f"upscaled by {factor}"
    print_line(f"{number} {how} to {shown(out)}")
    if done and model.is_consistent and upscaler.trusts_inputs and upscaler.passes:
        print_line("Keep them as PNG: JPEG would lose their exact consistency with the photographs")
    return 2 if errors else 0


def in_words(kind: InputKind, upscaler: Upscaler) -> str:
    """How an input is taken, for its line; empty for a run that takes all in one way."""
    if upscaler.restorer is None:
        return ""
    if kind.trusted:
        return ": treated as an exact average of pixels"
    what = "a JPEG" if kind.table else "a clean image" if kind.noise == 0 else "an image"
    what = "a compressed image" if kind.webp else what
    if kind.noise:
        what += f" with noise of {kind.noise:.0f} levels"
    if kind.reduction:
        what += f" downscaled with {kind.reduction}"
    return f": restored as {what}{' of unknown origin' if what == 'an image' else ''}"


def _write_all(writer: Writer, paths: Sequence[Path], stems: Sequence[Path]) -> list[str]:
    """Upscale one file after the other; the errors, each in a line."""
    errors = []
    expected = [writer.pixels(pixels_of(path)) for path in paths]
    options: dict[str, Any] = {"unit": "pixel", "unit_scale": True, "miniters": 1, "leave": False}
    with Bar(total=sum(expected), **options) as bar:
        writer.upscaler.progress = bar.update
        for path, stem, pixels in zip(paths, stems, expected, strict=True):
            before = bar.n
            try:
                upscale_file(writer, path, stem)
            except UserError as error:
                errors.append(str(error).splitlines()[0])
                if len(paths) > 1:
                    print_line(f"{shown(path)} is left out; the error is listed at the end")
            bar.total += bar.n - before - pixels  # not there, or not as its header says
    return errors


def upscale_file(writer: Writer, path: Path, stem: Path) -> tuple[Photograph, Outputs]:
    """Upscale one file and report; outputs go to ``stem`` with an ending each."""
    photograph = read_photograph(path, writer.upscaler.model.lower_channels)
    height, width = photograph.levels.shape[-2:]
    writer.check(path, photograph.levels.shape, stem)
    note = f" ({photograph.note})" if photograph.note else ""
    kind = writer.upscaler.kind_of(photograph)
    writer.report(f"{shown(path)}, {width}x{height}{note}{in_words(kind, writer.upscaler)}")
    try:
        return photograph, writer.write(photograph, stem)
    except OSError as error:
        raise UserError(f"cannot write {shown(stem)}: {error.strerror or error}") from None
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise UserError(
            f"{shown(path)} does not fit into memory: use a smaller `memory_gb` or `tile`"
        ) from None
