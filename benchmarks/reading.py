"""Photographs of a folder, for the scripts that upscale them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from srvae_pyro.data.image_files import find_images
from srvae_pyro.data.splits import evenly_spaced_indices

__all__ = ["evenly_spaced_files", "levels_of"]


def evenly_spaced_files(folder: Path, limit: int) -> list[Path]:
    """At most ``limit`` of the images in a folder, evenly from all."""
    files = find_images(folder)
    return [files[i] for i in evenly_spaced_indices(len(files), limit).tolist()]


def levels_of(image: Image.Image) -> Tensor:
    """uint8 levels (C, H, W)."""
    array = np.array(image)
    return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1).contiguous()
