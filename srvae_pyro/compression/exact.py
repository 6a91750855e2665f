"""Functions and sums of products that have the same bits on every machine; float64.

Functions are made of additions, multiplications and divisions, which IEEE 754 rounds alike
everywhere. Products are of numbers on grids so coarse that every partial sum is exact in 53 bits,
in any order. Arguments are those of PyTorch's operations.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from decimal import Context, Decimal
from functools import lru_cache, partial
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor
from torch.backends import cudnn
from torch.utils._python_dispatch import TorchDispatchMode

from srvae_pyro import __version__
from srvae_pyro.errors import UserError
from srvae_pyro.system.device import THREADS, exact_float32

DIGITS = 52  # of an exact sum; one is left for its sign
WEIGHT_DIGITS = 21  # of the weights of a map, which leaves about as many for what it is applied to
MOST_DIGITS = 400  # after the point, of numbers however small
BILINEAR_DIGITS = 32  # after the point, of an image in [0, 1] that is upscaled
REACH = 700  # of exponents: exp(-700) is far below what counts
PARTS = 256  # of the table of exp, a unit; a polynomial does the rest
LOG_TERMS = 12  # of the series of log, for 53 bits
LOG_2 = 0.6931471805599453
CHUNK = 1 << 15  # values at a time, as many as stay near the processor


@lru_cache(maxsize=4)
def _table(device: torch.device) -> Tensor:
    """exp(-n / PARTS) for n = 0 .. REACH * PARTS, from digits that are right everywhere."""
    precise = Context(prec=25)

    def powers(count: int, step: int) -> Tensor:
        values = [float(precise.exp(Decimal(-n) / step)) for n in range(count)]
        return torch.tensor(values, dtype=torch.float64)

    return (powers(REACH + 1, 1).unsqueeze(1) * powers(PARTS, PARTS)).flatten().to(device)


def exp_of_negative(x: Tensor) -> Tensor:
    """exp(x) of x <= 0, to twelve digits; constant below -REACH."""
    parts = x.reshape(-1).split(CHUNK)
    return torch.cat([_exp_of_chunk(part) for part in parts]).reshape(x.shape)


def _exp_of_chunk(x: Tensor) -> Tensor:
    steps = x.clamp(-REACH, 0).mul_(-PARTS)
    whole = steps.round()
    rest = whole - steps  # of a step, -1/2 .. 1/2, exact
    value = rest * (1 / (6 * PARTS**3))
    value.add_(1 / (2 * PARTS**2)).mul_(rest).add_(1 / PARTS).mul_(rest).add_(1)
    place = whole.long().clamp_(0, REACH * PARTS)  # there is one for what is not finite as well
    return value.mul_(_table(x.device)[place])


def exp(x: Tensor) -> Tensor:
    value = exp_of_negative(-x.abs())
    return torch.where(x > 0, 1 / value, value)


def elu(x: Tensor, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Tensor:
    if (alpha, scale, input_scale) != (1, 1, 1):
        raise UserError("compress supports ELU with alpha 1 only")
    return x.clamp_min(0) + (exp_of_negative(x.clamp_max(0)) - 1)


def sigmoid(x: Tensor) -> Tensor:
    tail = exp_of_negative(-x.abs())
    return torch.where(x > 0, torch.ones_like(x), tail) / (1 + tail)


def tanh(x: Tensor) -> Tensor:
    tail = exp_of_negative(-2 * x.abs())
    return x.sign() * ((1 - tail) / (1 + tail))


def log(x: Tensor) -> Tensor:
    """Of positive x, by log((1 + s) / (1 - s)) = 2 (s + s^3 / 3 + ...)."""
    mantissa, exponent = torch.frexp(x)
    small = mantissa < math.sqrt(0.5)
    mantissa = torch.where(small, 2 * mantissa, mantissa)
    exponent = exponent.double() - small.double()
    s = (mantissa - 1) / (mantissa + 1)
    square = s * s
    series = torch.full_like(s, 1 / (2 * LOG_TERMS + 1))
    for term in reversed(range(LOG_TERMS)):
        series = series * square + 1 / (2 * term + 1)
    return exponent * LOG_2 + 2 * (s * series)


def power(x: Tensor, exponent: float) -> Tensor:
    if exponent != 2:
        raise UserError(f"compress cannot compute x^{exponent} identically on every machine")
    return x * x


def total(
    x: Tensor, dims: Sequence[int] | None = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    """The sum over dimensions, in pairs of pairs, whatever the machine."""
    wanted = sorted(dim % x.dim() for dim in (dims or range(x.dim())))
    rest = x.movedim(wanted, list(range(-len(wanted), 0))).flatten(-len(wanted))
    while rest.shape[-1] > 1:
        half = rest.shape[-1] // 2
        pairs = rest[..., :half] + rest[..., half : 2 * half]
        odd = rest[..., 2 * half :]
        rest = torch.cat([pairs, odd], -1) if odd.shape[-1] else pairs
    out = rest.sum(-1) if not rest.shape[-1] else rest[..., 0]  # of none, 0
    for dim in wanted if keepdim else ():
        out = out.unsqueeze(dim)
    return out


def mean(
    x: Tensor, dims: Sequence[int] | None = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    summed = total(x, dims, keepdim)
    return summed / (x.numel() // max(summed.numel(), 1))


def softmax(x: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    shares = exp_of_negative(x - x.amax(dim, keepdim=True))
    return shares / total(shares, [dim], keepdim=True)


def logsumexp(x: Tensor, dims: Sequence[int], keepdim: bool = False) -> Tensor:
    largest = x.amax(list(dims), keepdim=True)
    result = largest + log(total(exp_of_negative(x - largest), dims, keepdim=True))
    return result if keepdim else result.squeeze(tuple(dims))


def log_softmax(x: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    return x - logsumexp(x, [dim], keepdim=True)


def norm(x: Tensor, p: float | None, dims: Sequence[int], keepdim: bool = False) -> Tensor:
    if p not in (2, None):
        raise UserError(f"compress cannot compute a norm of order {p} identically on every machine")
    return total(x * x, dims, keepdim).sqrt()


def weight_norm(direction: Tensor, gain: Tensor, dim: int = 0) -> tuple[Tensor, Tensor]:
    others = [other for other in range(direction.dim()) if other != dim % direction.dim()]
    length = norm(direction, 2, others, keepdim=True)
    return direction * (gain / length), length


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Tensor:
    output_dim = 1 if transposed else 0
    shape = (stride, padding, dilation, transposed, output_padding, groups)

    def apply(x: Tensor, weight: Tensor) -> Tensor:
        out: Tensor = torch.ops.aten.convolution(x, weight, None, *shape)
        return out

    # cuDNN may transform a convolution, and then its partial sums are others.
    with cudnn.flags(enabled=False) if x.device.type == "cuda" else nullcontext():
        out = _exact_product(apply, x, weight, output_dim)
    return out if bias is None else out.add_(bias.reshape(-1, 1, 1))


def matrix_product(a: Tensor, b: Tensor) -> Tensor:
    return _exact_product(torch.matmul, a, b, 1 if b.dim() > 1 else None)


def added_product(added: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    if (beta, alpha) != (1, 1):
        raise UserError("compress cannot compute this product identically on every machine")
    return matrix_product(a, b) + added


def added_products(
    added: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    pairs = zip(a, b, strict=True)
    return torch.stack([added_product(added, *pair, beta=beta, alpha=alpha) for pair in pairs])


def bilinear(x: Tensor, size: Any, align_corners: bool, *scales: Any) -> Tensor:
    """For upscaling by powers of two, whose weights have few digits."""
    ratios = [wide / narrow for wide, narrow in zip(size, x.shape[-2:], strict=True)]
    if align_corners or any(math.frexp(ratio)[0] != 0.5 for ratio in ratios):
        raise UserError("compress supports bilinear filters only for powers of two")
    rounded = _scaled(x, BILINEAR_DIGITS).round_()
    return _scaled(torch.ops.aten.upsample_bilinear2d(rounded, size, False), -BILINEAR_DIGITS)


def _exact_product(
    apply: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor, output_dim: int | None
) -> Tensor:
    """A bilinear map of both, rounded to grids; ``output_dim`` is a dimension of ``weight``."""
    if not (x.numel() and weight.numel()):
        return apply(x, weight)
    weight_digits = min(WEIGHT_DIGITS - _exponent(weight.abs().amax()), MOST_DIGITS)
    weight = _scaled(weight, weight_digits).round_()
    # Of whole numbers below 2^21, so exact in any order.
    others = [dim for dim in range(weight.dim()) if dim != output_dim]
    most = _exponent(weight.abs().sum(others).amax())
    digits = min(DIGITS - most - _exponent(x.abs().amax()), MOST_DIGITS)
    return _scaled(apply(_scaled(x, digits).round_(), weight), -digits - weight_digits)


def _exponent(value: Tensor) -> int:
    """The least n with value < 2^n; 0 of 0."""
    number = value.item()
    if not math.isfinite(number):
        raise ValueError("its networks' outputs are not finite")
    return math.frexp(number)[1]


def _scaled(x: Tensor, exponent: int) -> Tensor:
    return x * math.ldexp(1.0, exponent)


@contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """One thread and deterministic kernels: sums in several threads are in several orders."""
    # Not use_deterministic_algorithms, which imports torch._dynamo: that takes a second.
    deterministic = torch.get_deterministic_debug_mode()
    benchmark = torch.backends.cudnn.benchmark
    try:
        if device.type == "cuda":  # on CPUs it would fill new tensors, and change nothing
            torch.set_deterministic_debug_mode("warn")
        torch.backends.cudnn.benchmark = False
        with THREADS.fixed(1), exact_float32():
            yield
    finally:
        torch.set_deterministic_debug_mode(deterministic)
        torch.backends.cudnn.benchmark = benchmark


def machine(device: torch.device) -> dict[str, str]:
    """What may decide about last bits here."""
    cuda = device.type == "cuda"
    return {
        "srvae_pyro": __version__,
        "torch": str(torch.__version__),
        "constriction": version("constriction"),
        "numpy": version("numpy"),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "threads": "1",
    }


def differences(made: dict[str, str], here: dict[str, str]) -> str:
    """What differs between two machines, for a message."""
    parts = [
        f"{name} {made.get(name, 'unknown')} there and {value} here"
        for name, value in here.items()
        if made.get(name) != value
    ]
    return ", ".join(parts)


# PyTorch's operations that IEEE 754 rounds in one way, or that do not round.
ROUNDED_ALIKE = """
    abs alias all amax amin any argmax as_strided bitwise_not cat ceil clamp clamp_max clamp_min
    clone constant_pad_nd copy detach empty_like eq equal expand fill flip floor full_like
    gather ge gt im2col index index_put index_select is_same_size _is_all_true isfinite isnan le
    lift_fresh _local_scalar_dense lt masked_fill masked_scatter masked_select max maximum min
    minimum mul ne neg new_empty new_full new_zeros ones_like permute pixel_shuffle pixel_unshuffle
    promote_types reciprocal repeat replication_pad2d _reshape_alias round rsub scatter select sign
    slice split split_with_sizes sqrt squeeze stack t _to_copy transpose trunc unbind unfold
    _unsafe_view unsqueeze upsample_nearest2d view where zero zeros_like
