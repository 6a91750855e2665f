"""What sampling costs, and how it grows: ``python benchmarks/growth.py RUN``.

The processor time and memory of generation, likelihood and super-resolution as the count, the size
or the number of samples doubles, and the slopes of a straight line through their logarithms: 1 is
in proportion. Times are the least of some repeats, in seconds of all threads; memory is that of the
tensors at their most, in megabytes (1e6 bytes), without what libraries use inside. Then what each
level takes of a batch of generated images.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import srvae_pyro
from srvae_pyro import SRVAE
from srvae_pyro.networks import cached_weights
from srvae_pyro.system.device import peak_bytes, tune_allocator
from srvae_pyro.upscaling.arguments import UpscaleOptions
from srvae_pyro.upscaling.upscaler import Upscaler

LEVELS_OF = 64  # images


def seconds(run: Callable[[], Any], repeats: int) -> float:
    """The least processor time of some runs."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def slope(sizes: Iterable[float], values: Iterable[float]) -> float:
    """Of the logarithms."""
    return float(np.polyfit(np.log(list(sizes)), np.log(list(values)), 1)[0])


def random_y(model: SRVAE, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 256, (model.config.image_shape[0], *shape), generator=generator)
    return levels.to(torch.uint8)


def cases(model: SRVAE, largest: int) -> dict[str, tuple[list[int], Callable[[int], Any]]]:
    """By name the sizes, and what is run of each."""
    x = model.generate(4, seed=0)["x"]
    side = 8 * model.lower_multiple
    whole = [side, 2 * side, 4 * side]
    counts = [n for n in (8, 16, 32, 64, 128) if n <= largest]

    def upscale(side: int, samples: int = 1, tile: int = 0) -> None:
        upscaler = Upscaler(
            model, UpscaleOptions(decode="sample", temperature=1.0, tile=tile, memory_gb=1e3)
        )
        for sample in range(samples):
            upscaler(random_y(model, side, side), sample=sample)

    return {
        "generate, images": (counts, lambda n: model.generate(n, seed=0)),
        "likelihood of 1 image, samples": (
            [8 * n for n in counts],
            lambda n: model.log_likelihood(x[:1], samples=n, seed=0),
        ),
        "likelihood by 200 samples, images": (
            [1, 2, 4],
            lambda n: model.log_likelihood(x[:n], samples=200, seed=0),
        ),
        "upscale whole, pixels a side": (whole, upscale),
        "upscale in tiles, pixels a side": (whole, lambda n: upscale(n, tile=side)),
        "upscale, samples": ([1, 2, 4], lambda n: upscale(whole[1], samples=n)),
    }


def levels(model: SRVAE, repeats: int) -> None:
    """Print what each level takes of a batch of images."""
    net, drawn = model.model, model.generate(LEVELS_OF, seed=0)
    draws: dict[str, Callable[[], Any]] = {
        "u": lambda: net.p_u().sample((LEVELS_OF,)),
        "y": lambda: net.p_y(drawn["u"]).sample(),
        "z": lambda: net.p_z(drawn["y"], drawn["u"]).sample(),
        "x": lambda: net.p_x(drawn["y"], drawn["z"]).sample(),
    }
    times = {name: seconds(run, repeats) for name, run in draws.items()}
    print(f"\n| {LEVELS_OF} images | " + " | ".join(times) + " |")
    print("|---" * (len(times) + 1) + "|")
    print("| ms | " + " | ".join(f"{1e3 * value:.0f}" for value in times.values()) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", nargs="?", default="pretrained")
    parser.add_argument("--largest", type=int, default=128, help="count")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tune_allocator()
    model = srvae_pyro.load(options.run)
    assert isinstance(model, SRVAE), "of an srVAE"
    print("| | of | seconds | slope | MB | slope |")
    print("|---|---|---|---|---|---|")
    with torch.no_grad(), cached_weights():
        for name, (sizes, run) in cases(model, options.largest).items():
            times = [seconds(partial(run, n), options.repeats) for n in sizes]
            bytes_ = [peak_bytes(partial(run, n)) for n in sizes]
            area = 2 if "side" in name else 1  # slopes are in pixels
            cells = [
                ", ".join(map(str, sizes)),
                ", ".join(f"{value:.2f}" for value in times),
                f"{slope(sizes, times) / area:.2f}",
                ", ".join(f"{value / 1e6:.0f}" for value in bytes_),
                f"{slope(sizes, bytes_) / area:.2f}",
            ]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
        levels(model, options.repeats)


if __name__ == "__main__":
    main()
