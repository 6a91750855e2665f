"""Where samples leave the data: ``python benchmarks/sampled_levels.py RUN --data DIR``.

Of y's pyramid the coarse levels, and of its finest level the first groups of pixels, are those of
test images; the rest is sampled. KID in EfficientNet-Lite0 features against other test images, ±
its jackknife standard error, and recall and coverage. A step between two rows is what sampling one
more level or group costs.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyro
import torch
from reading import read_run, run_parser
from torch import Tensor

from srvae_pyro import SRVAE
from srvae_pyro.data.splits import evenly_spaced
from srvae_pyro.distributions import ConsistentGroups, Pyramid
from srvae_pyro.evaluation.kid import FeatureSet, LiteFeatures, kernel_distance, neighbours
from srvae_pyro.pixels import to_levels, to_unit
from srvae_pyro.system.device import tune_allocator

AT_ONCE = 100  # images


def pyramid_of(model: SRVAE, y: Tensor | None, count: int) -> Pyramid:
    """p(y|u) with u from q(u|y), or from its prior."""
    u = model.model.p_u().expand((count,)).sample() if y is None else model.guide.q_u(y).sample()
    pyramid = model.model.p_y(u)
    assert isinstance(pyramid, Pyramid)
    return pyramid


def finished(pyramid: Pyramid, image: Tensor, level: int) -> Tensor:
    """y, sampled from its image at a level on, 0 the coarsest."""
    for finer in pyramid.finer[level:]:
        image = finer(image).sample()
    return image


def variants(model: SRVAE, y: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What is real, and the images y."""
    yield "y", y
    pyramid = pyramid_of(model, y, len(y))
    levels = [y]
    for _ in pyramid.finer:
        levels.insert(0, to_unit(pyramid.block.average(to_levels(levels[0]))))
    coarse, finest = levels[-2], pyramid.finer[-1](levels[-2])
    assert isinstance(finest, ConsistentGroups)
    side = f"{coarse.shape[-2]}x{coarse.shape[-1]}"
    for known in range(pyramid.block.pixels - 1, 0, -1):
        groups = list(pyramid.block.groups(y)[:known])
        while len(groups) < pyramid.block.pixels:
            groups.append(finest.group(groups).sample())
        yield f"{side} and {known} of each block", pyramid.block.from_groups(groups)
    for level in range(len(levels) - 2, -1, -1):
        image = levels[level]
        name = f"{image.shape[-2]}x{image.shape[-1]}"
        yield name, finished(pyramid, image, level)
    pyramid = pyramid_of(model, None, len(y))
    yield "nothing", finished(pyramid, pyramid.coarsest.sample(), 0)


@torch.no_grad()
def main() -> None:
    parser = run_parser(__doc__, limit=1000, what="test images a set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    tune_allocator()
    torch.set_num_threads(options.threads)
    pyro.enable_validation(False)
    pyro.set_rng_seed(options.seed)
    folder, model, test = read_run(options)
    if not isinstance(model, SRVAE) or model.config.latent_likelihood != "pyramid":
        parser.error(f"{folder} has no pyramid of y")
    images = evenly_spaced(test, 2 * options.limit)
    features = LiteFeatures()
    others, own = (model.guide.d(to_unit(images[first::2])) for first in (0, 1))
    sets: dict[str, list[Tensor]] = {}
    for part in own.split(AT_ONCE):
        for name, y in variants(model, part):
            sets.setdefault(name, []).append(features(to_levels(y).to(torch.uint8)))
    real = features(to_levels(others).to(torch.uint8))
    print(
        f"{folder}, {len(own)} images\n\n| real | KID of y | recall | coverage |\n|---|---|---|---|"
    )
    for name, parts in sets.items():
        found = torch.cat(parts)
        kid = kernel_distance(FeatureSet(real), FeatureSet(found))
        overlap = neighbours(real, found)
        print(
            f"| {name} | {kid.value:.3f} ± {kid.standard_error:.3f} | "
            f"{overlap['recall']:.3f} | {overlap['coverage']:.2f} |"
        )


if __name__ == "__main__":
    main()
