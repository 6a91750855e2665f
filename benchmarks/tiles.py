"""What tiles change in an output: ``python benchmarks/tiles.py RUN --data DIR``.

Each photograph is upscaled whole and in tiles, by expectation and mode at temperature 0, as a
sample, and by the estimate of a model that makes one. How many of a million values differ at all,
and by more than one level of 255; away from the photograph's borders (``--border``), as the
networks' padding there is the same for both. Without ``--data``: scikit-image's image of the
astronaut Eileen Collins (NASA, in the public domain), 512x512.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from reading import evenly_spaced_files, levels_of
from skimage import data

from srvae_pyro.data.image_files import read_image
from srvae_pyro.models import load
from srvae_pyro.runs import find_run
from srvae_pyro.system.console import Bar
from srvae_pyro.system.device import choose_device, start
from srvae_pyro.upscaling.arguments import UpscaleOptions
from srvae_pyro.upscaling.upscaler import Upscaler, upscaling_model

MILLION = 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", help="a run of an srVAE that upscales")
    parser.add_argument("--data", type=Path, help="folder of photographs")
    parser.add_argument("--limit", type=int, default=20, help="photographs, evenly from the folder")
    parser.add_argument("--tile", type=int, nargs="+", default=[128], help="pixels a side")
    parser.add_argument("--border", type=int, default=32, help="pixels of the output left out")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, help="CPU threads")
    options = parser.parse_args()
    device = choose_device()
    start(device, options.precision, threads=options.threads)
    model = upscaling_model(load(find_run(options.run), device))
    channels = model.lower_channels
    if options.data is None:
        images = [levels_of(Image.fromarray(data.astronaut()))]
    else:
        files = evenly_spaced_files(options.data, options.limit)
        images = [levels_of(read_image(path, channels)) for path in files]
    how: dict[str, Any] = {
        "input": "average",
        "tile": 0,
        "memory_gb": 1e3,
        "precision": options.precision,
    }
    upscalers = (
        {"estimate": Upscaler(model, UpscaleOptions(decode="estimate", **how))}
        if model.has_point_estimate
        else {}
    )
    upscalers |= {
        "expectation": Upscaler(model, UpscaleOptions(decode="mean", **how)),
        "mode": Upscaler(model, UpscaleOptions(decode="mode", **how)),
        "sample": Upscaler(model, UpscaleOptions(decode="sample", temperature=1.0, **how)),
    }
    print(f"{len(images)} photographs; values in a million that tiles change")
    print("| | tile | values | at all | by more than 1 level | most, levels |")
    print("|---" * 6 + "|")
    inner = slice(options.border, -options.border or None)
    for name, whole in upscalers.items():
        outputs = [whole(image) for image in Bar(images, unit="photograph", leave=False)]
        for tile in options.tile:
            tiled = replace(whole, tile=tile)
            apart = torch.cat(
                [
                    (tiled(image).int() - output.int()).abs()[:, inner, inner].flatten()
                    for image, output in zip(
                        Bar(images, unit="photograph", leave=False), outputs, strict=True
                    )
                ]
            )
            shares = [MILLION * (apart > least).double().mean().item() for least in (0, 1)]
            cells = [
                f"{apart.numel():,}",
                *(f"{share:.1f}" for share in shares),
                apart.max().item(),
            ]
            print(f"| {name} | {tile} | {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    main()
