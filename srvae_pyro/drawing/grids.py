"""Pictures in rows, and how they are written."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from srvae_pyro.files import write_whole

__all__ = ["grid", "save_picture", "side_by_side"]


def grid(images: Tensor, columns: int, scale: int = 2, gap: int = 2) -> Tensor:
    """Pictures (N, C, H, W) in [0, 1] in rows of ``columns``, enlarged: (3, height, width).

    Args:
        images: the pictures.
        columns: pictures a row.
        scale: each pixel becomes a square of so many pixels.
        gap: white pixels between pictures.
    """
    from torchvision.utils import make_grid  # takes seconds to import

    images = images.detach().float().cpu()
    images = F.interpolate(images, scale_factor=scale, mode="nearest")
    return make_grid(images, nrow=columns, padding=gap, pad_value=1.0)


def side_by_side(y: Tensor, x: Tensor) -> Tensor:
    """Each y (N, c, h, w), enlarged to x's size, before its x (N, C, H, W): (2N, C, H, W)."""
    y = F.interpolate(y, size=x.shape[-2:], mode="nearest")
    y = y.expand(-1, x.shape[1], -1, -1)
    return torch.stack([y, x], dim=1).flatten(0, 1)


def save_picture(picture: Tensor, path: Path) -> None:
    """Write a picture (C, H, W) in [0, 1] as PNG, whole or not at all."""
    from torchvision.utils import save_image  # takes seconds to import

    write_whole(path, lambda partial: save_image(picture, partial))
