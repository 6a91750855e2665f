"""Splits of crops at native resolution: random ones to train on, a grid to validate and test."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from srvae_pyro.data.crops import Grid, MemoryCrops, SizedImages, capacities, measure, read_grid
from srvae_pyro.data.image_files import for_each
from srvae_pyro.data.sources import Source
from srvae_pyro.data.splits import DataSplits, ImageOptions, only_size
from srvae_pyro.data.streaming import StreamedCrops
from srvae_pyro.errors import UserError, and_more, left_out_of
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
    left_out = _LeftOut(name, options)
    chosen = {split: left_out.usable(split, *parts[split]) for split in parts}
    train = _training(chosen["train"], options, left_out)
    grids = {}
    for split in HELD_OUT:
        images = chosen[split]
        grids[split] = _grid(split, images.read, images.sizes, options, options.channels)
        left_out.add(split, images, grids[split].errors)
    left_out.warn()
    if left_out.errors:
        info["left_out"] = [shown(path) for path in left_out.errors]
    if isinstance(train, StreamedCrops):
        info["streamed"] = True
    return _splits(name, train, grids, info, left_out.smaller)


def crop_images(data: DataSplits, options: ImageOptions) -> DataSplits:
    channels, height, width = data.shape
    only_size(data.name, options, min(height, width))
    train = MemoryCrops.of_images(data.train.in_memory(), options.crops or 0)
    grids = {}
    for split, images in zip(HELD_OUT, (data.val, data.test), strict=True):
        sizes = np.tile([width, height], (len(images), 1))
        grids[split] = _grid(split, images.__getitem__, sizes, options, channels)
    return _splits(data.name, train, grids, data.info, {})


def _training(
    images: SizedImages, options: ImageOptions, left_out: _LeftOut
) -> MemoryCrops | StreamedCrops:
    """The crops to train on, streamed if that is requested or the memory is too small."""
    side, stream = options.crops or 0, options.stream
    if stream is None:
        stream = bool(images.nbytes.sum() > process_memory() / 2)
    if stream and len(images):
        return StreamedCrops(images, side, options.strict)
    nbytes, sizes = images.nbytes, images.sizes.copy()
    ends = np.cumsum(nbytes)
    levels = torch.empty(int(nbytes.sum()), dtype=torch.uint8)

    def read(i: int) -> None:
        image = images.read(i)
        sizes[i] = image.shape[2], image.shape[1]  # as it was turned
        levels[ends[i] - nbytes[i] : ends[i]] = image.flatten()

    errors = for_each(read, len(images), "images")
    left_out.add("train", images, errors)
    kept = np.delete(np.arange(len(images)), list(errors))
    return MemoryCrops(levels, (ends - nbytes)[kept], sizes[kept], images.channels, side)


def _grid(
    split: str,
    read: Callable[[int], Tensor],
    sizes: np.ndarray,
    options: ImageOptions,
    channels: int,
) -> Grid:
    most = options.eval_crops or max(EVAL_CROPS, len(sizes))
    return read_grid(read, sizes, channels, options.crops or 0, most, split)


def _splits(
    name: str,
    train: MemoryCrops | StreamedCrops,
    grids: dict[str, Grid],
    info: dict[str, Any],
    smaller: dict[str, int],
) -> DataSplits:
    """The data set; ``smaller`` counts the images of each split that are too small."""
    image_of: dict[str, Tensor] = {}  # that each crop of a grid is cut from
    if isinstance(train, MemoryCrops):
        counts = capacities(train.sizes, train.side)
        image_of["train"] = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
    image_of |= {split: grid.image_of for split, grid in grids.items()}
    images = {"train": len(train.counts), **{s: len(image_of[s].unique()) for s in HELD_OUT}}
    crops: dict[str, Any] = {"side": train.side, "images": images}
    if any(smaller.values()):
        crops["smaller"] = smaller
    photographs: dict[str, Tensor] = {}
    if any(len(indices.unique()) < len(indices) for indices in image_of.values()):
        first = 0
        for split, indices in image_of.items():
            photographs[split] = indices + first  # no two splits have an image in common
            first += int(indices.max()) + 1 if len(indices) else 0
    val, test = (grids[split].crops for split in HELD_OUT)
    return DataSplits(name, train, val, test, {**info, "crops": crops}, photographs)


class _LeftOut:
    """Unreadable files and images smaller than a crop, which ``strict`` refuses."""

    def __init__(self, where: str, options: ImageOptions) -> None:
        self.where, self.options, self.side = where, options, options.crops or 0
        self.errors: dict[Path, str] = {}
        self.smaller: dict[str, int] = {}  # images by split
        self.example = ""  # of a smaller one

    def usable(self, split: str, source: Source, indices: np.ndarray) -> SizedImages:
        """The images of a split that have crops."""
        images, errors = measure(source, indices, self.options.channels, f"sizes of {split}")
        self.add(split, images, errors)
        readable = np.delete(np.arange(len(images)), list(errors))
        sides = images.sizes.min(axis=1)[readable]
        smaller, kept = readable[sides < self.side], readable[sides >= self.side]
        self.smaller[split] = len(smaller)
        if len(smaller) and not self.example:
            width, height = images.sizes[smaller[0]]
            self.example = f"{images.name(smaller[0])} ({width}x{height})"
        crops = f"crops of {self.side}x{self.side}"
        if len(smaller) and self.options.strict:
            raise UserError(
                f"{self.example} is smaller than {crops}: leave out --strict, or the image"
            )
        if len(readable) and not len(kept):
            raise UserError(
                f"{self.where} has no {split} image that is large enough for {crops}: the "
                f"largest possible are {sides.max()}x{sides.max()}"
            )
        return images.of(kept)

    def add(self, split: str, images: SizedImages, errors: dict[int, str]) -> None:
        """Note the images of a split that cannot be read: reasons by their indices."""
        for index in sorted(errors):
            if self.options.strict:
                raise UserError(errors[index])
            self.errors[images.name(index)] = errors[index]
        if errors and len(errors) == len(images):
            raise UserError(
                f"none of the {split} images of {self.where} can be read: repair or add some"
            )

    def warn(self) -> None:
        if count := sum(self.smaller.values()):
            example = f"{self.example}{and_more(count)}"
            what = f"smaller than crops of {self.side}x{self.side}: {example}"
            warnings.warn(f"left out, {what}", stacklevel=2)
        if self.errors:
            first = next(iter(self.errors.values()))
            warnings.warn(f"{left_out_of(len(self.errors))}: {first}", stacklevel=2)
