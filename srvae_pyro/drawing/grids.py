"""Pictures in rows, and how they are written."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from srvae_pyro.system.files import write_whole

__all__ = ["grid", "save_picture", "side_by_side"]


def grid(images: Tensor, columns: int, scale: int = 2, gap: int = 2) -> Tensor:
    """Pictures (N, C, H, W) in [0, 1] in rows of ``columns``, enlarged: (3, height, width).

    Args:
        images: the pictures.
        columns: pictures a row.
        scale: each pixel becomes a square of so many pixels.
        gap: white pixels between pictures.
    """
    # By hand: torchvision's make_grid does the same, and takes seconds to import.
    images = images.detach().float().cpu().expand(-1, 3, -1, -1)
    images = F.interpolate(images, scale_factor=scale, mode="nearest")
    count = len(images)
    if count == 1:
        return images[0]
    columns = min(columns, count)
    cells = F.pad(images, (gap, 0, gap, 0, 0, 0, 0, -count % columns), value=1.0)
    rows = cells.unflatten(0, (-1, columns)).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)
    return F.pad(rows, (0, gap, 0, gap), value=1.0)


def side_by_side(y: Tensor, x: Tensor) -> Tensor:
    """Each y (N, c, h, w), enlarged to x's size, before its x (N, C, H, W): (2N, C, H, W)."""
    y = F.interpolate(y, size=x.shape[-2:], mode="nearest")
    y = y.expand(-1, x.shape[1], -1, -1)
    return torch.stack([y, x], dim=1).flatten(0, 1)


def save_picture(picture: Tensor, path: Path) -> None:
    """Write a picture (C, H, W) in [0, 1] as PNG, whole or not at all."""
    levels = picture.detach().mul(255).add_(0.5).clamp_(0, 255).to("cpu", torch.uint8)
    image = Image.fromarray(levels.expand(3, -1, -1).permute(1, 2, 0).numpy())
    write_whole(path, image.save)
