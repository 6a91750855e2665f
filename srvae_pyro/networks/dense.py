"""Densely connected blocks with channel attention, of which every network here is made."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from srvae_pyro.networks.convolution import WeightNormConv2d
from srvae_pyro.networks.merging import merged, pays_to_merge

__all__ = ["ChannelAttention", "DenseBlock", "DenseStep"]


class DenseStep(nn.Module):
    """One densely connected step, (B, c, H, W) to (B, c + growth, H, W).

    A 1x1 convolution to ``4 * growth`` channels and a 3x3 convolution to ``growth``, with nothing
    between them; ELU over the concatenation of input and output.

    References:
        Huang et al., Densely Connected Convolutional Networks, 2016, arXiv:1608.06993.

    Args:
        channels: channels c of the input.
        growth: channels that the step adds.

    Attributes:
        merge: whether the two convolutions are computed as one where that costs fewer operations.
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

    Args:
        channels: channels c.
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
        channels: channels c of the input.
        growth: channels that each step adds.
        steps: how many steps.
        full_precision: compute in the parameters' precision even under autocast; for an input whose
            last bits matter.
        attention: whether there is channel attention. Without it a position of the output depends
            on its surroundings alone, not on how large the input is.

    Attributes:
        out_channels: channels of the output, c + steps * growth.
        checkpoint: compute again for the gradient what is inside; see ``checkpoint_blocks``.
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
        """The block in whatever precision autocast has."""
        # Autocast touches convolutions only: a float32 input would be concatenated with their
        # outputs to float32, and all that follows would be float32 too.
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        if self.checkpoint and torch.is_grad_enabled():
            return checkpoint(super().forward, x, use_reentrant=False)
        return super().forward(x)
