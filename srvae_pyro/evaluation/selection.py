"""Which images an evaluation is of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from srvae_pyro.data import DATA_SETS, DataSplits
from srvae_pyro.data.splits import evenly_spaced_indices
from srvae_pyro.errors import UserError

Split = Literal["train", "val", "test", "all"]


@dataclass(frozen=True)
class Selection:
    data: DataSplits
    split: Split
    images: Tensor  # uint8 (N, C, H, W)
    indices: Tensor  # of the images in the split, (N)
    total: int  # images of the split
    photographs: Tensor | None = None  # that each image is cut from, (N), if from a few

    @property
    def is_test_split(self) -> bool:
        return self.split == "test" and len(self.images) == len(self.data.test)


def select(data: DataSplits, split: Split, limit: int | None) -> Selection:
    """At most ``limit`` images of a split, evenly spaced."""
    images = _images_of(data, split)
    indices = evenly_spaced_indices(len(images), limit)
    photographs = _photographs_of(data, split)
    if photographs is not None:
        photographs = photographs[indices]
    return Selection(data, split, images[indices], indices, len(images), photographs)


def _images_of(data: DataSplits, split: Split) -> Tensor:
    if data.info.get("streamed") and split in ("train", "all"):
        raise UserError(f"{data.name} is too large for the split {split}: take val or test")
    if split == "all":
        return torch.cat([data.train.in_memory(), data.val, data.test])
    at_random = split in data.info.get("held_out_indices", {}) and data.name not in DATA_SETS
    if at_random and not data.info["own"]:
        raise UserError(
            f"{data.name} has no folder {split}/: take the split all to measure on all its images"
        )
    images: Tensor = data.train.in_memory() if split == "train" else getattr(data, split)
    if not len(images):
        raise UserError(f"{data.name} has no folder {split}/: take another split")
    return images


def _photographs_of(data: DataSplits, split: Split) -> Tensor | None:
    splits = ("train", "val", "test") if split == "all" else (split,)
    known = [data.photographs[name] for name in splits if name in data.photographs]
    return torch.cat(known) if len(known) == len(splits) else None
