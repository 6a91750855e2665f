"""Training, validation and test images: options, held-out images, random orders."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from srvae_pyro.errors import UserError
from srvae_pyro.pixels import luma
from srvae_pyro.system.device import stream, to_device


def evenly_spaced_indices(total: int, count: int | None) -> Tensor:
    """``count`` of the indices below ``total``, evenly spaced, the same ones always; None: all.

    Images are often sorted by class, so the first ones would be of one kind.
    """
    if count is None or count >= total:
        return torch.arange(total)
    return torch.linspace(0, total - 1, count, dtype=torch.float64).round().long()


def evenly_spaced(images: Tensor, count: int | None) -> Tensor:
    """``count`` of the images, see :func:`evenly_spaced_indices`; None: all."""
    return images if count is None else images[evenly_spaced_indices(len(images), count)]


WINDOW = 16  # tars whose images are shuffled together
BLOCK = 2**29  # bytes of decoded images whose crops are shuffled together
MOST_AT_ONCE = 32  # crops for which an image enters a block


def shuffled(count: int, random: np.random.Generator) -> Tensor:
    """Indices 0..count-1 in a random order."""
    return torch.from_numpy(random.permutation(count))


def shuffled_in_windows(starts: np.ndarray, count: int, random: np.random.Generator) -> Tensor:
    """Indices 0..count-1 in a random order that goes through runs of them, :data:`WINDOW` at once.

    So each tar is read within a short time, and stays in the system's file cache for it. ``starts``
    are the indices at which runs start, ascending from 0; a tar's images are a run.
    """
    ends = np.append(starts[1:], count)
    parts = []
    for window in shuffled(len(starts), random).split(WINDOW):
        indices = torch.cat([torch.arange(starts[i], ends[i]) for i in window.tolist()])
        parts.append(indices[shuffled(len(indices), random)])
    return torch.cat(parts)


def shuffled_crops(
    counts: np.ndarray, nbytes: np.ndarray, starts: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """The image of each crop in a random order, in which few decoded images are held at a time.

    ``counts`` (N) are crops of each image, at least one, ``nbytes`` (N) its bytes when it is
    decoded, ``starts`` those of :func:`shuffled_in_windows`. The indices of images are int32.

    Images of :data:`BLOCK` bytes together are shuffled as a whole. Of more, random images make a
    block, whose crops are shuffled, and block follows upon block: so whoever reads them decodes a
    image once for all its crops in the block. That is for :data:`MOST_AT_ONCE` crops: a large image
    has more and enters several blocks, or a batch would be of few images.
    """
    images = np.arange(len(counts), dtype=np.int32)
    if nbytes.sum() <= BLOCK:
        crops: np.ndarray = np.repeat(images, counts)[random.permutation(counts.sum())]
        return crops
    readings = -(-counts // MOST_AT_ONCE)
    first = np.cumsum(readings) - readings
    number = np.arange(readings.sum()) - np.repeat(first, readings)
    images = np.repeat(images, readings)
    counts, readings = counts[images], readings[images]
    counts = counts * (number + 1) // readings - counts * number // readings  # evenly
    order = shuffled_in_windows(first[starts], len(images), random).numpy()
    images, counts = images[order], counts[order]
    block = np.cumsum(nbytes[images]) // BLOCK
    borders = np.flatnonzero(np.diff(block)) + 1
    parts = []
    for part, part_counts in zip(np.split(images, borders), np.split(counts, borders), strict=True):
        crops = np.repeat(part, part_counts)
        parts.append(crops[random.permutation(len(crops))])
    return np.concatenate(parts)


CheckShape = Callable[[tuple[int, int, int]], None]


@dataclass(frozen=True)
class ImageOptions:
    """What is asked of a data set. Each loader heeds the options that apply to its data set.

    Attributes:
        image_size: height and width in pixels; an image of another size is cut to its central
            square and resized. None: the data set's size; the images of a folder or of tar shards
            must then all have one size, or ``crops`` is given.
        crops: height and width in pixels of squares that are cut out of the images at their own
            resolution: random ones to train on, evenly spaced ones for validation and test.
        eval_crops: at most so many crops for validation and for test each. None: 2,000, or one of
            each image if there are more.
        channels: 3 for RGB, 1 for luma (Pillow's "L").
        seed: of what is drawn at random: which images are held out, where crops lie.
        limit: keep only the first images of each split, at most this many.
        strict: raise an error for a file that cannot be read instead of leaving it out.
        stream: whether to read a folder's training images only when they are needed. None: if all
            of them would take more than half of the available memory. Training is the same either
            way; tar shards are always streamed.
        download: fetch a data set that is missing, if that is possible.
        for_training: raise an error for a folder without images to train on.
        check_shape: called with the shape (C, H, W) of the images before all of them are read;
            raises a UserError if the shape does not suit.
    """

    image_size: int | None = None
    crops: int | None = None
    eval_crops: int | None = None
    channels: int = 3
    seed: int = 0
    limit: int | None = None
    strict: bool = False
    stream: bool | None = None
    download: bool = True
    for_training: bool = True
    check_shape: CheckShape | None = None


DEFAULTS = ImageOptions()


class TrainingImages(Protocol):
    """Images of one shape to train on, uint8 levels, in memory or read when they are needed.

    Attributes:
        shape: (N, C, H, W) of all that an epoch has.
        workers: processes that read them ahead; images in memory need none.
    """

    shape: torch.Size
    workers: int

    def __len__(self) -> int: ...

    def on(self, device: torch.device) -> TrainingImages:
        """The same images, kept on ``device`` if they are in memory and it has room for them."""
        ...

    def order(self, seed: int, epoch: int) -> Tensor:
        """What an epoch has, in a random order that is quick to read in.

        It depends on the seed and the epoch alone. An index for each image, (N), or a row, (N,
        ...).
        """
        ...

    def read(self, indices: Tensor) -> Tensor:
        """The images at ``indices``, part of an order, on the device that they are kept on."""
        ...

    def batches(self, batches: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
        """The images of each of ``batches`` of indices, on ``device``."""
        ...

    def in_memory(self, most: int | None = None) -> Tensor:
        """The readable images, on the CPU.

        At most ``most``, evenly spaced, of images that are not in memory yet; all of others.
        """
        ...

    def chunks(self) -> Iterator[Tensor]:
        """The readable images one after another, in tensors that fit into memory."""
        ...


class MemoryImages:
    """Images to train on in memory, uint8 levels (N, C, H, W); a :class:`TrainingImages`."""

    def __init__(self, images: Tensor) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError("images to train on are a uint8 tensor (N, C, H, W)")
        self.images = images
        self.shape = images.shape
        self.workers = 0

    def __len__(self) -> int:
        return len(self.images)

    def on(self, device: torch.device) -> MemoryImages:
        """The same images, on a GPU if they take less than a quarter of its free memory."""
        if device.type == "cuda":
            free = torch.cuda.mem_get_info(device)[0]
            if self.images.nbytes < free // 4:
                return MemoryImages(self.images.to(device))
        return self

    def order(self, seed: int, epoch: int) -> Tensor:
        return shuffled(len(self), stream(seed, epoch, *b"order"))

    def read(self, indices: Tensor) -> Tensor:
        return self.images[indices]

    def batches(self, batches: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
        for indices in batches:
            yield to_device(self.images[to_device(indices, self.images.device)], device)

    def in_memory(self, most: int | None = None) -> Tensor:
        return self.images

    def chunks(self) -> Iterator[Tensor]:
        yield self.images


@dataclass(frozen=True)
class DataSplits:
    """A data set: images to train on, and validation and test images in memory.

    All images are uint8 levels (N, C, H, W) of one shape (C, H, W), contiguous, on the CPU.

    Attributes:
        name: that of ``--data``.
        train: the images to train on, in memory or read when they are needed.
        val: validation images.
        test: test images. Any split may be empty, except ``train`` if it is to be trained on.
        info: what a run records, fit for JSON: source, split, seed, counts; for images held out
            at random ``held_out_indices``, a list per split into the order of reading.
        photographs: for a split whose images are cut from a few photographs, the index of each
            one's photograph, (N); images of one photograph are alike.
    """

    name: str
    train: TrainingImages
    val: Tensor
    test: Tensor
    info: dict[str, Any] = field(default_factory=dict)
    photographs: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for images in (self.val, self.test):
            if images.dtype != torch.uint8 or images.shape[1:] != self.train.shape[1:]:
                raise ValueError("splits are uint8 tensors (N, C, H, W) of one image shape")
        if not any(len(images) for images in (self.train, self.val, self.test)):
            raise ValueError("there is at least one image")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of every image."""
        _, channels, height, width = self.train.shape
        return channels, height, width

    @property
    def unit(self) -> str:
        """What its images are: images, or crops of images."""
        return "crops" if "crops" in self.info else "images"

    def fingerprint(self) -> str:
        """Checksum to recognise the images by: of their files, or of the train and val images."""
        if recorded := self.info.get("fingerprint"):
            return str(recorded)
        digest = hashlib.blake2b(digest_size=16)
        for images in itertools.chain(self.train.chunks(), [self.val]):
            digest.update(images.contiguous().numpy().data)
        return digest.hexdigest()

    def described(self, **info: Any) -> DataSplits:
        """The same images with counts, shape and ``info`` added to what is recorded."""
        counts = {name: len(getattr(self, name)) for name in ("train", "val", "test")}
        facts = {"name": self.name, "shape": list(self.shape), "counts": counts}
        return replace(self, info={**facts, **self.info, **info})


def hold_out(count: int, sizes: Sequence[int], seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Indices 0..count-1 split at random: those kept, and as many held out as each of ``sizes``.

    Each part is in ascending order.
    """
    order = stream(seed).permutation(count)
    *held, kept = np.split(order, np.cumsum(sizes))
    return np.sort(kept), [np.sort(part) for part in held]


def only_size(name: str, options: ImageOptions, size: int) -> None:
    """Refuse an ``--image-size`` or ``--crops`` that a data set of one size does not have."""
    if options.image_size not in (None, size):
        raise UserError(
            f"{name} has images of {size}x{size}, not {options.image_size}x{options.image_size}: "
            "leave out --image-size, or choose --data photos or --data DIR"
        )
    if options.crops is not None and options.crops > size:
        raise UserError(
            f"{name} has images of {size}x{size}, smaller than crops of "
            f"{options.crops}x{options.crops}: make these smaller, or choose --data DIR"
        )


def to_channels(images: Tensor, channels: int) -> Tensor:
    """uint8 RGB images (N, 3, H, W) as they are, or with ``channels`` 1 their luma (N, 1, H, W)."""
    if channels == 3:
        return images.contiguous()
    gray = torch.empty_like(images[:, :1], memory_format=torch.contiguous_format)
    for part, target in zip(images.split(4096), gray.split(4096), strict=True):
        target.copy_(luma(part))  # in parts: int32 takes four times the memory
    return gray
