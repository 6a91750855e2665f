"""Encoder, decoder and plain network: dense blocks at falling, rising or constant resolution."""

from __future__ import annotations

from torch import nn

from srvae_pyro.networks.convolution import WeightNormConv2d, WeightNormConvTranspose2d
from srvae_pyro.networks.dense import DenseBlock

__all__ = ["Decoder", "Encoder", "PlainNetwork"]


class Encoder(nn.Sequential):
    """(B, in, H, W) to (B, out, H / 2**stages, W / 2**stages).

    ``stages`` times {dense block; 3x3 convolution with stride 2 to twice the channels; the growth
    doubles}; one more dense block; 1x1 convolution.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        growth: growth of the first dense block.
        steps: dense steps a block.
        stages: how often the resolution is halved.
        init_scale: standard deviation of the hidden layers' outputs after initialisation.
        head_scale: the same for the last layer.
        full_precision: the last layer computes in the parameters' precision even under autocast, as
            befits the parameters of a distribution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        growth: int,
        steps: int,
        stages: int,
        *,
        init_scale: float = 0.01,
        head_scale: float = 0.01,
        full_precision: bool = True,
    ) -> None:
        layers: list[nn.Module] = []
        channels = in_channels
        for _ in range(stages):
            block = DenseBlock(channels, growth, steps, init_scale=init_scale)
            channels = 2 * block.out_channels
            down = WeightNormConv2d(
                block.out_channels, channels, 3, stride=2, init_scale=init_scale
            )
            layers += [block, down]
            growth *= 2
        block = DenseBlock(channels, growth, steps, init_scale=init_scale)
        head = WeightNormConv2d(
            block.out_channels,
            out_channels,
            1,
            init_scale=head_scale,
            full_precision=full_precision,
        )
        super().__init__(*layers, block, head)


class Decoder(nn.Sequential):
    """(B, in, h, w) to (B, out, h * 2**stages, w * 2**stages).

    ``stages`` times {dense block; 3x3 transposed convolution with stride 2 to half the channels;
    the growth halves}; 3x3 convolution. Without stages, one dense block before the convolution.

    Args: as :class:`Encoder`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        growth: int,
        steps: int,
        stages: int,
        *,
        init_scale: float = 0.01,
        head_scale: float = 0.01,
        full_precision: bool = True,
    ) -> None:
        layers: list[nn.Module] = []
        channels = in_channels
        for _ in range(max(stages, 1)):
            block = DenseBlock(channels, growth, steps, init_scale=init_scale)
            channels = block.out_channels
            layers.append(block)
            if stages:
                up = WeightNormConvTranspose2d(channels, channels // 2, init_scale=init_scale)
                layers.append(up)
                channels //= 2
                growth //= 2
        head = WeightNormConv2d(
            channels, out_channels, 3, init_scale=head_scale, full_precision=full_precision
        )
        super().__init__(*layers, head)


class PlainNetwork(nn.Sequential):
    """(B, in, H, W) to (B, out, H, W): ``blocks`` dense blocks, then a 1x1 convolution.

    Args: as :class:`Encoder`, but for ``blocks``, and ``full_precision_input``: the first block too
        computes in the parameters' precision even under autocast.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        growth: int,
        steps: int,
        blocks: int,
        *,
        init_scale: float = 0.01,
        head_scale: float = 0.01,
        full_precision: bool = True,
        full_precision_input: bool = False,
    ) -> None:
        layers: list[nn.Module] = []
        channels = in_channels
        for number in range(blocks):
            block = DenseBlock(
                channels,
                growth,
                steps,
                init_scale=init_scale,
                full_precision=full_precision_input and number == 0,
            )
            channels = block.out_channels
            layers.append(block)
        head = WeightNormConv2d(
            channels, out_channels, 1, init_scale=head_scale, full_precision=full_precision
        )
        super().__init__(*layers, head)
