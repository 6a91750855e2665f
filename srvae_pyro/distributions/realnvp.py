"""RealNVP as a stack of transforms on events of shape (C, H, W)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.transforms import ComposeTransform, Transform

from srvae_pyro.networks import CouplingNetwork


def checkerboard_mask(height: int, width: int, reverse: bool, like: Tensor) -> Tensor:
    """A (height, width) mask of 0 and 1; its first element is 1 if ``reverse``."""
    rows = torch.arange(height, device=like.device).unsqueeze(1)
    columns = torch.arange(width, device=like.device)
    return ((rows + columns + int(reverse)) % 2).to(like.dtype)


class EventTransform(Transform):
    """A bijection of events (C, H, W) that gets its log-determinant with its inverse.

    ``TransformedDistribution.log_prob`` asks for the inverse, then for the log-determinant of the
    same pair. The usual cache would go stale when networks are updated: here the log-determinant
    is kept for one query about that very pair.
    """

    domain = constraints.independent(constraints.real, 3)
    codomain = constraints.independent(constraints.real, 3)
    bijective = True

    def __init__(self) -> None:
        super().__init__(cache_size=0)
        self._last_pair: tuple[Tensor, Tensor, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles start without the kept log-determinant, which has a graph.
        return {**super().__getstate__(), "_last_pair": None}

    def to_base(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of ``y`` and log |dx / dy|, of the batch shape."""
        raise NotImplementedError

    def from_base(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`to_base`, without log-determinant."""
        raise NotImplementedError

    def _call(self, x: Tensor) -> Tensor:
        return self.from_base(x)

    def _inverse(self, y: Tensor) -> Tensor:
        x, log_det = self.to_base(y)
        self._last_pair = (x, y, -log_det)
        return x

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        last, self._last_pair = self._last_pair, None
        if last is not None and last[0] is x and last[1] is y:
            return last[2]
        return -self.to_base(y)[1]


class AffineCoupling(EventTransform):
    r"""Scales and shifts one part of the event by functions of the other part.

    Towards the base, with s, t from the network of the part that stays:

    .. math:: x = (y + t) \exp(s), \qquad \log |dx / dy| = \sum s

    References:
        Dinh et al., Density estimation using Real NVP, 2016, arXiv:1605.08803, section 3.

    Args:
        network: from the part that stays to (s, t), both of the changed part's shape.
        pattern: ``checkerboard`` (the parts are the squares' colours) or ``channels`` (halves).
        reverse: exchange the parts.

    Example:
        >>> coupling = AffineCoupling(CouplingNetwork(4, growth=8, steps=1), "checkerboard", False)
        >>> v = torch.randn(2, 4, 8, 8)
        >>> u = coupling(v)
        >>> u.shape, coupling.log_abs_det_jacobian(v, u).shape
        (torch.Size([2, 4, 8, 8]), torch.Size([2]))
    """

    def __init__(self, network: nn.Module, pattern: str, reverse: bool) -> None:
        super().__init__()
        if pattern not in ("checkerboard", "channels"):
            raise ValueError(f"pattern must be checkerboard or channels, not {pattern!r}")
        self.network = network
        self.pattern = pattern
        self.reverse = reverse

    def scale_and_shift(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        batch, event = kept.shape[:-3], kept.shape[-3:]
        s, t = self.network(kept.reshape(-1, *event))
        return s.reshape(*batch, *s.shape[1:]), t.reshape(*batch, *t.shape[1:])

    def apply(self, value: Tensor, towards_base: bool) -> tuple[Tensor, Tensor]:
        if self.pattern == "checkerboard":
            mask = checkerboard_mask(value.shape[-2], value.shape[-1], self.reverse, value)
            s, t = self.scale_and_shift(value * mask)
            s, t = s * (1 - mask), t * (1 - mask)
            out = (value + t) * s.exp() if towards_base else value * (-s).exp() - t
        else:
            first, second = value.chunk(2, dim=-3)
            changed, kept = (second, first) if self.reverse else (first, second)
            s, t = self.scale_and_shift(kept)
            changed = (changed + t) * s.exp() if towards_base else changed * (-s).exp() - t
            parts = [kept, changed] if self.reverse else [changed, kept]
            out = torch.cat(parts, dim=-3)
        return out, s.sum(dim=(-3, -2, -1))

    def to_base(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.apply(y, towards_base=True)

    def from_base(self, x: Tensor) -> Tensor:
        return self.apply(x, towards_base=False)[0]


class Squeeze(EventTransform):
    """Towards the base, (C, H, W) to (4C, H/2, W/2): each 2x2 square of pixels becomes channels.

    Args:
        alternative: the order of the channels. False: for each channel its four pixels. True: all
            channels' upper left pixels, lower right, upper right, lower left, so that half of the
            channels is a checkerboard (Dinh et al. 2016, section 3.6).
        undo: the reverse, (4C, H/2, W/2) to (C, H, W) towards the base.

    Example:
        >>> Squeeze().inv(torch.randn(2, 4, 8, 8)).shape
        torch.Size([2, 16, 4, 4])
    """

    def __init__(self, alternative: bool = False, undo: bool = False) -> None:
        super().__init__()
        self.alternative = alternative
        self.undo = undo

    def squeeze(self, value: Tensor) -> Tensor:
        if not self.alternative:
            return torch.pixel_unshuffle(value, 2)
        parts = [value[..., i::2, j::2] for i, j in ((0, 0), (1, 1), (0, 1), (1, 0))]
        return torch.cat(parts, dim=-3)

    def unsqueeze(self, value: Tensor) -> Tensor:
        if not self.alternative:
            return torch.pixel_shuffle(value, 2)
        parts = value.chunk(4, dim=-3)
        out = value.new_empty(self._shape(value.shape, squeeze=False))
        for part, (i, j) in zip(parts, ((0, 0), (1, 1), (0, 1), (1, 0)), strict=True):
            out[..., i::2, j::2] = part
        return out

    def to_base(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x = self.unsqueeze(y) if self.undo else self.squeeze(y)
        return x, y.new_zeros(y.shape[:-3])

    def from_base(self, x: Tensor) -> Tensor:
        return self.squeeze(x) if self.undo else self.unsqueeze(x)

    def _shape(self, shape: torch.Size, squeeze: bool) -> torch.Size:
        *batch, c, h, w = shape
        if squeeze:
            if h % 2 or w % 2:
                raise ValueError(f"squeezing needs an even height and width, not {h}x{w}")
            return torch.Size([*batch, 4 * c, h // 2, w // 2])
        return torch.Size([*batch, c // 4, 2 * h, 2 * w])

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return self._shape(shape, squeeze=self.undo)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return self._shape(shape, squeeze=not self.undo)


class OnFirstHalf(EventTransform):
    """Transforms the first half of the channels; the second half stays.

    Example:
        >>> coupling = AffineCoupling(CouplingNetwork(2, growth=8, steps=1), "checkerboard", False)
        >>> v = torch.randn(2, 4, 8, 8)
        >>> u = OnFirstHalf([coupling])(v)
        >>> torch.equal(u[:, :2], coupling(v[:, :2])), torch.equal(u[:, 2:], v[:, 2:])
        (True, True)
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        super().__init__()
        self.part = ComposeTransform(list(transforms))

    def to_base(self, y: Tensor) -> tuple[Tensor, Tensor]:
        value, rest = y.chunk(2, dim=-3)
        total = y.new_zeros(y.shape[:-3])
        for transform in reversed(self.part.parts):
            before = transform.inv(value)
            total = total - transform.log_abs_det_jacobian(before, value)
            value = before
        return torch.cat([value, rest], dim=-3), total

    def from_base(self, x: Tensor) -> Tensor:
        value, rest = x.chunk(2, dim=-3)
        return torch.cat([self.part(value), rest], dim=-3)


class RealNVP(nn.Module):
    """The networks of a two-scale RealNVP on events (C, H, W), H and W even.

    Called, it returns the transforms from the base for a ``TransformedDistribution``, which only
    refer to the networks.

    Towards the base: three checkerboard couplings; squeeze; three channel-wise couplings;
    unsqueeze; squeeze in the alternative order; four checkerboard couplings of the first half of
    the channels.

    Example:
        >>> flow = RealNVP(channels=4, growth=8, steps=1)
        >>> transform = ComposeTransform(flow())
        >>> v = torch.randn(2, 4, 8, 8)
        >>> u = transform(v)
        >>> u.shape
        torch.Size([2, 4, 8, 8])
        >>> torch.allclose(transform.inv(u), v, atol=1e-3)
        True
        >>> transform.log_abs_det_jacobian(v, u).shape
        torch.Size([2])
    """

    def __init__(
        self, channels: int, growth: int = 64, steps: int = 5, *, attention: bool = True
    ) -> None:
        super().__init__()

        def networks(count: int, channels: int) -> nn.ModuleList:
            return nn.ModuleList(
                CouplingNetwork(channels, growth, steps, attention=attention) for _ in range(count)
            )

        self.checkerboard = networks(3, channels)
        self.channelwise = networks(3, 2 * channels)
        self.second_scale = networks(4, 2 * channels)

    def forward(self) -> list[Transform]:
        def couplings(networks: nn.Module, pattern: str) -> list[Transform]:
            return [
                AffineCoupling(network, pattern, reverse=i % 2 == 1)
                for i, network in enumerate(networks.children())
            ]

        towards_base: list[Transform] = [
            *couplings(self.checkerboard, "checkerboard"),
            Squeeze(),
            *couplings(self.channelwise, "channels"),
            Squeeze(undo=True),
            Squeeze(alternative=True),
            OnFirstHalf(couplings(self.second_scale, "checkerboard")[::-1]),
            # Back to the event's own shape, so that the base has it too.
            Squeeze(alternative=True, undo=True),
        ]
        return towards_base[::-1]
