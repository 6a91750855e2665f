"""Checkpoint files, with checksums."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from srvae_pyro.errors import UserError
from srvae_pyro.runs import CONFIG
from srvae_pyro.system.files import digest, write_whole

LAST = "last.ckpt"


def can_resume(folder: Path) -> bool:
    """Whether a run's folder has settings and a checkpoint."""
    return (folder / CONFIG).is_file() and (folder / LAST).is_file()


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state``, tensors and plain containers, whole or not at all."""
    content = {"digest": digest(state), "state": state}

    def write(partial: Path) -> None:
        try:
            torch.save(content, partial)
        except RuntimeError as error:  # what PyTorch's writer raises on a full disk
            raise OSError(str(error).strip().splitlines()[0]) from error

    write_whole(path, write)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU, without running code from it."""
    if not path.exists():
        raise UserError(f"{path}: no such file, so there is nothing to resume; leave out `resume`")
    damaged = f"{path} is damaged or not a checkpoint of this program"
    try:
        with warnings.catch_warnings(action="ignore"):  # about the pickle protocol
            content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes the reader raise almost anything
        reason = (str(error).strip().splitlines() or ["it is empty"])[0]
        raise UserError(f"{damaged}: {reason}") from None
    if not (isinstance(content, dict) and {"digest", "state"} <= set(content)):
        raise UserError(f"{damaged}: it holds something else")
    try:
        intact = content["digest"] == digest(content["state"])
    except (TypeError, RecursionError, RuntimeError):
        intact = False
    if not intact:
        raise UserError(f"{damaged}: its content is not what was written")
    state: dict[str, Any] = content["state"]
    return state


def check_optimizer(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """A ValueError if an optimiser's state has other shapes, which PyTorch does not check."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, values in state["state"].items():
        if not (isinstance(index, int) and 0 <= index < len(parameters)):
            raise ValueError(f"its optimiser has a parameter {index!r}")
        for name, value in values.items():
            if isinstance(value, Tensor) and value.dim() and value.shape != parameters[index].shape:
                raise ValueError(f"its optimiser's {name} of parameter {index} has another shape")
