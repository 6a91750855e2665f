"""Sources of images, each read by its index: files in a folder, members of tar files."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import tarfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from srvae_pyro.errors import UserError, and_more
from srvae_pyro.formats import EXTENSIONS
from srvae_pyro.system.console import Bar
from srvae_pyro.system.files import special_kind

# What images are called that belong to others: 1_mask.png, 1.seg.png, masks/1.png.
_MASK = re.compile("(mask|seg|segm|segmentation|label|annotation|depth|matte|trimap)s?", re.I)
_ENDING = re.compile(f"[._-]{_MASK.pattern}$", re.I)


class Source(Protocol):
    """Image files, each of which can be read by its index."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> Path:
        """The image's path, or what a member of a tar is called in messages."""

    def content(self, index: int) -> bytes | None:
        """The content of the image's file; None if it is a file of its own at :meth:`name`."""

    def names_hash(self) -> bytes:
        """Checksum of the files' names relative to their folder."""

    def file_sizes(self, indices: np.ndarray) -> np.ndarray:
        """Bytes of the images' files; -1 if unknown."""

    def beginning(self, index: int, most: int) -> bytes:
        """The first bytes of the image's file, at most ``most``; none if it cannot be read."""

    def runs(self) -> np.ndarray:
        """Where each run of images starts that is best read together."""


class ImageFiles:
    """Image files in a folder; a :class:`Source`. Paths are stored as a fixed-width array."""

    def __init__(self, folder: Path, paths: Sequence[Path]) -> None:
        self.folder = folder
        self.names = np.array([os.fsencode(path.relative_to(folder)) for path in paths])

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> Path:
        return self.folder / os.fsdecode(bytes(self.names[index]))

    def content(self, index: int) -> bytes | None:
        return None

    def names_hash(self) -> bytes:
        return hashlib.blake2b(self.names.tobytes(), digest_size=16).digest()

    def file_sizes(self, indices: np.ndarray) -> np.ndarray:
        return np.array([_file_size(self.name(index)) for index in indices.tolist()])

    def beginning(self, index: int, most: int) -> bytes:
        path = self.name(index)
        with contextlib.suppress(OSError):
            if not special_kind(path):
                with path.open("rb") as file:
                    return file.read(most)
        return b""

    def runs(self) -> np.ndarray:
        return np.zeros(1, dtype=np.int64)


