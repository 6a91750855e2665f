"""Constraints that the package's distributions declare."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import constraints

from srvae_pyro.distributions.blocks import allowed_sums, to_blocks
from srvae_pyro.pixels import to_levels

__all__ = ["image_grid", "images_averaging_to"]


class _ImageGrid(constraints.Constraint):
    """Images whose every value is one of the ``levels`` equally spaced values k / (levels - 1).

    Args:
        levels: number of values, 256 for 8-bit images.
        tolerance: how far a value may lie from the grid, in steps of the grid.

    Example:
        >>> import torch
        >>> images = torch.tensor([0.0, 0.4, 1.0]).reshape(3, 1, 1, 1)
        >>> image_grid.check(images)
        tensor([True, True, True])
        >>> image_grid.check(images + 0.001)
        tensor([False, False, False])
    """

    is_discrete = True
    event_dim = 3

    def __init__(self, levels: int = 256, tolerance: float = 1e-3) -> None:
        self.levels = levels
        self.tolerance = tolerance
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether all values of each image (..., C, H, W) are on the grid, (...)."""
        step = value * (self.levels - 1)
        nearest = step.round().clamp(0, self.levels - 1)
        return ((step - nearest).abs() <= self.tolerance).flatten(-3).all(-1)

    def __repr__(self) -> str:
        return f"image_grid(levels={self.levels})"


image_grid = _ImageGrid()


class _ImagesAveragingTo(constraints.Constraint):
    """Images on the grid whose 2x2 blocks have the rounded averages y.

    Args:
        y: images (..., C, h, w) on the grid; those checked are (..., C, 2h, 2w).
    """

    is_discrete = True
    event_dim = 3

    def __init__(self, y: Tensor) -> None:
        self.y = y
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether each image is one of them, (...)."""
        sums = to_blocks(to_levels(value)).sum(-4)
        least, most = allowed_sums(to_levels(self.y))
        agrees = ((least <= sums) & (sums <= most)).flatten(-3).all(-1)
        return agrees & image_grid.check(value)

    def __repr__(self) -> str:
        return "images whose 2x2 blocks have the rounded averages y"


images_averaging_to = _ImagesAveragingTo
