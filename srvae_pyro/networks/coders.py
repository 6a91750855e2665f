"""Encoder, decoder and plain network: dense blocks at falling, rising or constant resolution."""

from __future__ import annotations

from torch import nn

from srvae_pyro.networks.convolution import WeightNormConv2d, WeightNormConvTranspose2d
from srvae_pyro.networks.dense import DenseBlock
from srvae_pyro.sizes import Dense

__all__ = ["Decoder", "Encoder", "PlainNetwork"]


class Encoder(nn.Sequential):
    """(B, in, H, W) to (B, out, H / 2**stages, W / 2**stages).

    ``stages`` times {dense block; 3x3 convolution with stride 2 to twice the channels; the growth
    doubles}; one more dense block; 1x1 convolution. Where fewer halvings are to widen it, the later
    ones bring the channels back to what the block was given, and the growth stays.

    Args:
        channels: channels of the input.
        out_channels: channels of the output.
        size: of the first dense block, and steps of all.
        stages: how often the resolution is halved.
        head: whether the output is the parameters of a distribution; see
            :class:`~srvae_pyro.networks.WeightNormConv2d`.
        widening: how many of the halvings double channels and growth; all if not given.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        size: Dense,
        stages: int,
        *,
        head: bool = True,
        widening: int | None = None,
    ) -> None:
        layers: list[nn.Module] = []
        growth = size.growth
        for stage in range(stages):
            block = _block(channels, growth, size)
            if widening is None or stage < widening:
                channels = 2 * block.out_channels
                growth *= 2
            layers += [block, WeightNormConv2d(block.out_channels, channels, 3, stride=2)]
        block = _block(channels, growth, size)
        last = WeightNormConv2d(block.out_channels, out_channels, 1, head=head)
        super().__init__(*layers, block, last)


class Decoder(nn.Sequential):
    """(B, in, h, w) to (B, out, h * 2**stages, w * 2**stages).

    ``stages`` times {dense block; 3x3 transposed convolution with stride 2 to half the channels;
    the growth halves}; 3x3 convolution. Without stages, one dense block before the convolution.

    Args: as :class:`Encoder`.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        size: Dense,
        stages: int,
        *,
        head: bool = True,
    ) -> None:
        layers: list[nn.Module] = []
        growth = size.growth
        for _ in range(max(stages, 1)):
            block = _block(channels, growth, size)
            channels = block.out_channels
            layers.append(block)
            if stages:
                layers.append(WeightNormConvTranspose2d(channels, channels // 2))
                channels //= 2
                growth //= 2
        super().__init__(*layers, WeightNormConv2d(channels, out_channels, 3, head=head))


class PlainNetwork(nn.Sequential):
    """(B, in, H, W) to (B, out, H, W): ``size.blocks`` dense blocks, then a 1x1 convolution.

    Args: as :class:`Encoder`, and ``full_precision_input``: the first block too computes in the
        parameters' precision even under autocast.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        size: Dense,
        *,
        head: bool = True,
        full_precision_input: bool = False,
    ) -> None:
        layers: list[nn.Module] = []
        for i in range(size.blocks):
            exact = full_precision_input and i == 0
            block = _block(channels, size.growth, size, full_precision=exact)
            channels = block.out_channels
            layers.append(block)
        super().__init__(*layers, WeightNormConv2d(channels, out_channels, 1, head=head))


def _block(channels: int, growth: int, size: Dense, *, full_precision: bool = False) -> DenseBlock:
    return DenseBlock(
        channels, growth, size.steps, full_precision=full_precision, attention=size.attention
    )
