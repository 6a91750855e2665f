"""Pictures that are read when they are needed: folders and tar shards too large for memory."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tarfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from srvae_pyro.data.pictures import EXTENSIONS, read_picture
from srvae_pyro.errors import UserError
from srvae_pyro.talk import Bar

__all__ = ["PictureFiles", "Shards", "Source", "StreamedPictures", "shuffled"]

MOST_TRIED = 100  # pictures that cannot be read, before giving up
READ_AT_ONCE = 256  # pictures of a batch that is not for training
SIZES_COMPARED = 32  # pictures whose sizes are compared before anything else
WINDOW = 16  # shards whose pictures are shuffled together


class Source(Protocol):
    """Where pictures are: files, each of which can be read by its number."""

    def __len__(self) -> int: ...

    def name(self, number: int) -> Path:
        """What to call a picture."""
        ...

    def content(self, number: int) -> bytes | None:
        """The content of a picture's file; None if it is on its own at :meth:`name`."""
        ...

    def fingerprint(self) -> bytes:
        """A hash of the files' names, in the folder that they are in."""
        ...

    def file_sizes(self, numbers: np.ndarray) -> np.ndarray:
        """Bytes of the pictures' files; -1 where that cannot be told."""
        ...

    def beginning(self, number: int, most: int) -> bytes:
        """The first bytes of a picture's file, at most so many; none where it cannot be read."""
        ...

    def runs(self) -> np.ndarray:
        """Where each run of pictures that are best read together starts."""
        ...


class PictureFiles:
    """Picture files, whose names take as many bytes each as the longest.

    Args:
        folder: the folder that they are in.
        paths: the files.
    """

    def __init__(self, folder: Path, paths: Sequence[Path]) -> None:
        self.folder = folder
        self.names = np.array([os.fsencode(path.relative_to(folder)) for path in paths])

    def __len__(self) -> int:
        return len(self.names)

    def name(self, number: int) -> Path:
        return self.folder / os.fsdecode(bytes(self.names[number]))

    def content(self, number: int) -> bytes | None:
        return None

    def fingerprint(self) -> bytes:
        return hashlib.blake2b(self.names.tobytes(), digest_size=16).digest()

    def file_sizes(self, numbers: np.ndarray) -> np.ndarray:
        return np.array([_size(self.name(number)) for number in numbers.tolist()])

    def beginning(self, number: int, most: int) -> bytes:
        with contextlib.suppress(OSError), self.name(number).open("rb") as file:
            return file.read(most)
        return b""

    def runs(self) -> np.ndarray:
        return np.zeros(1, dtype=np.int64)


