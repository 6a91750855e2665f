"""Whether samples spread as the truth does: its ranks among them, value by value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from srvae_pyro.evaluation.scores import mean_and_error
from srvae_pyro.system.streams import stream

__all__ = ["LEVELS", "RANKED", "Calibration", "Ranks", "coverage"]

RANKED = 39  # samples: the truth's rank is one of 40, of which 20, 32 and 38 are
LEVELS = (50, 80, 95)  # per cent


@dataclass(frozen=True)
class Calibration:
    """How often the truth lies within the samples' spread.

    Attributes:
        within: the share of values that lie within the central interval of 50, 80 and 95 % of the
            samples, by that number; calibrated samples have just these shares.
        within_error: their standard errors.
        ranks: the share of values of each rank among the samples, 0 to ``samples``.
        certain: the share of values that all samples agree on, and rightly; broken ties give these
            every rank alike.
        samples: how many.
        seed: of the samples, and of the ties.
    """

    within: dict[str, float | None]
    within_error: dict[str, float | None]
    ranks: list[float]
    certain: float
    samples: int
    seed: int

    @classmethod
    def of(
        cls, values: Mapping[str, Tensor], seed: int, photographs: Tensor | None = None
    ) -> Calibration:
        """From ``ranks`` (N, K + 1) and ``certain`` (N), shares of each picture's values."""
        ranks = values["ranks"]
        found = {
            str(level): mean_and_error(coverage(ranks, level), photographs) for level in LEVELS
        }
        return cls(
            {level: mean for level, (mean, _) in found.items()},
            {level: error for level, (_, error) in found.items()},
            ranks.mean(dim=0).tolist(),
            values["certain"].mean().item(),
            ranks.shape[1] - 1,
            seed,
        )


def coverage(ranks: Tensor, level: int) -> Tensor:
    """The share of values within the central interval, (...), by the shares of ranks (..., K + 1).

    Args:
        ranks: of K samples.
        level: of the interval, in per cent, that leaves out a whole number of ranks at each end.

    Raises:
        ValueError: it does not.
    """
    count = ranks.shape[-1]
    out, rest = divmod(count * (100 - level), 200)
    if rest:
        raise ValueError(f"{count - 1} samples have no central interval of {level} %")
    return ranks[..., out : count - out].sum(dim=-1)


class Ranks:
    """The ranks of pictures' values among samples, which are given one after another.

    Of a truth that is drawn as the samples are every rank is as probable. Where some samples equal
    it, its place among them is drawn too, from a stream of the picture's own.

    References:
        Hamill, Interpretation of rank histograms for verifying ensemble forecasts, 2001, Monthly
        Weather Review 129(3).

    Args:
        truth: uint8 (B, C, H, W).
        indices: the pictures' numbers, to which the ties are tied.
        seed: of the ties.
    """

    def __init__(self, truth: Tensor, indices: Sequence[int], seed: int) -> None:
        self.truth, self.indices, self.seed = truth, indices, seed
        self.below = torch.zeros(truth.shape, dtype=torch.int32)
        self.equal = torch.zeros(truth.shape, dtype=torch.int32)
        self.count = 0

    def add(self, samples: Tensor) -> None:
        """A sample of each, uint8 (B, C, H, W)."""
        self.below += samples < self.truth
        self.equal += samples == self.truth
        self.count += 1

    def ranks(self) -> Tensor:
        """How many samples lie below each value, ties broken: int64 (B, C, H, W), 0 to K."""
        shape = self.truth.shape[1:]
        drawn = [
            stream(self.seed, index, *b"ties").random(tuple(shape), dtype=np.float64)
            for index in self.indices
        ]
        places = torch.from_numpy(np.stack(drawn)) * (self.equal + 1)
        return self.below.long() + places.long()

    def shares(self) -> dict[str, Tensor]:
        """What :meth:`Calibration.of` is made from, of these pictures: float64."""
        ranks = self.ranks().flatten(1)
        shares = torch.zeros(len(ranks), self.count + 1, dtype=torch.float64)
        shares.scatter_add_(1, ranks, torch.ones(ranks.shape, dtype=torch.float64))
        certain = (self.equal == self.count).flatten(1).double().mean(dim=1)
        return {"ranks": shares / ranks.shape[1], "certain": certain}
