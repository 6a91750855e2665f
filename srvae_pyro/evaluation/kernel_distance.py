"""The squared maximum mean discrepancy of two sets of features, and its standard error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["FeatureSet", "KernelDistance", "kernel_distance", "polynomial_kernel"]

BLOCK = 1000  # features a side of what is computed at a time: 8 MB of kernel values


@dataclass(frozen=True)
class KernelDistance:
    """A squared maximum mean discrepancy; unbiased, so it can be below 0.

    Attributes:
        value: the estimate.
        standard_error: by the jackknife.
    """

    value: float
    standard_error: float


class FeatureSet:
    """Features of a set of pictures; what a set has with itself is computed once.

    Args:
        features: (N, D), on any device that has float64.
    """

    def __init__(self, features: Tensor) -> None:
        self.features = features

    def __len__(self) -> int:
        return len(self.features)

    def subset(self, indices: Tensor) -> FeatureSet:
        """The features of these indices; the set itself where it has no others."""
        return self if len(indices) == len(self) else FeatureSet(self.features[indices])

    def every_other(self, first: int) -> FeatureSet:
        """The features of every second index from ``first``, 0 or 1, on."""
        return FeatureSet(self.features[first::2])

    @cached_property
    def within(self) -> Tensor:
        """Each one's kernel values with all others, summed: (N), float64."""
        rows, _ = _sums(self.features, self.features)
        return rows - _paired_values(self.features, self.features)


def polynomial_kernel(a: Tensor, b: Tensor) -> Tensor:
    """KID's kernel (a.b / D + 1)^3 of features (..., N, D) and (..., M, D): (..., N, M), float64.

    References:
        Binkowski et al., Demystifying MMD GANs, 2018, arXiv:1801.01401, section 4.
    """
    return (a.double() @ b.double().mT / a.shape[-1] + 1) ** 3


def kernel_distance(a: FeatureSet, b: FeatureSet, *, paired: bool = False) -> KernelDistance:
    """The unbiased estimate of the squared maximum mean discrepancy by KID's kernel.

    Of all features at once, not of random subsets. The standard error is that of the jackknife,
    which leaves out each picture, or pair, in turn (Efron and Stein 1981): right where the distance
    is above 0, and up to a factor of sqrt(2) too large where it is 0 and the estimate therefore has
    no term of first order.

    Args:
        a: N features, N at least 3.
        b: M features, M at least 3.
        paired: whether picture i of one set was made from picture i of the other, N = M. A picture
            is then not compared with its own, and pairs are left out whole. With those comparisons
            the estimate would be too low: below 0 for copies.

    References:
        Gretton et al., A kernel two-sample test, 2012, JMLR 13, lemma 6: equation 3 where the sets
        are independent, equation 4 for pairs.

    Raises:
        ValueError: fewer than 3 features, or sets that do not pair up.
    """
    n, m = len(a), len(b)
    if min(n, m) < 3 or (paired and n != m):
        raise ValueError(f"{n} and {m} features: at least 3 each, and as many if they are paired")
    own_a, own_b = a.within, b.within
    rows, columns = _sums(a.features, b.features)
    total_a, total_b = own_a.sum(), own_b.sum()
    without_a = (total_a - 2 * own_a) / _pairs(n - 1)
    without_b = (total_b - 2 * own_b) / _pairs(m - 1)
    if paired:
        pairs = _paired_values(a.features, b.features)
        between = rows.sum() - pairs.sum()
        value = (total_a + total_b - 2 * between) / _pairs(n)
        left = between - (rows - pairs) - (columns - pairs)
        variance = _jackknife(without_a + without_b - 2 * left / _pairs(n - 1))
    else:
        between = rows.sum()
        value = total_a / _pairs(n) + total_b / _pairs(m) - 2 * between / (n * m)
        variance = _jackknife(without_a - 2 * (between - rows) / ((n - 1) * m))
        variance = variance + _jackknife(without_b - 2 * (between - columns) / (n * (m - 1)))
    return KernelDistance(value.item(), math.sqrt(variance.item()))


def _sums(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Kernel values of features (N, D) with (M, D), summed over the latter (N), the former (M)."""
    rows = torch.zeros(len(a), dtype=torch.float64, device=a.device)
    columns = torch.zeros(len(b), dtype=torch.float64, device=a.device)
    for own, sums in zip(a.split(BLOCK), rows.split(BLOCK), strict=True):
        for other, other_sums in zip(b.split(BLOCK), columns.split(BLOCK), strict=True):
            values = polynomial_kernel(own, other)
            sums += values.sum(1)
            other_sums += values.sum(0)
    return rows, columns


def _paired_values(a: Tensor, b: Tensor) -> Tensor:
    """The kernel of each feature with that of its index in the other set, (N) of (N, D) each."""
    blocks = zip(a.split(BLOCK), b.split(BLOCK), strict=True)
    return torch.cat([polynomial_kernel(x[:, None], y[:, None]).flatten() for x, y in blocks])


def _pairs(n: int) -> int:
    """How many ordered pairs of different ones of n there are."""
    return n * (n - 1)


def _jackknife(estimates: Tensor) -> Tensor:
    """The variance of an estimate from those that leave out one of N each, (N)."""
    count = len(estimates)
    return (count - 1) * estimates.var(correction=0)
