"""Weight-normalised convolutions: data-dependent initialisation, merging, caching, layout."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Key = tuple[Hashable, str, torch.dtype | None]
_scope: ContextVar[dict[Key, Tensor] | None] = ContextVar("scope", default=None)


@contextmanager
def cached_weights() -> Iterator[None]:
    """A scope in which normalised and merged weights are computed once, except under autograd.

    Parameters must not change within it; this is not checked. Scopes nest; each thread has its own.
    Also a decorator.
    """
    if _scope.get() is not None:
        yield
        return
    token = _scope.set({})
    try:
        yield
    finally:
        _scope.reset(token)


def cached(
    owner: Hashable, name: str, compute: Callable[[], Tensor], device: torch.device
) -> Tensor:
    """``compute()``, stored in the open scope by ``owner``, ``name`` and the device's autocast."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return compute()
    scope = _scope.get()
    if scope is None:
        return compute()
    kind = device.type
    cast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    key = (owner, name, cast)
    if key not in scope:
        scope[key] = compute()
    return scope[key]


MEMORY_FORMAT = torch.channels_last


def channels_last(x: Tensor) -> Tensor:
    """x (B, C, H, W) with its channels innermost, except under ``torch.func``'s transforms."""
    if torch._C._are_functorch_transforms_active():
        return x
    x = x.contiguous(memory_format=MEMORY_FORMAT)
    if len(x) > 1 or x.device.type == "cpu" or MEMORY_FORMAT is not torch.channels_last:
        return x
    # Operations infer the layout from the stride between images, also of a single one.
    _, channels, height, width = x.shape
    flat = x.permute(0, 2, 3, 1).reshape(-1)
    return flat.view(1, height, width, channels).permute(0, 3, 1, 2)


def channels_last_on_gpus(x: Tensor) -> Tensor:
    """The same, but x itself on a CPU, so that the last bits of samples stay."""
    return x if x.device.type == "cpu" else channels_last(x)


NARROW = 512  # input channels up to which a head is faster as a matrix product on CPUs


class WeightNormalized(nn.Module):
    r"""A linear map whose weight is stored as a direction and a gain per output channel.

    .. math:: w = g \, \frac{v}{\lVert v \rVert}

    A fresh layer has v ~ N(0, 0.05^2), g = 1, b = 0. Within :func:`initializing` its first batch
    sets g and b so that every output channel has mean ``init_mean`` and standard deviation
    ``init_scale`` over that batch; the buffer ``initialized`` records it.

    References:
        Salimans and Kingma, Weight Normalization, 2016, arXiv:1602.07868, sections 2 and 3.

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
        # One for all output channels or one each; None: hidden layers' scale of initializing().
        self.init_scale: float | Tensor | None = None
        self.init_mean: float | Tensor = 0.0
        self.hidden_scale: float | None = None  # set within initializing()

    @property
    def weight(self) -> Tensor:
        """The normalised weight, of the direction's shape."""
        return cached(
            self,
            "weight",
            lambda: torch._weight_norm(self.direction, self.gain, self.output_dim),
            self.direction.device,
        )

    def linear(self, x: Tensor) -> Tensor:
        """The map itself, (B, in, H, W) to (B, out, H', W')."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        if self.hidden_scale is not None:
            self.initialize(x, self.hidden_scale)
        return self.linear(x)

    @torch.no_grad()
    def initialize(self, x: Tensor, hidden_scale: float) -> None:
        """Set gain and bias from a batch (B, in, H, W), B > 1, once."""
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
        ratio = scale / torch.where(std > 1e-8, std, torch.ones_like(std))  # not of constants
        self.gain.copy_(ratio.reshape(self.gain.shape))
        self.bias.copy_(torch.as_tensor(self.init_mean).to(std) - mean * ratio)
        self.initialized.fill_(True)


class WeightNormConv2d(WeightNormalized):
    """A weight-normalised convolution, (B, in, H, W) to (B, out, H / stride, W / stride).

    The kernel size is 1 or 3. A ``head``, whose outputs are a distribution's parameters, ignores
    autocast, and :func:`init_heads` sets its initialisation.
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
            # One pixel: a matrix product is cheaper to set up.
            return F.linear(x.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None]
        narrow = self.head and self.padding == 0 and x.shape[1] <= NARROW
        # Transforms of torch.func take no custom gradients.
        if narrow and x.device.type == "cpu" and not torch._C._are_functorch_transforms_active():
            out: Tensor = PixelProducts.apply(x, self.weight.flatten(1), self.bias)
            return out
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)


class PixelProducts(torch.autograd.Function):
    """A 1x1 convolution as one matrix product an image, its output with pixels innermost.

    Distributions read their parameters so. On a CPU it is up to twice as fast as a convolution
    whose outputs are no multiple of 16. The input's gradient keeps the input's layout, unlike
    autograd's, as operations on two layouts are slow.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(B, in, H, W), (out, in) and (out) to (B, out, H, W)."""
        ctx.save_for_backward(x, weight)
        out = torch.baddbmm(bias[:, None], weight.expand(len(x), -1, -1), x.flatten(2))
        return out.unflatten(2, x.shape[2:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__((in_channels, out_channels, 3, 3), 1)

    def linear(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.weight, self.bias, 2, padding=1, output_padding=1)


def init_heads(module: nn.Module, scale: float | Tensor, mean: float | Tensor = 0.0) -> None:
    """Set the standard deviation and mean of heads' outputs after initialisation."""
    for layer in module.modules():
        if isinstance(layer, WeightNormConv2d) and layer.head:
            layer.init_scale, layer.init_mean = scale, mean


@contextmanager
def initializing(module: nn.Module, scale: float = 0.01) -> Iterator[None]:
    """Let the next pass of data initialise new layers, hidden ones to outputs of ``scale``."""
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
    """Run compiled networks uncompiled: for a single pass compiling takes too long."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()  # nothing is compiled
    return torch.compiler.set_stance("force_eager")


def pays_to_merge(first: WeightNormConv2d, second: WeightNormConv2d, x: Tensor) -> bool:
    """Whether :func:`merged` costs fewer operations than ``second(first(x))``, of x (B, c, H, W).

    Never during initialisation, in which each layer has to see its own input.
    """
    if first.hidden_scale is not None:
        return False
    hidden, channels = first.direction.shape[:2]
    out = second.direction.shape[0]
    positions = x.shape[0] * x.shape[2] * x.shape[3]
    apart = (channels * hidden + 9 * hidden * out) * positions
    return 9 * channels * out * positions + 9 * channels * hidden * out < apart


def merged(first: WeightNormConv2d, second: WeightNormConv2d, x: Tensor) -> Tensor:
    """``second(first(x))`` by one 3x3 convolution, (B, c, H, W) to (B, out, H, W).

    The kernel is sum_m w3[:, m] w1[m], the bias b3 plus sum_m w3[:, m] b1[m] convolved with ones:
    padding has no inner bias.
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
    """The first bias's contribution through each of a pixel's 3x3 neighbours, (out, 9)."""
    w3 = second.weight
    flat = w3.permute(0, 2, 3, 1).reshape(-1, w3.shape[1])
    return (flat @ first.bias).reshape(w3.shape[0], 9)


@lru_cache(maxsize=16)  # one for each size of image in use
def _inside(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Whether each of a pixel's 3x3 neighbours lies within the image, 1 or 0, (H * W, 9)."""
    with torch.inference_mode(False):  # the tensor is cached and has to serve training too
        ones = torch.ones(1, 1, height, width, device=device)
        return F.unfold(ones, 3, padding=1)[0].T.to(dtype)
