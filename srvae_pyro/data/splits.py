"""Training, validation and test images: options, held-out images, random orders, augmentation."""

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
    """``count`` evenly spaced indices below ``total``, as folders are sorted by class, or all."""
    if count is None or count >= total:
        return torch.arange(total)
    return torch.linspace(0, total - 1, count, dtype=torch.float64).round().long()


def evenly_spaced(images: Tensor, count: int | None) -> Tensor:
    return images if count is None else images[evenly_spaced_indices(len(images), count)]


WINDOW = 16  # tars whose images are shuffled together
BLOCK = 2**29  # bytes of decoded images whose crops are shuffled together
MOST_AT_ONCE = 32  # crops for which an image enters a block


def shuffled(count: int, random: np.random.Generator) -> Tensor:
    return torch.from_numpy(random.permutation(count))


def shuffled_in_windows(starts: np.ndarray, count: int, random: np.random.Generator) -> Tensor:
    """Indices 0..count-1 in a random order by :data:`WINDOW` runs, so each tar is read at once."""
    ends = np.append(starts[1:], count)
    parts = []
    for window in shuffled(len(starts), random).split(WINDOW):
        indices = torch.cat([torch.arange(starts[i], ends[i]) for i in window.tolist()])
        parts.append(indices[shuffled(len(indices), random)])
    return torch.cat(parts)


def shuffled_crops(
    counts: np.ndarray, nbytes: np.ndarray, starts: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """The image of each crop, int32, in a random order that decodes few images at a time.

    Beyond :data:`BLOCK` decoded bytes, random images form a block whose crops are shuffled, then
    the next block; a large image enters several blocks, or a batch would be of few images.
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
    """Which images to read, and as what; a loader ignores the options that do not apply."""

    image_size: int | None = None  # side of the central square; None: the data set's own size
    crops: int | None = None  # side of squares at native resolution, random to train on
    eval_crops: int | None = None  # at most, for val and test each; None: 2,000, or one an image
    channels: int = 3  # or 1, luma (Pillow's "L")
    seed: int = 0  # of the images held out, and of the crops' places
    limit: int | None = None  # only the first images of each split
    strict: bool = False  # raise an error for a file that cannot be read, do not leave it out
    stream: bool | None = None  # read when needed; None: if half of the memory would not suffice
    download: bool = True
    for_training: bool = True  # raise an error for a folder without images to train on
    check_shape: CheckShape | None = None  # refuses a shape (C, H, W) before all images are read


DEFAULTS = ImageOptions()


class TrainingImages(Protocol):
    """Images of one shape to train on, uint8, in memory or read when they are needed."""

    shape: torch.Size  # (N, C, H, W) of an epoch
    workers: int  # processes that read ahead; images in memory need none

    def __len__(self) -> int: ...

    def on(self, device: torch.device) -> TrainingImages:
        """The same, kept on ``device`` if they are in memory and it has room."""

    def order(self, seed: int, epoch: int) -> Tensor:
        """What an epoch has in a random order, (N) or (N, ...), by seed and epoch alone."""

    def read(self, indices: Tensor) -> Tensor:
        """The images at ``indices``, a part of an order, on their device."""

    def batches(self, batches: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]: ...

    def in_memory(self, most: int | None = None) -> Tensor:
        """The readable images on the CPU; streamed ones at most ``most``, evenly spaced."""

    def chunks(self) -> Iterator[Tensor]:
        """The readable images, in tensors that fit into memory."""


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

    All are uint8 (N, C, H, W) of one shape, contiguous, on the CPU; a split may be empty.
    """

    name: str  # as in ``--data``
    train: TrainingImages
    val: Tensor
    test: Tensor
    info: dict[str, Any] = field(default_factory=dict)  # what a run records, fit for JSON
    # By split, if its images are cut from a few photographs: the index of each one's, (N).
    photographs: dict[str, Tensor] = field(default_factory=dict)
    larger: Tensor | None = None  # (N, C, H, W): of the test photographs, larger than the images

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
    """Indices 0..count-1 split at random: those kept, and parts of ``sizes``, each ascending."""
    order = stream(seed).permutation(count)
    *held, kept = np.split(order, np.cumsum(sizes))
    return np.sort(kept), [np.sort(part) for part in held]


MOST_HELD_OUT = 10_000


def hold_out_tenths(count: int, splits: Sequence[str], seed: int) -> dict[str, np.ndarray]:
    """Indices by split: a tenth for each of ``splits``, at most 10,000, all others for train."""
    size = min(MOST_HELD_OUT, max(1, count // 10))
    kept, parts = hold_out(count, [size] * len(splits), seed)
    return {"train": kept, **dict(zip(splits, parts, strict=True))}


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
    """uint8 RGB images (N, 3, H, W), or with ``channels`` 1 their luma (N, 1, H, W)."""
    if channels == 3:
        return images.contiguous()
    gray = torch.empty_like(images[:, :1], memory_format=torch.contiguous_format)
    for part, target in zip(images.split(4096), gray.split(4096), strict=True):
        target.copy_(luma(part))  # in parts: int32 takes four times the memory
    return gray


def augment(images: Tensor, generator: torch.Generator, shift: bool = True) -> Tensor:
    """Flip each image with probability 1/2, shift it by up to 5% of its size, repeating edges.

    The generator is on the CPU, so that a resumed run draws the same on any device.
    """
    count, channels, height, width = images.shape
    flip = torch.randint(0, 2, (count,), generator=generator)
    most_down, most_right = (height // 20, width // 20) if shift else (0, 0)
    down = torch.randint(-most_down, most_down + 1, (count,), generator=generator)
    right = torch.randint(-most_right, most_right + 1, (count,), generator=generator)
    # One copy to the device instead of three.
    flip, down, right = to_device(torch.stack([flip, down, right])[:, :, None], images.device)

    rows = (torch.arange(height, device=images.device) - down).clamp(0, height - 1)  # (B, H)
    columns = (torch.arange(width, device=images.device) - right).clamp(0, width - 1)  # (B, W)
    columns = torch.where(flip.bool(), width - 1 - columns, columns)
    batch = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[:, None, None]
    return images[batch, channel, rows[:, None, :, None], columns[:, None, None, :]].contiguous()