class TarShards:
    """Images in uncompressed tars, at most one of each of WebDataset's samples (not its masks)."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths: list[Path] = []
        empty: list[Path] = []
        offsets, sizes, counts = [], [], []
        example, left_out = "", 0
        for path in Bar(paths, desc="indexing", unit="shard", leave=False, in_log=False):
            members, others = _members(path)
            example, left_out = example or (others[0] if others else ""), left_out + len(others)
            if not len(members):
                empty.append(path)
                continue
            self.paths.append(path)
            offsets.append(members[:, 0])
            sizes.append(members[:, 1].clip(max=2**31 - 1).astype(np.int32))
            counts.append(len(members))
        if not self.paths:
            raise UserError(f"{paths[0]} has no images in it: name others with --data")
        if empty:
            what = f"{empty[0]}{and_more(len(empty))}"
            warnings.warn(f"left out, without images: {what}", stacklevel=2)
        if left_out:
            what = f"{example}{and_more(left_out)}"
            warnings.warn(f"left out, as a sample has one image: {what}", stacklevel=2)
        self.offsets, self.sizes = np.concatenate(offsets), np.concatenate(sizes)
        self.starts = np.concatenate([[0], np.cumsum(counts)])

    def __len__(self) -> int:
        return len(self.offsets)

    def _shard(self, index: int) -> int:
        return int(np.searchsorted(self.starts, index, side="right")) - 1

    def name(self, index: int) -> Path:
        shard = self._shard(index)
        return self.paths[shard] / f"image {index - self.starts[shard]}"

    def content(self, index: int) -> bytes:
        return self.beginning(index, int(self.sizes[index]))

    def names_hash(self) -> bytes:
        digest = hashlib.blake2b(digest_size=16)
        for path in self.paths:
            digest.update(os.fsencode(path.name) + b"\0")
        for values in (self.starts, self.offsets, self.sizes):
            digest.update(values.tobytes())
        return digest.digest()

    def file_sizes(self, indices: np.ndarray) -> np.ndarray:
        return self.sizes[indices]

    def beginning(self, index: int, most: int) -> bytes:
        shard, size = self._shard(index), min(int(self.sizes[index]), most)
        with self.paths[shard].open("rb", buffering=0) as file:
            return os.pread(file.fileno(), size, int(self.offsets[index]))

    def runs(self) -> np.ndarray:
        return self.starts[:-1]


def _file_size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return -1


class _Image(NamedTuple):
    """An image in a tar: its sample, what it is called in it, and where it is."""

    key: str
    kind: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        return f"{self.key}.{self.kind}"


def _images(tar: tarfile.TarFile) -> Iterator[_Image]:
    for member in tar:
        folder, name = os.path.split(member.name)
        key, _, kind = name.partition(".")
        named = os.path.splitext(name)[1].lower() in EXTENSIONS
        if member.isreg() and named and key:  # without, it is hidden
            yield _Image(os.path.join(folder, key), kind, member.offset_data, member.size)
        tar.members = []  # type: ignore[attr-defined]  # else they pile up


def _chosen(sample: list[_Image]) -> list[_Image]:
    """The images of a sample that are not masks of others."""
    plain = [image for image in sample if "." not in image.kind]
    if plain:
        return plain[:1]
    return [image for image in sample if mask_of(image.name) is None] or sample


def mask_of(path: str) -> str | None:
    """The image that a path is the mask of: ``a`` of ``a_mask.png`` and of ``masks/a.png``."""
    if not _MASK.search(path):
        return None
    *folders, name = Path(path).parts
    stem = os.path.splitext(name)[0]
    if ending := _ENDING.search(stem):
        return stem[: ending.start()]
    return stem if any(map(_MASK.fullmatch, folders)) else None


def _members(path: Path) -> tuple[np.ndarray, list[str]]:
    """Offset and size in bytes of each image in a tar, (N, 2), and the names left out."""
    members, left_out = [], []
    try:
        with tarfile.open(path, "r:") as tar:
            for _, sample in itertools.groupby(_images(tar), key=lambda image: image.key):
                images = list(sample)
                chosen = _chosen(images)
                members += [(image.offset, image.size) for image in chosen]
                left_out += [
                    f"{path.name}: {image.name} beside {chosen[0].name}"
                    for image in images
                    if image not in chosen
                ]
    except (tarfile.TarError, EOFError, OSError, OverflowError, MemoryError) as error:
        reason = str(error) or "its headers claim more than it holds"
        raise UserError(
            f"{path} is not a tar that can be read in place ({reason}): decompress it if "
            "it is compressed, or create it again"
        ) from None
    return np.array(members, dtype=np.int64).reshape(-1, 2), left_out


PREFIX = "files-"
SIZES = 100_000  # files whose sizes are hashed, at most
CONTENTS = 256  # files whose beginnings are hashed, at most
BEGINNING = 2**16  # bytes


def fingerprint_of(source: Source) -> str:
    """Checksum of all names, most sizes and some contents of a source's files."""
    digest = hashlib.blake2b(source.names_hash(), digest_size=16)
    digest.update(source.file_sizes(_evenly_spaced(len(source), SIZES)).astype("<i8").tobytes())
    for index in _evenly_spaced(len(source), CONTENTS).tolist():
        digest.update(source.beginning(index, BEGINNING))
    return PREFIX + digest.hexdigest()


def is_of_files(fingerprint: str) -> bool:
    """Whether :func:`fingerprint_of` made a fingerprint; others are checksums of pixels."""
    return fingerprint.startswith(PREFIX)


def _evenly_spaced(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))
