"""Networks of groups of pixels, each of which sees the pixels before."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from srvae_pyro.config import Dense
from srvae_pyro.models.conditionals import over_images
from srvae_pyro.networks import PlainNetwork

__all__ = ["group_network", "group_parameters"]


def group_network(features: int, pixels: int, out: int, dense: Dense) -> PlainNetwork:
    """The network of a group.

    Args:
        features: channels of what it sees of a latent.
        pixels: channels of the pixels that it sees.
        out: channels of the group's likelihood.
        dense: its size.
    """
    # In float32 at first: bfloat16 would round pixels by up to half a level of 256.
    return PlainNetwork(
        features + pixels,
        out,
        dense.growth,
        dense.steps,
        dense.blocks,
        full_precision_input=True,
    )


def group_parameters(
    network: nn.Module, features: Tensor, *pixels: Tensor, relative: bool = False
) -> Tensor:
    """(..., channels of the group's likelihood, h, w), from tensors of any leading shapes.

    Args:
        network: as :func:`group_network` makes it.
        features: of a latent, (..., F, h, w).
        pixels: those that it sees, (..., C, h, w) each.
        relative: whether it sees all but the first less the first.
    """

    def joined(features: Tensor, first: Tensor, *others: Tensor) -> Tensor:
        if relative:
            others = tuple(other - first for other in others)
        out: Tensor = network(torch.cat([features.to(first.dtype), first, *others], dim=1))
        return out

    return over_images(joined, features, *pixels)
