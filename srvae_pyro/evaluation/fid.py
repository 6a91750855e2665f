"""FID and KID of generated pictures, by the library torch-fidelity."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor

from srvae_pyro.data.splits import evenly_spaced
from srvae_pyro.drawing.generate import chunks
from srvae_pyro.errors import UserError
from srvae_pyro.evaluation.features import FeatureExtractor
from srvae_pyro.evaluation.fidelity import fidelity
from srvae_pyro.inference.operations import Sampling
from srvae_pyro.models import ImageModel
from srvae_pyro.pixels import to_levels
from srvae_pyro.system.parallel import Group

__all__ = ["Distances", "Draw", "drawer", "fid_and_kid"]

KID_SUBSET_SIZE = 1000  # torch-fidelity's default, as is the seed
KID_SEED = 2020

Draw = Callable[[int, int], Tensor]  # first index and count to uint8 (count, C, H, W)


@dataclass(frozen=True)
class Distances:
    """FID and KID between generated and real pictures.

    Attributes:
        fid: Fréchet distance of the features.
        kid_mean: mean over 100 subsets of the squared maximum mean discrepancy.
        kid_std: its standard deviation over them.
        kid_subset_size: 1000 pictures as torch-fidelity takes, or half of them if there are fewer.
        generated: how many pictures.
        real: how many pictures.
    """

    fid: float
    kid_mean: float
    kid_std: float
    kid_subset_size: int
    generated: int
    real: int


@torch.no_grad()
def fid_and_kid(
    draw: Draw,
    real: Tensor,
    extractor: FeatureExtractor,
    *,
    samples: int,
    cache_key: str = "pictures",
    batch_size: int = 100,
    seed: int = KID_SEED,
    progress: bool = True,
    group: Group = Group(),
) -> Distances | None:
    """FID and KID between generated and real pictures, as torch-fidelity computes them.

    References:
        Heusel et al., GANs trained by a two time-scale update rule, 2017, arXiv:1706.08500;
        Binkowski et al., Demystifying MMD GANs, 2018, arXiv:1801.01401.

    Args:
        draw: makes generated pictures ``first`` to ``first + count - 1``, called as
            ``draw(first, count)``: uint8 (count, C, H, W), C = 1 or 3. See :func:`drawer`.
        real: the real pictures, uint8 (N, C, H, W).
        extractor: makes the features.
        samples: how many pictures to generate; of the real ones as many are used, evenly spaced,
            or all if there are fewer.
        cache_key: what the files of the real pictures' features are called: data set and split.
        batch_size: pictures at a time.
        seed: of KID's random subsets; torch-fidelity's own if not given.
        progress: whether to show a bar.
        group: the processes that share the generated pictures; the first does the rest.

    Returns:
        The distances; None but in the first process.

    Raises:
        UserError: fewer than 2 pictures of one kind; torch-fidelity is not installed.
    """
    fidelity("metric_fid")  # is it installed?
    if samples < 2 or len(real) < 2:
        raise UserError(
            "FID compares covariances: it takes at least 2 pictures of each kind, not "
            f"{samples} generated and {len(real)} real ones"
        )
    real_features = torch.empty(0)
    if group.main:
        real = evenly_spaced(real, samples)
        real_features = extractor.of_real(real, cache_key, batch_size, progress)
    share = group.share(samples)
    indices = range(share.start, share.stop)
    images = _generated(draw, indices, batch_size)
    features = extractor.of_batches(images, len(indices), "generated pictures", progress)
    features = group.joined(features)
    return _distances(features, real_features, seed) if group.main else None


def _generated(draw: Draw, indices: range, batch_size: int) -> Iterator[Tensor]:
    """The generated pictures of these indices, in order, each once."""
    for chunk in chunks(indices, batch_size):
        images = draw(chunk.start, len(chunk))
        if len(images) != len(chunk):
            raise ValueError(f"draw({chunk.start}, {len(chunk)}) made {len(images)} pictures")
        yield images


def _distances(generated: Tensor, real: Tensor, seed: int) -> Distances:
    """The distances between features (N, D) and (M, D)."""
    fid, kid = fidelity("metric_fid"), fidelity("metric_kid")
    fewest = min(len(generated), len(real))
    if fewest <= generated.shape[1]:
        warnings.warn(
            f"FID of {fewest} pictures is far too high and cannot be compared with others: it "
            f"takes more than {generated.shape[1]}, the features of its network",
            stacklevel=1,
        )
    subset_size = KID_SUBSET_SIZE if fewest >= KID_SUBSET_SIZE else max(fewest // 2, 2)
    statistics = [fid.fid_features_to_statistics(features) for features in (generated, real)]
    distance = fid.fid_statistics_to_metric(*statistics, verbose=False)
    kernel = kid.kid_features_to_metric(
        generated, real, kid_subset_size=subset_size, rng_seed=seed, verbose=False
    )
    return Distances(
        fid=distance[fid.KEY_METRIC_FID],
        kid_mean=kernel[kid.KEY_METRIC_KID_MEAN],
        kid_std=kernel[kid.KEY_METRIC_KID_STD],
        kid_subset_size=subset_size,
        generated=len(generated),
        real=len(real),
    )


def drawer(model: ImageModel, **sampling: Unpack[Sampling]) -> Draw:
    """What :func:`fid_and_kid` draws pictures of a model with, as many at once as it asks for.

    Picture i of a seed is the same, whatever is asked for together with it. The levels are those
    that a PNG of it holds.

    Args:
        model: the model.
        sampling: as of its ``generate``, the seed 0 if not given.
    """

    def draw(first: int, count: int) -> Tensor:
        at_once: Sampling = {"seed": 0, **sampling, "batch_size": count}
        sites = model.generate(count, first=first, **at_once)
        return to_levels(sites["x"]).to(torch.uint8)

    return draw
