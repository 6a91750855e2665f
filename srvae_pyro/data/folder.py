"""Any folder of pictures."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from srvae_pyro.data.fingerprint import fingerprint_of
from srvae_pyro.data.pictures import find_pictures, read_readable
from srvae_pyro.data.split_folders import SPLITS, find_split_folders, warn_of_deeper_splits
from srvae_pyro.data.splits import CheckShape, DataSplits, hold_out
from srvae_pyro.data.stream import PictureFiles, StreamedPictures
from srvae_pyro.errors import UserError
from srvae_pyro.runtime import process_memory

__all__ = ["fingerprint_folder", "load_folder"]

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
    for_training: bool = True,
    exact_names: bool = False,
    check_shape: CheckShape | None = None,
) -> DataSplits:
    """The pictures in ``folder``, in class folders or not.

    Its folders ``train``, ``val`` and ``test``, or of like names such as ``Training`` and
    ``val2017``, are the splits. Without any all its pictures are to be split. Where ``val`` or
    ``test`` is missing, a tenth of the pictures to train on, at most 10,000 and drawn at random, is
    held out for it.

    Args:
        folder: the folder.
        image_size: make each picture a square of so many pixels; without it all must have one size.
        channels: 3, or 1 for luma.
        seed: of the pictures held out.
        limit: keep the first so many of each split; only those are read.
        strict: refuse files that cannot be read; otherwise they are left out, with a warning.
        stream: read training pictures when they are needed; None: if all would take more than half
            of the memory that is there. Training is the same either way.
        for_training: refuse a folder of ``val`` or ``test`` alone, else its other splits are empty.
        exact_names: see :func:`~srvae_pyro.data.split_folders.find_split_folders`.
        check_shape: called with the pictures' shape before all are read.

    Raises:
        UserError: no pictures, too few, or of several sizes; or unreadable ones if ``strict``.
    """
    places, paths = _find(folder, exact_names)
    if for_training and places and "train" not in places:
        there = next(place.name for place in places.values())
        raise UserError(
            f"{folder} has {there}/ but no train/: put the pictures to train on in a folder train/"
        )
    for split, found in paths.items():
        if not found:
            if split in places:
                raise UserError(
                    f"no pictures in {places[split]}: put some there or remove the folder"
                )
            raise UserError(f"no pictures in {folder}: name a folder of PNG, JPEG or WebP files")
    if not places and not exact_names:
        warn_of_deeper_splits(folder, paths["train"])
    fingerprint = _fingerprint(folder, paths)

    held = _hold_out_missing(folder, paths, seed) if "train" in paths else {}
    order = [paths.get(split, [])[:limit] for split in SPLITS]
    streamed = None
    if order[0] and (stream is not False or check_shape):
        source = PictureFiles(folder, order[0])
        streamed = StreamedPictures(source, np.arange(len(source)), channels, image_size, strict)
        if check_shape:
            check_shape((channels, *streamed.shape[2:]))
        if stream is False or (not stream and math.prod(streamed.shape) < process_memory() / 2):
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
        if not size and split in paths:
            raise UserError(f"no picture of {folder} for {split} can be read: repair or add some")
    *first, val, test = images.split(sizes)
    info: dict[str, Any] = {
        "source": str(folder),
        "split": _told(places, held),
        "seed": seed,
        "fingerprint": fingerprint,
    }
    if left_out:
        info["left_out"] = [str(files[i].relative_to(folder)) for i in left_out]
    if held:
        info |= {"held_out": list(held), "held_out_indices": held}
    if exact_names:
        info["exact_names"] = True
    if streamed:
        info["streamed"] = True
    return DataSplits(str(folder), streamed or first[0], val, test, info)


def fingerprint_folder(folder: Path, exact_names: bool = False) -> str:
    """The fingerprint of a folder's pictures, without reading them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are told when the pictures are read
        return _fingerprint(folder, _find(folder, exact_names)[1])


def _fingerprint(folder: Path, paths: dict[str, list[Path]]) -> str:
    return fingerprint_of(PictureFiles(folder, [path for part in paths.values() for path in part]))


def _find(folder: Path, exact_names: bool) -> tuple[dict[str, Path], dict[str, list[Path]]]:
    """The folder of each split, and its pictures; without such folders all are to train on."""
    places = find_split_folders(folder, exact_names)
    if not places:
        return places, {"train": find_pictures(folder)}
    return places, {split: find_pictures(p, places.values()) for split, p in places.items()}


def _told(places: dict[str, Path], held: dict[str, list[int]]) -> str:
    """Where the pictures of each split come from."""
    parts = [f"{split} from {place.name}/" for split, place in places.items()]
    if held:
        parts.append(f"{' and '.join(held)} held out at random")
    return ", ".join(parts)


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
