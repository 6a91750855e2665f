"""A CUDA device that is not there: tensors that claim to be on it, and what moves to and from it.

PyTorch's ``FakeTensorMode`` runs every operation on shapes, types, strides and devices, without
values and without a GPU, and raises where devices mix as CUDA would. What it cannot do by itself is
here: reads of values, which are counted and answered; and ``backward`` is in ``node_by_node``.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyro
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

from srvae_pyro.config import ModelConfig, Residual
from srvae_pyro.distributions import truncated, truncated_mixture
from srvae_pyro.models import ImageModel, make_model, transforms
from srvae_pyro.networks import layers as merging
from srvae_pyro.training import learner
from tests.builders import smallest
from tests.node_by_node import backward, grad

CUDA = torch.device("cuda")
CHANNELS_LAST = torch.channels_last
aten = torch.ops.aten
# The shape of what these give depends on values, so that the CPU has to wait for it.
SHAPED_BY_VALUES = (
    aten.nonzero,
    aten.masked_select,
    aten.unique_dim,
    aten._unique2,
    aten.repeat_interleave,
)
MOVES = (aten.copy_, aten._to_copy)
MIXED = {"aten.add"}  # which takes a scalar of the CPU's on CUDA too
INDEXING = (aten.index, aten.index_put, aten.index_put_)


def place() -> str:
    """The innermost function of the package that is running, as ``file.py:function``."""
    frames = (f for f in reversed(traceback.extract_stack()) if "/srvae_pyro/" in f.filename)
    frame = next(frames, None)
    return "" if frame is None else f"{frame.filename.rpartition('/')[2]}:{frame.name}"


class Waits(TorchDispatchMode):
    """Counts what makes the CPU wait for a device.

    Attributes:
        counts: by kind and :func:`place`: a ``read`` of a value; a copy ``to host``, or ``to
            device`` if it blocks or is not from pinned memory; a ``shape`` that depends on values.
        sent: copies to the device that nothing waits for.
        mixed: operations that had tensors of both devices, where PyTorch lets scalars be on the
            CPU: ``FakeTensorMode`` lets all operations have them, CUDA only some.
        scattered: convolutions whose inputs did not have their channels innermost, by
            :func:`place`. In bfloat16 without a GPU this says nothing: PyTorch then asks for a
            GPU's properties to tell the layout of a convolution's output, and gets none.
        output: what a value read of a fake tensor is.
        pinned: what was pinned.

    Args:
        device: of this type.
    """

    def __init__(self, device: str = "cuda") -> None:
        super().__init__()
        self.device = device
        self.counts: Counter[tuple[str, str]] = Counter()
        self.to_device = 0
        self.mixed: Counter[str] = Counter()
        self.scattered: Counter[str] = Counter()
        self.output: Any = 1
        self.pinned: list[Tensor] = []

    def taken(self) -> dict[tuple[str, str], int]:
        """The counts so far, which start anew."""
        counts = dict(self.counts)
        self.counts.clear()
        return counts

    def note(self, kind: str) -> None:
        self.counts[kind, place()] += 1

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        kind = func.overloadpacket
        if kind in MOVES:
            self.moved(func, args, kwargs)
        elif len({tensor.device.type for tensor in tensors_of(args)}) > 1:
            self.mixed[str(kind)] += 1
        if kind is aten.convolution and not args[0].is_contiguous(memory_format=CHANNELS_LAST):
            self.scattered[place()] += 1
        by_mask = kind in INDEXING and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if kind in SHAPED_BY_VALUES or by_mask:
            if args[0].device.type == self.device:
                self.note("shape")
            if kind is aten.index and isinstance(args[0], FakeTensor):
                return args[0].reshape(-1)[:1]  # as if the mask had one element
        if func is aten._local_scalar_dense.default:
            if args[0].device.type == self.device:
                self.note("read")
            if isinstance(args[0], FakeTensor) and args[0].constant is None:
                return python_type(args[0])(self.output)
        return func(*args, **kwargs)

    def moved(self, func: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """Count a copy from one device to another."""
        if func.overloadpacket is aten.copy_:
            target, source = args[0].device, args[1]
            non_blocking = len(args) > 2 and args[2]
        else:
            source, target = args[0], torch.device(kwargs.get("device") or args[0].device)
            non_blocking = kwargs.get("non_blocking", False)
        here, there = source.device.type, target.type
        if here == there or self.device not in (here, there):
            return
        if here == self.device:
            self.note("to host")
        elif non_blocking and any(source is pinned for pinned in self.pinned):
            self.to_device += 1
        else:
            self.note("to device")


def tensors_of(args: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among an operation's arguments."""
    for arg in args:
        if isinstance(arg, Tensor):
            yield arg
        elif isinstance(arg, list | tuple):
            yield from tensors_of(arg)


