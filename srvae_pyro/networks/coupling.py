"""The network of an affine coupling."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from srvae_pyro.networks.convolution import WeightNormConv2d
from srvae_pyro.networks.dense import DenseBlock
from srvae_pyro.networks.layout import channels_last_on_gpus

__all__ = ["ChannelGain", "CouplingNetwork"]


class ChannelGain(nn.Module):
    """A learned factor per channel, weight-normalised: a sign and a magnitude, 1 at the start.

    Args:
        channels: channels c of what it scales, (..., c, H, W).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.ones(channels, 1, 1))
        self.gain = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch._weight_norm(self.direction, self.gain, 0)


class CouplingNetwork(nn.Module):
    """(B, c, H, W), the part that stays, to (s, t): a dense block and a 3x3 convolution.

    s = a tanh(s'), with a gain a per channel.

    Args:
        channels: channels c of the input, and of s and t.
        growth: growth of the dense block.
        steps: dense steps.
        attention: whether the dense block has channel attention.
    """

    def __init__(self, channels: int, growth: int, steps: int, *, attention: bool = True) -> None:
        super().__init__()
        self.block = DenseBlock(channels, growth, steps, attention=attention)
        self.head = WeightNormConv2d(self.block.out_channels, 2 * channels, 3, head=True)
        self.scale = ChannelGain(channels)

    def forward(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        s, t = self.head(self.block(channels_last_on_gpus(kept))).chunk(2, dim=1)
        return self.scale(torch.tanh(s)), t
