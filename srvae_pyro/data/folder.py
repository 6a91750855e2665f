"""Any folder of pictures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from srvae_pyro.data.pictures import find_pictures, read_readable
from srvae_pyro.data.splits import DataSplits, hold_out
from srvae_pyro.data.stream import PictureFiles, StreamedPictures
from srvae_pyro.errors import UserError
from srvae_pyro.runtime import process_memory

__all__ = ["load_folder"]

SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
MOST_HELD_OUT = 10_000


def load_folder(
    folder: Path,
    *,
    image_size: int | None = None,
    channels: int = 3,
    seed: int = 0,
    limit: int | None = None,
    strict: bool = False,
    stream: bool | None = None,
) -> DataSplits:
    """The pictures in ``folder``, in class folders or not.

    Its folders ``train``, ``val`` and ``test`` are the splits. Without ``train`` all its pictures
    are to be split. Where ``val`` or ``test`` is missing, a tenth of the pictures to train on, at
    most 10,000 and drawn at random, is held out for it.

    Args:
        folder: the folder.
        image_size: make each picture a square of so many pixels; without it all must have one size.
        channels: 3, or 1 for luma.
        seed: of the pictures held out.
        limit: keep the first so many of each split; only those are read.
        strict: refuse files that cannot be read; otherwise they are left out, with a warning.
        stream: read training pictures when they are needed; None: if all would take more than half
            of the memory that is there. Training is the same either way.

    Raises:
        UserError: no pictures, too few, or of several sizes; or unreadable ones if ``strict``.
    """
    places = {
        split: next((folder / name for name in names if (folder / name).is_dir()), None)
        for split, names in SPLITS.items()
    }
    if places["train"] is None and any(places.values()):
        there = next(place.name for place in places.values() if place)
        raise UserError(
            f"{folder} has {there}/ but no train/: put the pictures to train on in a folder train/"
        )
    paths = {split: find_pictures(place) for split, place in places.items() if place}
    for split, found in paths.items():
        if not found:
            raise UserError(f"no pictures in {places[split]}: put some there or remove the folder")
    if not paths:
        paths["train"] = find_pictures(folder)
        if not paths["train"]:
            raise UserError(f"no pictures in {folder}: name a folder of PNG, JPEG or WebP files")

    held = _hold_out_missing(folder, paths, seed)
    order = [paths[split][:limit] for split in SPLITS]
    streamed = None
    if stream is not False:
        source = PictureFiles(folder, order[0])
        streamed = StreamedPictures(source, np.arange(len(source)), channels, image_size, strict)
        if not stream and math.prod(streamed.shape) < process_memory() / 2:
            streamed = None
    if streamed:
        streamed.compare_sizes()
        order = order[1:]
    files = [path for part in order for path in part]
    images, left_out = read_readable(files, channels, image_size, strict=strict)
    ends = np.cumsum([len(part) for part in order])
    lost = np.bincount(np.searchsorted(ends, left_out, side="right"), minlength=len(order))
    sizes = [len(part) - int(gone) for part, gone in zip(order, lost, strict=True)]
    for split, size in zip(list(SPLITS)[-len(order) :], sizes, strict=True):
        if not size:
            raise UserError(f"no picture of {folder} for {split} can be read: repair or add some")
    *first, val, test = images.split(sizes)
    info: dict[str, Any] = {
        "source": str(folder),
        "split": "by its folders" if not held else f"by its folders, held out: {', '.join(held)}",
        "seed": seed,
    }
    if left_out:
        info["left_out"] = [str(files[i].relative_to(folder)) for i in left_out]
    if held:
        info["held_out_indices"] = held
    if streamed:
        info["streamed"] = True
    return DataSplits(str(folder), streamed or first[0], val, test, info)


def _hold_out_missing(
    folder: Path, paths: dict[str, list[Path]], seed: int
) -> dict[str, list[int]]:
    """Move pictures of ``paths['train']`` to the splits that have none; gives their indices."""
    missing = [split for split in SPLITS if split not in paths]
    if not missing:
        return {}
    train = paths["train"]
    each = min(MOST_HELD_OUT, max(1, len(train) // 10))
    if len(train) <= len(missing):
        raise UserError(
            f"{folder} has {len(train)} pictures to train on, too few to hold out "
            f"{' and '.join(missing)}: add pictures"
        )
    kept, parts = hold_out(len(train), [each] * len(missing), seed)
    held = {split: part.tolist() for split, part in zip(missing, parts, strict=True)}
    for split, indices in held.items():
        paths[split] = [train[i] for i in indices]
    paths["train"] = [train[i] for i in kept]
    return held
