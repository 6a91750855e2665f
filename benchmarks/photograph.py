"""Photographs made small and upscaled again: ``python benchmarks/photograph.py RUN``.

The command ``upscale``, run on scikit-image's photographs. To ``docs/figures/photograph.png``, from
left to right and top to bottom: the astronaut Eileen Collins (NASA, in the public domain), 256x256
made 128x128 as the model makes y, its pixels doubled; the bicubic image; the output for ``--input
average``; a sample; where eight samples differ; the photograph. To ``docs/figures/restored.png``,
for a model that has learnt from damaged inputs: a row each for a JPEG of quality 40 and for noise
of 15 levels, with the input, the bicubic image, the default output and the photograph.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from reading import levels_of
from skimage import data

import srvae_pyro
from srvae_pyro.data.degradations import as_jpeg, noisy
from srvae_pyro.system.files import write_whole
from srvae_pyro.upscaling.photographs import as_image
from srvae_pyro.upscaling.tiling import MemoryCanvas
from srvae_pyro.upscaling.upscaler import downscaled

SIZE = 256
GAP = 4
QUALITY = 40  # of the JPEG


def upscale(
    run: str, lr: Image.Image, *flags: str, quality: int | None = None
) -> dict[str, Image.Image]:
    """What the command writes for a PNG, or a JPEG of a quality, by the ends of the names."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / ("y.jpg" if quality else "y.png")
        lr.save(path, **({"quality": quality} if quality else {}))
        command = [sys.executable, "-m", "srvae_pyro.upscale", run, str(path), *flags]
        subprocess.run([*command, "--out", str(folder / "out")], check=True)
        files = (folder / "out").glob("*.png")
        return {path.stem.removeprefix("y-x2"): Image.open(path).convert("RGB") for path in files}


def sheet(panels: Sequence[Image.Image], columns: int) -> Image.Image:
    rows = -(-len(panels) // columns)
    size = (columns * (SIZE + GAP) - GAP, rows * (SIZE + GAP) - GAP)
    drawn = Image.new("RGB", size, "white")
    for number, panel in enumerate(panels):
        place = (number % columns * (SIZE + GAP), number // columns * (SIZE + GAP))
        drawn.paste(panel.resize((SIZE, SIZE), Image.Resampling.NEAREST), place)
    return drawn


def bicubic(lr: Image.Image) -> Image.Image:
    return lr.resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", nargs="?", default="pretrained-photo")
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    options = parser.parse_args()
    model = srvae_pyro.load(options.run)

    def made_small(photograph: Image.Image) -> Image.Image:
        return as_image(MemoryCanvas(downscaled(model, levels_of(photograph))))

    astronaut = Image.fromarray(data.astronaut()).crop((128, 0, 128 + SIZE, SIZE))
    lr = made_small(astronaut)
    one = upscale(options.run, lr, "--input", "average")
    many = upscale(options.run, lr, "--input", "average", "--samples", "8")
    panels = [lr, bicubic(lr), one[""], many["-01"], many["-std"], astronaut]
    figures = {"photograph.png": sheet(panels, 3)}
    if model.restorer is not None:
        cat = Image.fromarray(data.chelsea()).crop((80, 20, 80 + SIZE, 20 + SIZE))
        panels = []
        small, noise = made_small(cat), noisy(made_small(astronaut), 15, np.random.default_rng(0))
        lr = as_jpeg(small, QUALITY, "4:2:0")[0]
        panels += [lr, bicubic(lr), upscale(options.run, small, quality=QUALITY)[""], cat]
        panels += [noise, bicubic(noise), upscale(options.run, noise)[""], astronaut]
        figures["restored.png"] = sheet(panels, 4)
    for name, figure in figures.items():
        write_whole(options.out / name, figure.save)
        print(options.out / name)


if __name__ == "__main__":
    main()
