"""Any folder of images, or WebDataset's tar shards, as a data set."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from braceexpand import braceexpand
from torch import Tensor

from srvae_pyro.config import SHARDS
from srvae_pyro.data.cropping import crop_files
from srvae_pyro.data.image_files import find_images, read_images
from srvae_pyro.data.sources import ImageFiles, TarShards, fingerprint_of, mask_of
from srvae_pyro.data.splits import (
    DEFAULTS,
    DataSplits,
    ImageOptions,
    MemoryImages,
    TrainingImages,
    hold_out_tenths,
)
from srvae_pyro.data.streaming import StreamedImages
from srvae_pyro.errors import UserError, and_more
from srvae_pyro.formats import EXTENSIONS
from srvae_pyro.system.device import process_memory
from srvae_pyro.system.files import expanded

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
# Train, training_set, Test Images, val2017, valid_32x32.
_FURTHER = r"[-_ ]?(set|data|pictures|imgs|images|\d+|\d+x\d+)?"


def split_named(name: str) -> str | None:
    """The split that a folder of this name holds, if any."""
    for split, words in SPLITS.items():
        if re.fullmatch(f"({'|'.join(words)}){_FURTHER}", name.casefold()):
            return split
    return None


def find_split_folders(folder: Path) -> dict[str, Path]:
    """The folders of the splits in ``folder``; a warning names what else is there."""
    folders: dict[str, Path] = {}
    others = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        split = split_named(entry.name)
        if not split or not entry.is_dir():
            if entry.suffix.lower() in EXTENSIONS or entry.is_dir():
                others.append(entry.name)
        elif split in folders:
            raise UserError(
                f"{folder} has {folders[split].name}/ and {entry.name}/, both for {split}: move or "
                "rename one"
            )
        else:
            folders[split] = entry
    if folders and others:
        names = " and ".join(f"{place.name}/" for place in folders.values())
        warnings.warn(
            f"{folder}: left out {others[0]}{and_more(len(others))} beside {names}; if the "
            "folders are classes, not splits, put all of them into a folder train/",
            stacklevel=2,
        )
    return {split: folders[split] for split in SPLITS if split in folders}


def warn_of_deeper_splits(folder: Path, paths: Iterable[Path]) -> None:
    """Warn if the images of a folder without splits are in split folders further down."""
    places = {path.parent for path in paths}
    for place in sorted(places):
        inside = place.relative_to(folder).parts
        if any(map(split_named, inside)):
            warnings.warn(
                f"{folder}: images of {Path(*inside)} are split at random like the rest; to use "
                "their splits, give the folder that contains train/ and test/",
                stacklevel=2,
            )
            return


def load_folder(folder: Path, options: ImageOptions = DEFAULTS) -> DataSplits:
    """The images in ``folder``, whose folders ``train``, ``val`` and ``test`` (or ``Training``,
    ``val2017``) are the splits; a missing one is held out at random.
    """
    places, paths = _find(folder)
    _refuse_gaps(folder, places, paths, options.for_training)
    if not places:
        warn_of_deeper_splits(folder, paths["train"])
    _warn_of_masks(folder, [path for part in paths.values() for path in part])
    fingerprint = _fingerprint(folder, paths)
    held_out = _hold_out_missing(folder, paths, options.seed) if "train" in paths else {}

    files = {split: paths.get(split, [])[: options.limit] for split in SPLITS}
    origins = [f"{split} from {place.name}/" for split, place in places.items()]
    origins += [f"{' and '.join(held_out)} held out at random"] if held_out else []
    info: dict[str, Any] = {
        "source": str(folder),
        "split": ", ".join(origins),
        "seed": options.seed,
        "fingerprint": fingerprint,
    }
    if held_out:
        info |= {"held_out": list(held_out), "held_out_indices": held_out}

    def inside(path: Path) -> str:
        return str(path.relative_to(folder))

    if options.crops is not None:
        sources = {split: ImageFiles(folder, part) for split, part in files.items()}
        parts = {split: (source, np.arange(len(source))) for split, source in sources.items()}
        return crop_files(str(folder), parts, options, info, inside)
    train: TrainingImages | None = _streamed(folder, files["train"], options)
    if train is not None:
        info["streamed"] = True
        del files["train"]
    images, left_out = _read(folder, files, options)
    if left_out:
        info["left_out"] = [inside(path) for path in left_out]
    if train is None:
        train = MemoryImages(images["train"])
    else:
        _check_sizes(folder, train, images.values())
    return DataSplits(str(folder), train, images["val"], images["test"], info)


def _check_sizes(name: object, train: TrainingImages, others: Iterable[Any]) -> None:
    """Refuse images to validate and test on that are of another size than those to train on."""
    if any(images.shape[1:] != train.shape[1:] for images in others):
        raise UserError(
            f"the images of {name} differ in size: pass --image-size N to make each a square "
            "of N pixels"
        )


def fingerprint_folder(folder: Path) -> str:
    """The fingerprint of a folder's images, without decoding them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are shown when the images are read
        return _fingerprint(folder, _find(folder)[1])


def _fingerprint(folder: Path, paths: dict[str, list[Path]]) -> str:
    return fingerprint_of(ImageFiles(folder, [path for part in paths.values() for path in part]))


def _find(folder: Path) -> tuple[dict[str, Path], dict[str, list[Path]]]:
    """The folder of each split and the images of each; without such folders all are to train on."""
    places = find_split_folders(folder)
    if not places:
        return places, {"train": find_images(folder)}
    return places, {split: find_images(p, places.values()) for split, p in places.items()}


