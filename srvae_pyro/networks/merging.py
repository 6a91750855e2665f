"""A 1x1 and a 3x3 convolution, with nothing between them, as one 3x3 convolution.

Both are linear, so their composition is one linear map, and where the 1x1 convolution has many
outputs one convolution costs fewer operations. The result is the same, borders included.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from srvae_pyro.networks.caching import cached
from srvae_pyro.networks.convolution import WeightNormConv2d

__all__ = ["merged", "pays_to_merge"]


def pays_to_merge(first: WeightNormConv2d, second: WeightNormConv2d, x: Tensor) -> bool:
    """Whether :func:`merged` costs fewer operations than ``second(first(x))``.

    Never during initialisation, in which each layer has to see its own input.

    Args:
        first: the 1x1 convolution.
        second: the 3x3 convolution.
        x: the input, (B, c, H, W).
    """
    if first.in_initialization:
        return False
    hidden, channels = first.direction.shape[:2]
    out = second.direction.shape[0]
    positions = x.shape[0] * x.shape[2] * x.shape[3]
    apart = (channels * hidden + 9 * hidden * out) * positions
    # The merged kernel has to be computed too.
    return 9 * channels * out * positions + 9 * channels * hidden * out < apart


def merged(first: WeightNormConv2d, second: WeightNormConv2d, x: Tensor) -> Tensor:
    """``second(first(x))`` by one 3x3 convolution, (B, c, H, W) to (B, out, H, W).

    With 1x1 weights w1, b1 and 3x3 weights w3, b3 the kernel is sum_m w3[:, m] w1[m] and the
    bias b3 plus sum_m w3[:, m] b1[m] convolved with ones: next to a border, where the 3x3
    kernel meets padding, the inner bias is missing.

    Args:
        first: the 1x1 convolution.
        second: the 3x3 convolution.
        x: the input, (B, c, H, W).
    """
    device = second.bias.device
    layers = (first, second)
    kernel = cached(layers, "kernel", lambda: _kernel(first, second), device)
    inner = cached(layers, "inner bias", lambda: _inner_bias(first, second), device)
    inside = _inside(x.shape[2], x.shape[3], inner.dtype, inner.device)
    bias = torch.addmm(second.bias, inside, inner.T)  # (H * W, out)
    bias = bias.reshape(1, x.shape[2], x.shape[3], -1).permute(0, 3, 1, 2)
    return F.conv2d(x, kernel, padding=1) + bias


def _kernel(first: WeightNormConv2d, second: WeightNormConv2d) -> Tensor:
    """The merged kernel, (out, c, 3, 3)."""
    w1, w3 = first.weight, second.weight
    flat = w3.permute(0, 2, 3, 1).reshape(-1, w3.shape[1])  # (out * 9, hidden)
    kernel = (flat @ w1.reshape(w1.shape[:2])).reshape(w3.shape[0], 3, 3, w1.shape[1])
    return kernel.permute(0, 3, 1, 2)


def _inner_bias(first: WeightNormConv2d, second: WeightNormConv2d) -> Tensor:
    """What the first bias adds by way of each of a pixel's 3x3 neighbours, (out, 9)."""
    w3 = second.weight
    flat = w3.permute(0, 2, 3, 1).reshape(-1, w3.shape[1])
    return (flat @ first.bias).reshape(w3.shape[0], 9)


@lru_cache(maxsize=16)  # one for each size of image in use
def _inside(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Whether each of a pixel's 3x3 neighbours lies within the image, 1 or 0, (H * W, 9)."""
    with torch.inference_mode(False):  # the tensor is cached and has to serve training too
        ones = torch.ones(1, 1, height, width, device=device)
        return F.unfold(ones, 3, padding=1)[0].T.to(dtype)
