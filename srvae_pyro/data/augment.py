"""Augmentation: random flips and shifts of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from srvae_pyro.system.device import to_device


def augment(images: Tensor, generator: torch.Generator, shift: bool = True) -> Tensor:
    """Flip each image left to right with probability 1/2 and shift it by up to 5% of its size.

    Shifts are whole pixels, uniform in each direction, at most ``size // 20`` (1 pixel at 32); the
    edge is repeated into the gap. The whole batch is one gather on its own device. The generator is
    on the CPU, so that a run resumed from its state draws the same on any device.
    """
    count, channels, height, width = images.shape
    flip = torch.randint(0, 2, (count,), generator=generator)
    most_down, most_right = (height // 20, width // 20) if shift else (0, 0)
    down = torch.randint(-most_down, most_down + 1, (count,), generator=generator)
    right = torch.randint(-most_right, most_right + 1, (count,), generator=generator)
    # One copy to the device instead of three.
    flip, down, right = to_device(torch.stack([flip, down, right])[:, :, None], images.device)

    rows = (torch.arange(height, device=images.device) - down).clamp(0, height - 1)  # (B, H)
    columns = (torch.arange(width, device=images.device) - right).clamp(0, width - 1)  # (B, W)
    columns = torch.where(flip.bool(), width - 1 - columns, columns)
    batch = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[:, None, None]
    return images[batch, channel, rows[:, None, :, None], columns[:, None, None, :]].contiguous()
