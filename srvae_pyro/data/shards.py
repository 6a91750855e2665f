"""WebDataset's tar shards as a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from braceexpand import braceexpand

from srvae_pyro.data.splits import DataSplits, hold_out
from srvae_pyro.data.stream import Shards, Source, StreamedPictures
from srvae_pyro.errors import UserError

__all__ = ["PREFIX", "load_shards", "streamed_splits"]

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
        strict: refuse pictures that cannot be read.

    Raises:
        UserError: a shard is missing or is no tar, or there are too few pictures.
    """
    pattern = name.removeprefix(PREFIX)
    if "://" in pattern:
        raise UserError(f"--data {name}: shards are read from local paths; copy or mount them")
    try:
        paths = [Path(part).expanduser() for part in braceexpand(pattern)]
    except ValueError:
        raise UserError(f"--data {name}: a brace is not closed") from None
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UserError(
            f"--data {name}: there is no file {missing[0]}"
            + (f", and {len(missing) - 1} more are missing" if missing[1:] else "")
        )
    return streamed_splits(name, Shards(paths), image_size, channels, seed, limit, strict)


def streamed_splits(
    name: str,
    source: Source,
    image_size: int | None,
    channels: int,
    seed: int,
    limit: int | None,
    strict: bool,
) -> DataSplits:
    """A source's pictures, some held out and in memory, the others streamed."""
    if len(source) < 3:
        raise UserError(f"{name} has {len(source)} pictures: it takes 3 at least")
    held = min(MOST_HELD_OUT, max(1, len(source) // 10))
    kept, parts = hold_out(len(source), [held, held], seed)

    def streamed(numbers: np.ndarray) -> StreamedPictures:
        return StreamedPictures(source, numbers[:limit], channels, image_size, strict)

    train, *others = (streamed(numbers) for numbers in (kept, *parts))
    train.compare_sizes()
    for other in others:
        if other.shape[1:] != train.shape[1:]:
            raise UserError(
                f"the pictures of {name} differ in size: pass --image-size N to make each a square "
                "of N pixels"
            )
    val_images, test_images = (other.read(torch.arange(len(other))) for other in others)
    info = {"source": name, "split": "held out: val, test", "seed": seed, "streamed": True}
    return DataSplits(name, train, val_images, test_images, info)
