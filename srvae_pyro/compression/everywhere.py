"""Float64 arithmetic that gives the same bits on every machine.

Libraries differ in two things: the order in which they add, and the last bits of functions such as
exp. So a matrix product, a convolution, an ELU or a softmax has other last bits with other
instructions, and these may make other tables of probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from srvae_pyro.compression import exact
from srvae_pyro.errors import UserError

__all__ = ["SameEverywhere"]

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
    "exp": exact.exp,
    "elu": exact.elu,
    "sigmoid": exact.sigmoid,
    "tanh": exact.tanh,
    "log": exact.log,
    "pow": exact.power,
    "sum": exact.total,
    "mean": exact.mean,
    "norm": exact.norm,
    "_softmax": exact.softmax,
    "_log_softmax": exact.log_softmax,
    "logsumexp": exact.logsumexp,
    "_weight_norm_interface": exact.weight_norm,
    "convolution": exact.convolution,
    "mm": exact.matrix_product,
    "mv": exact.matrix_product,
    "addmm": exact.added_product,
    "baddbmm": exact.added_products,
    "upsample_bilinear2d": exact.bilinear,
}


class SameEverywhere(TorchDispatchMode):
    """Within it operations on float64 tensors give the same bits on every machine.

    Those that would not are done otherwise, about as exactly, and those for which there is no such
    way are refused. Whole numbers are exact in any case.

    Raises:
        UserError: by an operation for which there is no such way.

    Example:
        >>> import torch
        >>> x = torch.linspace(-3, 3, 7, dtype=torch.float64)
        >>> with torch.no_grad(), SameEverywhere():
        ...     y = torch.nn.functional.elu(x)
        >>> torch.allclose(y, torch.nn.functional.elu(x), rtol=0, atol=1e-12)
        True
    """

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
        """Within it, within the mode, nothing is done otherwise: for what is the same as it is."""
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()


def _operation(function: Any) -> Operation | None:
    """What stands for one of PyTorch's operations on floats; None for itself."""
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
        f"compress has no arithmetic that is the same everywhere for {function}: "
        "take --arithmetic fp32"
    )


def _added(function: Any, first: Any, second: Any, alpha: Any = 1) -> Any:
    """A sum or a difference, in which no product is hidden."""
    return function(first, second if alpha == 1 else second * alpha)


def _divided(function: Any, first: Any, second: Any) -> Any:
    """A quotient. A GPU would divide by a number of the host's by multiplying with its inverse."""
    if isinstance(first, Tensor) and first.device.type == "cuda":
        same = isinstance(second, Tensor) and second.device == first.device
        second = second if same else first.new_full((1,), float(second))
    return function(first, second)


def _has_floats(args: Sequence[Any]) -> bool:
    """Whether a tensor of floating-point numbers is among the arguments, or within a list there."""
    for argument in args:
        if isinstance(argument, Tensor):
            if argument.is_floating_point():
                return True
        elif isinstance(argument, list | tuple) and _has_floats(argument):
            return True
    return False
