"""Importance weights: their average and how far it can be trusted."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["effective_pairs", "effective_samples", "log_mean", "pareto_k"]

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
