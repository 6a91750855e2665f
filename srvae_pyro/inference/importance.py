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
below (paper, equation 12). The one-level VAE has no pairs: both are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from srvae_pyro.errors import UserError
from srvae_pyro.inference.noise import ImageNoise
from srvae_pyro.inference.weights import (
    effective_pairs,
    effective_samples,
    log_mean,
    pareto_k,
)
from srvae_pyro.networks import cached_weights
from srvae_pyro.system.memory import peak_bytes

__all__ = [
    "Estimator",
    "LikelihoodEstimate",
    "estimate_log_likelihood",
    "evaluations_at_once",
    "log_likelihood",
]

Estimator = Literal["product", "paired"]
PAIR_BYTES = 32  # of a pair of u and z while it is weighed: some float64 at a time (measured: 17)


@dataclass(frozen=True)
class LikelihoodEstimate:
    """Estimates for B images, float64 on the CPU, each of shape (B,).

    Attributes:
        log_likelihood: nats.
        elbo: the evidence lower bound from the same samples, nats.
        effective_samples: :math:`(\\sum w)^2 / \\sum w^2`, from 1 to S; for ``product`` see
            :func:`~srvae_pyro.inference.weights.effective_pairs`.
        pareto_k: shape of the weights' tail, larger is worse, above 0.7 unreliable; of u's or z's
            for ``product``, each weighted by the sum over the others, whichever is worse; nan
            below 25 samples.
    """

    log_likelihood: Tensor
    elbo: Tensor
    effective_samples: Tensor
    pareto_k: Tensor


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
) -> LikelihoodEstimate:
    """Estimate log p(x) for each image.

    Args:
        model: an ``SRVAE`` or ``VAE``, or anything whose ``model`` and ``guide`` are such programs.
        x: images (B, C, H, W) on the grid k/255.
        samples: S, importance samples an image.
        estimator: see the module.
        seed: of the noise.
        images: the images' indices, to which their noise is tied; 0 to B - 1 if not given.
        at_once: evaluations (images times samples) of the networks at a time: a matter of memory
            only.

    Raises:
        UserError: there are no samples, or no such estimator.

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
        raise UserError(f"--estimator is product or paired, not {estimator!r}")
    indices = list(range(len(x))) if images is None else list(images)
    weigh = _Weighing(samples, max(at_once // len(x), 1), ImageNoise(seed, indices))
    if estimator == "paired" or not has_two_levels(model.model):
        weights = weigh.paired(model.model, model.guide, x)
        values = log_mean(weights), weights.mean(0), effective_samples(weights), pareto_k(weights)
    else:
        pairs = weigh.pairs(model.model, model.guide, x)
        ess = effective_pairs(pairs.rows, pairs.columns)
        k = torch.maximum(pareto_k(pairs.rows), pareto_k(pairs.columns))
        values = log_mean(pairs.rows), pairs.diagonal.mean(0), ess, k
    return LikelihoodEstimate(*(value.cpu() for value in values))


@cached_weights()
def log_likelihood(
    model: Any, x: Tensor, samples: int, *, seed: int = 0, memory_gb: float = 4.0
) -> Tensor:
    """The estimates (B,) of log p(x) alone, by all pairs, as many images at a time as fit.

    Raises:
        UserError: there are no samples, or memory does not suffice.
    """
    if samples < 1:
        raise UserError(f"importance samples must be at least 1, not {samples}")
    at_once = evaluations_at_once(model, x, samples, memory_gb)
    step = max(at_once // samples, 1)
    parts = []
    for start in range(0, len(x), step):
        images = range(start, min(start + step, len(x)))
        estimate = estimate_log_likelihood(
            model, x[start : start + step], samples, seed=seed, images=images, at_once=at_once
        )
        parts.append(estimate.log_likelihood)
    return torch.cat(parts)


@dataclass(frozen=True)
class _Pairs:
    """Log weights of pairs, (S, B) each: means over the partners, and of equal indices."""

    rows: Tensor  # of each u, over the z's
    columns: Tensor  # of each z, over the u's
    diagonal: Tensor


class _Weighing:
    """Draws latents and weighs them, a few samples at a time.

    Args:
        samples: S.
        step: samples at a time.
        noise: of the images.
    """

    def __init__(self, samples: int, step: int, noise: ImageNoise) -> None:
        self.samples = samples
        self.step = step
        self.noise = noise

    def parts(self) -> Iterator[slice]:
        for start in range(0, self.samples, self.step):
            yield slice(start, min(start + self.step, self.samples))

    def over_parts(self, score: Callable[[slice], Tensor]) -> Tensor:
        """``score`` of each part of the samples, in float64: (S, B)."""
        return torch.cat([score(part).double() for part in self.parts()])

    def draw(self, site: str, q: Any) -> Tensor:
        """S samples (S, B, C, h, w) of a normal q, drawn at once whatever the step."""
        # Of an image that is repeated the networks give one distribution, not B.
        q = q.expand((len(self.noise.images),))
        like = q.mean.new_empty(()).expand(self.samples, *q.mean.shape)
        return q.mean + q.stddev * self.noise.normal(site, like)

    def ratio(self, image: Tensor, latent: Tensor, p: Any, q: Any) -> Tensor:
        """log p(image|.., latent) - log q(latent|image), (S, B)."""
        return self.over_parts(lambda s: p(latent[s]).log_prob(image) - q.log_prob(latent[s]))

    def one_level(self, site: str, image: Tensor, q: Any, p: Any, prior: Any) -> tuple[Tensor, ...]:
        """A latent drawn from q (S, B, C, h, w), and log p(image|latent) p(latent) / q, (S, B)."""
        latent = self.draw(site, q)
        p_latent = prior(tuple(latent.shape[-2:]))
        ratio = self.ratio(image, latent, p, q)
        return latent, ratio + self.over_parts(lambda s: p_latent.log_prob(latent[s]))

    def paired(self, model: Any, guide: Any, x: Tensor) -> Tensor:
        """The log weights (S, B) of the s-th u with the s-th z."""
        if not has_two_levels(model):
            return self.one_level("z", x, guide.q_z(x), model.p_x, model.p_z)[1]
        y, q_z = guide.d(x), guide.q_z(x)
        p_z = _given(model.p_z, y)
        z = self.draw("z", q_z)
        u, weights = self.one_level("u", y, guide.q_u(y), model.p_y, model.p_u)
        weights = weights + self.ratio(x, z, partial(model.p_x, y), q_z)
        return weights + self.over_parts(lambda s: p_z(u[s]).log_prob(z[s]))

    def pairs(self, model: Any, guide: Any, x: Tensor) -> _Pairs:
        """The log weights of every u with every z."""
        y, q_z = guide.d(x), guide.q_z(x)
        p_z = _given(model.p_z, y)
        z = self.draw("z", q_z)
        of_z = self.ratio(x, z, partial(model.p_x, y), q_z)
        u, of_u = self.one_level("u", y, guide.q_u(y), model.p_y, model.p_u)
        centred = (z - q_z.mean).flatten(2).double().transpose(0, 1)  # (B, S, D)
        rows, diagonal = [], []
        columns = torch.full_like(of_z, -torch.inf)
        for part in self.parts():
            p = p_z(u[part])
            weights = _normal_log_prob(centred, p.mean - q_z.mean, p.stddev)  # (s, S, B)
            weights = weights + of_u[part].unsqueeze(1) + of_z
            rows.append(log_mean(weights, dim=1))
            columns = torch.logaddexp(columns, weights.logsumexp(0))
            equal = weights[:, part].diagonal(dim1=0, dim2=1).T
            diagonal.append(equal.clone())  # a view would keep all pairs
        columns = columns - math.log(self.samples)
        return _Pairs(torch.cat(rows), columns, torch.cat(diagonal))


def _given(p_z: Any, y: Tensor) -> Callable[[Tensor], Any]:
    """p(z|y, .) as a function of u, y encoded once if the network can."""
    return p_z.given(y) if hasattr(p_z, "given") else partial(p_z, y)


def has_two_levels(model: Any) -> bool:
    """Whether a program is the srVAE's, with u and z; the VAE has z alone."""
    return hasattr(model, "p_u")


