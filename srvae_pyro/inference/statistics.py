"""Means over images, their standard errors, and their unit."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def bits_per_dim(nats: float, shape: tuple[int, int, int]) -> float:
    """Nats an image of ``shape`` (C, H, W) as bits a dimension (paper, section 4.1)."""
    return nats / (math.prod(shape) * math.log(2))


class RunningMean:
    """Means of named values over steps, summed on the device and read once."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        """Add tensors: a scalar each, or one value an image."""
        for name, value in values.items():
            total = value.detach().sum(dtype=torch.float64)
            self.sums[name] = self.sums[name] + total if name in self.sums else total
            self.counts[name] = self.counts.get(name, 0) + value.numel()

    def read(self, over: Callable[[Tensor], Tensor] = lambda sums: sums) -> dict[str, float]:
        """The means, and start anew; ``over`` adds up the sums of several processes."""
        if not self.sums:
            return {}
        sums = torch.stack(list(self.sums.values()))
        counts = torch.tensor(list(self.counts.values()), dtype=sums.dtype, device=sums.device)
        totals = over(torch.cat([sums, counts])).view(2, -1)
        means = dict(zip(self.sums, (totals[0] / totals[1]).tolist(), strict=True))
        self.sums, self.counts = {}, {}
        return means


def standard_error(values: Tensor, photographs: Tensor | None = None) -> float | None:
    """The standard error of the mean of one value an image, (N).

    Crops of one of G photographs are correlated, so deviations are summed for each photograph
    (``photographs`` has its index, (N)) before they are squared:

        se^2  =  G / (G - 1)  sum_g (sum_{i in g} (v_i - mean))^2  /  N^2

    which is the usual standard error without crops; None for one photograph or image alone.

    References:
        Liang and Zeger, Longitudinal data analysis using generalized linear models, 1986,
        Biometrika 73(1).
    """
    sums = values.double() - values.double().mean()
    if photographs is not None:
        groups, group_of = photographs.to(sums.device).unique(return_inverse=True)
        sums = sums.new_zeros(len(groups)).index_add(0, group_of, sums)
    if len(sums) < 2:
        return None
    variance = len(sums) / (len(sums) - 1) * sums.square().sum() / len(values) ** 2
    return variance.sqrt().item()
