"""A model and its images, or photographs of a folder, for the scripts that measure them."""

from __future__ import annotations

import argparse
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from srvae_pyro.data.image_files import find_images
from srvae_pyro.data.run_data import load_for
from srvae_pyro.data.splits import evenly_spaced_indices
from srvae_pyro.models import SRVAE, ImageModel, load
from srvae_pyro.models.restorer import Restorer
from srvae_pyro.runs import find_run, read_config

__all__ = [
    "evenly_spaced_files",
    "levels_of",
    "photographs_parser",
    "read_run",
    "restoring",
    "run_parser",
]


def run_parser(description: str | None, limit: int, what: str = "test images") -> ArgumentParser:
    """Flags for a run and how many images to measure it on."""
    parser = ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--data", default=None, help="default: what the run was trained on")
    parser.add_argument("--limit", type=int, default=limit, help=what)
    return parser


def read_run(options: argparse.Namespace) -> tuple[Path, ImageModel, Tensor]:
    """The folder, the model and all test images (N, C, H, W) of a :func:`run_parser`'s run."""
    folder = find_run(options.run)
    return folder, load(folder), load_for(read_config(folder), options.data, Path("data")).test


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
