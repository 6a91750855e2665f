"""Training, validation and test pictures, and how pictures are held out."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from srvae_pyro.data.options import PictureOptions
from srvae_pyro.data.training_pictures import TrainingPictures
from srvae_pyro.errors import UserError
from srvae_pyro.pixels import luma
from srvae_pyro.system.streams import stream

__all__ = ["DataSplits", "hold_out", "only_size", "to_channels"]


@dataclass(frozen=True)
class DataSplits:
    """A data set: pictures to train on, and validation and test images in memory.

    All images are uint8 levels (N, C, H, W) of one shape (C, H, W), contiguous, on the CPU.

    Attributes:
        name: what ``--data`` called it.
        train: the pictures to train on, in memory or read when they are needed.
        val: validation images.
        test: test images. Any split may be empty, except ``train`` where it is to be trained on.
        info: what a run records of it, fit for JSON: source, split, seed, counts; for pictures
            held out at random ``held_out_indices``, a list per split into the order of reading.
        photographs: for a split whose images are cut from a few photographs, the index of each
            one's photograph, (N); images of one photograph are alike.
    """

    name: str
    train: TrainingPictures
    val: Tensor
    test: Tensor
    info: dict[str, Any] = field(default_factory=dict)
    photographs: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for images in (self.val, self.test):
            if images.dtype != torch.uint8 or images.shape[1:] != self.train.shape[1:]:
                raise ValueError("splits are uint8 tensors (N, C, H, W) of one image shape")
        if not any(len(images) for images in (self.train, self.val, self.test)):
            raise ValueError("there is at least one picture")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of every image."""
        _, channels, height, width = self.train.shape
        return channels, height, width

    @property
    def unit(self) -> str:
        """What its images are: pictures, or crops of pictures."""
        return "crops" if "crops" in self.info else "pictures"

    def fingerprint(self) -> str:
        """Hash to recognise the pictures by: of their files, or of the train and val images."""
        return self.info.get("fingerprint") or self._pixel_hash()

    def _pixel_hash(self) -> str:
        return _hash(_buffers(self.train.chunks()), _buffers([self.val]))

    def described(self, **info: Any) -> DataSplits:
        """The same pictures with counts, shape and ``info`` added to what is recorded."""
        counts = {name: len(getattr(self, name)) for name in ("train", "val", "test")}
        facts = {"name": self.name, "shape": list(self.shape), "counts": counts}
        return replace(self, info={**facts, **self.info, **info})


def _hash(*parts: Iterable[Any]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in itertools.chain(*parts):
        digest.update(part)
    return digest.hexdigest()


def _buffers(chunks: Iterable[Tensor]) -> Iterator[Any]:
    """The levels of images as what a hash takes."""
    return (images.contiguous().numpy().data for images in chunks)


def hold_out(count: int, sizes: Sequence[int], seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Indices 0..count-1 parted at random: those kept, and as many held out as each of ``sizes``.

    Each part is in ascending order.
    """
    order = stream(seed).permutation(count)
    *held, kept = np.split(order, np.cumsum(sizes))
    return np.sort(kept), [np.sort(part) for part in held]


def only_size(name: str, options: PictureOptions, size: int) -> None:
    """Refuse an ``--image-size`` or ``--crops`` that a data set of one size does not have.

    Raises:
        UserError: it is another size, or the crops are larger.
    """
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
