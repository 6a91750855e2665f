"""Residual networks, for positions that are few and channels that may be many."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from srvae_pyro.networks.convolution import WeightNormConv2d

__all__ = ["ResidualBlock", "ResidualFeatures", "ResidualHead", "ResidualNetwork"]


class ResidualBlock(nn.Module):
    """x plus what two 3x3 convolutions make of it, (B, c, H, W) to the same.

    An ELU before each convolution.

    References:
        He et al., Identity Mappings in Deep Residual Networks, 2016, arXiv:1603.05027.

    Args:
        channels: channels c.

    Attributes:
        checkpoint: compute again for the gradient what is inside; see ``checkpoint_blocks``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = WeightNormConv2d(channels, channels, 3)
        self.second = WeightNormConv2d(channels, channels, 3)
        self.checkpoint = False

    def forward(self, x: Tensor) -> Tensor:
        if self.checkpoint and torch.is_grad_enabled():
            added: Tensor = checkpoint(self.added, x, use_reentrant=False)
        else:
            added = self.added(x)
        return x + added

    def added(self, x: Tensor) -> Tensor:
        """What is added to x."""
        out: Tensor = self.second(F.elu(self.first(F.elu(x))))
        return out


class ResidualFeatures(nn.Sequential):
    """(B, in, H, W) to features (B, width, H, W) for other networks.

    A 3x3 convolution and residual blocks. A position sees 3 + 4 ``blocks`` of the input.

    Args:
        channels: channels of the input.
        width: channels of the output, and within.
        blocks: how many residual blocks.
    """

    def __init__(self, channels: int, width: int, blocks: int) -> None:
        super().__init__(
            WeightNormConv2d(channels, width, 3), *(ResidualBlock(width) for _ in range(blocks))
        )


class ResidualHead(nn.Sequential):
    """Features (B, width, H, W) to (B, out, H, W): residual blocks, an ELU and a 1x1 convolution.

    Args:
        width: channels of the input, and within.
        out_channels: channels of the output.
        blocks: how many residual blocks.
    """

    def __init__(self, width: int, out_channels: int, blocks: int) -> None:
        super().__init__(
            *(ResidualBlock(width) for _ in range(blocks)),
            nn.ELU(),
            WeightNormConv2d(width, out_channels, 1, head=True),
        )


class ResidualNetwork(nn.Sequential):
    """(B, in, H, W) to (B, out, H, W), the parameters of a distribution.

    :class:`ResidualFeatures`, an ELU and a 1x1 convolution. A position of the output sees 3 + 4
    ``blocks`` of the input, to either side half of that.

    Args:
        channels: channels of the input.
        out_channels: channels of the output.
        width: channels within.
        blocks: how many residual blocks.
    """

    def __init__(self, channels: int, out_channels: int, width: int, blocks: int) -> None:
        super().__init__(
            *ResidualFeatures(channels, width, blocks),
            nn.ELU(),
            WeightNormConv2d(width, out_channels, 1, head=True),
        )
