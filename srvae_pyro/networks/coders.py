"""Encoder, decoder and plain network: dense blocks at falling, rising or constant resolution."""

from __future__ import annotations

from torch import nn

from srvae_pyro.networks.convolution import WeightNormConv2d, WeightNormConvTranspose2d
from srvae_pyro.networks.dense import DenseBlock

__all__ = ["Decoder", "Encoder", "PlainNetwork"]


class Encoder(nn.Sequential):
    """(B, in, H, W) to (B, out, H / 2**stages, W / 2**stages).

    ``stages`` times {dense block; 3x3 convolution with stride 2 to twice the channels; the growth
    doubles}; one more dense block; 1x1 convolution. Where fewer halvings are to widen it, the later
    ones bring the channels back to what the block was given, and the growth stays.

    Args:
        channels: channels of the input.
        out_channels: channels of the output.
        growth: growth of the first dense block.
        steps: dense steps a block.
        stages: how often the resolution is halved.
        head: whether the output is the parameters of a distribution; see
            :class:`~srvae_pyro.networks.WeightNormConv2d`.
        widening: how many of the halvings double channels and growth; all if not given.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        growth: int,
        steps: int,
        stages: int,
        *,
        head: bool = True,
        widening: int | None = None,
    ) -> None:
        layers: list[nn.Module] = []
        for stage in range(stages):
            block = DenseBlock(channels, growth, steps)
            if widening is None or stage < widening:
                channels = 2 * block.out_channels
                growth *= 2
            layers += [block, WeightNormConv2d(block.out_channels, channels, 3, stride=2)]
        block = DenseBlock(channels, growth, steps)
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
        growth: int,
        steps: int,
        stages: int,
        *,
        head: bool = True,
    ) -> None:
        layers: list[nn.Module] = []
        for _ in range(max(stages, 1)):
            block = DenseBlock(channels, growth, steps)
            channels = block.out_channels
            layers.append(block)
            if stages:
                layers.append(WeightNormConvTranspose2d(channels, channels // 2))
                channels //= 2
                growth //= 2
        super().__init__(*layers, WeightNormConv2d(channels, out_channels, 3, head=head))


class PlainNetwork(nn.Sequential):
    """(B, in, H, W) to (B, out, H, W): ``blocks`` dense blocks, then a 1x1 convolution.

    Args: as :class:`Encoder`, but for ``blocks``, and ``full_precision_input``: the first block too
        computes in the parameters' precision even under autocast.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        growth: int,
        steps: int,
        blocks: int,
        *,
        head: bool = True,
        full_precision_input: bool = False,
    ) -> None:
        layers: list[nn.Module] = []
        for i in range(blocks):
            exact = full_precision_input and i == 0
            block = DenseBlock(channels, growth, steps, full_precision=exact)
            channels = block.out_channels
            layers.append(block)
        super().__init__(*layers, WeightNormConv2d(channels, out_channels, 1, head=head))
