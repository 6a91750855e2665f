"""Weight-normalised convolutions with data-dependent initialisation."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srvae_pyro.networks.caching import cached

__all__ = [
    "WeightNormConv2d",
    "WeightNormConvTranspose2d",
    "WeightNormalized",
    "aim_heads",
    "initializing",
]

NARROW = 512  # input channels up to which a head is faster as a matrix product on CPUs


class WeightNormalized(nn.Module):
    r"""A linear map whose weight is stored as a direction and a gain per output channel.

    .. math:: w = g \, \frac{v}{\lVert v \rVert}

    A fresh layer has v ~ N(0, 0.05^2), g = 1, b = 0. Within :func:`initializing` its first batch
    sets g and b so that every output channel has mean ``init_mean`` and standard deviation
    ``init_scale`` over that batch. The flag that this has happened is a buffer, so a loaded layer
    knows it.

    References:
        Salimans and Kingma, Weight Normalization, 2016, arXiv:1602.07868, sections 2 and 3.

    Args:
        shape: shape of the direction tensor.
        output_dim: dimension of ``shape`` that holds the output channels.

    Attributes:
        init_scale: standard deviation of the outputs after initialisation, for all output channels
            or one each. None, as in hidden layers: the scale of :func:`initializing`.
        init_mean: their mean, in the same way.
    """

    initialized: Tensor

    def __init__(self, shape: tuple[int, ...], output_dim: int) -> None:
        super().__init__()
        self.output_dim = output_dim
        gain_shape = [1] * len(shape)
        gain_shape[output_dim] = shape[output_dim]
        self.direction = nn.Parameter(torch.randn(shape).mul_(0.05))
        self.gain = nn.Parameter(torch.ones(gain_shape))
        self.bias = nn.Parameter(torch.zeros(shape[output_dim]))
        self.register_buffer("initialized", torch.tensor(False))
        self.init_scale: float | Tensor | None = None
        self.init_mean: float | Tensor = 0.0
        self.hidden_scale: float | None = None  # set within initializing()

    @property
    def in_initialization(self) -> bool:
        """Whether a pass of data initialises this layer now."""
        return self.hidden_scale is not None

    @property
    def weight(self) -> Tensor:
        """The normalised weight, of the direction's shape."""
        return cached(self, "weight", self.normalized, self.direction.device)

    def normalized(self) -> Tensor:
        """Compute the normalised weight."""
        return torch._weight_norm(self.direction, self.gain, self.output_dim)

    def linear(self, x: Tensor) -> Tensor:
        """The map itself, (B, in, H, W) to (B, out, H', W')."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        if self.hidden_scale is not None:
            self.initialize(x, self.hidden_scale)
        return self.linear(x)

    @torch.no_grad()
    def initialize(self, x: Tensor, hidden_scale: float) -> None:
        """Set gain and bias from a batch, once.

        Args:
            x: the batch (B, in, H, W), B > 1.
            hidden_scale: standard deviation of the outputs where ``init_scale`` is None.
        """
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
        aim = hidden_scale if self.init_scale is None else self.init_scale
        scale = torch.as_tensor(aim, device=std.device, dtype=std.dtype)
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
        head: whether the outputs are the parameters of a distribution. A head computes in the
            parameters' precision even under autocast, and :func:`aim_heads` says what it starts at.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        head: bool = False,
    ) -> None:
        super().__init__((out_channels, in_channels, kernel_size, kernel_size), 0)
        self.stride = stride
        self.padding = kernel_size // 2
        self.head = head

    def linear(self, x: Tensor) -> Tensor:
        if self.head:
            with torch.autocast(x.device.type, enabled=False):
                return self.convolved(x.to(self.direction.dtype))
        return self.convolved(x)

    def convolved(self, x: Tensor) -> Tensor:
        """The convolution in whatever precision autocast has."""
        if self.direction.shape[2:] == x.shape[2:] == (1, 1):
            # One pixel: a matrix product, without the cost of setting up a convolution.
            return F.linear(x.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None]
        narrow = self.head and self.padding == 0 and x.shape[1] <= NARROW
        # Transforms of torch.func know convolutions, and no functions of one's own.
        if narrow and x.device.type == "cpu" and not torch._C._are_functorch_transforms_active():
            out: Tensor = PixelProducts.apply(x, self.weight.flatten(1), self.bias)
            return out
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)


class PixelProducts(torch.autograd.Function):
    """A 1x1 convolution as one matrix product an image, its output with pixels innermost.

    That is how distributions read their parameters. On a CPU it is up to twice as fast as a
    convolution of 100 or 103 outputs, whose kernels want multiples of 16. The gradient of the
    input has the input's layout: that of autograd's own formula has pixels innermost, and would
    hand this on to all that comes before, where operations on two layouts are slow.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(B, in, H, W), (out, in) and (out) to (B, out, H, W)."""
        ctx.save_for_backward(x, weight)
        out = torch.baddbmm(bias[:, None], weight.expand(len(x), -1, -1), x.flatten(2))
        return out.unflatten(2, x.shape[2:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of the three."""
        x, weight = ctx.saved_tensors
        gradient = gradient.flatten(2)
        weights = weight.expand(len(x), -1, -1)
        if x.stride(1) == 1:  # channels innermost
            of_x = torch.bmm(gradient.transpose(1, 2), weights).transpose(1, 2)
        else:
            of_x = torch.bmm(weights.transpose(1, 2), gradient)
        of_weight = torch.bmm(gradient, x.flatten(2).transpose(1, 2)).sum(0)
        return of_x.unflatten(2, x.shape[2:]), of_weight, gradient.sum((0, 2))


class WeightNormConvTranspose2d(WeightNormalized):
    """A weight-normalised transposed convolution that doubles the size.

    (B, in, H, W) to (B, out, 2H, 2W), kernel 3, stride 2.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__((in_channels, out_channels, 3, 3), 1)

    def linear(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.weight, self.bias, 2, padding=1, output_padding=1)


def aim_heads(module: nn.Module, scale: float | Tensor, mean: float | Tensor = 0.0) -> None:
    """Set what the data-dependent initialisation of the heads within ``module`` aims at.

    Args:
        module: a network, or several.
        scale: standard deviation of the heads' outputs, for all output channels or one each.
        mean: their mean, in the same way.
    """
    for layer in module.modules():
        if isinstance(layer, WeightNormConv2d) and layer.head:
            layer.init_scale, layer.init_mean = scale, mean


@contextmanager
def initializing(module: nn.Module, scale: float = 0.01) -> Iterator[None]:
    """Let a pass of data through ``module`` initialise its layers that are not initialised yet.

    Args:
        module: a network, or several.
        scale: standard deviation of the outputs of hidden layers; for heads see :func:`aim_heads`.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, WeightNormalized)]
    for layer in layers:
        layer.hidden_scale = scale
    try:
        with _uncompiled():
            yield
    finally:
        for layer in layers:
            layer.hidden_scale = None


def _uncompiled() -> AbstractContextManager[None]:
    """Within it compiled networks run as they are: compiling what runs once takes minutes."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()  # nothing is compiled, and it takes seconds to import
    return torch.compiler.set_stance("force_eager")
