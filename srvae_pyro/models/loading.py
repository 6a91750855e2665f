"""Weights of runs for models that are there, and whether they suit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from srvae_pyro.errors import UserError
from srvae_pyro.runs import WEIGHTS, find_run, read_weights
from srvae_pyro.system.digest import digest

__all__ = ["load_weights", "read_state", "weights_digest"]


def weights_digest(model: nn.Module) -> str:
    """A hash by which a model's weights are known again, in what is kept of results."""
    return digest(dict(sorted(model.state_dict().items())))


class _WithoutWeights(TorchFunctionMode):
    """Within it random weights are on the meta device: of models that are made for their shapes.

    Not all tensors, as most functions on that device import ``torch._dynamo``, which takes longer
    than loading a model.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.randn:
            return torch.empty(*args, **{**(kwargs or {}), "device": "meta"})
        return func(*args, **(kwargs or {}))


def read_state(path: Path, fresh: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """The weights in a file.

    Args:
        path: of the weights.
        fresh: makes a model that they should suit.

    Raises:
        ValueError: they are damaged or of another model.
    """
    state = read_weights(path)
    with _WithoutWeights():  # before memory is taken for them
        wanted = fresh().state_dict()
    for kind, names in (("missing", set(wanted) - set(state)), ("extra", set(state) - set(wanted))):
        if names:
            some = ", ".join(sorted(names)[:3])
            raise ValueError(f"{len(names)} tensors are {kind}, such as {some}")
    for name, tensor in wanted.items():
        there = state[name]
        # Weights may be stored in another precision.
        if there.shape != tensor.shape or there.is_floating_point() != tensor.is_floating_point():
            was, now = tuple(tensor.shape), tuple(there.shape)
            raise ValueError(f"{name} is {there.dtype} {now}, not {tensor.dtype} {was}")
        if not there.isfinite().all():
            raise ValueError(f"{name} has values that are not finite")
    return state


def load_weights(model: Any, run: str | Path) -> None:
    """Give a model the weights of a run with the same networks, whatever its images' size.

    Args:
        model: a ``SRVAE`` or ``VAE``.
        run: a run's folder, its name under ``runs/``, or a Hub id.

    Raises:
        UserError: there is no such run, or its networks are others.
    """
    path = find_run(run) / WEIGHTS
    try:
        model.load_state_dict(read_state(path, lambda: type(model)(model.config)))
    except (RuntimeError, ValueError, OSError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"the weights of {run} do not suit: {reason}") from None
