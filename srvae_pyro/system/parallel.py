"""Several processes that share a task, as torchrun starts them."""

from __future__ import annotations

import inspect
import itertools
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from srvae_pyro.config import Device
from srvae_pyro.errors import UserError
from srvae_pyro.system.device import choose_device, processes_here
from srvae_pyro.system.environment import in_group, number

T = TypeVar("T")
CPU = torch.device("cpu")
PATIENCE = timedelta(hours=2)  # the others wait while rank 0 validates
MEETING = timedelta(minutes=5)  # for all to find each other; then torchrun may start them anew
_groups = itertools.count()  # of this process
_c10d = dist.distributed_c10d
_set_timeout = getattr(_c10d, "set_timeout", None) or _c10d._set_pg_timeout  # before PyTorch 2.14


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a run; of a single one all methods are free."""

    rank: int = 0  # of this process; rank 0 writes files and prints
    size: int = 1
    device: torch.device = CPU  # of this process
    restarts: int = 0  # of the group, by torchrun

    def share(self, count: int) -> slice:
        """This process's contiguous part of ``count`` images, in the ranks' order."""
        if count < self.size:
            raise UserError(f"{count} images cannot be shared by {self.size} processes")
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    @property
    def main(self) -> bool:
        """Whether this is rank 0, which writes files."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        if self.size == 1:
            return values
        total = values.to(self.device, copy=True)  # NCCL sums on GPUs only
        dist.all_reduce(total)
        return total.to(values.device)

    def gather(self, value: T) -> list[T]:
        """Every process's value, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def joined(self, values: Tensor) -> Tensor:
        """Every process's values for its :meth:`share`, concatenated on the CPU."""
        return torch.cat(self.gather(values.cpu()))

    def broadcast(self, module: nn.Module) -> None:
        """Give every process rank 0's parameters and buffers of ``module``."""
        if self.size > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, 0)

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()

    def data_parallel(self, module: nn.Module, unused: bool = False) -> nn.Module:
        """``module`` with rank 0's parameters and gradients averaged over the processes.

        ``unused`` says that a step may leave parameters out.
        """
        if self.size == 1:
            return module
        devices = [self.device.index] if self.device.type == "cuda" else None
        known = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        # PyTorch 2.14 has another name for the first.
        options: Any = {name: False, "find_unused_parameters": unused}
        # Strides of kernels with one input channel differ in name only.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        return DistributedDataParallel(module, device_ids=devices, **options)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Rank 0 runs the block first, then the others; for downloads."""
        if not self.main:
            self.barrier()
        yield
        if self.main:
            self.barrier()


@contextmanager
def process_group(device: Device = "auto") -> Iterator[ProcessGroup]:
    """The group by torchrun's environment variables, or one process: NCCL on GPUs, gloo on CPUs."""
    chosen = choose_device(device)
    restarts = number("TORCHELASTIC_RESTART_COUNT", 0)
    if not in_group():
        if (size := os.environ.get("WORLD_SIZE")) not in (None, "", "1"):
            warnings.warn(
                f"WORLD_SIZE is {size}, but RANK, MASTER_ADDR or MASTER_PORT is missing or wrong: "
                "this process works alone; torchrun sets all four",
                stacklevel=1,
            )
        yield ProcessGroup(device=chosen, restarts=restarts)
        return
    if chosen.type == "cuda":
        count = torch.cuda.device_count()
        chosen = torch.device("cuda", number("LOCAL_RANK", number("RANK", 0) % count))
        if chosen.index >= count:
            raise UserError(
                f"LOCAL_RANK is {chosen.index}, and PyTorch sees {count} CUDA devices here: start "
                "as many processes on each machine, or use `device=cpu`"
            )
        torch.cuda.set_device(chosen)
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=MEETING))
    except dist.DistError:
        size, place = (os.environ[name] for name in ("WORLD_SIZE", "MASTER_ADDR"))
        raise UserError(
            f"WORLD_SIZE is {size}, but fewer processes connected within {MEETING} to {place}, "
            f"port {os.environ['MASTER_PORT']}: start them all, or unset WORLD_SIZE to work alone"
        ) from None
    # torchrun keeps one store through restarts, with the addresses of earlier processes. On several
    # machines the counts of restarts may differ (docs/how-to/several-devices.md).
    life = restarts if processes_here() == size else 0
    store = dist.PrefixStore(f"restart {life}, group {next(_groups)}", store)
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=MEETING)
    dist.barrier()
    _set_timeout(PATIENCE)
    group = ProcessGroup(rank, size, chosen)
    # Each machine counts its own restarts.
    yield replace(group, restarts=max(group.gather(restarts)))
    # Not after an error: processes would wait for each other.
    dist.destroy_process_group()