def _warn_of_masks(folder: Path, paths: list[Path]) -> None:
    start = len(os.fspath(folder / "x")) - 1  # of names inside, also of the current folder
    of = {path: stem for path in paths if (stem := mask_of(os.fspath(path)[start:])) is not None}
    stems = {path.stem for path in paths if path not in of} if of else set()
    masks = [path for path, stem in of.items() if stem in stems]
    if masks:
        warnings.warn(
            f"{masks[0]}{and_more(len(masks))} are used as images, but named like masks of "
            "other images: if they are masks, move them elsewhere",
            stacklevel=2,
        )


def _refuse_gaps(
    folder: Path, places: dict[str, Path], paths: dict[str, list[Path]], for_training: bool
) -> None:
    if for_training and places and "train" not in places:
        name = next(place.name for place in places.values())
        raise UserError(
            f"{folder} has {name}/ but no train/: put the images to train on in a folder train/"
        )
    for split, files in paths.items():
        if files:
            continue
        if split in places:
            raise UserError(f"no images in {places[split]}: put some there or remove the folder")
        raise UserError(f"no images in {folder}: name a folder of PNG, JPEG or WebP files")


def _hold_out_missing(
    folder: Path, paths: dict[str, list[Path]], seed: int
) -> dict[str, list[int]]:
    """Move images of ``paths['train']`` to the splits that have none; returns their indices."""
    train, missing = paths["train"], [split for split in SPLITS if split not in paths]
    if not missing:
        return {}
    if len(train) <= len(missing):
        raise UserError(
            f"{folder} has {len(train)} images to train on, too few to hold out "
            f"{' and '.join(missing)}: add images"
        )
    indices = {
        split: part.tolist() for split, part in hold_out_tenths(len(train), missing, seed).items()
    }
    for split, part in indices.items():
        paths[split] = [train[i] for i in part]
    return {split: indices[split] for split in missing}


def _streamed(folder: Path, files: list[Path], options: ImageOptions) -> StreamedImages | None:
    """The training images as streamed ones; None if they are to be read into memory now."""
    if not files or (options.stream is False and options.check_shape is None):
        return None
    source = ImageFiles(folder, files)
    images = StreamedImages(source, np.arange(len(source)), options)
    if options.check_shape:
        options.check_shape((options.channels, *images.shape[2:]))
    if options.stream is False:
        return None
    if options.stream is None and math.prod(images.shape) < process_memory() / 2:
        return None
    images.compare_sizes()
    return images


def _read(
    folder: Path, files: dict[str, list[Path]], options: ImageOptions
) -> tuple[dict[str, Tensor], list[Path]]:
    paths = [path for part in files.values() for path in part]
    # One tensor of all, then views of it: a copy would take as much memory again.
    images, left_out = read_images(
        paths, options.channels, options.image_size, strict=options.strict
    )
    ends = np.cumsum([len(part) for part in files.values()])
    lost = np.bincount(np.searchsorted(ends, left_out, side="right"), minlength=len(files))
    sizes = [len(part) - int(n) for part, n in zip(files.values(), lost, strict=True)]
    for (split, part), size in zip(files.items(), sizes, strict=True):
        if part and not size:
            raise UserError(
                f"none of the {split} images of {folder} can be read: repair or add some"
            )
    splits = dict(zip(files, images.split(sizes), strict=True))
    return splits, [paths[i] for i in left_out]


def load_shards(name: str, options: ImageOptions = DEFAULTS) -> DataSplits:
    """Images in tar shards; a tenth each is held out at random, the others are streamed."""
    paths = shard_paths(name)
    missing = [path for path in paths if not path.is_file()]
    if missing:
        more = f", and {len(missing) - 1} more are missing" if missing[1:] else ""
        raise UserError(f"--data {name}: there is no file {missing[0]}{more}")
    source = TarShards(paths)
    if len(source) < 3:
        raise UserError(f"{name} has {len(source)} images: at least 3 are needed")
    held_out = ["val", "test"]
    parts = {
        split: (source, indices[: options.limit])
        for split, indices in hold_out_tenths(len(source), held_out, options.seed).items()
    }
    info: dict[str, Any] = {
        "source": name,
        "split": "val and test held out at random",
        "seed": options.seed,
        "fingerprint": fingerprint_of(source),
        "held_out": held_out,
    }
    if options.crops is not None:
        return crop_files(name, parts, replace(options, stream=True), info, _inside)
    train = StreamedImages(*parts["train"], options)
    if options.check_shape:
        options.check_shape((options.channels, *train.shape[2:]))
    train.compare_sizes()
    streamed = [StreamedImages(*parts[split], options) for split in held_out]
    _check_sizes(name, train, streamed)
    (val, left_out), (test, further) = (
        images.read_readable(torch.arange(len(images))) for images in streamed
    )
    info["streamed"] = True
    if left_out or further:
        info["left_out"] = [_inside(path) for path in (*left_out, *further)]
    return DataSplits(name, train, val, test, info)


def _inside(path: Path) -> str:
    """The name of an image in a tar, wherever the tar is."""
    return "/".join(path.parts[-2:])


def shard_paths(name: str) -> list[Path]:
    check_shards(name)
    try:
        return [expanded(part) for part in braceexpand(name.removeprefix(SHARDS))]
    except ValueError:
        raise UserError(f"--data {name}: a brace is not closed") from None


def fingerprint_shards(name: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are shown when the images are read
        return fingerprint_of(TarShards(shard_paths(name)))


def check_shards(name: str) -> None:
    """Refuse what WebDataset reads and this does not: addresses, commands, stars, several paths."""
    pattern = name.removeprefix(SHARDS)
    kinds = ("://", "pipe:", "::", "*", "?")
    if any(kind in pattern for kind in kinds) and not Path(pattern).is_file():
        raise UserError(
            f"--data {name}: shards must be tar files at local paths, such as "
            "wds:DIR/part-{000..099}.tar, not URLs, commands or wildcards"
        )
