"""Checkpoints: the best model for others, and everything needed to go on."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from srvae_pyro.errors import UserError
from srvae_pyro.files import write_whole

__all__ = ["LAST", "load_checkpoint", "random_state", "restore_random_state", "save_checkpoint"]

LAST = "last.ckpt"


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of PyTorch's random numbers on the CPU and on ``device``."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Go back to what :func:`random_state` found."""
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state``, tensors and plain containers, whole or not at all.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """

    def write(partial: Path) -> None:
        try:
            torch.save(state, partial)
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
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = (str(error).strip().splitlines() or ["it is empty"])[0]
        raise UserError(
            f"{path} is damaged or not a checkpoint of this program: {reason}"
        ) from None
