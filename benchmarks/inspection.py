"""What looking at pixels is worth: ``python benchmarks/inspection.py --photographs DIR``.

Photographs are made smaller by average or bicubic, with noise or compression; "PNG 75" is a JPEG of
quality 75 whose file says nothing of it. PSNR of the point estimate at x2, told nothing, a JPEG's
table or that it is none, what the file and the pixels show, and all but the reduction.
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from peers import made_small, read
from PIL import Image
from reading import evenly_spaced_files, levels_of, photographs_parser, restoring
from torch import Tensor

from srvae_pyro.data.degradations import as_jpeg
from srvae_pyro.models import InputKind
from srvae_pyro.models.restorer import PointEstimate
from srvae_pyro.pixels import to_levels, to_unit
from srvae_pyro.system.console import Bar
from srvae_pyro.upscaling.inspection import inspected
from srvae_pyro.upscaling.quality import psnr

INPUTS = ("average", "bicubic", "noise 5", "noise 15", "PNG 95", "PNG 75", "JPEG 90", "JPEG 75")
INPUTS += ("WEBP 90", "WEBP 75", "WEBP 40", "AVIF 75", "AVIF 50")
TOLD = ("nothing", "the JPEG's table, or that it is none", "what file and pixels show", "all")


@torch.no_grad()
def scores(estimate: PointEstimate, path: Path, name: str) -> list[float]:
    """PSNR for each of TOLD."""
    photograph = read(path, 4)
    kind, _, level = name.partition(" ")
    if kind in ("PNG", "JPEG"):
        image = made_small(photograph, "average", 2)
        image, table = as_jpeg(image, int(level), "4:2:0")
        truth = InputKind(noise=0.0, table=table, subsampled=True)
    elif kind in ("WEBP", "AVIF"):
        file = io.BytesIO()
        made_small(photograph, "average", 2).save(file, kind, quality=int(level))
        image, truth = Image.open(file).convert("RGB"), InputKind(noise=0.0, table=0.0, webp=True)
    else:
        image = made_small(photograph, name, 2)
        truth = InputKind(noise=float(level or 0), table=0.0)
    jpeg = replace(truth, noise=None) if kind == "JPEG" else InputKind(table=0.0)
    levels = levels_of(image)
    found = inspected(levels, replace(jpeg, webp=truth.webp))

    def score(told: InputKind) -> float:
        x: Tensor = estimate.folded(told, 2)(to_unit(levels[None]))
        return psnr(to_levels(x.clamp(0, 1)), levels_of(photograph)[None]).item()

    return [score(told) for told in (InputKind(), jpeg, found, truth)]


def main() -> None:
    options = photographs_parser(__doc__).parse_args()
    torch.set_num_threads(1)
    _, restorer = restoring(options.run)
    paths = evenly_spaced_files(options.photographs, options.limit)
    tasks = [(name, path) for name in INPUTS for path in paths]
    found = {task: scores(restorer.estimate, task[1], task[0]) for task in Bar(tasks)}
    values = np.array([[found[name, path] for path in paths] for name in INPUTS])
    print(f"| told | {' | '.join(INPUTS)} |\n|---|{'---|' * len(INPUTS)}")
    for told, row in zip(TOLD, values.mean(1).T, strict=True):
        print(f"| {told} | {' | '.join(f'{value:.2f}' for value in row)} |")
    gains = values[..., 2] - values[..., 1]
    for name, extreme in (("least", gains.min(1)), ("most", gains.max(1))):
        print(f"| gain of one photograph, {name} | {' | '.join(f'{v:+.2f}' for v in extreme)} |")


if __name__ == "__main__":
    main()
