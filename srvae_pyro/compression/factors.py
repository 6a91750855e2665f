"""Pictures coded factor by factor, in the order in which a likelihood draws them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from srvae_pyro.distributions import (
    ConsistentGroups,
    DiscretizedLogisticMixture,
    ImageDistribution,
    Pyramid,
    TruncatedMixture,
)
from srvae_pyro.distributions.blocks import LAST_LEVEL, rounded_average
from srvae_pyro.distributions.chain import Next
from srvae_pyro.distributions.consistent_groups import ORDER, image_of
from srvae_pyro.errors import UserError
from srvae_pyro.pixels import to_unit

__all__ = ["Factor", "code_image"]

# Codes a factor: its distribution, its levels where they are known; returns the levels.
Factor = Callable[[TruncatedMixture, Tensor | None], Tensor]


def code_image(likelihood: ImageDistribution, factor: Factor, levels: Tensor | None) -> Tensor:
    """Hand a picture's factors to ``factor``, each given the levels of those before.

    Args:
        likelihood: of batch shape (B).
        factor: codes one.
        levels: whole numbers (B, C, H, W), where they are known.

    Returns:
        The levels, (B, C, H, W).

    Raises:
        UserError: the likelihood is of another kind.
    """
    match likelihood:
        case Pyramid():
            return _pyramid(likelihood, factor, levels)
        case ConsistentGroups():
            return _groups(likelihood, factor, levels)
        case DiscretizedLogisticMixture():
            return factor(TruncatedMixture(likelihood, _everything(likelihood)), levels)
        case TruncatedMixture():
            return factor(likelihood, levels)
    raise UserError(f"compress has no code for the likelihood {type(likelihood).__name__}")


def _everything(mixture: DiscretizedLogisticMixture) -> Next:
    """What is known of a pixel of which nothing is: with that locations are the mixture's own."""
    none = mixture.means.new_zeros(mixture.event_shape)
    return Next(none, torch.full_like(none, LAST_LEVEL), none, none)


def _pyramid(pyramid: Pyramid, factor: Factor, levels: Tensor | None) -> Tensor:
    parts = [levels]
    for _ in pyramid.finer:
        finest = parts[-1]
        parts.append(None if finest is None else rounded_average(finest))
    parts.reverse()
    image = code_image(pyramid.coarsest, factor, parts[0])
    for finer, part in zip(pyramid.finer, parts[1:], strict=True):
        image = code_image(finer(to_unit(image, pyramid.noise_like.dtype)), factor, part)
    return image


def _groups(groups: ConsistentGroups, factor: Factor, levels: Tensor | None) -> Tensor:
    made: list[Tensor] = []
    for number, place in enumerate(ORDER):
        row, column = divmod(place, 2)
        part = None if levels is None else levels[..., row::2, column::2]
        before = [to_unit(image, groups.y.dtype) for image in made]
        made.append(factor(groups.group(before) if number else groups.first, part))
    return image_of(made)
