"""Images from coarse to fine: every second pixel first, then the pixels between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from srvae_pyro.distributions.images import ImageDistribution

__all__ = ["GROUPS", "Finer", "Pyramid"]

# Of each block of 2x2 pixels (0, 0) is the coarser image's; the others in the order they are drawn:
# first the one farthest from what is known, so that the last two have neighbours on all sides.
GROUPS = ((1, 1), (0, 1), (1, 0))

Finer = Callable[[Tensor, Sequence[Tensor]], ImageDistribution]


class Pyramid(ImageDistribution):
    r"""An image from coarse to fine, the coarser one being every second pixel of the finer.

    .. math::
        p(y) = p(y^0) \prod_{l=1}^{L} \prod_{g=1}^{3} p(y^l_g \mid y^{l-1}, y^l_{<g})

    The pixels of the image :math:`y^l` at level l are those of :math:`y^{l-1}`, at (0, 0) of each
    block of 2x2, and three groups: at (1, 1), at (0, 1), at (1, 0) of all blocks. Each group, like
    the coarsest image, is an image of the coarser one's size with a distribution of its own.
    ``log_prob`` asks for each once, with the value's own pixels as what comes before; ``draw``
    asks for one after the other.

    References:
        Reed et al., Parallel Multiscale Autoregressive Density Estimation, 2017, arXiv:1703.03664.

    Args:
        coarsest: the distribution of :math:`y^0`, images (C, h, w).
        finer: for each level, coarse to fine, what gives the distribution of its next group, from
            the coarser image (..., C, h, w) and the groups before, as many of that shape as there
            are. Its leading dimensions are broadcast with those of ``coarsest``.
        validate_args: whether to check scored values.

    Example:
        >>> from srvae_pyro.distributions import DiscretizedLogisticMixture
        >>> def near(image, groups=()):  # a component of scale e^-3 around the latest pixels
        ...     means = (groups[-1] if groups else image).unsqueeze(-4)
        ...     logits = torch.zeros(1, *means.shape[-2:])
        ...     return DiscretizedLogisticMixture(logits, means, torch.full_like(means, -3.0))
        >>> pyramid = Pyramid(near(torch.full((5, 1, 2, 2), 0.5)), [near, near])
        >>> y = pyramid.sample()
        >>> y.shape, pyramid.log_prob(y).shape
        (torch.Size([5, 1, 8, 8]), torch.Size([5]))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        coarsest: ImageDistribution,
        finer: Sequence[Finer],
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.coarsest = coarsest
        self.finer = tuple(finer)
        channels, height, width = coarsest.event_shape
        event = torch.Size((channels, height << len(finer), width << len(finer)))
        super().__init__(coarsest.batch_shape, event, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size | tuple[int, ...], _instance: Any = None) -> Pyramid:
        """The same distribution with a larger batch shape; nothing is computed or copied."""
        new = self._get_checked_instance(Pyramid, _instance)
        new.coarsest, new.finer = self.coarsest.expand(torch.Size(batch_shape)), self.finer
        super(Pyramid, new).__init__(new.coarsest.batch_shape, self.event_shape, False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability in nats of each image (..., C, H, W), whose values are on the grid."""
        if self._validate_args:
            self._validate_sample(value)
        total = self.coarsest.log_prob(self._part(value, 0))
        for level, finer in enumerate(self.finer):
            coarser = self._part(value, level)
            groups = [self._part(value, level, *place) for place in GROUPS]
            for number, group in enumerate(groups):
                total = total + finer(coarser, groups[:number]).log_prob(group)
        return total

    @property
    def noise_like(self) -> Tensor:
        """Of the shape (..., N, H, W), where N is the coarsest's: each pixel has its noise."""
        like = self.coarsest.noise_like
        return like.new_empty(()).expand(*like.shape[:-2], *self.event_shape[-2:])

    @torch.no_grad()
    def draw(self, uniform: Tensor) -> Tensor:
        """From coarse to fine, each group given those drawn before."""
        return self._in_order(lambda part, place: part.draw(self._part(uniform, *place)))

    @property
    @torch.no_grad()
    def mode(self) -> Tensor:
        """Each group's mode given the modes of what comes before: a picture without noise."""
        return self._in_order(lambda part, _: part.mode)

    @property
    @torch.no_grad()
    def mean(self) -> Tensor:
        """Each group's expectation given the expectations, not on the grid, of what comes before.

        Exact where the expectations of the groups are linear in what comes before; else what the
        noise of coarser pixels does to finer ones by way of the curvature is left out.
        """
        return self._in_order(lambda part, _: part.mean)

    def with_temperature(self, temperature: float) -> Pyramid:
        """The pyramid of the same distributions, each at a positive temperature."""

        def tempered(finer: Finer) -> Finer:
            return lambda coarser, groups: finer(coarser, groups).with_temperature(temperature)

        return Pyramid(
            self.coarsest.with_temperature(temperature),
            [tempered(finer) for finer in self.finer],
            validate_args=self._validate_args,
        )

    def _part(self, value: Tensor, level: int, row: int | None = None, column: int = 0) -> Tensor:
        """A level's image of the value (..., H, W), or a group of the level above."""
        stride = 1 << (len(self.finer) - level)
        if row is None:
            return value[..., ::stride, ::stride]
        half = stride // 2
        return value[..., row * half :: stride, column * half :: stride]

    def _in_order(self, choose: Callable[[ImageDistribution, tuple[int, ...]], Tensor]) -> Tensor:
        """The image of which ``choose`` makes each part, from its distribution and its place."""
        image = choose(self.coarsest, (0,))
        for level, finer in enumerate(self.finer):
            groups: list[Tensor] = []
            for place in GROUPS:
                groups.append(choose(finer(image, groups), (level, *place)))
            image = _interlaced(image, groups)
        return image


def _interlaced(coarser: Tensor, groups: Sequence[Tensor]) -> Tensor:
    """The image (..., C, 2h, 2w) of which ``coarser`` and ``groups`` are the pixels."""
    places = dict(zip(((0, 0), *GROUPS), torch.broadcast_tensors(coarser, *groups), strict=True))
    blocks = torch.stack([places[place] for place in sorted(places)], dim=-3)
    return F.pixel_shuffle(blocks.flatten(-4, -3), 2)
