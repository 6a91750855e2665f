"""Photographs of a folder, and the model, for the scripts that upscale them."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from srvae_pyro.data.image_files import find_images
from srvae_pyro.data.splits import evenly_spaced_indices
from srvae_pyro.models import SRVAE, load
from srvae_pyro.models.restorer import Restorer

__all__ = ["evenly_spaced_files", "levels_of", "photographs_parser", "restoring"]


def photographs_parser(description: str | None) -> argparse.ArgumentParser:
    """Flags for a folder of photographs and a run."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--photographs", required=True, type=Path, help="folder")
    parser.add_argument("--limit", type=int, default=10**6, help="of these, evenly spaced")
    parser.add_argument("--run", default="pretrained-photo")
    return parser


def restoring(run: str) -> tuple[SRVAE, Restorer]:
    """A run that was trained on damaged inputs, and its networks for these; exits if it was not."""
    model = load(run)
    if not isinstance(model, SRVAE) or model.restorer is None:
        raise SystemExit(f"{run} was not trained on damaged inputs")
    return model, model.restorer


def evenly_spaced_files(folder: Path, limit: int) -> list[Path]:
    """At most ``limit`` of the images in a folder, evenly from all."""
    files = find_images(folder)
    return [files[i] for i in evenly_spaced_indices(len(files), limit).tolist()]


def levels_of(image: Image.Image) -> Tensor:
    """uint8 levels (C, H, W)."""
    array = np.array(image)
    return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1).contiguous()
