"""Training images and crops that are read when they are needed, for sets too large for memory."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from srvae_pyro.data.crops import SizedImages, crop_order, crops_an_epoch, cut, places_in, read_grid
from srvae_pyro.data.image_files import read_image
from srvae_pyro.data.sources import Source
from srvae_pyro.data.splits import (
    BLOCK,
    ImageOptions,
    evenly_spaced_indices,
    shuffled,
    shuffled_in_windows,
)
from srvae_pyro.errors import UserError, left_out_of
from srvae_pyro.system.device import stream, to_device

CPU = torch.device("cpu")
MOST_TRIED = 100  # unreadable images before giving up
READ_AT_ONCE = 256  # images of a batch that is not for training
SIZES_COMPARED = 32  # images whose sizes are compared before training
HASHED_AT_ONCE = 1024  # images in memory while all are hashed
SILENCE = 600.0  # seconds that the reading processes may take for a batch before they count as hung


class _Streamed:
    """What streamed images and crops share: unreadable images are refused or warned of once."""

    strict: bool
    workers = 0
    warned = False

    def note(self, errors: list[str]) -> None:
        if errors and self.strict:
            raise UserError(errors[0])
        if errors and not self.warned:
            self.warned = True
            warnings.warn(f"left out, perhaps among others: {errors[0]}", stacklevel=2)


class StreamedImages(_Streamed, Dataset[Tensor | str]):
    """Images of one size that are read when needed; others replace unreadable ones."""

    def __init__(self, source: Source, indices: np.ndarray, options: ImageOptions) -> None:
        self.source, self.indices = source, indices
        self.channels, self.image_size = options.channels, options.image_size
        self.strict = options.strict
        width, height = self._first_size()
        self.shape = torch.Size([len(indices), self.channels, height, width])
        runs = np.searchsorted(indices, source.runs())
        self.runs = np.unique(runs[runs < len(indices)])

    def _first_size(self) -> tuple[int, int]:
        for tried, index in enumerate(self.indices, start=1):
            try:
                return self._read(int(index)).size
            except UserError:
                if self.strict or tried == min(len(self.indices), MOST_TRIED):
                    raise
        raise ValueError("there are no images")

    def compare_sizes(self) -> None:
        places = np.linspace(0, len(self) - 1, SIZES_COMPARED).astype(int)
        height, width = self.shape[2:]
        for index in self.indices[np.unique(places)].tolist():
            try:
                size = self._read(index).size
            except UserError:
                continue  # reported when its turn comes
            if size != (width, height):
                raise UserError(_other_size(self.source.name(index), size, (width, height)))

    def _read(self, source_index: int) -> Image.Image:
        name = self.source.name(source_index)
        content = self.source.content(source_index)
        return read_image(name, self.channels, self.image_size, content)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Tensor | str:
        """Image ``index``, uint8 (C, H, W), or the reason why it cannot be read."""
        source_index = int(self.indices[index])
        try:
            image = self._read(source_index)
        except (UserError, OSError) as error:
            return str(error)
        height, width = self.shape[2:]
        if image.size != (width, height):
            return _other_size(self.source.name(source_index), image.size, (width, height))
        levels = np.asarray(image).reshape(height, width, self.channels)
        return torch.from_numpy(levels.transpose(2, 0, 1).copy())

    def on(self, device: torch.device) -> StreamedImages:
        return self

    def order(self, seed: int, epoch: int) -> Tensor:
        random = stream(seed, epoch, *b"order")
        if len(self.runs) == 1:
            return shuffled(len(self), random)  # as if they were in memory
        return shuffled_in_windows(self.runs, len(self), random)

    def read(self, indices: Tensor) -> Tensor:
        return torch.cat(list(self.batches(indices.split(READ_AT_ONCE), CPU)))

    def batches(self, batches: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
        lists, pinned = (batch.tolist() for batch in batches), device.type == "cuda"
        for images, errors in read_ahead(self, lists, _collate, self.workers, pinned):
            if errors and not len(images):
                raise UserError(errors[0])
            self.note(errors)
            if errors:
                fill = torch.arange(len(errors)) % len(images)
                images = torch.cat([images, images[fill]])
            yield to_device(images, device)

    def read_readable(self, indices: Tensor) -> tuple[Tensor, list[Path]]:
        """The readable images at ``indices``, and the names of the others."""
        images = torch.empty(len(indices), *self.shape[1:], dtype=torch.uint8)
        count, names, errors = 0, [], []
        for index in indices.tolist():
            image = self[index]
            if isinstance(image, Tensor):
                images[count] = image
                count += 1
            elif self.strict:
                raise UserError(image)
            else:
                errors.append(image)
                names.append(self.source.name(int(self.indices[index])))
        if errors:
            warnings.warn(f"{left_out_of(len(errors))}: {errors[0]}", stacklevel=2)
        return images[:count], names

    def in_memory(self, most: int | None = None) -> Tensor:
        if most is None:
            return self.read_readable(torch.arange(len(self)))[0]
        return self.read_readable(evenly_spaced_indices(len(self), most))[0]

    def chunks(self) -> Iterator[Tensor]:
        for indices in torch.arange(len(self)).split(HASHED_AT_ONCE):
            yield self.read_readable(indices)[0]


def _other_size(name: Path, size: tuple[int, int], first: tuple[int, int]) -> str:
    return (
        f"{name} has {size[0]}x{size[1]} pixels, the first {first[0]}x{first[1]}: pass "
        "--image-size N to make each a square of N pixels"
    )


def _collate(items: list[Tensor | str]) -> tuple[Tensor, list[str]]:
    images = [item for item in items if isinstance(item, Tensor)]
    errors = [item for item in items if isinstance(item, str)]
    return torch.stack(images) if images else torch.empty(0), errors


def read_ahead(
    dataset: Any,
    batches: Iterable[list[int]],
    collate: Callable[[list[Any]], tuple[Any, ...]],
    workers: int,
    pinned: bool = False,
) -> Iterator[tuple[Any, ...]]:
    """Batches that ``collate`` makes, a tensor first, read ahead by processes or by this one."""
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_Collate(collate),
        pin_memory=pinned,
        timeout=SILENCE if workers else 0,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # or it draws from PyTorch's global one
    )
    try:
        arriving = iter(loader)
    except OSError as error:  # no semaphores, or no more processes
        with _unraisable_ignored():
            error.__traceback__ = None  # a loader half made fails once more as it goes
        raise UserError(
            "cannot start processes to read images ahead "
            f"({error.strerror or error}): use --workers 0"
        ) from None
    yield from arriving


@contextlib.contextmanager
def _unraisable_ignored() -> Iterator[None]:
    before, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = before


class _Collate:
    """Collates a batch; a tensor comes by the pipe: /dev/shm may lack room."""

    def __init__(self, collate: Callable[[list[Any]], tuple[Any, ...]]) -> None:
        self.collate = collate

    def __call__(self, items: list[Any]) -> tuple[Any, ...]:
        tensor, *others = self.collate(items)
        return (tensor if get_worker_info() is None else _ByPipe(tensor), *others)


class _ByPipe:
    """A tensor that is pickled by value."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __reduce__(self) -> tuple[Callable[[np.ndarray], Tensor], tuple[np.ndarray]]:
        return torch.from_numpy, (self.tensor.numpy(),)


