"""The memory layout that networks work in: channels innermost, faster on CPUs and GPUs."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["channels_last", "channels_last_on_gpus"]

MEMORY_FORMAT = torch.channels_last


def channels_last(x: Tensor) -> Tensor:
    """x (B, C, H, W) with its channels innermost; a copy only where they are not yet.

    x itself within transforms of ``torch.func``, whose ``vmap`` knows no such layout.
    """
    if torch._C._are_functorch_transforms_active():
        return x
    x = x.contiguous(memory_format=MEMORY_FORMAT)
    if len(x) > 1 or x.device.type == "cpu" or MEMORY_FORMAT is not torch.channels_last:
        return x
    # The stride from image to image says nothing of a single one, but operations tell the layout
    # by it, and would go on with channels outermost: it is set as if there were several.
    _, channels, height, width = x.shape
    flat = x.permute(0, 2, 3, 1).reshape(-1)
    return flat.view(1, height, width, channels).permute(0, 3, 1, 2)


def channels_last_on_gpus(x: Tensor) -> Tensor:
    """The same, but x itself on a CPU.

    Where it makes no difference in speed there, but would in the last bits of what earlier versions
    have drawn.
    """
    return x if x.device.type == "cpu" else channels_last(x)
