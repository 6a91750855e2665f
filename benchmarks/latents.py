"""What u and z encode: ``python benchmarks/latents.py RUN --data DIR``.

Test images a, with u ~ q(u|d(a)) and y the likeliest of p(y|u), are decoded with z of their own,
with z drawn from p(z|y,u), and with z of another image b, pixels the likeliest each time. PSNR in
dB, the mean over the images: of x against a; of d(x) against y, which the decoder saw; and of x
against b. If z carried nothing, the three rows would be alike; if it carried the structure, the
last row's x would be like b and its d(x) unlike y. Then the same from y = d(a) itself: what z adds
to y.
"""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
from reading import read_run, run_parser
from torch import Tensor

from srvae_pyro import SRVAE
from srvae_pyro.data.splits import evenly_spaced
from srvae_pyro.models.base import images_plate
from srvae_pyro.pixels import to_levels, to_unit
from srvae_pyro.system.device import tune_allocator
from srvae_pyro.upscaling.quality import psnr
from srvae_pyro.upscaling.upscaler import downscaled


def main() -> None:
    parser = run_parser(__doc__, limit=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tune_allocator()
    pyro.enable_validation(False)
    folder, model, test = read_run(options)
    if not isinstance(model, SRVAE):
        parser.error(f"{folder} has no u: it is a VAE")
    # A folder's images are in the order of their classes: b is of another one.
    levels = evenly_spaced(test, options.limit)
    half = len(levels) // 2
    a = to_unit(levels)
    b = a.roll(half, dims=0)
    how: Any = {"decode": "mode", "seed": options.seed}
    rows = {
        "z of a": model.recombine(a, a, **how),
        "z drawn given y and u": model.generative_reconstruct(a, **how),
        "z of b": model.recombine(a, b, **how),
    }

    def with_detail(a: Tensor, b: Tensor) -> None:
        with images_plate(a):
            y = pyro.sample("y", dist.Delta(model.guide.d(a), event_dim=3))
            pyro.sample("x", model.model.p_x(y, pyro.sample("z", model.guide.q_z(b))))

    outputs = model.super_resolve(model.guide.d(a), **how)
    rows_of_y = {
        "z of a": model.reconstruct(a, **how),
        "z drawn given y and u": {site: value[0] for site, value in outputs.items()},
        "z of b": model.draw(with_detail, a, b, **how),
    }
    print(f"{folder}, {len(a)} test images")
    for start, table in (("u", rows), ("y", rows_of_y)):
        print(f"\n| x from {start} of a and | x, a | d(x), y | x, b |\n|---|---|---|---|")
        for name, sites in table.items():
            x, y = to_levels(sites["x"]), to_levels(sites["y"])
            pairs = ((x, levels), (downscaled(model, x), y), (x, levels.roll(half, dims=0)))
            values = " | ".join(f"{psnr(*pair).mean():.2f}" for pair in pairs)
            print(f"| {name} | {values} |")


if __name__ == "__main__":
    main()