def _start_worker(_: int) -> None:
    """Leave the process group, whose signals the trainer handles."""
    os.setpgrp()


HELD = BLOCK * 5 // 4  # bytes of decoded images: a block of an order, which may end late
_NOTHING = torch.empty(0, 0, 0, dtype=torch.uint8)


class StreamedCrops(_Streamed):
    """The crops of :class:`MemoryCrops` in the same order, with few decoded images in memory."""

    def __init__(self, images: SizedImages, side: int, strict: bool) -> None:
        self.images, self.side, self.strict = images, side, strict
        self.counts = crops_an_epoch(images.sizes, side)
        self.shape = torch.Size([int(self.counts.sum()), images.channels, side, side])
        runs = np.searchsorted(images.indices, images.source.runs())
        self.runs = np.unique(runs[runs < len(images)])
        self._held: dict[int, Tensor | str] = {}  # decoded images, or why they cannot be read

    def __len__(self) -> int:
        return self.shape[0]

    def on(self, device: torch.device) -> StreamedCrops:
        return self

    def order(self, seed: int, epoch: int) -> Tensor:
        return crop_order(seed, epoch, self.counts, self.images.nbytes, self.runs)

    def read(self, indices: Tensor) -> Tensor:
        wanted = indices[:, 0].unique().tolist()
        return self._cut(indices, {index: self.images[index] for index in wanted})

    def batches(self, batches: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
        plan = _Plan(batches, self._held, self.images.nbytes)
        decoded = read_ahead(self.images, plan, _packed, self.workers)
        for levels, shapes, errors in decoded:
            rows, needed, dropped = plan.steps.popleft()
            self.note(errors)
            for index, image in zip(needed, _unpacked(levels, shapes, errors), strict=True):
                self._held[index] = image
            crops = self._cut(rows, self._held)
            for index in dropped:
                del self._held[index]
            yield to_device(crops, device)

    def _cut(self, rows: Tensor, held: dict[int, Tensor | str]) -> Tensor:
        """The crops at ``rows`` (B, 3) of decoded images, repeated if one cannot be read."""
        images = [held[index] for index in rows[:, 0].tolist()]
        known = [image for image in images if isinstance(image, Tensor)]
        if not known:
            raise UserError(str(images[0]))
        readable = torch.tensor([isinstance(image, Tensor) for image in images])
        heights, widths = torch.tensor([image.shape[1:] for image in known]).unbind(1)
        places = places_in(heights, widths, rows[readable, 1:], self.side).numpy()
        crops = torch.empty(len(known), *self.shape[1:], dtype=torch.uint8)
        for image, place, crop in zip(known, places, crops, strict=True):
            cut(image, place[None], self.side, crop[None])
        return crops if len(known) == len(rows) else crops[torch.arange(len(rows)) % len(known)]

    def in_memory(self, most: int | None = None) -> Tensor:
        images = self.images
        grid = read_grid(images.read, images.sizes, images.channels, self.side, most)
        return grid.crops

    def chunks(self) -> Iterator[Tensor]:
        for index in range(len(self.images)):
            if isinstance(image := self.images[index], Tensor):
                yield image


class _Plan:
    """Which images to decode for each batch of crops, and which to forget after it.

    The loader runs ahead of the cutting, so ``steps`` has for each batch its crops (B, 3), the
    images to decode, and those to forget: the least recent beyond :data:`HELD` bytes.
    """

    def __init__(self, batches: Iterable[Tensor], held: Iterable[int], nbytes: np.ndarray) -> None:
        self.batches, self.nbytes = batches, nbytes
        self.recent = OrderedDict.fromkeys(held)
        self.steps: deque[tuple[Tensor, list[int], list[int]]] = deque()

    def __iter__(self) -> Iterator[list[int]]:
        total = int(self.nbytes[list(self.recent)].sum())
        for rows in self.batches:
            wanted = list(dict.fromkeys(rows[:, 0].tolist()))
            missing = [index for index in wanted if index not in self.recent]
            for index in wanted:
                self.recent[index] = None
                self.recent.move_to_end(index)
            total += int(self.nbytes[missing].sum())
            dropped = []
            while total > HELD and len(self.recent) > len(wanted):
                index, _ = self.recent.popitem(last=False)
                total -= int(self.nbytes[index])
                dropped.append(index)
            self.steps.append((rows, missing, dropped))
            yield missing


def _packed(items: list[Tensor | str]) -> tuple[Tensor, list[tuple[int, ...]], list[str]]:
    """Images in one flat tensor, their shapes, and what is wrong with those that have none."""
    images = [item if isinstance(item, Tensor) else _NOTHING for item in items]
    flat = torch.cat([_NOTHING.flatten(), *(image.flatten() for image in images)])
    errors = [item for item in items if isinstance(item, str)]
    return flat, [tuple(image.shape) for image in images], errors


def _unpacked(
    levels: Tensor, shapes: list[tuple[int, ...]], errors: list[str]
) -> Iterator[Tensor | str]:
    """What :func:`_packed` was given, copied: a view would keep all of its batch in memory."""
    reasons = iter(errors)
    for shape, part in zip(shapes, levels.split([math.prod(s) for s in shapes]), strict=True):
        yield part.clone().view(shape) if len(part) else next(reasons)
