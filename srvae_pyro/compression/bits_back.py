"""Bits back: a latent and the image given it, put on a stack and taken off."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from pyro.distributions import Independent, Normal
from torch import Tensor

from srvae_pyro.compression.everywhere import SameEverywhere
from srvae_pyro.compression.factors import code_image
from srvae_pyro.compression.latents import STEP, Posterior, as_array, as_tensor
from srvae_pyro.compression.priors import NormalCode, PriorCode, as_cells
from srvae_pyro.compression.stack import Stack
from srvae_pyro.compression.tables import Code, Put, Take, code_levels
from srvae_pyro.distributions import ImageDistribution, TruncatedMixture
from srvae_pyro.errors import UserError
from srvae_pyro.pixels import to_unit

__all__ = ["BitsBack", "Given", "conditional"]

Given = Callable[[Tensor], ImageDistribution]
Encoder = Callable[[Tensor], Independent]


class BitsBack:
    """Puts latents and images on stacks, and takes them off.

    Args:
        dtype: of the networks.
        mode: that they run in, if in one.
    """

    def __init__(self, dtype: torch.dtype, mode: SameEverywhere | None = None) -> None:
        self.dtype, self.mode = dtype, mode

    def image(self, levels: Tensor) -> Tensor:
        """Levels as an image in [0, 1], in the networks' precision."""
        return to_unit(levels, self.dtype)

    def put(
        self,
        stack: Stack,
        prior: PriorCode,
        posterior: Independent,
        likelihood: Given,
        levels: Tensor,
    ) -> Tensor:
        """Draw a latent by bits of the stack, and code an image given it, and it by its prior.

        Returns:
            The latent.
        """
        q = _on_grid(posterior, prior)
        cells = as_tensor(q.pop(stack), levels, (len(levels), *posterior.event_shape))
        latent = prior.values(cells).to(self.dtype)
        put = Put()
        code_image(likelihood(latent), partial(self._code, put), levels)
        put.push(stack)
        prior.push(stack, cells)
        return latent

    def take(
        self,
        stack: Stack,
        prior: PriorCode,
        posterior: Encoder,
        likelihood: Given,
        shape: tuple[int, int, int, int],
    ) -> tuple[Tensor, Tensor]:
        """The inverse of :meth:`put`, for a latent of that shape: the levels, and the latent."""
        cells = prior.pop(stack, shape)
        latent = prior.values(cells).to(self.dtype)
        levels = code_image(likelihood(latent), partial(self._code, Take(stack)), None)
        _on_grid(posterior(self.image(levels)), prior).push(stack, as_cells(cells))
        return levels, latent

    def _code(self, code: Code, pixels: TruncatedMixture, levels: Tensor | None) -> Tensor:
        """A factor. Tables are the same everywhere without the mode, which would take longer."""
        with self.mode.paused() if self.mode else nullcontext():
            return code_levels(code, pixels, levels)


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


def _on_grid(posterior: Independent, prior: PriorCode) -> Posterior:
    """The posterior in cells of the prior's grid."""
    normal = _normal(posterior)
    mean = (normal.loc.double() - prior.location) / prior.scale / STEP
    std = normal.scale.double() / prior.scale / STEP
    return Posterior(as_array(mean), as_array(std))