class Shards:
    """The pictures in tar files, such as WebDataset's; 12 bytes of memory a picture.

    Only the tars' headers are read at first. Within a tar the members with a picture's extension
    count, whatever else belongs to them.

    Args:
        paths: the tars, not compressed.

    Raises:
        UserError: one cannot be read, or there are no pictures in any. A warning names one that
            has none.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths: list[Path] = []
        empty: list[Path] = []
        offsets, sizes, counts = [], [], []
        for path in Bar(paths, desc="indexing", unit="shard", leave=False, in_log=False):
            found = _members(path)
            (self.paths if len(found) else empty).append(path)
            offsets.append(found[:, 0])
            sizes.append(found[:, 1].astype(np.int32))
            counts.append(len(found))
        if not self.paths:
            raise UserError(f"{paths[0]} has no pictures in it: name others with --data")
        if empty:
            more = f" and {len(empty) - 1} more" if empty[1:] else ""
            warnings.warn(f"left out, without pictures: {empty[0]}{more}", stacklevel=2)
        counts = [count for count in counts if count]
        self.offsets, self.sizes = np.concatenate(offsets), np.concatenate(sizes)
        self.starts = np.concatenate([[0], np.cumsum(counts)])

    def __len__(self) -> int:
        return len(self.offsets)

    def _shard(self, number: int) -> int:
        return int(np.searchsorted(self.starts, number, side="right")) - 1

    def name(self, number: int) -> Path:
        shard = self._shard(number)
        return self.paths[shard] / f"picture {number - self.starts[shard]}"

    def content(self, number: int) -> bytes:
        shard = self._shard(number)
        with self.paths[shard].open("rb", buffering=0) as file:
            return os.pread(file.fileno(), int(self.sizes[number]), int(self.offsets[number]))

    def fingerprint(self) -> bytes:
        found = hashlib.blake2b(digest_size=16)
        for path in self.paths:
            found.update(os.fsencode(path.name) + b"\0")
        for values in (self.starts, self.offsets, self.sizes):
            found.update(values.tobytes())
        return found.digest()

    def file_sizes(self, numbers: np.ndarray) -> np.ndarray:
        return self.sizes[numbers]

    def beginning(self, number: int, most: int) -> bytes:
        return self.content(number)[:most]

    def runs(self) -> np.ndarray:
        return self.starts[:-1]


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return -1


def _members(path: Path) -> np.ndarray:
    """Offset and size in bytes of each picture in a tar, (N, 2)."""
    found = []
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                stem, extension = os.path.splitext(member.name)
                hidden = os.path.basename(stem).startswith(".")
                if member.isreg() and extension.lower() in EXTENSIONS and not hidden:
                    found.append((member.offset_data, member.size))
                tar.members = []  # type: ignore[attr-defined]  # else they pile up
    except (tarfile.TarError, EOFError) as error:
        raise UserError(
            f"{path} is not a tar that can be read in place ({error}): unpack it if it "
            "is compressed, or make it anew"
        ) from None
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def shuffled(count: int, random: np.random.Generator) -> Tensor:
    """The numbers 0..count-1 in a random order."""
    return torch.from_numpy(random.permutation(count))


def shuffled_in_windows(starts: np.ndarray, count: int, random: np.random.Generator) -> Tensor:
    """The same, pictures of :data:`WINDOW` runs at a time, so that a tar is read in a short time.

    Args:
        starts: where each run of 0..count-1 starts, such as a tar's pictures.
        count: see above.
        random: see above.
    """
    ends = np.append(starts[1:], count)
    parts = []
    for window in shuffled(len(starts), random).split(WINDOW):
        numbers = torch.cat([torch.arange(starts[i], ends[i]) for i in window.tolist()])
        parts.append(numbers[shuffled(len(numbers), random)])
    return torch.cat(parts)


class StreamedPictures(Dataset[Tensor | str]):
    """Pictures of one shape, of which no more are in memory than are asked for.

    Args:
        source: where they are.
        numbers: which of the source's are meant, ascending.
        channels: 3 or 1.
        image_size: see :func:`~srvae_pyro.data.pictures.read_picture`; without it all are expected
            to be of the first one's size.
        strict: refuse a picture that cannot be read; otherwise the next that can takes its place,
            with one warning.

    Raises:
        UserError: the first one cannot be read.
    """

    dtype = torch.uint8

    def __init__(
        self,
        source: Source,
        numbers: np.ndarray,
        channels: int,
        image_size: int | None = None,
        strict: bool = False,
    ) -> None:
        self.source, self.numbers = source, numbers
        self.channels, self.image_size, self.strict = channels, image_size, strict
        self.workers = 0
        self.warned = False
        width, height = self._first_size()
        self.shape = torch.Size([len(numbers), channels, height, width])
        runs = np.searchsorted(numbers, source.runs())
        self.runs = np.unique(runs[runs < len(numbers)])

    def _first_size(self) -> tuple[int, int]:
        """Width and height of the first picture that can be read."""
        for tried, number in enumerate(self.numbers, start=1):
            try:
                return self._read(int(number)).size
            except UserError:
                if self.strict or tried == min(len(self.numbers), MOST_TRIED):
                    raise
        raise ValueError("there are no pictures")

    def compare_sizes(self) -> None:
        """Look at some pictures all over.

        Raises:
            UserError: one has another size than the first.
        """
        places = np.linspace(0, len(self) - 1, SIZES_COMPARED).astype(int)
        height, width = self.shape[2:]
        for number in self.numbers[np.unique(places)].tolist():
            try:
                size = self._read(number).size
            except UserError:
                continue  # is told when its turn comes
            if size != (width, height):
                raise UserError(_other_size(self.source.name(number), size, (width, height)))

    def _read(self, number: int) -> Image.Image:
        """Picture ``number`` of the source."""
        name = self.source.name(number)
        content = self.source.content(number)
        return read_picture(name, self.channels, self.image_size, content)

    def __len__(self) -> int:
        return len(self.numbers)

    def order(self, random: np.random.Generator) -> Tensor:
        """The pictures' indices in a random order that is good to read in."""
        if len(self.runs) == 1:
            return shuffled(len(self), random)  # as if they were in memory
        return shuffled_in_windows(self.runs, len(self), random)

    def fingerprint(self) -> bytes:
        """A hash by which runs of earlier versions know them again."""
        return self.source.fingerprint() + hashlib.blake2b(self.numbers.tobytes()).digest()

    def __getitem__(self, index: int) -> Tensor | str:
        """Picture ``index`` as uint8 (C, H, W), or why it cannot be read."""
        number = int(self.numbers[index])
        try:
            picture = self._read(number)
        except (UserError, OSError) as error:
            return str(error)
        height, width = self.shape[2:]
        if picture.size != (width, height):
            return _other_size(self.source.name(number), picture.size, (width, height))
        levels = np.asarray(picture).reshape(height, width, self.channels)
        return torch.from_numpy(levels.transpose(2, 0, 1).copy())

    def read(self, indices: Tensor) -> Tensor:
        """The pictures of these indices, uint8 (N, C, H, W), as :meth:`batches` has them."""
        return torch.cat(list(self.batches(indices.split(READ_AT_ONCE), pin=False)))

    def read_readable(self, indices: Tensor) -> tuple[Tensor, list[Path]]:
        """The pictures of these indices but those that cannot be read; and what to call these.

        A warning names the first of them.

        Raises:
            UserError: one cannot be read and ``strict``.
        """
        pictures = torch.empty(len(indices), *self.shape[1:], dtype=torch.uint8)
        count, names, mistakes = 0, [], []
        for index in indices.tolist():
            picture = self[index]
            if isinstance(picture, Tensor):
                pictures[count] = picture
                count += 1
            elif self.strict:
                raise UserError(picture)
            else:
                mistakes.append(picture)
                names.append(self.source.name(int(self.numbers[index])))
        if mistakes:
            more = f" and {len(mistakes) - 1} more" if mistakes[1:] else ""
            warnings.warn(f"left out{more}: {mistakes[0]}", stacklevel=2)
        return pictures[:count], names

    def batches(self, batches: Iterable[Tensor], pin: bool) -> Iterator[Tensor]:
        """The pictures of each of ``batches`` of indices, read ahead by ``workers`` processes.

        Raises:
            UserError: one cannot be read and ``strict``, or none of a batch.
        """
        loader = DataLoader(
            self,
            batch_sampler=_Lists(batches),
            num_workers=self.workers,
            collate_fn=_together,
            pin_memory=pin,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # or it draws from PyTorch's own
        )
        for pictures, mistakes in loader:
            if mistakes and (self.strict or not len(pictures)):
                raise UserError(mistakes[0])
            if mistakes and not self.warned:
                self.warned = True
                warnings.warn(f"left out, as more may be: {mistakes[0]}", stacklevel=2)
            if mistakes:
                fill = torch.arange(len(mistakes)) % len(pictures)
                pictures = torch.cat([pictures, pictures[fill]])
            yield pictures


def _other_size(name: Path, size: tuple[int, int], first: tuple[int, int]) -> str:
    """What to say of a picture; sizes are (width, height)."""
    return (
        f"{name} has {size[0]}x{size[1]} pixels, the first {first[0]}x{first[1]}: pass "
        "--image-size N to make each a square of N pixels"
    )


class _Lists:
    """Batches of indices as lists, made when they are needed."""

    def __init__(self, batches: Iterable[Tensor]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return (batch.tolist() for batch in self.batches)


def _together(items: list[Tensor | str]) -> tuple[Tensor, list[str]]:
    """A batch of what could be read, and what was wrong with the rest."""
    pictures = [item for item in items if isinstance(item, Tensor)]
    mistakes = [item for item in items if isinstance(item, str)]
    return torch.stack(pictures) if pictures else torch.empty(0), mistakes


def _start_worker(_: int) -> None:
    """Signals to a process's group, Ctrl-C or torchrun's SIGTERM, are the trainer's to handle."""
    os.setpgrp()