def _normal_log_prob(z: Tensor, mean: Tensor, stddev: Tensor) -> Tensor:
    """log N(z_j; mean_i, stddev_i) of all pairs by matrix products, in float64.

    Args:
        z: (B, S, D) float64, near 0: centred, since squares are subtracted.
        mean: (s, B, C, h, w), centred alike.
        stddev: of the same shape.

    Returns:
        (s, S, B), nats.
    """
    mean = mean.flatten(2).double().transpose(0, 1)  # (B, s, D)
    stddev = stddev.flatten(2).double().transpose(0, 1).expand_as(mean)
    precision = stddev**-2
    quadratic = torch.bmm(precision, (z**2).transpose(1, 2))  # (B, s, S)
    quadratic = quadratic - 2 * torch.bmm(mean * precision, z.transpose(1, 2))
    own = (mean**2 * precision + 2 * stddev.log()).sum(-1, keepdim=True)
    constant = z.shape[-1] * math.log(2 * math.pi)
    return -0.5 * (quadratic + own + constant).permute(1, 2, 0)


@cached_weights()
def evaluations_at_once(
    model: Any, x: Tensor, samples: int, memory_gb: float, most: int = 256
) -> int:
    """How many evaluations (images times samples) at a time keep within a memory budget.

    Of max(``samples``, evaluations at a time) the latents are there all the while. Both are
    measured on a few samples, with as much again allowed for what operations use inside.

    Args:
        model: as for :func:`estimate_log_likelihood`.
        x: at least one image (B, C, H, W).
        samples: S, importance samples an image.
        memory_gb: gigabytes (1e9 bytes).
        most: not more than that, where larger batches gain nothing.

    Raises:
        UserError: not even one evaluation at a time fits.
    """

    def peak(samples: int) -> int:
        return peak_bytes(lambda: estimate_log_likelihood(model, x[:1], samples, at_once=1))

    few, more = 2, 34
    peak(1)  # weights that are computed once must not count in one of the two only
    least = peak(few)
    latents = (peak(more) - least) / (more - few)  # of a sample; with its weights
    one = least - few * latents
    budget = memory_gb * 1e9 / 2
    pairs = PAIR_BYTES * samples  # of an evaluation, whose u meets every z
    # An image at a time, its latents all there; or more images, each with all its samples.
    fit = (budget - samples * latents) / (one + pairs)
    if fit > samples:
        fit = budget / (one + latents + pairs)
    if fit < 1:
        need = 2e-9 * (one + pairs + samples * latents)
        raise UserError(f"--memory-gb {memory_gb:g} is too little: it needs {need:.2g}")
    return min(int(fit), most)
