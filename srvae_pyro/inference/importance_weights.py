"""Importance weights of latents from a guide, their averages and diagnostics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from srvae_pyro.distributions import Conditional
from srvae_pyro.inference.decoding import ImageNoise

MIN_SAMPLES_FOR_TAIL = 25  # below, fewer than five weights are in the tail


def log_mean(log_weights: Tensor, dim: int = 0) -> Tensor:
    """The logarithm of the weights' average over ``dim``."""
    return log_weights.logsumexp(dim) - math.log(log_weights.shape[dim])


def effective_samples(log_weights: Tensor) -> Tensor:
    """Kish's effective sample size of weights (S, B): (B,), from 1 to S."""
    return (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp()


def effective_pairs(rows: Tensor, columns: Tensor) -> Tensor:
    r"""The effective sample size of all pairs of S u's and S z's: (B,), from 1 to S.

    ``rows`` are log weights (S, B) of the u's, means over the z's, ``columns`` the converse. The
    relative variances of both add up:

    .. math:: 1 / ESS = 1 / ESS_{rows} + 1 / ESS_{columns} - 1 / S

    References:
        Hoeffding, A Class of Statistics with Asymptotically Normal Distribution, 1948, Annals of
        Mathematical Statistics 19(3), section 5, for one sample; here there are two.
    """
    samples = len(rows)
    inverse = 1 / effective_samples(rows) + 1 / effective_samples(columns) - 1 / samples
    return (1 / inverse).clamp(1, samples)


def pareto_k(log_weights: Tensor) -> Tensor:
    """The shape of a generalised Pareto distribution fitted to the tail of weights (S, B): (B,).

    nan for fewer than 25 samples.

    References:
        Vehtari et al., Pareto Smoothed Importance Sampling, 2015, arXiv:1507.02646; the fit is
        Zhang and Stephens 2009, Technometrics 51(3), both as in the library arviz-stats.
    """
    if len(log_weights) < MIN_SAMPLES_FOR_TAIL:
        return torch.full_like(log_weights[0], torch.nan)
    from arviz_stats.base import array_stats  # here, as it takes 1.5 s to import

    # Made for leave-one-out: it takes log-likelihoods, whose negatives are the log weights.
    _, k = array_stats.psislw(-log_weights.T.cpu().numpy(), axis=-1)
    return torch.as_tensor(k, dtype=log_weights.dtype)


@dataclass(frozen=True)
class Pairs:
    """Log weights of pairs, (S, B) each: means over the partners, and of equal indices."""

    rows: Tensor  # of each u, over the z's
    columns: Tensor  # of each z, over the u's
    diagonal: Tensor


class Weighing:
    """Draws S samples of each latent and weighs them, ``step`` at a time."""

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

    def draw(self, site: str, q: TorchDistribution) -> Tensor:
        """S samples (S, B, C, h, w) of a normal q, drawn at once whatever the step."""
        # Of an image that is repeated the networks give one distribution, not B.
        q = q.expand((len(self.noise.images),))
        like = q.mean.new_empty(()).expand(self.samples, *q.mean.shape)
        return q.mean + q.stddev * self.noise.normal(site, like)

    def ratio(self, image: Tensor, latent: Tensor, p: Conditional, q: TorchDistribution) -> Tensor:
        """log p(image|.., latent) - log q(latent|image), (S, B)."""
        return self.over_parts(lambda s: p(latent[s]).log_prob(image) - q.log_prob(latent[s]))

    def lowest(self, model: Any, guide: Any, y: Tensor) -> tuple[Tensor, Tensor]:
        """The lowest latent u of y, (S, B, C, h, w), and log p(y|u) p(u) / q(u|y), (S, B)."""
        latent, image = model.levels[0]
        q = getattr(guide, f"q_{latent}")(y)
        u = self.draw(latent, q)
        p_u = getattr(model, f"p_{latent}")(tuple(u.shape[-2:]))
        ratio = self.ratio(y, u, getattr(model, f"p_{image}"), q)
        return u, ratio + self.over_parts(lambda s: p_u.log_prob(u[s]))

    def paired(self, model: Any, guide: Any, x: Tensor) -> Tensor:
        """The log weights (S, B) of the s-th draws of all latents together."""
        images = images_of(model, guide, x)
        u, weights = self.lowest(model, guide, images[0])
        for (latent, image), y, above in zip(model.levels[1:], images, images[1:], strict=False):
            q_z = getattr(guide, f"q_{latent}")(above)
            p_z, p_x = (condition_on_y(getattr(model, f"p_{s}"), y) for s in (latent, image))
            z = self.draw(latent, q_z)
            weights = weights + self.ratio(above, z, p_x, q_z)
            parts = [p_z(u[part]).log_prob(z[part]).double() for part in self.parts()]
            weights, u = weights + torch.cat(parts), z
        return weights

    def pairs(self, model: Any, guide: Any, x: Tensor) -> Pairs:
        """The log weights of every u with every z, of a model of two levels."""
        (latent, image), y = model.levels[1], guide.d(x)
        q_z = getattr(guide, f"q_{latent}")(x)
        p_z, p_x = (condition_on_y(getattr(model, f"p_{s}"), y) for s in (latent, image))
        z = self.draw(latent, q_z)
        of_z = self.ratio(x, z, p_x, q_z)
        u, of_u = self.lowest(model, guide, y)
        centred = (z - q_z.mean).flatten(2).double().transpose(0, 1)  # (B, S, D)
        rows, diagonal = [], []
        columns = torch.full_like(of_z, -torch.inf)
        for part in self.parts():
            p = p_z(u[part])
            weights = normal_log_prob(centred, p.mean - q_z.mean, p.stddev)  # (s, S, B)
            weights = weights + of_u[part].unsqueeze(1) + of_z
            rows.append(log_mean(weights, dim=1))
            columns = torch.logaddexp(columns, weights.logsumexp(0))
            equal = weights[:, part].diagonal(dim1=0, dim2=1).T
            diagonal.append(equal.clone())  # a view would keep all pairs
        columns = columns - math.log(self.samples)
        return Pairs(torch.cat(rows), columns, torch.cat(diagonal))


def images_of(model: Any, guide: Any, x: Tensor) -> list[Tensor]:
    """The images of all levels, the lowest first: x last, d(x) before it and so on."""
    images = [x]
    for _ in model.levels[1:]:
        images.append(guide.d(images[-1]))
    return images[::-1]


def condition_on_y(network: Any, y: Tensor) -> Conditional:
    """p(z|y, .) or p(x|y, .), by ``bind`` unless a subclass overrides ``forward`` alone."""
    classes = type(network).__mro__
    first = next((c for c in classes if {"bind", "forward"} & vars(c).keys()), None)
    if first is not None and "bind" in vars(first):
        bound: Conditional = network.bind(y)
        return bound
    return partial(network, y)


def normal_log_prob(z: Tensor, mean: Tensor, stddev: Tensor) -> Tensor:
    """log N(z_j; mean_i, stddev_i) of all pairs, (s, S, B), by matrix products in float64.

    ``z`` (B, S, D) and ``mean`` (s, B, C, h, w) are centred alike, since squares are subtracted.
    """
    mean = mean.flatten(2).double().transpose(0, 1)  # (B, s, D)
    stddev = stddev.flatten(2).double().transpose(0, 1).expand_as(mean)
    precision = stddev**-2
    quadratic = torch.bmm(precision, (z**2).transpose(1, 2))  # (B, s, S)
    quadratic = quadratic - 2 * torch.bmm(mean * precision, z.transpose(1, 2))
    of_mean = (mean**2 * precision + 2 * stddev.log()).sum(-1, keepdim=True)
    constant = z.shape[-1] * math.log(2 * math.pi)
    return -0.5 * (quadratic + of_mean + constant).permute(1, 2, 0)
