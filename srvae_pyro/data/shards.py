"""WebDataset's tar shards as a data set."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from braceexpand import braceexpand

from srvae_pyro.config import SHARDS
from srvae_pyro.data.cropping import crop_files
from srvae_pyro.data.sources import TarShards, fingerprint_of
from srvae_pyro.data.splits import DEFAULTS, DataSplits, ImageOptions, hold_out
from srvae_pyro.data.streaming import StreamedImages
from srvae_pyro.errors import UserError

MOST_HELD_OUT = 10_000


def load_shards(name: str, options: ImageOptions = DEFAULTS) -> DataSplits:
    """The images in tar shards, ``wds:shards/train-{0000..0999}.tar``: a tenth each held out at
    random and in memory, the others streamed.
    """
    paths = shard_paths(name)
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UserError(
            f"--data {name}: there is no file {missing[0]}"
            + (f", and {len(missing) - 1} more are missing" if missing[1:] else "")
        )
    return _split(name, TarShards(paths), options)


def shard_paths(name: str) -> list[Path]:
    check_shards(name)
    try:
        return [Path(part).expanduser() for part in braceexpand(name.removeprefix(SHARDS))]
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
            f"--data {name}: shards are tars at local paths, several by braces as in "
            "wds:DIR/part-{000..099}.tar, no addresses, commands or stars; copy or mount others"
        )


def _split(name: str, source: TarShards, options: ImageOptions) -> DataSplits:
    """The images of ``source``, some held out and in memory, the others streamed."""
    if len(source) < 3:
        raise UserError(f"{name} has {len(source)} images: it takes 3 at least")
    held = min(MOST_HELD_OUT, max(1, len(source) // 10))
    kept, parts = hold_out(len(source), [held, held], options.seed)
    info: dict[str, Any] = {
        "source": name,
        "split": "val and test held out at random",
        "seed": options.seed,
        "fingerprint": fingerprint_of(source),
        "held_out": ["val", "test"],
    }
    if options.crops is not None:
        indices = dict(zip(("train", "val", "test"), (kept, *parts), strict=True))
        cut = {split: (source, part[: options.limit]) for split, part in indices.items()}
        return crop_files(name, cut, replace(options, stream=True), info, _inside)

    def streamed(indices: np.ndarray) -> StreamedImages:
        return StreamedImages(source, indices[: options.limit], options)

    train = streamed(kept)
    if options.check_shape:
        options.check_shape((options.channels, *train.shape[2:]))
    train.compare_sizes()
    held_out = [streamed(indices) for indices in parts]
    if any(images.shape[1:] != train.shape[1:] for images in held_out):
        raise UserError(
            f"the images of {name} differ in size: pass --image-size N to make each a square "
            "of N pixels"
        )
    (val, val_left_out), (test, test_left_out) = (
        images.read_readable(torch.arange(len(images))) for images in held_out
    )
    info["streamed"] = True
    if left_out := [*val_left_out, *test_left_out]:
        info["left_out"] = [_inside(path) for path in left_out]
    return DataSplits(name, train, val, test, info)


def _inside(path: Path) -> str:
    """The name of an image in a tar, wherever the tar is."""
    return "/".join(path.parts[-2:])