def python_type(tensor: Tensor) -> type:
    """The Python type of a tensor's values."""
    if tensor.dtype == torch.bool:
        return bool
    return float if tensor.is_floating_point() else int


def deepcopy(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    """``copy.deepcopy`` of a tensor; fake ones have no storage to copy."""
    copied = tensor.detach().clone()
    if isinstance(tensor, nn.Parameter):
        copied = nn.Parameter(copied, tensor.requires_grad)
    memo[id(tensor)] = copied
    return copied


def made_on_the_cpu(config: ModelConfig) -> ImageModel:
    """A model as it is before it is moved to a device: with all it has on the CPU."""
    with unset_fake_temporarily():
        return make_model(config)


class FakeCuda:
    """Within it, ``torch.device("cuda")`` can be computed on, without values.

    Several times, one after another: the tensors of one belong to no other's.

    Attributes:
        waits: what the CPU waits for.
        states: of the device's random generator, as they were set, with their device.
    """

    def __init__(self) -> None:
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.waits = Waits()
        self.states: list[tuple[Tensor, Any]] = []

    def model(self, config: ModelConfig) -> ImageModel:
        """A fresh model on the device."""
        return made_on_the_cpu(config).to(CUDA)

    def __enter__(self) -> Self:
        pyro.enable_validation(False)  # as in every command: its checks read values
        self.stack = ExitStack()
        patch = self.stack.enter_context(pytest.MonkeyPatch.context())
        for owner, attributes in self.patches().items():
            for name, value in attributes.items():
                patch.setattr(owner, name, value)
        for cache in (merging._inside, transforms._triangle):  # fake tensors must not get out
            cache.cache_clear()
            self.stack.callback(cache.cache_clear)
        for mode in (self.mode, self.waits):
            self.stack.enter_context(mode)
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def patches(self) -> dict[Any, dict[str, Any]]:
        """What asks PyTorch for values, or for a GPU, and what it gets, by owner and name."""
        waits = self.waits

        def pin_memory(tensor: Tensor) -> Tensor:
            waits.pinned.append(tensor.clone())
            return waits.pinned[-1]

        def tolist(tensor: Tensor) -> Any:
            if tensor.device.type == "cuda":
                waits.note("read")
            return np.full(tuple(tensor.shape), python_type(tensor)(waits.output)).tolist()

        def numpy(tensor: Tensor) -> np.ndarray:
            assert tensor.device.type == "cpu", "NumPy cannot have a GPU's memory"
            values = np.linspace(0, 1, tensor.numel()).reshape(tuple(tensor.shape))
            return values.astype(str(tensor.dtype).removeprefix("torch."))

        return {
            Tensor: {"backward": backward, "pin_memory": pin_memory, "__deepcopy__": deepcopy},
            FakeTensor: {
                "tolist": tolist,
                "numpy": numpy,
                "__format__": lambda tensor, form: format(tensor.item(), form),
            },
            torch.autograd: {"grad": grad},
            learner: {"make_model": made_on_the_cpu},
            # Of loops that repeat the same operations.
            truncated: {"NODES": 1},
            truncated_mixture: {"STRIPS": 1},
            torch.cuda.amp.common: {"amp_definitely_not_available": lambda: False},
            torch.cuda: {
                "is_bf16_supported": lambda *_, **__: True,
                "get_rng_state": lambda device: torch.zeros(16, dtype=torch.uint8),
                "set_rng_state": lambda state, device: self.states.append((state, device)),
            },
        }


# The models that are run on it.


@dataclass
class Kind:
    """A kind of model, and how it is trained."""

    model: dict[str, Any]
    training: dict[str, Any]
    accumulate: int = 1


GROUPS: dict[str, Any] = {
    "d": "average2",
    "likelihood": "groups",
    "latent_likelihood": "pyramid",
    "u_stages": 1,
    "p_u": "standard",
}
KINDS = {
    "srvae": Kind({"stages": 1, "guide_z_sees_y": True, "p_u": "mixture"}, {}),
    "groups": Kind(GROUPS, {"analytic_kl": True}),
    "restorer": Kind({**GROUPS, "restorer": Residual(2, 1)}, {}),
    "vae": Kind({"model": "vae", "stages": 1, "p_u": "realnvp"}, {}),
    # The least, for what is of no kind in particular.
    "least": Kind({"model": "vae", "stages": 1, "p_u": "standard"}, {}, accumulate=2),
}


def config_of(name: str) -> ModelConfig:
    residual = dict.fromkeys(("pyramid", "groups"), Residual(2, 1))
    return smallest(pyramid_channels=3, **residual, **KINDS[name].model)
