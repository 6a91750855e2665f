"""The machine: device, precision, memory, threads, and streams of random numbers."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyro
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from srvae_pyro.config import Device, Precision
from srvae_pyro.errors import UserError
from srvae_pyro.system.console import print_line
from srvae_pyro.system.environment import OTHERS, allowed_cores, core_quota, in_group, number


def stream(*integers: int) -> np.random.Generator:
    """A generator whose numbers are unrelated to those of any other integers.

    They are a seed, numbers that distinguish streams of one kind, and the stream's purpose in
    letters: ``stream(seed, epoch, *b"order")``. Each is at least 0; zeros at the end do not count.
    128 bits reach the generator, of PyTorch's CPU generator only 32: its streams may coincide.
    """
    # NumPy concatenates the integers' words of 32 bits.
    words = [max(-(-int(n).bit_length() // 32), 1) for n in integers]
    lengths = words if max(words) > 1 else ()
    return np.random.default_rng(np.random.SeedSequence(integers, spawn_key=lengths))


def torch_seed(*integers: int) -> int:
    """A seed for a generator of PyTorch's, from :func:`stream`."""
    return int(stream(*integers).integers(2**63))


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of live tensors that operations have returned."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.total = 0
        self.peak = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else PyTorch imports torch._dynamo, which takes a second

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                key = storage._cdata
                if key not in self.live:
                    self.live[key] = storage.nbytes()
                    self.total += self.live[key]
                    weakref.finalize(storage, self._freed, key)
        self.peak = max(self.peak, self.total)
        return out

    def _freed(self, key: int) -> None:
        self.total -= self.live.pop(key, 0)


def peak_bytes(run: Callable[[], Any]) -> int:
    """The peak memory of tensors that operations in ``run()`` return."""
    with _LiveBytes() as counter:
        run()
    return counter.peak


EVERY = 1.0  # seconds between two choices of the number of threads
TOLD_EVERY = 60.0  # seconds between two lines about it
UNNOTICED = 0.25  # of a core used by others: ignored
DECIDED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # set PyTorch's number

# A container's limit: control groups of version 2 and 1.
MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def choose_device(name: Device = "auto") -> torch.device:
    """The device called ``name``; ``auto`` takes a GPU if there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = "" if given is None else f" (CUDA_VISIBLE_DEVICES is {given!r})"
        raise UserError(
            f"`device=cuda`: PyTorch sees no CUDA device here{why}; use `device=cpu` or auto"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def choose_precision(name: Literal["auto", Precision], device: torch.device) -> Precision:
    """``fp32`` or ``bf16``; ``auto`` takes bf16 where the device computes in it natively.

    Log-probabilities are float32 in either. fp32 lets CUDA use TF32 in convolutions, as PyTorch
    does by default.
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        native = any(getattr(torch.cpu, check, bool)() for check in checks)
    if name == "auto":
        return "bf16" if native else "fp32"
    if name == "bf16" and not native:
        warnings.warn(
            f"this {device.type} has no bfloat16 instructions: bf16 will be many times slower "
            "than `precision=fp32`",
            stacklevel=2,
        )
    return name


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The context in which networks compute in a precision; log-probabilities keep float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


class Threads:
    """The number of CPU threads: as many as other processes leave cores for.

    An operation's threads wait for the slowest, so a core shared with another process slows all
    (docs/explanation/performance.md).
    """

    def __init__(self) -> None:
        self.most = 0  # on an idle machine; 0 while nothing is chosen
        self.count = 0  # now
        self.others = math.nan  # cores that other processes used then; NaN if not known
        self._told, self._told_at = 0, -math.inf

    def follow(self) -> None:
        """Choose from now on, unless an environment variable has decided."""
        if not any(name in os.environ for name in DECIDED):
            self.most = self.count = math.ceil(min(torch.get_num_threads(), core_quota()))
            self.fit()

    def fix(self, count: int) -> None:
        """Use so many from now on; 0: as many as there are now."""
        self.most = 0
        if count:
            torch.set_num_threads(count)

    @contextmanager
    def fixed(self, count: int) -> Iterator[None]:
        most, before = self.most, torch.get_num_threads()
        self.fix(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)
            self.most = most

    def fit(self) -> None:
        """Choose anew if it is time; the thread that computes calls this often."""
        if self.most < 2:
            return
        if time.monotonic() - OTHERS.since >= EVERY and not math.isnan(others := OTHERS.look()):
            free = allowed_cores() - others
            self.others, self.count = others, min(max(int(free + UNNOTICED), 1), self.most)
        if torch.get_num_threads() != self.count:  # each of Python's threads has its own number
            torch.set_num_threads(self.count)
        due = time.monotonic() - self._told_at >= TOLD_EVERY
        if self.count != self._told and due and not math.isnan(self.others):
            self._told, self._told_at = self.count, time.monotonic()
            print_line(
                f"threads: {self.count} of {self.most}, as other processes use {self.others:.1f} "
                f"of {allowed_cores()} cores; --threads N fixes the number (last bits depend on it)"
            )


