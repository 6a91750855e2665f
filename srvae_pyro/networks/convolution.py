"""Weight-normalised convolutions with data-dependent initialisation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srvae_pyro.networks.caching import cached

__all__ = ["WeightNormConv2d", "WeightNormConvTranspose2d", "WeightNormalized", "initializing"]


class WeightNormalized(nn.Module):
    r"""A linear map whose weight is stored as a direction and a gain per output channel.

    .. math:: w = g \, \frac{v}{\lVert v \rVert}

    A fresh layer has v ~ N(0, 0.05^2), g = 1, b = 0. Within :func:`initializing` its first batch
    sets g and b so that every output channel has mean ``init_mean`` (0) and standard deviation
    ``init_scale`` over that batch. The flag that this has happened is a buffer, so a loaded layer
    knows it.

    References:
        Salimans and Kingma, Weight Normalization, 2016, arXiv:1602.07868, sections 2 and 3.

    Args:
        shape: shape of the direction tensor.
        output_dim: dimension of ``shape`` that holds the output channels.
        init_scale: standard deviation of the outputs after initialisation.

    Attributes:
        init_scale, init_mean: standard deviation and mean of the outputs after initialisation, for
            all output channels or one each.
    """

    initialized: Tensor
    init_scale: float | Tensor
    init_mean: float | Tensor

    def __init__(self, shape: tuple[int, ...], output_dim: int, init_scale: float) -> None:
        super().__init__()
        self.output_dim = output_dim
        self.init_scale = init_scale
        self.init_mean = 0.0
        gain_shape = [1] * len(shape)
        gain_shape[output_dim] = shape[output_dim]
        self.direction = nn.Parameter(0.05 * torch.randn(shape))
        self.gain = nn.Parameter(torch.ones(gain_shape))
        self.bias = nn.Parameter(torch.zeros(shape[output_dim]))
        self.register_buffer("initialized", torch.tensor(False))
        self.in_initialization = False

    @property
    def weight(self) -> Tensor:
        """The normalised weight, of the direction's shape."""
        return cached(self, "weight", self.normalized, self.direction.device)

    def normalized(self) -> Tensor:
        """The same, computed."""
        return torch._weight_norm(self.direction, self.gain, self.output_dim)

    def linear(self, x: Tensor) -> Tensor:
        """The map itself, (B, in, H, W) to (B, out, H', W')."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        if self.in_initialization:
            self.initialize(x)
        return self.linear(x)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set gain and bias from the batch ``x`` (B, in, H, W), B > 1, once."""
        if self.initialized:
            return
        if len(x) < 2:
            raise ValueError(
                f"data-dependent initialisation needs a batch of at least 2 images, not {len(x)}"
            )
        self.gain.fill_(1.0)
        self.bias.zero_()
        with torch.autocast(x.device.type, enabled=False):
            outputs = self.linear(x.to(self.direction.dtype))
        std, mean = torch.std_mean(outputs, dim=(0, 2, 3))
        scale = torch.as_tensor(self.init_scale, device=std.device, dtype=std.dtype)
        # A channel that is constant over the batch has no scale to correct.
        ratio = scale / torch.where(std > 1e-8, std, torch.ones_like(std))
        self.gain.copy_(ratio.reshape(self.gain.shape))
        self.bias.copy_(torch.as_tensor(self.init_mean).to(std) - mean * ratio)
        self.initialized.fill_(True)


class WeightNormConv2d(WeightNormalized):
    """A weight-normalised convolution, (B, in, H, W) to (B, out, H / stride, W / stride).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: 1 or 3; the padding keeps the size.
        stride: 1 or 2.
        init_scale: see :class:`WeightNormalized`.
        full_precision: compute in the parameters' precision even under autocast; for the last
            layer before a distribution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        init_scale: float = 0.01,
        full_precision: bool = False,
    ) -> None:
        super().__init__((out_channels, in_channels, kernel_size, kernel_size), 0, init_scale)
        self.stride = stride
        self.padding = kernel_size // 2
        self.full_precision = full_precision

    def linear(self, x: Tensor) -> Tensor:
        if self.full_precision:
            with torch.autocast(x.device.type, enabled=False):
                return self.convolved(x.to(self.direction.dtype))
        return self.convolved(x)

    def convolved(self, x: Tensor) -> Tensor:
        if self.direction.shape[2:] == x.shape[2:] == (1, 1):
            # One pixel: a matrix product, without the cost of setting up a convolution.
            return F.linear(x.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None]
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)


class WeightNormConvTranspose2d(WeightNormalized):
    """A weight-normalised transposed convolution that doubles the size.

    (B, in, H, W) to (B, out, 2H, 2W), kernel 3, stride 2.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        init_scale: see :class:`WeightNormalized`.
    """

    def __init__(self, in_channels: int, out_channels: int, *, init_scale: float = 0.01) -> None:
        super().__init__((in_channels, out_channels, 3, 3), 1, init_scale)

    def linear(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.weight, self.bias, 2, padding=1, output_padding=1)


@contextmanager
def initializing(module: nn.Module) -> Iterator[None]:
    """Within it, a pass of data through ``module`` initialises its layers that are not yet so."""
    layers = [layer for layer in module.modules() if isinstance(layer, WeightNormalized)]
    for layer in layers:
        layer.in_initialization = True
    try:
        yield
    finally:
        for layer in layers:
            layer.in_initialization = False
