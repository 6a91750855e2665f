"""A photograph made small and upscaled again: ``python benchmarks/photograph.py RUN``.

The command ``upscale``, run on scikit-image's image of the astronaut Eileen Collins (NASA, in the
public domain), 256x256 made 128x128 as the model makes y. To ``docs/figures/photograph.png``, from
left to right and top to bottom: the input, its pixels doubled; bicubic upscaled image; the
one output that is given by default; a sampled one; where eight samples differ; the photograph.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data

import srvae_pyro
from srvae_pyro.pixels import to_levels, to_unit

SIZE = 256
GAP = 4


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", nargs="?", default="pretrained-photo")
    parser.add_argument("--out", type=Path, default=Path("docs/figures/photograph.png"))
    options = parser.parse_args()
    photograph = Image.fromarray(data.astronaut()).crop((128, 0, 128 + SIZE, SIZE))
    levels = torch.from_numpy(np.array(photograph)).permute(2, 0, 1)[None]
    y = to_levels(srvae_pyro.load(options.run).guide.d(to_unit(levels)))
    lr = Image.fromarray(y[0].permute(1, 2, 0).to(torch.uint8).numpy())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lr.save(folder / "y.png")
        command = [sys.executable, "-m", "srvae_pyro.upscale", options.run, str(folder / "y.png")]
        subprocess.run([*command, "--out", str(folder / "one")], check=True)
        subprocess.run([*command, "--out", str(folder / "many"), "--samples", "8"], check=True)
        panels = [
            lr.resize((SIZE, SIZE), Image.Resampling.NEAREST),
            lr.resize((SIZE, SIZE), Image.Resampling.BICUBIC),
            Image.open(folder / "one" / "y-x2.png"),
            Image.open(folder / "many" / "y-x2-01.png"),
            Image.open(folder / "many" / "y-x2-std.png").convert("RGB"),
            photograph,
        ]
        sheet = Image.new("RGB", (3 * SIZE + 2 * GAP, 2 * SIZE + GAP), "white")
        for number, panel in enumerate(panels):
            sheet.paste(panel, (number % 3 * (SIZE + GAP), number // 3 * (SIZE + GAP)))
    sheet.save(options.out)
    print(options.out)


if __name__ == "__main__":
    main()
