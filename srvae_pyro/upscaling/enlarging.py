"""Which models enlarge, and by what factor."""

from __future__ import annotations

import torch
from torch import Tensor

from srvae_pyro.errors import UserError
from srvae_pyro.models import SRVAE, ImageModel
from srvae_pyro.models.transforms import Downscale
from srvae_pyro.upscaling.canvas import Levels

__all__ = ["downscaled", "downscaled_rows", "enlarging", "passes_for"]

MOST_PASSES = 3


def enlarging(model: ImageModel) -> SRVAE:
    """The model, if it is one that enlarges: a srVAE whose y is a downscaled x.

    Raises:
        UserError: it is not; says why.
    """
    if not isinstance(model, SRVAE):
        raise UserError(
            "this run is a one-level VAE, which has no y to enlarge: give the run of a srVAE"
        )
    transform = model.guide.d
    if not isinstance(transform, Downscale):
        raise UserError(
            f"this srVAE's y is a {transform.name} picture as large as x, so it does not enlarge: "
            "give a run with --transform downscale2, downscale4 or average2"
        )
    return model


def passes_for(model: SRVAE, factor: int) -> int:
    """How often the model enlarges for ``factor``, which is a power of its own.

    Raises:
        UserError: it is not one.
    """
    model_factor = model.guide.d.factor
    factors = [model_factor**passes for passes in range(1, MOST_PASSES + 1)]
    if factor not in factors:
        raise UserError(
            f"--factor {factor}: this model enlarges {model_factor} times, so the factor is one of "
            f"{', '.join(map(str, factors))}"
        )
    return factors.index(factor) + 1


def downscaled(model: SRVAE, x: Tensor, passes: int = 1) -> Tensor:
    """d(x), ``passes`` times, of uint8 levels (..., C, H, W): uint8 levels (..., C, h, w)."""
    for _ in range(passes):
        # A colour at a time: its integer arithmetic takes many times the picture's memory.
        colours = [model.guide.d.of_levels(c.int()) for c in x.split(1, dim=-3)]
        x = torch.cat([colour.to(torch.uint8) for colour in colours], dim=-3)
    return x


def downscaled_rows(model: SRVAE, x: Levels, start: int, stop: int, passes: int = 1) -> Tensor:
    """Some rows of :func:`downscaled`, without the whole of x in memory."""
    if passes == 0:
        return x.rows(start, stop)
    factor = model.guide.d.factor
    # A row of d(x) is made of the rows of x that it stands for and of some next to them, at most
    # as many as stand for one more on each side.
    first, last = max(start - 1, 0), min(stop + 1, x.shape[1] // factor**passes)
    part = downscaled_rows(model, x, factor * first, factor * last, passes - 1)
    return downscaled(model, part)[..., start - first : stop - first, :]
