"""Training, validation and test pictures, and how pictures are held out."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from srvae_pyro.data.fingerprint import is_of_files
from srvae_pyro.data.stream import StreamedPictures
from srvae_pyro.errors import UserError
from srvae_pyro.pixels import luma
from srvae_pyro.streams import stream

__all__ = ["CheckShape", "DataSplits", "hold_out", "only_size", "to_channels"]

CheckShape = Callable[[tuple[int, int, int]], None]  # raises a UserError for pictures so shaped


@dataclass(frozen=True)
class DataSplits:
    """A data set, in memory but perhaps for the training pictures.

    Attributes:
        name: what ``--data`` called it.
        train: uint8 levels (N, C, H, W), contiguous, on the CPU; or pictures that are read when
            they are needed.
        val, test: in memory always. Any may be empty, but for pictures that are to be trained on.
        info: what a run records of it, fit for JSON: source, split, seed, counts; for pictures
            held out at random ``held_out_indices``, a list per split into the order of reading.
        photographs: for a split whose pictures are cut from a few photographs, the number of the
            photograph that each is from, (N); such pictures are alike.
    """

    name: str
    train: Tensor | StreamedPictures
    val: Tensor
    test: Tensor
    info: dict[str, Any] = field(default_factory=dict)
    photographs: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        splits = (self.train, self.val, self.test)
        for images in splits:
            if images.dtype != torch.uint8 or images.shape[1:] != self.train.shape[1:]:
                raise ValueError("splits are uint8 tensors (N, C, H, W) of one picture shape")
        if not any(len(images) for images in splits):
            raise ValueError("there is at least one picture")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every picture."""
        _, channels, height, width = self.train.shape
        return channels, height, width

    def training_pictures(self, most: int) -> Tensor:
        """The training pictures in memory: all if they are there already, else at most so many."""
        if isinstance(self.train, Tensor):
            return self.train
        some = torch.linspace(0, len(self.train) - 1, most).long().unique()
        return self.train.read_readable(some)[0]

    def fingerprint(self) -> str:
        """A hash to know the pictures again by: of their files, or of all but the test pictures."""
        return self.info.get("fingerprint") or _hash(_pixels(self.train), _pixels(self.val))

    def is_known_as(self, fingerprint: str) -> bool:
        """Whether these are the pictures with that fingerprint, of this version or an earlier."""
        if is_of_files(fingerprint) or fingerprint == self.fingerprint():
            return fingerprint == self.fingerprint()
        # Once it was of the pixels in memory, and of the names where they were streamed.
        if isinstance(self.train, StreamedPictures):
            names = _hash([self.train.fingerprint()], _pixels(self.val))
            if fingerprint == names:
                return True
        return fingerprint == _hash(_pixels(self.train), _pixels(self.val))

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


def _pixels(images: Tensor | StreamedPictures) -> Iterator[Any]:
    """The levels of pictures, wherever they are, one after another."""
    if isinstance(images, Tensor):
        yield images.contiguous().numpy().data
        return
    for part in torch.arange(len(images)).split(1024):
        yield images.read_readable(part)[0].numpy().data


def hold_out(count: int, sizes: Sequence[int], seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Indices 0..count-1 parted at random: those kept, and as many held out as each of ``sizes``.

    Each part is in ascending order.
    """
    order = stream(seed).permutation(count)
    *held, kept = np.split(order, np.cumsum(sizes))
    return np.sort(kept), [np.sort(part) for part in held]


def only_size(name: str, image_size: int | None, size: int) -> None:
    """Refuse an ``--image-size`` that a data set of one size does not have."""
    if image_size not in (None, size):
        raise UserError(
            f"{name} has images of {size}x{size}, not {image_size}x{image_size}: leave out "
            "--image-size, or choose --data photos or --data DIR"
        )


def to_channels(images: Tensor, channels: int) -> Tensor:
    """uint8 colour pictures (N, 3, H, W) themselves, or their luma (N, 1, H, W)."""
    if channels == 3:
        return images.contiguous()
    gray = torch.empty_like(images[:, :1], memory_format=torch.contiguous_format)
    for part, target in zip(images.split(4096), gray.split(4096), strict=True):
        target.copy_(luma(part))  # in parts: int32 takes four times the memory
    return gray
