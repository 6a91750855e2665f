"""Checkpoints: the best model for others, and everything needed to go on."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from srvae_pyro.digest import digest
from srvae_pyro.errors import UserError
from srvae_pyro.files import write_whole

__all__ = [
    "LAST",
    "check_optimizer",
    "load_checkpoint",
    "random_state",
    "restore_random_state",
    "save_checkpoint",
]

LAST = "last.ckpt"


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of PyTorch's random numbers on the CPU and on ``device``."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Go back to what :func:`random_state` found; on a device that it was not on, as it is."""
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state``, tensors and plain containers, whole or not at all.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """

    content = {"digest": digest(state), "state": state}

    def write(partial: Path) -> None:
        try:
            torch.save(content, partial)
        except RuntimeError as error:  # PyTorch's writer has no other for a full disk
            raise OSError(str(error).strip().splitlines()[0]) from error

    write_whole(path, write)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote, on the CPU, without running code from the file.

    Raises:
        UserError: it is missing or damaged.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file, so there is nothing to resume; leave out --resume")
    damaged = f"{path} is damaged or not a checkpoint of this program"
    try:
        with warnings.catch_warnings(action="ignore"):  # of a strange pickle protocol
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
    """Whether an optimiser's state has the shapes of its parameters, which PyTorch does not check.

    Raises:
        ValueError: it does not.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, values in state["state"].items():
        if not (isinstance(number, int) and 0 <= number < len(parameters)):
            raise ValueError(f"its optimiser has a parameter {number!r}")
        for name, value in values.items():
            if (
                isinstance(value, Tensor)
                and value.dim()
                and value.shape != parameters[number].shape
            ):
                raise ValueError(f"its optimiser's {name} of parameter {number} has another shape")