THREADS = Threads()


def start(
    device: torch.device,
    precision: Literal["auto", Precision] = "auto",
    *,
    threads: int = 0,
    keep_allocator: bool = False,
) -> Precision:
    """Set up a command's process: allocator, threads (0: chosen), no validation in Pyro.

    Returns the precision to compute in.
    """
    if device.type == "cpu" and not keep_allocator:
        tune_allocator()
    THREADS.fix(threads)
    if device.type == "cpu" and not threads:
        THREADS.follow()
    if not gc.isenabled():  # run_command's imports are never garbage
        gc.freeze()
        gc.enable()
    pyro.enable_validation(False)  # it costs time at every site
    return choose_precision(precision, device)


class _ExactFloat32:
    """Switches TF32 off for the first thread that asks, and on after the last."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.before = True

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Within it convolutions on CUDA do not round float32 to TF32."""
        with self.lock:
            if self.inside == 0:
                self.before = torch.backends.cudnn.allow_tf32
                torch.backends.cudnn.allow_tf32 = False
            self.inside += 1
        try:
            yield
        finally:
            with self.lock:
                self.inside -= 1
                if self.inside == 0:
                    torch.backends.cudnn.allow_tf32 = self.before


exact_float32 = _ExactFloat32()


@contextmanager
def seeded(*integers: int) -> Iterator[None]:
    """Within it PyTorch's global generators are seeded, see :func:`torch_seed`."""
    # Do not initialise an unused GPU.
    devices = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
    with torch.random.fork_rng(devices):
        for generator in (torch.default_generator, *torch.cuda.default_generators[: len(devices)]):
            generator.manual_seed(torch_seed(*integers))
        yield


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``; from CPU to GPU asynchronously."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)  # PyTorch keeps it until then
    return tensor.to(device)


def processes_here() -> int:
    """The number of torchrun's processes on this machine; 1 without it."""
    return max(number("LOCAL_WORLD_SIZE", 1), 1) if in_group() else 1


def process_cores() -> int:
    """This process's share of the CPU cores."""
    return allowed_cores() // processes_here()


def process_memory(limits: Sequence[Path] = MEMORY_LIMITS) -> float:
    """This process's share of the memory, in bytes."""
    try:
        memory: float = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not every system tells
        memory = math.inf
    for limit in limits:
        with contextlib.suppress(OSError, ValueError):  # "max" where there is none
            memory = min(memory, int(limit.read_bytes()))
    return memory / processes_here()


def tune_allocator() -> bool:
    """Make glibc keep large blocks instead of returning them to the system at once.

    Else large tensors are mapped and zeroed anew at each training step. On Linux with glibc only,
    for the whole process, whose memory then does not shrink; returns whether it was done.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4  # malloc.h
    settings = ((m_mmap_max, 0), (m_trim_threshold, 2**31 - 1), (m_top_pad, 64 << 20))
    return all([mallopt(name, value) == 1 for name, value in settings])


def wake_vector_math() -> None:
    """Call tanh in bfloat16 once, after which ELU in this process is several times faster.

    Measured on an AMD CPU with AVX-512 (docs/explanation/performance.md): until then PyTorch's
    vectorised expm1 takes six times as long. Elsewhere it has no effect.
    """
    torch.tanh(torch.zeros(32, dtype=torch.bfloat16, device="cpu"))
