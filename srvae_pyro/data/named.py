"""Data sets known by name: CIFAR-10, and crops of scikit-image's photographs, offline."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from srvae_pyro.data.image_files import read_image
from srvae_pyro.data.splits import (
    DEFAULTS,
    DataSplits,
    ImageOptions,
    MemoryImages,
    only_size,
    to_channels,
)
from srvae_pyro.errors import UserError
from srvae_pyro.system.device import stream
from srvae_pyro.system.files import holding

VALIDATION = 10_000  # the last of the 50,000 training images


def load_cifar10(root: Path, options: ImageOptions = DEFAULTS) -> DataSplits:
    """CIFAR-10 (Krizhevsky 2009); the last 10,000 of the published images to train on validate."""
    # Importing torchvision takes more than a second, which only this data set should cost.
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    only_size("cifar10", options, 32)
    if root.name == CIFAR10.base_folder:
        root = root.parent
    # CIFAR-10 comes as pickles, which could run code. torchvision unpickles only files whose MD5
    # are those of the published ones, so an exchanged file is refused, not run.
    try:
        train_set = CIFAR10(root, train=True)
    except RuntimeError:
        archive = str(root / CIFAR10.filename)
        if not options.download and not check_integrity(archive, CIFAR10.tgz_md5):
            raise _unavailable(root, "downloading is off") from None
        try:
            root.mkdir(parents=True, exist_ok=True)
            with holding(root, wait=True):  # a second process finds what the first has downloaded
                train_set = CIFAR10(root, train=True, download=True)
        except (OSError, RuntimeError, EOFError) as error:
            raise _unavailable(root, str(error)) from error
    test_set = CIFAR10(root, train=False)

    images = torch.from_numpy(train_set.data).permute(0, 3, 1, 2)
    test_images = torch.from_numpy(test_set.data).permute(0, 3, 1, 2)
    train, val, test = (
        to_channels(part[: options.limit], options.channels)
        for part in (images[:-VALIDATION], images[-VALIDATION:], test_images)
    )
    return DataSplits(
        "cifar10",
        MemoryImages(train),
        val,
        test,
        {
            "source": str(root),
            "split": f"as published; the last {VALIDATION} training images for validation",
        },
    )


def _unavailable(root: Path, reason: str) -> UserError:
    reason = " ".join(reason.split()) or "no network"
    return UserError(
        f"no intact CIFAR-10 in {root}, and the download failed ({reason}): put "
        "cifar-10-python.tar.gz there, name its folder with --data-root, or use --data photos "
        "(needs no network) or --data DIR (your images)"
    )


# Those that the package contains; it downloads others at first use. One of the stereo pair.
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
COUNTS = {"train": 8000, "val": 1000, "test": 1000}
MOST_SHRUNK = 4.0  # largest ratio of a crop's side in the photograph to its side as an image


class Region(NamedTuple):
    """A rectangle of pixels as Pillow's boxes: ``right`` and ``bottom`` are the first outside."""

    left: int
    top: int
    right: int
    bottom: int


def regions(width: int, height: int, index: int) -> dict[str, Region]:
    """The region of a photograph that each split is cut from; none overlap.

    Train has the left three quarters; val and test alternate between the halves of the rest, so
    that neither has all the skies.
    """
    across, down = width - width // 4, height // 2
    upper = Region(across, 0, width, down)
    lower = Region(across, down, width, height)
    val, test = (upper, lower) if index % 2 == 0 else (lower, upper)
    return {"train": Region(0, 0, across, height), "val": val, "test": test}


def load_photos(options: ImageOptions = DEFAULTS) -> DataSplits:
    """10,000 antialiased square crops of five photographs, 32x32 by default."""
    size = options.image_size or 32
    photographs = [read_image(photograph_path(name), options.channels) for name in PHOTOGRAPHS]
    parts = [regions(*photo.size, i) for i, photo in enumerate(photographs)]
    # One bound for all regions of a photograph, so that the splits show the same scales.
    shortest = [min(min(r.right - r.left, r.bottom - r.top) for r in p.values()) for p in parts]
    usable = [i for i, side in enumerate(shortest) if side >= size]
    if not usable:
        raise UserError(
            f"photos has no crops of {size}x{size}: use --image-size {max(shortest)} or less, or "
            "--data DIR"
        )
    splits: dict[str, Tensor] = {}
    photograph_of: dict[str, Tensor] = {}
    for index, (split, count) in enumerate(COUNTS.items()):
        areas = [photographs[i].crop(parts[i][split]) for i in usable]
        largest = [min(shortest[i], MOST_SHRUNK * size) for i in usable]
        draws = stream(options.seed, index).random((count, 3))
        splits[split] = _crops(areas, largest, size, draws[: options.limit])
        photograph_of[split] = torch.arange(len(splits[split])) % len(areas)
    info: dict[str, Any] = {
        "source": [f"scikit-image: {PHOTOGRAPHS[i]}" for i in usable],
        "split": "by regions of each photograph",
        "seed": options.seed,
    }
    train = MemoryImages(splits["train"])
    side = min(shortest[i] for i in usable)
    areas = [photographs[i].crop(parts[i]["test"]) for i in usable]
    larger = _crops(areas, [side] * len(areas), side, np.full((len(areas), 3), 0.5))
    return DataSplits("photos", train, splits["val"], splits["test"], info, photograph_of, larger)


def _crops(areas: list[Image.Image], largest: list[float], size: int, draws: np.ndarray) -> Tensor:
    """Crops (N, C, size, size) of the areas in turn; ``draws`` (N, 3) in [0, 1) are scale and
    place.
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


def photograph_path(name: str) -> Path:
    """The file of a photograph; skimage.data's functions may use the network."""
    import skimage  # not before: most commands need no bundled photographs

    path = Path(skimage.__file__).parent / "data" / name
    if not path.is_file():
        raise UserError(f"scikit-image lacks its photograph {path}: install scikit-image again")
    return path
