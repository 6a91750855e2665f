r"""The log-likelihood by importance sampling, image by image.

For an image x with y = d(x) and samples :math:`u_s \sim q(u|y)`, :math:`z_s \sim q(z|x)` the
weights are

.. math:: w_{ij} = \frac{p(x|y,z_j)\,p(z_j|y,u_i)\,p(y|u_i)\,p(u_i)}{q(z_j|x)\,q(u_i|y)}

and both averages are unbiased estimates of p(x, y = d(x)), so their logarithms are lower bounds of
log p(x) in expectation, tighter with more samples:

- ``paired``: :math:`\log \frac1S \sum_s w_{ss}` (Burda et al. 2015, arXiv:1509.00519);
- ``product``: :math:`\log \frac1{S^2} \sum_{ij} w_{ij}`. Under the guide u and z are independent
  given x, so all pairs are valid samples. The networks still run S times each.

y is a function of x, so the sum over other y is left out: the srVAE's figure bounds log p(x) from
below (paper, equation 12). Models of one level or of more than two have no such pairs: both are
``paired``.

Samples may also be drawn from another q of independent normals given x, such as one by
:mod:`~srvae_pyro.inference.refinement`; the better it is, the less the weights vary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_args

import torch
from torch import Tensor

from srvae_pyro.errors import UserError
from srvae_pyro.inference.decoding import ImageNoise
from srvae_pyro.inference.importance_weights import (
    Weighing,
    effective_pairs,
    effective_samples,
    log_mean,
    pareto_k,
)
from srvae_pyro.inference.refinement import RefinedGuide, refine, refined_at_once
from srvae_pyro.networks import cached_weights
from srvae_pyro.system.device import peak_bytes

__all__ = [
    "Estimator",
    "LikelihoodEstimate",
    "LikelihoodOptions",
    "estimate_log_likelihood",
    "estimates",
    "evaluations_at_once",
    "log_likelihood",
]

Estimator = Literal["product", "paired"]
PAIR_BYTES = 32  # of a pair of u and z while it is weighed (measured: 17)


@dataclass(frozen=True)
class LikelihoodEstimate:
    """Estimates for B images, (B,) each, on the CPU, float64 but for ``improved``.

    Attributes:
        log_likelihood: nats.
        elbo: the evidence lower bound from the same samples, nats.
        effective_samples: :math:`(\\sum w)^2 / \\sum w^2`, from 1 to S; for ``product`` see
            :func:`~srvae_pyro.inference.importance_weights.effective_pairs`.
        pareto_k: shape of the weights' tail, unreliable above 0.7, nan below 25 samples; for
            ``product`` the larger of u's and z's.
        improved: whether the samples are of a refined q, not the encoder's.
    """

    log_likelihood: Tensor
    elbo: Tensor
    effective_samples: Tensor
    pareto_k: Tensor
    improved: Tensor


class LikelihoodOptions(TypedDict, total=False):
    """Options of :func:`log_likelihood`.

    Attributes:
        refine: gradient steps that improve each image's q before sampling, 0 by default.
        seed: seed of the noise, 0 by default.
        memory_gb: gigabytes that tensors may take, 4 by default.
    """

    refine: int
    seed: int
    memory_gb: float


@torch.no_grad()
@cached_weights()
def estimate_log_likelihood(
    model: Any,
    x: Tensor,
    samples: int,
    *,
    estimator: Estimator = "product",
    seed: int = 0,
    images: Sequence[int] | None = None,
    at_once: int = 64,
    guide: RefinedGuide | None = None,
) -> LikelihoodEstimate:
    """Estimate log p(x) for each image.

    Args:
        model: an ``SRVAE`` or ``VAE``, or anything whose ``model`` and ``guide`` are such programs.
        x: images (B, C, H, W) on the grid k/255.
        images: indices that the images' noise is tied to; 0 to B - 1 if not given.
        at_once: evaluations (images times samples) of the networks at a time.
        guide: a refined guide of the same images; the model's own if not given.

    Example:
        >>> from srvae_pyro import SRVAE
        >>> from srvae_pyro.presets import preset
        >>> net, x = SRVAE(preset("quickstart")[0]), torch.zeros(2, 3, 32, 32)
        >>> estimate = estimate_log_likelihood(net, x, samples=3)
        >>> estimate.log_likelihood.shape, bool((estimate.log_likelihood >= estimate.elbo).all())
        (torch.Size([2]), True)
    """
    if samples < 1 or at_once < 1:
        raise UserError(f"importance samples must be at least 1, not {min(samples, at_once)}")
    if estimator not in get_args(Estimator):
        raise UserError(f"`estimator` must be product or paired, not {estimator!r}")
    indices = list(range(len(x))) if images is None else list(images)
    weigh = Weighing(samples, max(at_once // len(x), 1), ImageNoise(seed, indices))
    q = model.guide if guide is None else guide
    if estimator == "paired" or len(model.model.levels) != 2:
        weights = weigh.paired(model.model, q, x)
        values = log_mean(weights), weights.mean(0), effective_samples(weights), pareto_k(weights)
    else:
        pairs = weigh.pairs(model.model, q, x)
        ess = effective_pairs(pairs.rows, pairs.columns)
        k = torch.maximum(pareto_k(pairs.rows), pareto_k(pairs.columns))
        values = log_mean(pairs.rows), pairs.diagonal.mean(0), ess, k
    improved = torch.zeros(len(x), dtype=torch.bool) if guide is None else guide.improved
    return LikelihoodEstimate(*(value.cpu() for value in (*values, improved)))


def estimates(
    model: Any,
    x: Tensor,
    samples: int,
    *,
    estimator: Estimator = "product",
    steps: int = 0,
    seed: int = 0,
    images: Sequence[int] | None = None,
    at_once: int = 64,
) -> Iterator[LikelihoodEstimate]:
    """:func:`estimate_log_likelihood` by parts, with q refined by ``steps`` for all together."""
    indices = list(range(len(x))) if images is None else list(images)
    guide = refine(model, x, steps, seed=seed, images=indices) if steps else None
    width = max(at_once // samples, 1)
    for start in range(0, len(x), width):
        part = slice(start, start + width)
        yield estimate_log_likelihood(
            model,
            x[part],
            samples,
            estimator=estimator,
            seed=seed,
            images=indices[part],
            at_once=at_once,
            guide=None if guide is None else guide[part],
        )


@cached_weights()
def log_likelihood(
    model: Any, x: Tensor, samples: int, *, refine: int = 0, seed: int = 0, memory_gb: float = 4.0
) -> Tensor:
    """The estimates (B,) of log p(x) alone, by all pairs, as many images at a time as fit."""
    if samples < 1:
        raise UserError(f"importance samples must be at least 1, not {samples}")
    if refine < 0:
        raise UserError(f"refine is a number of gradient steps, at least 0, not {refine}")
    at_once = evaluations_at_once(model, x, samples, memory_gb)
    together = refined_at_once(model, x, memory_gb) if refine else len(x)
    options: Any = {"steps": refine, "seed": seed, "at_once": at_once}
    parts = []
    for start in range(0, len(x), together):
        images = range(start, min(start + together, len(x)))
        batch = x[start : start + together]
        for estimate in estimates(model, batch, samples, images=images, **options):
            parts.append(estimate.log_likelihood)
    return torch.cat(parts)


@cached_weights()
def evaluations_at_once(
    model: Any, x: Tensor, samples: int, memory_gb: float, most: int = 256
) -> int:
    """How many evaluations (images times samples) at a time fit into memory.

    The latents of max(``samples``, evaluations at a time) stay in memory. Both are measured on a
    few samples, and as much again is allowed for use within operations.
    """

    def peak(samples: int) -> int:
        return peak_bytes(lambda: estimate_log_likelihood(model, x[:1], samples, at_once=1))

    few, more = 1, 3
    peak(1)  # warm the cache of weights, which would count in one of the two only
    least = peak(few)
    latents = (peak(more) - least) / (more - few)  # of a sample; with its weights
    one = least - few * latents
    budget = memory_gb * 1e9 / 2
    pairs = PAIR_BYTES * samples  # of an evaluation, whose u meets every z
    # One image at a time with all its latents, or several with all their samples.
    fit = (budget - samples * latents) / (one + pairs)
    if fit > samples:
        fit = budget / (one + latents + pairs)
    if fit < 1:
        need = 2e-9 * (one + pairs + samples * latents)
        raise UserError(f"`memory_gb={memory_gb:g}` is too little: use at least {need:.2g}")
    return min(int(fit), most)
