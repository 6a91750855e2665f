"""Crops of the colour photographs that come with scikit-image: a data set without a network."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from srvae_pyro.data.pictures import read_picture
from srvae_pyro.data.splits import DataSplits
from srvae_pyro.errors import UserError
from srvae_pyro.streams import stream

__all__ = ["COUNTS", "PHOTOGRAPHS", "Region", "load_photos", "regions"]

# Files of the wheel itself, the others are downloaded at first use; of the stereo pair one.
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
COUNTS = {"train": 8000, "val": 1000, "test": 1000}
MOST_SHRUNK = 4.0  # a crop shows at most so many times its own size of the photograph


class Region(NamedTuple):
    """A rectangle of pixels; right and bottom are the first outside, as Pillow's boxes."""

    left: int
    top: int
    right: int
    bottom: int


def regions(width: int, height: int, number: int) -> dict[str, Region]:
    """Which part of photograph ``number`` each split sees; no pixel belongs to two.

    Train has the left three quarters; validation and test the upper and the lower half of the
    rest, in turns from one photograph to the next, so that neither has all the skies.
    """
    across, down = width - width // 4, height // 2
    upper = Region(across, 0, width, down)
    lower = Region(across, down, width, height)
    val, test = (upper, lower) if number % 2 == 0 else (lower, upper)
    return {"train": Region(0, 0, across, height), "val": val, "test": test}


def load_photos(
    *,
    image_size: int | None = None,
    channels: int = 3,
    seed: int = 0,
    limit: int | None = None,
) -> DataSplits:
    """8,000 crops to train on, 1,000 to validate and 1,000 to test, 32x32 unless said otherwise.

    Five photographs, each cut into three regions first (:func:`regions`). A crop is a random square
    of a region, of 1 to 4 times ``image_size`` and evenly so on a log scale, made smaller with an
    antialiasing filter: the pixels of a photograph as they are would show smooth surfaces and
    little else. Crops of one split overlap.

    Args:
        image_size: of the crops, in pixels.
        channels: 3, or 1 for luma.
        seed: of the crops' places; the regions do not depend on it.
        limit: keep the first so many of each split; only those are made.

    Raises:
        UserError: ``image_size`` is too large for the photographs, or they are not there.
    """
    size = image_size or 32
    photographs = [read_picture(_path(name), channels) for name in PHOTOGRAPHS]
    parts = [regions(*photo.size, i) for i, photo in enumerate(photographs)]
    # What fits in the smallest region is taken from every one: the splits show the same scales.
    shortest = [min(min(r.right - r.left, r.bottom - r.top) for r in p.values()) for p in parts]
    usable = [i for i, side in enumerate(shortest) if side >= size]
    if not usable:
        raise UserError(
            f"photos has no crops of {size}x{size}: --image-size is at most {max(shortest)}, or "
            "take --data DIR"
        )
    splits: dict[str, Tensor] = {}
    cut_from: dict[str, Tensor] = {}
    for number, (split, count) in enumerate(COUNTS.items()):
        areas = [photographs[i].crop(parts[i][split]) for i in usable]
        largest = [min(shortest[i], MOST_SHRUNK * size) for i in usable]
        draws = stream(seed, number).random((count, 3))
        splits[split] = _crops(areas, largest, size, draws[:limit])
        cut_from[split] = torch.arange(len(splits[split])) % len(areas)
    info: dict[str, Any] = {
        "source": [f"scikit-image: {PHOTOGRAPHS[i]}" for i in usable],
        "split": "by regions of each photograph",
        "seed": seed,
    }
    return DataSplits("photos", splits["train"], splits["val"], splits["test"], info, cut_from)


def _crops(areas: list[Image.Image], largest: list[float], size: int, draws: np.ndarray) -> Tensor:
    """One crop (C, size, size) per row of ``draws`` (N, 3), uniform in [0, 1), areas in turns.

    An area is a picture of its own by now, so no filter reaches beyond its border.
    """
    channels = len(areas[0].getbands())
    crops = np.empty((len(draws), size, size, channels), np.uint8)
    for n, (scale, across, down) in enumerate(draws):
        area, most = areas[n % len(areas)], largest[n % len(areas)]
        side = math.floor(size * (most / size) ** scale)
        left = math.floor(across * (area.width - side + 1))
        top = math.floor(down * (area.height - side + 1))
        box = (left, top, left + side, top + side)
        crop = area.resize((size, size), Image.Resampling.HAMMING, box)
        crops[n] = np.asarray(crop).reshape(size, size, channels)
    return torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous()


def _path(name: str) -> Path:
    """A photograph's file. Not through skimage.data's functions: those may turn to the network."""
    import skimage

    path = Path(skimage.__file__).parent / "data" / name
    if not path.is_file():
        raise UserError(f"scikit-image lacks its photograph {path}: install scikit-image again")
    return path
