"""The parameters of mixtures over images in blocks of 2x2 pixels of given averages."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import constraints

from srvae_pyro.distributions.blocks import PIXELS
from srvae_pyro.distributions.constraints import image_grid, images_averaging_to
from srvae_pyro.distributions.images import ImageDistribution
from srvae_pyro.distributions.precision import at_least_float32

__all__ = ["BlockMixtureParameters"]

LOG_SCALES = (-7.0, 7.0)
EARLIER = PIXELS * (PIXELS - 1) // 2  # pairs of a pixel of a block and one before it


class BlockMixtureParameters(ImageDistribution):
    """Reads, checks, expands and tempers the parameters, and knows the support.

    Args: as :class:`~srvae_pyro.distributions.ConsistentMixture`.
    """

    y: Tensor
    logits: Tensor
    means: Tensor
    log_scales: Tensor
    earlier: Tensor
    coefficients: Tensor | None

    arg_constraints = {  # noqa: RUF012 (declared by the base class, and never changed)
        "y": image_grid,
        "logits": constraints.independent(constraints.real, 4),
        "means": constraints.independent(constraints.real, 5),
        "log_scales": constraints.independent(constraints.real, 5),
        "earlier": constraints.independent(constraints.real, 4),
        "coefficients": constraints.independent(constraints.interval(-1.0, 1.0), 5),
    }

    def __init__(
        self,
        y: Tensor,
        logits: Tensor,
        means: Tensor,
        log_scales: Tensor,
        earlier: Tensor,
        coefficients: Tensor | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        if means.dim() < 5 or means.shape[-5] != PIXELS or means.shape[-3] not in (1, 3):
            raise ValueError(
                "expected means (..., 4, K, C, h, w) with 1 or 3 colours C, "
                f"got {tuple(means.shape)}"
            )
        components, channels, *size = means.shape[-4:]
        if (coefficients is None) != (channels == 1):
            raise ValueError(
                f"coefficients of earlier colours go with 3 colours and only with them, not "
                f"{channels}"
            )
        colours = (PIXELS, components, channels, *size)
        given = {
            "y": (y, (channels, *size)),
            "logits": (logits, (PIXELS, components, *size)),
            "means": (means, colours),
            "log_scales": (log_scales, colours),
            "earlier": (earlier, (EARLIER, channels, *size)),
        }
        if coefficients is not None:
            given["coefficients"] = (coefficients, colours)
        for name, (parameter, shape) in given.items():
            if parameter.shape[-len(shape) :] != shape:
                raise ValueError(
                    f"{name} has shape {tuple(parameter.shape)}, which does not end in {shape} as "
                    f"means of shape {tuple(means.shape)} require"
                )
        batch = torch.broadcast_shapes(*(p.shape[: -len(shape)] for p, shape in given.values()))
        if coefficients is None:
            self.arg_constraints = {
                name: constraint
                for name, constraint in type(self).arg_constraints.items()
                if name != "coefficients"
            }
        self.coefficients = None
        for name, (parameter, shape) in given.items():
            setattr(self, name, at_least_float32(parameter).expand(batch + shape))
        event = torch.Size((channels, 2 * size[0], 2 * size[1]))
        super().__init__(batch, event, validate_args=validate_args)

    @staticmethod
    def parameter_channels(components: int, channels: int = 3) -> int:
        """Number of channels that :meth:`from_channels` takes: 418 for 10 components, 3 colours."""
        return sum(_sections(components, channels))

    @classmethod
    def from_channels(
        cls, parameters: Tensor, y: Tensor, *, validate_args: bool | None = None
    ) -> Self:
        """Read the parameters from the channels of a network's output at y's size.

        The order of the channels is: logits, ordered as (pixel, component); means, log-scales and
        for three colours coefficients before tanh, each ordered as (pixel, component, colour);
        coefficients of earlier pixels before tanh, (pair, colour). Log-scales are clamped
        to [-7, 7].

        Args:
            parameters: the network's output, (..., parameter_channels(K, C), h, w).
            y: the rounded averages (..., C, h, w), in float32 or better.
            validate_args: whether to check arguments and scored values.
        """
        channels, total = y.shape[-3], parameters.shape[-3]
        one, of_earlier = sum(_sections(1, channels)), EARLIER * channels
        components, rest = divmod(total - of_earlier, one - of_earlier)
        if components < 1 or rest:
            raise ValueError(
                f"{total} parameter channels are not {of_earlier} and a multiple of "
                f"{one - of_earlier}, which each component of a mixture over {channels} colour "
                "channel(s) takes"
            )
        parts = at_least_float32(parameters).contiguous().split(_sections(components, channels), -3)
        colours = (PIXELS, components, channels)
        return cls(
            y,
            parts[0].unflatten(-3, (PIXELS, components)),
            parts[1].unflatten(-3, colours),
            parts[2].unflatten(-3, colours).clamp(*LOG_SCALES),
            parts[-1].unflatten(-3, (EARLIER, channels)).tanh(),
            parts[3].unflatten(-3, colours).tanh() if channels == 3 else None,
            validate_args=validate_args,
        )

    @constraints.dependent_property(is_discrete=True, event_dim=3)
    def support(self) -> constraints.Constraint:
        """The images on the grid whose rounded block averages are y."""
        return images_averaging_to(self.y)

    def expand(self, batch_shape: torch.Size | tuple[int, ...], _instance: Any = None) -> Self:
        """The same distribution with a larger batch shape, as views of the same parameters."""
        new = self._get_checked_instance(type(self), _instance)
        batch_shape = torch.Size(batch_shape)
        new.arg_constraints = self.arg_constraints
        new.coefficients = None
        for name in self.arg_constraints:
            parameter = getattr(self, name)
            own = parameter.shape[len(self.batch_shape) :]
            setattr(new, name, parameter.expand(batch_shape + own))
        super(BlockMixtureParameters, new).__init__(
            batch_shape, self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    def with_temperature(self, temperature: float) -> Self:
        """The mixture with logits divided and scales multiplied by a positive temperature."""
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, not {temperature}")
        return type(self)(
            self.y,
            self.logits / temperature,
            self.means,
            self.log_scales + math.log(temperature),
            self.earlier,
            self.coefficients,
            validate_args=self._validate_args,
        )


def _sections(components: int, channels: int) -> list[int]:
    """Channels of the logits, means, log-scales, coefficients of colours, and of pixels."""
    if channels not in (1, 3):
        raise ValueError(f"images have 1 or 3 colour channels, not {channels}")
    per_colour = PIXELS * components * channels
    colours = [per_colour] if channels == 3 else []
    return [PIXELS * components, per_colour, per_colour, *colours, EARLIER * channels]
