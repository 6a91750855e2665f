"""Bits back: a latent and the image given it, put on a stack and taken off."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pyro.distributions import Independent, Normal
from torch import Tensor

from srvae_pyro.compression.factors import code_image
from srvae_pyro.compression.latents import STEP, Posterior, as_array, as_tensor
from srvae_pyro.compression.pictures import Batch
from srvae_pyro.compression.priors import NormalCode, PriorCode, as_cells
from srvae_pyro.compression.stack import Stack
from srvae_pyro.compression.tables import Code, Put, Take, code_levels
from srvae_pyro.distributions import ImageDistribution, TruncatedMixture
from srvae_pyro.errors import UserError
from srvae_pyro.pixels import to_unit

__all__ = ["BitsBack", "Given", "conditional", "filled"]

Given = Callable[[Tensor], ImageDistribution]
Encoder = Callable[[Tensor], Independent]


class BitsBack:
    """Puts latents and images on stacks, and takes them off; networks get whole batches.

    Args:
        dtype: of the networks.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def image(self, levels: Tensor, batch: Batch) -> Tensor:
        """Levels (n, C, H, W) as an image in [0, 1], with black pictures up to the batch's size."""
        return to_unit(filled(levels, batch), self.dtype)

    def put(
        self,
        stack: Stack,
        prior: PriorCode,
        posterior: Independent,
        likelihood: Given,
        levels: Tensor,
        batch: Batch,
    ) -> Tensor:
        """Draw a latent by bits of the stack, and code an image given it, and it by its prior.

        Returns:
            The latent, of the batch's size.
        """
        count = len(levels)
        q = _on_grid(posterior, prior, count)
        shape = (count, *posterior.event_shape)
        cells = as_tensor(q.pop(stack), levels, shape)
        latent = self._latent(prior, cells, batch)
        put = Put()
        code_image(likelihood(latent), _factor(put, count, batch), filled(levels, batch))
        put.push(stack)
        prior.push(stack, cells, batch.size)
        return latent

    def take(
        self,
        stack: Stack,
        prior: PriorCode,
        posterior: Encoder,
        likelihood: Given,
        shape: tuple[int, int, int],
        batch: Batch,
    ) -> tuple[Tensor, Tensor]:
        """The inverse of :meth:`put`: the levels, and the latent of the batch's size."""
        count = len(batch.indices)
        cells = prior.pop(stack, (count, *shape), batch.size)
        latent = self._latent(prior, cells, batch)
        factor = _factor(Take(stack), count, batch)
        levels = code_image(likelihood(latent), factor, None)[:count]
        q = _on_grid(posterior(self.image(levels, batch)), prior, count)
        q.push(stack, as_cells(cells))
        return levels, latent

    def _latent(self, prior: PriorCode, cells: Tensor, batch: Batch) -> Tensor:
        return prior.values(filled(cells, batch)).to(self.dtype)


def filled(values: Tensor, batch: Batch) -> Tensor:
    """Values (n, ...) with zeros up to the batch's size."""
    missing = values.new_zeros(batch.size - len(values), *values.shape[1:])
    return torch.cat([values, missing])


def _factor(code: Code, count: int, batch: Batch) -> Callable[..., Tensor]:
    """What codes a factor of a batch's pictures; those that fill it up are not coded."""

    def coded(pixels: TruncatedMixture, levels: Tensor | None) -> Tensor:
        known = None if levels is None else levels[:count]
        return filled(code_levels(code, pixels, count, known), batch)

    return coded


def _normal(distribution: object) -> Normal:
    """What an encoder gives, which is normal.

    Raises:
        UserError: it is not.
    """
    normal = getattr(distribution, "base_dist", distribution)
    if not isinstance(normal, torch.distributions.Normal):
        raise UserError(f"compress has no code for a latent's {type(normal).__name__}")
    return normal


def conditional(distribution: object) -> NormalCode:
    """p(z|y,u) as the code of a prior."""
    normal = _normal(distribution)
    return NormalCode(normal.loc, normal.loc.double(), normal.scale.double())


def _on_grid(posterior: Independent, prior: PriorCode, count: int) -> Posterior:
    """The posterior of the first pictures in cells of the prior's grid."""
    normal = _normal(posterior)
    mean = (normal.loc.double() - prior.location) / prior.scale / STEP
    std = normal.scale.double() / prior.scale / STEP
    return Posterior(as_array(mean[:count]), as_array(std[:count]))
