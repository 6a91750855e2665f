"""WebDataset's tar shards as a data set."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from braceexpand import braceexpand

from srvae_pyro.data.fingerprint import fingerprint_of
from srvae_pyro.data.splits import CheckShape, DataSplits, hold_out
from srvae_pyro.data.stream import Shards, Source, StreamedPictures
from srvae_pyro.errors import UserError

__all__ = [
    "PREFIX",
    "check_shards",
    "fingerprint_shards",
    "load_shards",
    "shard_paths",
    "streamed_splits",
]

PREFIX = "wds:"
MOST_HELD_OUT = 10_000


def load_shards(
    name: str,
    *,
    image_size: int | None = None,
    channels: int = 3,
    seed: int = 0,
    limit: int | None = None,
    strict: bool = False,
    check_shape: CheckShape | None = None,
) -> DataSplits:
    """The pictures in the tar shards that ``name`` tells, ``wds:shards/train-{0000..0999}.tar``.

    Validation and test pictures, a tenth each and at most 10,000, are drawn at random and kept in
    memory; all others are read when they are needed.

    Args:
        name: ``wds:`` and a path, in which braces stand for several as in a shell.
        image_size: make each picture a square of so many pixels; without it all must have one size.
        channels: 3, or 1 for luma.
        seed: of the pictures held out.
        limit: use the first so many of each split.
        strict: refuse pictures that cannot be read; otherwise those held out are left out, and
            others replaced when they are met.
        check_shape: called with the pictures' shape as soon as it is known.

    Raises:
        UserError: a shard is missing or is no tar, or there are too few pictures.
    """
    paths = shard_paths(name)
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UserError(
            f"--data {name}: there is no file {missing[0]}"
            + (f", and {len(missing) - 1} more are missing" if missing[1:] else "")
        )
    return streamed_splits(
        name, Shards(paths), image_size, channels, seed, limit, strict, check_shape
    )


def shard_paths(name: str) -> list[Path]:
    """The tars that ``name`` tells, whether they are there or not.

    Raises:
        UserError: it tells none; see :func:`check_shards`.
    """
    check_shards(name)
    try:
        return [Path(part).expanduser() for part in braceexpand(name.removeprefix(PREFIX))]
    except ValueError:
        raise UserError(f"--data {name}: a brace is not closed") from None


def fingerprint_shards(name: str) -> str:
    """The fingerprint of the pictures in tar shards that are there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are told when the pictures are read
        return fingerprint_of(Shards(shard_paths(name)))


def check_shards(name: str) -> None:
    """Refuse what WebDataset reads but this does not: addresses, commands, stars, several paths.

    Raises:
        UserError: ``name`` is of that kind.
    """
    pattern = name.removeprefix(PREFIX)
    kinds = ("://", "pipe:", "::", "*", "?")
    if any(kind in pattern for kind in kinds) and not Path(pattern).is_file():
        raise UserError(
            f"--data {name}: shards are tars at local paths, several by braces as in "
            "wds:DIR/part-{000..099}.tar, no addresses, commands or stars; copy or mount others"
        )


def streamed_splits(
    name: str,
    source: Source,
    image_size: int | None,
    channels: int,
    seed: int,
    limit: int | None,
    strict: bool,
    check_shape: CheckShape | None = None,
) -> DataSplits:
    """A source's pictures, some held out and in memory, the others streamed."""
    if len(source) < 3:
        raise UserError(f"{name} has {len(source)} pictures: it takes 3 at least")
    held = min(MOST_HELD_OUT, max(1, len(source) // 10))
    kept, parts = hold_out(len(source), [held, held], seed)

    def streamed(numbers: np.ndarray) -> StreamedPictures:
        return StreamedPictures(source, numbers[:limit], channels, image_size, strict)

    train = streamed(kept)
    if check_shape:
        check_shape((channels, *train.shape[2:]))
    train.compare_sizes()
    others = [streamed(numbers) for numbers in parts]
    for other in others:
        if other.shape[1:] != train.shape[1:]:
            raise UserError(
                f"the pictures of {name} differ in size: pass --image-size N to make each a square "
                "of N pixels"
            )
    (val_images, lost), (test_images, more_lost) = (
        other.read_readable(torch.arange(len(other))) for other in others
    )
    info: dict[str, Any] = {
        "source": name,
        "split": "val and test held out at random",
        "seed": seed,
        "fingerprint": fingerprint_of(source),
        "held_out": ["val", "test"],
        "streamed": True,
    }
    if lost or more_lost:
        info["left_out"] = ["/".join(path.parts[-2:]) for path in (*lost, *more_lost)]
    return DataSplits(name, train, val_images, test_images, info)
