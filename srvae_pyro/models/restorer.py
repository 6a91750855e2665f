r"""Inputs that are not an exact d(x): p(y|o), and a point estimate of x given o.

The input o has y's size: a reduction of x by another filter, or y with noise or compression. The
networks are told what is known of the input, its :class:`InputKind`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srvae_pyro.config import ModelConfig, Residual
from srvae_pyro.distributions import ConsistentGroups, DiscretizedLogisticMixture, Pyramid
from srvae_pyro.distributions.block_averages import PAIRS
from srvae_pyro.distributions.image_distribution import at_least_float32
from srvae_pyro.models.conditionals import over_images
from srvae_pyro.models.pixel_groups import DIFFERENCE_SCALE, PIXEL_SCALE, PixelGroups
from srvae_pyro.networks import (
    ResidualFeatures,
    ResidualNetwork,
    channels_last_on_gpus,
    init_heads,
    initializing,
)
from srvae_pyro.pixels import to_levels, to_unit

__all__ = [
    "FACTORS",
    "Y_TEMPERATURE",
    "FoldedEstimate",
    "InputKind",
    "PointEstimate",
    "Reduction",
    "Restorer",
    "numbers_of",
]

Reduction = Literal["average", "bicubic", "lanczos", "bilinear", "blurred"]
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)
FACTORS = (1, 2, 3, 4)  # of the point estimate
MOST_NOISE = 25.0  # levels, standard deviation
KIND_NUMBERS = len(REDUCTIONS) + 9 + len(FACTORS)
HIDDEN = 64  # units of the network that sees the kind
# Of y sampled given o. Its blocks are independent, which p(x|y,z) takes for texture: at 1 samples
# of x differ more than they should, and at this they are calibrated on validation photographs.
Y_TEMPERATURE = 0.8


@dataclass(frozen=True)
class InputKind:
    """What is known of an input.

    Attributes:
        reduction: the filter that made the image smaller; None if unknown.
        noise: standard deviation of its noise, levels; None if unknown.
        table: mean of the luma quantisation table of its JPEG, 0 if it has not been a JPEG; None if
            unknown.
        subsampled: whether the JPEG's chroma has fewer pixels.
        webp: whether it has been a lossy WebP, or a similar format that is not JPEG.
        trusted: whether it is exactly d(x); then outputs are consistent with it.
    """

    reduction: Reduction | None = None
    noise: float | None = None
    table: float | None = None
    subsampled: bool = False
    webp: bool = False
    trusted: bool = False

    @classmethod
    def exact(cls) -> InputKind:
        """Of an input that is d(x) by the rounded average."""
        return cls("average", noise=0.0, table=0.0, trusted=True)

    @classmethod
    def named(cls, name: str) -> InputKind:
        """By the name of a reduction; ``average`` is exact, other names have none."""
        if name == "average":
            return cls.exact()
        reduction = next((known for known in REDUCTIONS if known == name), None)
        return cls(reduction)

    def numbers(self, factor: int) -> Tensor:
        """What the networks see of it, (KIND_NUMBERS), with the factor of the output."""
        reductions = [float(self.reduction == name) for name in (*REDUCTIONS, None)]
        noise = [0.0, 0.0] if self.noise is None else [1.0, self.noise / MOST_NOISE]
        table = math.log2(self.table) / 4 - 0.75 if self.table else 0.0
        compression = [
            float(self.table is not None or self.webp),
            float(bool(self.table)),
            table,
            float(bool(self.table) and self.subsampled),
            float(self.webp),
        ]
        factors = [float(factor == known) for known in FACTORS]
        return torch.tensor([*reductions, *noise, *compression, float(self.trusted), *factors])


class ConditionedBlock(nn.Module):
    """x plus two 3x3 convolutions, the first scaled and shifted by the kind; ReLU between.

    References:
        Lim et al., Enhanced Deep Residual Networks, 2017, arXiv:1707.02921; Perez et al., FiLM,
        2018, arXiv:1709.07871.

    Args:
        width: channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        for convolution in (self.first, self.second):
            nn.init.kaiming_normal_(convolution.weight)
            assert convolution.bias is not None
            nn.init.zeros_(convolution.bias)
        with torch.no_grad():
            self.second.weight.mul_(0.1)

    def forward(
        self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        """(B, width, h, w) to the same; scale and shift are (B, width, 1, 1)."""
        inner = self.first(x)
        if scale is not None and shift is not None:
            inner = torch.addcmul(shift, inner, scale)
        out: Tensor = x + self.second(F.relu(inner))
        return out

    @torch.no_grad()
    def fold(self, scale: Tensor, shift: Tensor) -> None:
        """Make one kind's scale and shift (width) a part of the first convolution."""
        assert self.first.bias is not None
        self.first.weight.mul_(scale.view(-1, 1, 1, 1))
        self.first.bias.mul_(scale).add_(shift)


class PointEstimate(nn.Module):
    """x given o, by a residual network at o's size and a head for each factor.

    Trained by least absolute errors. Of a trusted input each pixel is the mean of its block. With
    ``size.scaled`` the input and what is added to it are scaled to variances near 1.

    Args:
        size: width and residual blocks.
        channels: of the image.
    """

    def __init__(self, size: Residual, channels: int) -> None:
        super().__init__()
        self.width, self.channels = size.width, channels
        self.input_scale = PIXEL_SCALE if size.scaled else 1.0
        self.output_scale = 1 / DIFFERENCE_SCALE if size.scaled else 1.0
        self.first = nn.Conv2d(channels, size.width, 3, padding=1)
        self.blocks = nn.ModuleList(ConditionedBlock(size.width) for _ in range(size.blocks))
        self.last = nn.Conv2d(size.width, size.width, 3, padding=1)
        scales = nn.Linear(HIDDEN, size.blocks * 2 * size.width)
        self.kind = nn.Sequential(nn.Linear(KIND_NUMBERS, HIDDEN), nn.ReLU(), scales)
        heads = [nn.Conv2d(size.width, channels * f * f, 3, padding=1) for f in FACTORS]
        self.heads = nn.ModuleDict({str(f): head for f, head in zip(FACTORS, heads, strict=True)})
        outputs: list[nn.Linear | nn.Conv2d] = [scales, *heads]
        for output in outputs:
            nn.init.zeros_(output.bias)  # type: ignore[arg-type]
            with torch.no_grad():
                output.weight.mul_(0.1)

    @property
    def margin(self) -> int:
        """How many pixels of the input to each side an output pixel depends on."""
        return 2 * len(self.blocks) + 3

    def scales(self, kinds: Tensor) -> Tensor:
        """The blocks' scales and shifts, (B, blocks, 2, width, 1, 1)."""
        out: Tensor = self.kind(kinds).view(len(kinds), len(self.blocks), 2, self.width, 1, 1)
        scale, shift = at_least_float32(out).unbind(2)
        return torch.stack([1 + scale, shift], 2)

    def features(self, o: Tensor, kinds: Tensor | None) -> Tensor:
        """(B, width, h, w); without kinds those that :meth:`folded` has folded in."""
        first = hidden = self.first(channels_last_on_gpus(self.input_scale * (o - 0.5)))
        scales = None if kinds is None else self.scales(kinds)
        for index, block in enumerate(self.blocks):
            film = () if scales is None else scales[:, index].unbind(1)
            hidden = block(hidden, *film)
        return F.relu(self.last(hidden) + first)

    def head(self, features: Tensor, o: Tensor, trusted: Tensor | bool, factor: int) -> Tensor:
        """The image (B, C, factor h, factor w); trusted is a bool, or (B) of 0 and 1."""
        added = self.output_scale * self.heads[str(factor)](features)
        added = added.to(torch.promote_types(o.dtype, torch.float32))
        added = added.unflatten(1, (self.channels, -1))
        mean = added.mean(2, keepdim=True)
        if isinstance(trusted, Tensor):
            added = added - trusted.view(-1, 1, 1, 1, 1) * mean
        elif trusted:
            added = added - mean
        return F.pixel_shuffle((o.unsqueeze(2) + added).flatten(1, 2), factor)

    def forward(self, o: Tensor, kinds: Tensor, factor: int) -> Tensor:
        """o (B, C, h, w) in [0, 1], kinds (B, KIND_NUMBERS): (B, C, factor h, factor w)."""
        return self.head(self.features(o, kinds), o, self.trusted(kinds), factor)

    def trusted(self, kinds: Tensor) -> Tensor:
        """Which inputs are exactly d(x), by their kinds' numbers: (B) of 0 and 1."""
        return kinds[:, -len(FACTORS) - 1]

    @torch.no_grad()
    def folded(self, kind: InputKind, factor: int) -> FoldedEstimate:
        """The same for one kind and factor, without what sees the kind: faster, and to export."""
        network = copy.deepcopy(self)
        scales = self.scales(kind.numbers(factor)[None].to(self.first.weight.device))[0]
        for block, (scale, shift) in zip(network.blocks, scales.flatten(2), strict=True):
            assert isinstance(block, ConditionedBlock)
            block.fold(scale, shift)
        return FoldedEstimate(network, kind.trusted, factor)


class FoldedEstimate(nn.Module):
    """A :class:`PointEstimate` for inputs of one kind and one factor: o to x, both in [0, 1]."""

    def __init__(self, network: PointEstimate, trusted: bool, factor: int) -> None:
        super().__init__()
        self.network, self.trusted, self.factor = network, trusted, factor

    def forward(self, o: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C, factor h, factor w)."""
        return self.network.head(self.network.features(o, None), o, self.trusted, self.factor)


class Restorer(nn.Module):
    r"""p(y|o) of the image y that the input o is a damaged copy of, and a point estimate of x.

    .. math:: p(y|o) = p(\bar y|o) \, p(y|\bar y, o),

    where :math:`\bar y` is y's rounded average: a mixture around o's average, then the four pixels
    of each block one after the other, around o's. Its networks see the point estimate's features,
    which do not learn from it.

    Args:
        config: the model's; ``config.restorer`` is the size of the point estimate.

    Example:
        >>> restorer = Restorer(ModelConfig(restorer=Residual(8, 2)))
        >>> o, kinds = torch.rand(2, 3, 8, 8), InputKind(noise=15.0).numbers(2).expand(2, -1)
        >>> y = restorer(o, kinds).sample()
        >>> y.shape, restorer.estimate(o, kinds, 2).shape
        (torch.Size([2, 3, 8, 8]), torch.Size([2, 3, 16, 16]))
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size = config.restorer
        assert size is not None
        config = replace(config, components=COMPONENTS, likelihood_start="published")
        channels = self.channels = config.image_shape[0]
        self.estimate = PointEstimate(size, channels)
        self.seen = ResidualFeatures(size.width + channels, WIDTH, 2)
        self.coarse = ResidualNetwork(
            4 * WIDTH,
            DiscretizedLogisticMixture.parameter_channels(COMPONENTS, channels),
            2 * WIDTH,
            1,
        )
        init_heads(self.coarse, config.likelihood_scale, self._start())
        groups = Residual(WIDTH, 1, scaled=size.scaled)
        self.groups = PixelGroups(config, groups, channels, 4 * WIDTH)

    def _start(self) -> Tensor:
        """What the coarse head starts at: narrow around o's averages."""
        k = COMPONENTS
        start = torch.zeros(DiscretizedLogisticMixture.parameter_channels(k, self.channels))
        spread = torch.linspace(-6.0, -3.0, k).repeat_interleave(self.channels)
        start[k + k * self.channels : k + 2 * k * self.channels] = spread
        return start

    def forward(self, o: Tensor, kinds: Tensor) -> Pyramid:
        """p(y|o) of inputs (..., C, h, w), h and w even, and their kinds' numbers, (..., N)."""

        def features(o: Tensor, kinds: Tensor) -> Tensor:
            with torch.no_grad():
                return self.estimate.features(o, kinds.flatten(1))

        return self._y_given(o, over_images(features, o, kinds[..., None, None]))

    def both(self, o: Tensor, kinds: Tensor, factor: int) -> tuple[Tensor, Pyramid]:
        """The point estimate of x, as ``estimate`` has it, and p(y|o); o is (B, C, h, w)."""
        features = self.estimate.features(o, kinds)
        trusted = self.estimate.trusted(kinds)
        return self.estimate.head(features, o, trusted, factor), self._y_given(o, features.detach())

    def _y_given(self, o: Tensor, features: Tensor) -> Pyramid:
        def joined(o: Tensor, features: Tensor) -> Tensor:
            # The unit interval's middle is 0, where bfloat16 rounds least.
            pixels = self.estimate.input_scale * (o - 0.5)
            seen = self.seen(torch.cat([features, pixels.to(features.dtype)], dim=1))
            return F.pixel_unshuffle(seen, 2)

        seen = over_images(joined, o, features)
        average = to_unit(PAIRS.average(to_levels(o)), o.dtype)
        parameters = over_images(self.coarse, seen).to(o.dtype)
        # The locations, which come after the components' logits.
        means = average.repeat(*[1] * (average.dim() - 3), COMPONENTS, 1, 1)
        rest = parameters.shape[-3] - COMPONENTS - means.shape[-3]
        offset = F.pad(means, (0, 0, 0, 0, COMPONENTS, rest))
        coarse = DiscretizedLogisticMixture.from_channels(parameters + offset, self.channels)
        return Pyramid(coarse, [partial(self.finer, seen, o, average)])

    @torch.no_grad()
    def initialize(self, y: Tensor, scale: float) -> None:
        """Data-dependent initialisation of p(y|o) on images y, as inputs of an unknown kind."""
        with initializing(self, scale):
            self(y, InputKind().numbers(2).to(y.device).expand(len(y), -1)).log_prob(y)

    def finer(self, seen: Tensor, o: Tensor, average: Tensor, coarse: Tensor) -> ConsistentGroups:
        """p(y|y's average, o): locations start from o, moved as far as its average is off."""
        estimates = [pixel + coarse - average for pixel in PAIRS.groups(o)]
        group = partial(self.groups.group, coarse, (seen,), estimates)
        return ConsistentGroups(coarse, group, validate_args=False)


COMPONENTS = 5  # of the mixtures of p(y|o)
WIDTH = 32  # channels of the networks of p(y|o)


def numbers_of(kinds: Sequence[InputKind], factor: int) -> Tensor:
    """Of one kind an image, (B, KIND_NUMBERS)."""
    return torch.stack([kind.numbers(factor) for kind in kinds])
