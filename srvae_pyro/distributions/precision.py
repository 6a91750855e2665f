"""Likelihoods are computed in float32 or better, whatever precision the networks have."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

__all__ = ["at_least_float32", "without_autocast"]


def at_least_float32(parameter: Tensor) -> Tensor:
    """The tensor, converted to float32 if its precision is lower."""
    return parameter.to(torch.promote_types(parameter.dtype, torch.float32))


def without_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """A context in which operations on the tensor's device keep their precision."""
    device = tensor.device.type
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)
