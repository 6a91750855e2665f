"""Splits of crops at native resolution: random ones to train on, a grid to validate and test."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from srvae_pyro.data.crops import MemoryCrops, SizedImages, capacities, measure, read_grid
from srvae_pyro.data.image_files import for_each
from srvae_pyro.data.sources import Source
from srvae_pyro.data.splits import DataSplits, ImageOptions, only_size
from srvae_pyro.data.streaming import StreamedCrops
from srvae_pyro.errors import UserError
from srvae_pyro.system.device import process_memory

EVAL_CROPS = 2000  # of validation and of test, unless there are more images
HELD_OUT = ("val", "test")


def crop_files(
    name: str,
    parts: Mapping[str, tuple[Source, np.ndarray]],
    options: ImageOptions,
    info: dict[str, Any],
    shown: Callable[[Path], str],
) -> DataSplits:
    """Crops of image files of any sizes: ``parts`` are source and indices by split."""
    side = options.crops or 0
    left_out = _LeftOut(name, side, options.strict)
    chosen = {split: left_out.usable(split, *parts[split], options.channels) for split in parts}
    train, image_of = _training(chosen["train"], side, options, left_out)
    grids = {}
    for split in HELD_OUT:
        images = chosen[split]
        most = options.eval_crops or max(EVAL_CROPS, len(images))
        grid = read_grid(images.read, images.sizes, options.channels, side, most, split)
        left_out.unreadable(split, images, grid.errors)
        grids[split], image_of[split] = grid.crops, grid.image_of
    left_out.warn()
    info = dict(info)
    if left_out.files:
        info["left_out"] = [shown(path) for path in left_out.files]
    if isinstance(train, StreamedCrops):
        info["streamed"] = True
    return _splits(name, train, grids, image_of, info, left_out.smaller)


def crop_images(data: DataSplits, options: ImageOptions) -> DataSplits:
    side = options.crops or 0
    channels, height, width = data.shape
    only_size(data.name, options, min(height, width))
    train = MemoryCrops.of_images(data.train.in_memory(), side)
    image_of = {"train": _grid_images(train)}
    grids = {}
    for split in HELD_OUT:
        images = getattr(data, split)
        sizes = np.tile([width, height], (len(images), 1))
        most = options.eval_crops or max(EVAL_CROPS, len(images))
        grid = read_grid(images.__getitem__, sizes, channels, side, most, split)
        grids[split], image_of[split] = grid.crops, grid.image_of
    return _splits(data.name, train, grids, image_of, data.info, {})


def _training(
    images: SizedImages, side: int, options: ImageOptions, left_out: _LeftOut
) -> tuple[MemoryCrops | StreamedCrops, dict[str, Tensor]]:
    """The crops to train on, and for those in memory the image of each one of their grid."""
    stream = options.stream
    if stream is None:
        stream = bool(images.nbytes.sum() > process_memory() / 2)
    if stream and len(images):
        return StreamedCrops(images, side, options.strict), {}
    train, errors = _read_all(images, side)
    left_out.unreadable("train", images, errors)
    return train, {"train": _grid_images(train)}


def _read_all(images: SizedImages, side: int) -> tuple[MemoryCrops, dict[int, str]]:
    """Crops of the images in memory, and why some cannot be read, by their indices."""
    nbytes, sizes = images.nbytes, images.sizes.copy()
    ends = np.cumsum(nbytes)
    levels = torch.empty(int(nbytes.sum()), dtype=torch.uint8)

    def read(i: int) -> None:
        image = images.read(i)
        sizes[i] = image.shape[2], image.shape[1]  # as it was turned
        levels[ends[i] - nbytes[i] : ends[i]] = image.flatten()

    errors = for_each(read, len(images), "images")
    kept = np.delete(np.arange(len(images)), list(errors))
    starts = (ends - nbytes)[kept]
    return MemoryCrops(levels, starts, sizes[kept], images.channels, side), errors


def _grid_images(train: MemoryCrops) -> Tensor:
    """The image of each crop of ``train.in_memory()``, (N)."""
    counts = capacities(train.sizes, train.side)
    return torch.from_numpy(np.repeat(np.arange(len(counts)), counts))


def _splits(
    name: str,
    train: MemoryCrops | StreamedCrops,
    grids: dict[str, Tensor],
    image_of: dict[str, Tensor],
    info: dict[str, Any],
    smaller: dict[str, int],
) -> DataSplits:
    """The data set. ``image_of`` are the images that crops of the grids are cut from.

    ``smaller`` counts the images of each split that are left out as they are too small.
    """
    counts = {"train": len(train.counts), **{s: len(image_of[s].unique()) for s in HELD_OUT}}
    crops: dict[str, Any] = {"side": train.side, "images": counts}
    if any(smaller.values()):
        crops["smaller"] = smaller
    photographs: dict[str, Tensor] = {}
    if any(len(indices.unique()) < len(indices) for indices in image_of.values()):
        first = 0
        for split, indices in image_of.items():
            photographs[split] = indices + first  # no two splits have an image in common
            first += int(indices.max()) + 1 if len(indices) else 0
    recorded = {**info, "crops": crops}
    return DataSplits(name, train, grids["val"], grids["test"], recorded, photographs)


class _LeftOut:
    """The images that are left out: unreadable files, and how many of each split are too small."""

    def __init__(self, where: str, side: int, strict: bool) -> None:
        self.where, self.side, self.strict = where, side, strict
        self.files: list[Path] = []
        self.smaller: dict[str, int] = {}
        self._errors: list[str] = []
        self._first_smaller = ""

    def usable(self, split: str, source: Source, indices: np.ndarray, channels: int) -> SizedImages:
        """The images of a split that have crops."""
        images, errors = measure(source, indices, channels, f"sizes of {split}")
        self._add(images, errors)
        sides = images.sizes.min(axis=1)
        readable = np.delete(np.arange(len(images)), list(errors))
        fits = sides[readable] >= self.side
        smaller, kept = readable[~fits], readable[fits]
        self.smaller[split] = len(smaller)
        if len(smaller) and not self._first_smaller:
            width, height = images.sizes[smaller[0]]
            self._first_smaller = f"{images.name(smaller[0])} ({width}x{height})"
        if len(smaller) and self.strict:
            raise UserError(
                f"{self._first_smaller} is smaller than crops of {self.side}x{self.side}: leave "
                "out --strict, or the image"
            )
        if len(readable) and not len(kept):
            largest = sides.max()
            raise UserError(
                f"{self.where} has no image for {split} that crops of {self.side}x{self.side} "
                f"fit into: the largest that do are of {largest}x{largest}"
            )
        if len(images) and not len(kept):
            raise self._nothing_for(split)
        return images.of(kept)

    def unreadable(self, split: str, images: SizedImages, errors: dict[int, str]) -> None:
        """Take note of images of a split that cannot be read: reasons by their indices."""
        self._add(images, errors)
        if len(images) and len(errors) == len(images):
            raise self._nothing_for(split)

    def warn(self) -> None:
        """Warn of what is left out, in a line for each kind."""
        if count := sum(self.smaller.values()):
            more = f" and {count - 1} more" if count > 1 else ""
            warnings.warn(
                f"left out, smaller than crops of {self.side}x{self.side}: "
                f"{self._first_smaller}{more}",
                stacklevel=2,
            )
        if self._errors:
            more = f" and {len(self._errors) - 1} more" if self._errors[1:] else ""
            warnings.warn(f"left out{more}: {self._errors[0]}", stacklevel=2)

    def _add(self, images: SizedImages, errors: dict[int, str]) -> None:
        for index in sorted(errors):
            if self.strict:
                raise UserError(errors[index])
            self._errors.append(errors[index])
            self.files.append(images.name(index))

    def _nothing_for(self, split: str) -> UserError:
        return UserError(f"no image of {self.where} for {split} can be read: repair or add some")
