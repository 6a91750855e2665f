"""Densely connected blocks with channel attention, of which every network here is made."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from srvae_pyro.networks.caching import cached
from srvae_pyro.networks.convolution import WeightNormConv2d

__all__ = ["ChannelAttention", "DenseBlock", "DenseStep"]


class DenseStep(nn.Module):
    """One densely connected step, (B, c, H, W) to (B, c + growth, H, W).

    A 1x1 convolution to ``4 * growth`` channels and a 3x3 convolution to ``growth``, with nothing
    between them; ELU over the concatenation of input and output.

    With nothing between them the two convolutions are one linear map, so where one 3x3 convolution
    costs fewer operations they are merged, exactly, borders included (see :meth:`merged`).

    References:
        Huang et al., Densely Connected Convolutional Networks, 2016, arXiv:1608.06993.
    """

    def __init__(self, channels: int, growth: int, *, init_scale: float = 0.01) -> None:
        super().__init__()
        self.reduce = WeightNormConv2d(channels, 4 * growth, 1, init_scale=init_scale)
        self.grow = WeightNormConv2d(4 * growth, growth, 3, init_scale=init_scale)
        self.channels = channels
        self.growth = growth
        self.merge = True

    def pays_to_merge(self, positions: int) -> bool:
        """Whether merging costs fewer operations over ``positions`` = B * H * W output pixels."""
        c, g = self.channels, self.growth
        apart = (4 * c * g + 36 * g * g) * positions
        return 9 * c * g * positions + 36 * g * g * c < apart

    def merged(self, x: Tensor) -> Tensor:
        """Both convolutions as one.

        With 1x1 weights w1, b1 and 3x3 weights w3, b3 the kernel is sum_m w3[:, m] w1[m] and the
        bias b3 plus sum_m w3[:, m] b1[m] convolved with ones: next to a border, where the 3x3
        kernel meets padding, the inner bias is missing.
        """
        device = self.grow.bias.device
        kernel = cached(self, "kernel", self.merged_kernel, device)
        inner = cached(self, "inner bias", self.inner_bias, device)
        inside = _inside(x.shape[2], x.shape[3], inner.dtype, inner.device)
        bias = torch.addmm(self.grow.bias, inside, inner.T)  # (H * W, growth)
        bias = bias.reshape(1, x.shape[2], x.shape[3], -1).permute(0, 3, 1, 2)
        return F.conv2d(x, kernel, padding=1) + bias

    def merged_kernel(self) -> Tensor:
        """(growth, c, 3, 3)."""
        w1, w3 = self.reduce.weight, self.grow.weight
        flat = w3.permute(0, 2, 3, 1).reshape(-1, w3.shape[1])  # (growth * 9, 4 * growth)
        kernel = (flat @ w1.reshape(w1.shape[:2])).reshape(w3.shape[0], 3, 3, w1.shape[1])
        return kernel.permute(0, 3, 1, 2)

    def inner_bias(self) -> Tensor:
        """(growth, 9): what the inner bias adds for each neighbour."""
        w3 = self.grow.weight
        flat = w3.permute(0, 2, 3, 1).reshape(-1, w3.shape[1])
        return (flat @ self.reduce.bias).reshape(w3.shape[0], 9)

    def forward(self, x: Tensor) -> Tensor:
        positions = x.shape[0] * x.shape[2] * x.shape[3]
        if self.merge and not self.reduce.in_initialization and self.pays_to_merge(positions):
            new = self.merged(x)
        else:
            new = self.grow(self.reduce(x))
        return F.elu(torch.cat([x, new], dim=1), inplace=True)


@lru_cache(maxsize=16)  # few: a picture of any size has one
def _inside(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(H * W, 9): whether each of a pixel's 3x3 neighbours lies within the image, 1 or 0."""
    with torch.inference_mode(False):  # what is kept serves training too
        ones = torch.ones(1, 1, height, width, device=device)
        return F.unfold(ones, 3, padding=1)[0].T.to(dtype)


class ChannelAttention(nn.Module):
    """Weights each channel by a function of all channels' averages, (B, c, H, W) to the same.

    Global average, 1x1 convolution to ``c // 8`` channels, 1x1 convolution back, sigmoid.

    References:
        Zhang et al., Image Super-Resolution Using Very Deep Residual Channel Attention Networks,
        2018, arXiv:1807.02758, section 3.3.
    """

    def __init__(self, channels: int, *, init_scale: float = 0.01) -> None:
        super().__init__()
        reduced = max(channels // 8, 1)
        self.reduce = WeightNormConv2d(channels, reduced, 1, init_scale=init_scale)
        self.restore = WeightNormConv2d(reduced, channels, 1, init_scale=init_scale)

    def forward(self, x: Tensor) -> Tensor:
        # sum / n: the gradient of mean is materialised, that of sum is an expanded view.
        average = x.sum(dim=(2, 3), keepdim=True) / (x.shape[2] * x.shape[3])
        return x * torch.sigmoid(self.restore(self.reduce(average)))


class DenseBlock(nn.Sequential):
    """``steps`` dense steps, then channel attention: (B, c, H, W) to (B, out_channels, H, W).

    Args:
        channels: channels c of the input.
        growth: channels that each step adds.
        steps: how many steps.
        init_scale: see :class:`~srvae_pyro.networks.WeightNormalized`.
        full_precision: compute in the parameters' precision even under autocast; for an input whose
            last bits matter.
    """

    def __init__(
        self,
        channels: int,
        growth: int,
        steps: int,
        *,
        init_scale: float = 0.01,
        full_precision: bool = False,
    ) -> None:
        layers: list[nn.Module] = [
            DenseStep(channels + i * growth, growth, init_scale=init_scale) for i in range(steps)
        ]
        self.out_channels = channels + steps * growth
        super().__init__(*layers, ChannelAttention(self.out_channels, init_scale=init_scale))
        self.full_precision = full_precision
        self.checkpoint = False  # see checkpoint_blocks

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
