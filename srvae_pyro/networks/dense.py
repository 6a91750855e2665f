"""Dense blocks with channel attention, and encoders, decoders and couplings made of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from srvae_pyro.config import Dense
from srvae_pyro.networks.layers import (
    WeightNormConv2d,
    WeightNormConvTranspose2d,
    channels_last_on_gpus,
    merged,
    pays_to_merge,
)


class DenseStep(nn.Module):
    """One densely connected step, (B, c, H, W) to (B, c + growth, H, W).

    A 1x1 convolution to ``4 * growth`` channels, directly a 3x3 convolution to ``growth``, and ELU
    over the concatenation of input and output.

    References:
        Huang et al., Densely Connected Convolutional Networks, 2016, arXiv:1608.06993.

    ``merge`` lets the two convolutions be computed as one if that costs fewer operations.
    """

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.reduce = WeightNormConv2d(channels, 4 * growth, 1)
        self.grow = WeightNormConv2d(4 * growth, growth, 3)
        self.merge = True

    def forward(self, x: Tensor) -> Tensor:
        if self.merge and pays_to_merge(self.reduce, self.grow, x):
            new = merged(self.reduce, self.grow, x)
        else:
            new = self.grow(self.reduce(x))
        return F.elu(torch.cat([x, new], dim=1), inplace=True)


class ChannelAttention(nn.Module):
    """Weights each channel by a function of all channels' averages, (B, c, H, W) to the same.

    Global average, 1x1 convolution to ``c // 8`` channels, 1x1 convolution back, sigmoid.

    References:
        Zhang et al., Image Super-Resolution Using Very Deep Residual Channel Attention Networks,
        2018, arXiv:1807.02758, section 3.3.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        reduced = max(channels // 8, 1)
        self.reduce = WeightNormConv2d(channels, reduced, 1)
        self.restore = WeightNormConv2d(reduced, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        # sum / n: the gradient of mean is materialised, that of sum is an expanded view.
        average = x.sum(dim=(2, 3), keepdim=True) / (x.shape[2] * x.shape[3])
        return x * torch.sigmoid(self.restore(self.reduce(average)))


class DenseBlock(nn.Sequential):
    """``steps`` dense steps, and channel attention: (B, c, H, W) to (B, out_channels, H, W).

    Args:
        full_precision: compute in the parameters' precision even under autocast.
        attention: whether there is channel attention, without which the receptive field is bounded.
    """

    def __init__(
        self,
        channels: int,
        growth: int,
        steps: int,
        *,
        full_precision: bool = False,
        attention: bool = True,
    ) -> None:
        self.out_channels = channels + steps * growth
        super().__init__(
            *(DenseStep(channels + i * growth, growth) for i in range(steps)),
            *([ChannelAttention(self.out_channels)] if attention else []),
        )
        self.full_precision = full_precision
        self.checkpoint = False

    def forward(self, x: Tensor) -> Tensor:
        if self.full_precision:
            with torch.autocast(x.device.type, enabled=False):
                return self.run(x)
        return self.run(x)

    def run(self, x: Tensor) -> Tensor:
        # Autocast touches convolutions only: concatenation with a float32 input would be float32.
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        if self.checkpoint and torch.is_grad_enabled():
            return checkpoint(super().forward, x, use_reentrant=False)
        return super().forward(x)


class Encoder(nn.Sequential):
    """(B, in, H, W) to (B, out, H / 2^stages, W / 2^stages).

    ``stages`` times {dense block; 3x3 convolution with stride 2 to twice the channels; the growth
    doubles}; one more dense block; 1x1 convolution.

    Args:
        size: of the first dense block, and steps of all.
        stages: how often the resolution is halved.
        head: see :class:`~srvae_pyro.networks.WeightNormConv2d`.
        widening: how many halvings double channels and growth, all if not given; later ones
            restore the channels of their block's input.
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
    """(B, in, h, w) to (B, out, h 2^stages, w 2^stages).

    ``stages`` times {dense block; 3x3 transposed convolution with stride 2 to half the channels;
    the growth halves}; 3x3 convolution. Without stages, one dense block before the convolution.
    """

    def __init__(
        self, channels: int, out_channels: int, size: Dense, stages: int, *, head: bool = True
    ) -> None:
        layers: list[nn.Module] = []
        growth = size.growth
        for _ in range(max(stages, 1)):
            block = _block(channels, growth, size)
            channels = block.out_channels
            layers.append(block)
            if stages:
                half = max(channels // 2, 1)  # a convolution to 0 channels ends the process
                layers.append(WeightNormConvTranspose2d(channels, half))
                channels, growth = half, max(growth // 2, 1)
        super().__init__(*layers, WeightNormConv2d(channels, out_channels, 3, head=head))


class PlainNetwork(nn.Sequential):
    """(B, in, H, W) to (B, out, H, W): ``size.blocks`` dense blocks, then a 1x1 convolution.

    With ``full_precision_input`` the first block ignores autocast.
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


class ChannelGain(nn.Module):
    """A learned factor per channel, weight-normalised: a sign and a magnitude, 1 at the start."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.ones(channels, 1, 1))
        self.gain = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch._weight_norm(self.direction, self.gain, 0)


class CouplingNetwork(nn.Module):
    """(B, c, H, W), the part that stays, to (s, t): a dense block and a 3x3 convolution.

    s = a tanh(s'), with a gain a per channel.
    """

    def __init__(self, channels: int, growth: int, steps: int, *, attention: bool = True) -> None:
        super().__init__()
        self.block = DenseBlock(channels, growth, steps, attention=attention)
        self.head = WeightNormConv2d(self.block.out_channels, 2 * channels, 3, head=True)
        self.scale = ChannelGain(channels)

    def forward(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        s, t = self.head(self.block(channels_last_on_gpus(kept))).chunk(2, dim=1)
        return self.scale(torch.tanh(s)), t
