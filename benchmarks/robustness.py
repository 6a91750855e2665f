"""What noise and JPEG do to outputs: ``python benchmarks/robustness.py RUN --data DIR``.

Each photograph x is made small, y = d(x), as the model was taught to; y is given Gaussian noise, in
levels of 255, or saved as JPEG by Pillow, and upscaled: by the model, as upscale does, and by
Pillow's bicubic and Lanczos filters. PSNR of each output against x in dB, the mean over photographs
and its standard error; and how far the input itself is from y. The model knows of neither noise
nor JPEG, and an output that is consistent with its
input repeats what is wrong in it.

Then a figure of one photograph: a column for each kind of input, the rows being the input,
bicubic, the model's output and x.
"""

from __future__ import annotations

import argparse
import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from reading import evenly_spaced_files, levels_of
from torch import Tensor

from srvae_pyro.data.image_files import read_image
from srvae_pyro.drawing.grids import LabelledRow, labelled_rows
from srvae_pyro.evaluation.super_resolution import interpolated
from srvae_pyro.models import load
from srvae_pyro.pixels import to_unit
from srvae_pyro.runs import find_run, results_folder
from srvae_pyro.system.console import Bar
from srvae_pyro.system.device import choose_device, start
from srvae_pyro.system.files import write_whole
from srvae_pyro.upscaling.photographs import as_image
from srvae_pyro.upscaling.quality import psnr
from srvae_pyro.upscaling.tiling import MemoryCanvas
from srvae_pyro.upscaling.upscaler import Upscaler, downscaled, upscaling_model

Worsen = Callable[[Tensor, int], Tensor]
SIGMAS = (5, 15)  # of noise, levels of 255
QUALITIES = (95, 85, 75)  # of JPEG


def noisy(y: Tensor, sigma: float, seed: int) -> Tensor:
    """uint8 levels (C, h, w) with Gaussian noise."""
    noise = np.random.default_rng(seed).standard_normal(tuple(y.shape), dtype=np.float32)
    return (y + sigma * torch.from_numpy(noise)).round().clamp(0, 255).byte()


def compressed(y: Tensor, quality: int) -> Tensor:
    """uint8 levels (C, h, w), 1 or 3 colours, after JPEG as Pillow writes it."""
    buffer = io.BytesIO()
    as_image(MemoryCanvas(y)).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as file:
        return levels_of(file)


def kinds() -> dict[str, Worsen]:
    """What is done to an input, by its name."""
    worsened: dict[str, Worsen] = {"as it is": lambda y, _: y}
    for sigma in SIGMAS:
        worsened[f"noise {sigma}"] = lambda y, seed, sigma=sigma: noisy(y, sigma, seed)
    for quality in QUALITIES:
        worsened[f"JPEG {quality}"] = lambda y, _, quality=quality: compressed(y, quality)
    return worsened


def middle(path: Path, channels: int, side: int, multiple: int) -> Tensor:
    """The middle of a photograph, at most ``side`` pixels a side: uint8 levels (C, H, W)."""
    image = read_image(path, channels)
    width, height = (min(n, side) // multiple * multiple for n in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return levels_of(image.crop((left, top, left + width, top + height)))


def shown(values: list[float]) -> str:
    """Mean and standard error."""
    if len(values) < 2:
        return f"{values[0]:.2f}"
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1) / math.sqrt(len(values)):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", help="a run of a srVAE that upscales")
    parser.add_argument("--data", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--limit", type=int, default=50, help="photographs, evenly from the folder")
    parser.add_argument("--size", type=int, default=256, help="pixels of x a side, at most")
    parser.add_argument("--image", type=int, default=0, help="number of the figure's photograph")
    parser.add_argument("--out", type=Path, help="default: figures/robustness.png of the run")
    parser.add_argument("--threads", type=int, help="CPU threads")
    options = parser.parse_args()
    device = choose_device()
    start(device, threads=options.threads)
    folder = find_run(options.run)
    model = upscaling_model(load(folder, device))
    upscaler, factor = Upscaler(model), model.guide.d.factor
    files = evenly_spaced_files(options.data, options.limit)
    count = len(files)
    if not 0 <= options.image < count:
        parser.error(f"--image {options.image}: there are {count} photographs")
    methods: dict[str, Callable[[Tensor], Tensor]] = {
        "bicubic": lambda y: interpolated(y[None], factor, Image.Resampling.BICUBIC)[0],
        "Lanczos": lambda y: interpolated(y[None], factor, Image.Resampling.LANCZOS)[0],
        "srVAE": upscaler,
    }
    columns = ("input", *methods)
    scores: dict[tuple[str, str], list[float]] = {}
    figure: dict[str, list[Tensor]] = {}
    for number, path in enumerate(Bar(files, unit="photograph", leave=False)):
        x = middle(path, model.lower_channels, options.size, factor)
        y = downscaled(model, x)
        for kind, worsen in kinds().items():
            lr = worsen(y, number)
            made = {name: method(lr) for name, method in methods.items()}
            scores.setdefault((kind, "input"), []).append(psnr(lr, y).item())
            for name, output in made.items():
                scores.setdefault((kind, name), []).append(psnr(output, x).item())
            if number == options.image:
                rows = {"input": lr, "bicubic": made["bicubic"]}
                for label, image in (rows | {"output": made["srVAE"], "truth": x}).items():
                    figure.setdefault(label, []).append(to_unit(image))
    print(f"{count} photographs of {options.data}, upscaled {factor} times; PSNR in dB")
    print(f"| input | {' | '.join(columns)} |")
    print("|---" * (1 + len(columns)) + "|")
    for kind in kinds():
        found = [shown(scores[kind, name]) for name in columns]
        if kind == "as it is":
            found[0] = "exact"
        print(f"| {kind} | {' | '.join(found)} |")
    rows = [LabelledRow(label, torch.stack(images)) for label, images in figure.items()]
    sheet = labelled_rows(rows, side=options.size)
    out = options.out or results_folder(options.run, folder) / "figures" / "robustness.png"
    write_whole(out, sheet.save)
    print(f"{out}, from left to right: {', '.join(kinds())}")


if __name__ == "__main__":
    main()
