"""Averages of the ELBO's terms over pictures."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from tqdm import tqdm

from srvae_pyro.data import to_unit
from srvae_pyro.evaluation.elbo import TermsELBO
from srvae_pyro.models import ImageModel
from srvae_pyro.runtime import exact_float32

__all__ = ["RunningMean", "bits_per_dim", "evaluate_elbo", "spread"]


def bits_per_dim(nats: float, shape: tuple[int, int, int]) -> float:
    """Nats an image of ``shape`` (C, H, W) as bits a dimension (paper, section 4.1)."""
    return nats / (math.prod(shape) * math.log(2))


class RunningMean:
    """Means of named values over steps, summed on the device and read once."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        """Take in tensors: a scalar, or one value an image."""
        for name, value in values.items():
            total = value.detach().sum(dtype=torch.float64)
            self.sums[name] = self.sums[name] + total if name in self.sums else total
            self.counts[name] = self.counts.get(name, 0) + value.numel()

    def read(self) -> dict[str, float]:
        """The means, and start anew."""
        totals = torch.stack(list(self.sums.values())).tolist() if self.sums else []
        means = {n: t / self.counts[n] for n, t in zip(self.sums, totals, strict=True)}
        self.sums, self.counts = {}, {}
        return means


def spread(images: Tensor, count: int | None) -> Tensor:
    """``count`` of the images, evenly spaced, the same ones always; all where ``count`` is None.

    Pictures are often sorted by class, so the first ones would be of one kind.
    """
    if count is None or count >= len(images):
        return images
    return images[torch.linspace(0, len(images) - 1, count, dtype=torch.float64).round().long()]


@torch.no_grad()
def evaluate_elbo(
    model: ImageModel,
    images: Tensor,
    device: torch.device,
    elbo: TermsELBO,
    batch_size: int = 100,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, float]:
    """The ELBO's terms on uint8 images (N, C, H, W): mean nats an image, total, and bits/dim.

    In float32, with noise of its own seed, so that it is repeatable and disturbs nothing.
    """
    means = RunningMean()
    with exact_float32(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        chunks = tqdm(images.split(batch_size), unit="batch", disable=not progress)
        for chunk in chunks:
            x = to_unit(chunk.to(device))
            terms = elbo.terms(model.model, model.guide, x)
            means.add({**terms.named(), "nats": terms.total})
    values = means.read()
    shape = (images.shape[1], images.shape[2], images.shape[3])
    return {**values, "bits_per_dim": bits_per_dim(values["nats"], shape)}