"""
SAME = frozenset(ROUNDED_ALIKE.split())
Operation = Callable[..., Any]
INSTEAD: dict[str, Operation] = {
    "exp": exp,
    "elu": elu,
    "sigmoid": sigmoid,
    "tanh": tanh,
    "log": log,
    "pow": power,
    "sum": total,
    "mean": mean,
    "norm": norm,
    "_softmax": softmax,
    "_log_softmax": log_softmax,
    "logsumexp": logsumexp,
    "_weight_norm_interface": weight_norm,
    "convolution": convolution,
    "mm": matrix_product,
    "mv": matrix_product,
    "addmm": added_product,
    "baddbmm": added_products,
    "upsample_bilinear2d": bilinear,
}


class SameEverywhere(TorchDispatchMode):
    """Makes float64 operations give the same bits on every machine, or refuses them."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[Any, Operation | None] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and to say so for each operation takes long

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function not in self.known:
            self.known[function] = _operation(function)
        operation = self.known[function]
        if operation is None or not _has_floats(args):
            return function(*args, **(kwargs or {}))
        return operation(*args, **(kwargs or {}))

    @contextmanager
    def paused(self) -> Iterator[None]:
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()


def _operation(function: Any) -> Operation | None:
    """The replacement of one of PyTorch's operations on floats; None: itself."""
    name = function.overloadpacket.__name__
    plain = name.rstrip("_")
    if plain in ("add", "sub"):
        return partial(_added, function)
    if plain == "div":
        return partial(_divided, function)
    if plain in SAME:
        return None
    if plain not in INSTEAD:
        return partial(_refused, function)
    return partial(_in_place, INSTEAD[plain]) if name.endswith("_") else INSTEAD[plain]


def _in_place(operation: Operation, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return x.copy_(operation(x, *args, **kwargs))


def _refused(function: Any, *args: Any, **kwargs: Any) -> Tensor:
    raise UserError(
        f"compress cannot compute {function} identically on every machine: use --arithmetic fp32"
    )


def _added(function: Any, first: Any, second: Any, alpha: Any = 1) -> Any:
    """A sum or a difference without a hidden product."""
    return function(first, second if alpha == 1 else second * alpha)


def _divided(function: Any, first: Any, second: Any) -> Any:
    """A quotient. A GPU would divide by a number of the host's by multiplying with its inverse."""
    if isinstance(first, Tensor) and first.device.type == "cuda":
        same = isinstance(second, Tensor) and second.device == first.device
        second = second if same else first.new_full((1,), float(second))
    return function(first, second)


def _has_floats(args: Sequence[Any]) -> bool:
    for argument in args:
        if isinstance(argument, Tensor):
            if argument.is_floating_point():
                return True
        elif isinstance(argument, list | tuple) and _has_floats(argument):
            return True
    return False
