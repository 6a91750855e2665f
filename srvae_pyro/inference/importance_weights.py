"""Importance weights: latents drawn from a guide, weighed by a model, averaged with diagnostics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from srvae_pyro.inference.decoding import ImageNoise

__all__ = [
    "Pairs",
    "Weighing",
    "condition_on_y",
    "effective_pairs",
    "effective_samples",
    "has_two_levels",
    "log_mean",
    "normal_log_prob",
    "pareto_k",
]

MIN_SAMPLES_FOR_TAIL = 25  # below, fewer than five weights are in the tail


def log_mean(log_weights: Tensor, dim: int = 0) -> Tensor:
    """The logarithm of the weights' average over ``dim``."""
    return log_weights.logsumexp(dim) - math.log(log_weights.shape[dim])


def effective_samples(log_weights: Tensor) -> Tensor:
    """Kish's effective sample size of weights (S, B): (B,), from 1 to S.

    Example:
        >>> effective_samples(torch.tensor([[0.0, 0.0], [0.0, -100.0]]))
        tensor([2., 1.])
    """
    return (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp()


def effective_pairs(rows: Tensor, columns: Tensor) -> Tensor:
    r"""The effective sample size of all pairs of S u's and S z's: (B,), from 1 to S.

    As many paired samples of weights as even as these would average as well. The average of the
    pairs varies with the u's and with the z's, so that relative variances add up:

    .. math:: 1 / ESS = 1 / ESS_{rows} + 1 / ESS_{columns} - 1 / S

    References:
        Hoeffding, A Class of Statistics with Asymptotically Normal Distribution, 1948, Annals of
        Mathematical Statistics 19(3), section 5, for one sample; here there are two.

    Args:
        rows: log weights (S, B) of the u's, each the mean over the z's.
        columns: of the z's, each the mean over the u's.
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
        p_z, p_x = condition_on_y(model.p_z, y), condition_on_y(model.p_x, y)
        z = self.draw("z", q_z)
        u, weights = self.one_level("u", y, guide.q_u(y), model.p_y, model.p_u)
        weights = weights + self.ratio(x, z, p_x, q_z)
        return weights + self.over_parts(lambda s: p_z(u[s]).log_prob(z[s]))

    def pairs(self, model: Any, guide: Any, x: Tensor) -> Pairs:
        """The log weights of every u with every z."""
        y, q_z = guide.d(x), guide.q_z(x)
        p_z, p_x = condition_on_y(model.p_z, y), condition_on_y(model.p_x, y)
        z = self.draw("z", q_z)
        of_z = self.ratio(x, z, p_x, q_z)
        u, of_u = self.one_level("u", y, guide.q_u(y), model.p_y, model.p_u)
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


def condition_on_y(network: Any, y: Tensor) -> Callable[[Tensor], Any]:
    """p(z|y, .) as a function of u, or p(x|y, .) of z, y seen once if the network can.

    By its ``bind``, unless a subclass has a ``forward`` of its own and none of that.
    """
    classes = type(network).__mro__
    first = next((c for c in classes if {"bind", "forward"} & vars(c).keys()), None)
    if first is not None and "bind" in vars(first):
        return network.bind(y)
    return partial(network, y)


def has_two_levels(model: Any) -> bool:
    """Whether a program is the srVAE's, with u and z; the VAE has z alone."""
    return hasattr(model, "p_u")


def normal_log_prob(z: Tensor, mean: Tensor, stddev: Tensor) -> Tensor:
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
