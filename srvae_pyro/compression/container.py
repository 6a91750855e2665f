"""The file of an image set: parts with their checksums, read without running anything.

``SRVAEbb1``, then parts, each its length as eight bytes, little-endian, its bytes, and a checksum
of eight more. The parts are a header, JSON that zlib has made small; a checksum of each image,
four bytes each; and the chains. A part can be read without those after it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from srvae_pyro.errors import UserError
from srvae_pyro.system.console import shown
from srvae_pyro.system.files import special_kind, write_whole

MAGIC = b"SRVAEbb1"
FORMAT = 2
LENGTH, CHECK, FINGERPRINT = 8, 8, 4  # bytes
# Bytes of a header, uncompressed, at most, and for each byte of the file, of which an image has 4
# at least: a hostile one cannot fill the memory.
LARGEST, LARGEST_OF_BYTE = 1 << 26, 200
NAME = 251  # bytes of an image's name: with .png 255, which most file systems take
SIDE = 1 << 16  # of an image, at most
WORD = np.dtype("<u4")
# Windows' names of devices, whatever follows behind a dot.
RESERVED = re.compile(r"(con|prn|aux|nul|con(in|out)\$|(com|lpt)[\d¹²³]) *(\.|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Entry:
    """An image in a file: its name without folder or extension, whether it has one channel."""

    name: str
    height: int
    width: int
    gray: bool = False


@dataclass(frozen=True)
class Header:
    """A file's header."""

    run: str  # name of the model's run
    model: str  # checksum of its weights
    arithmetic: str  # fp64 or fp32
    group: int  # images a batch
    start_words: tuple[int, ...]  # 32-bit words that each chain starts with
    made: dict[str, str]  # versions and hardware by name
    images: tuple[Entry, ...]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each image."""
        return [(image.height, image.width) for image in self.images]

    def to_bytes(self) -> bytes:
        values = asdict(self)
        # By columns, as most columns repeat themselves.
        images = values.pop("images")
        columns = {f.name: [image[f.name] for image in images] for f in fields(Entry)}
        text = json.dumps({"format": FORMAT, **values, "images": columns}, separators=(",", ":"))
        if len(text) > LARGEST:
            raise UserError("the names of so many images do not fit into one file: use fewer")
        return zlib.compress(text.encode(), 9)

    @classmethod
    def from_bytes(cls, content: bytes, most: int = LARGEST) -> Header:
        """The header of at most so many bytes uncompressed, or a ValueError."""
        inflate = zlib.decompressobj()
        try:
            text = inflate.decompress(content, most)
            values = json.loads(text)
        except (zlib.error, ValueError, RecursionError):
            raise ValueError("its header cannot be read") from None
        if not inflate.eof or not isinstance(values, dict):
            raise ValueError("its header cannot be read")
        if values.get("format") != FORMAT:
            raise ValueError(
                f"its format is {values.get('format')!r}, and this version reads {FORMAT}"
            )
        try:
            del values["format"]
            columns = values.pop("images")
            rows = zip(*(columns[f.name] for f in fields(Entry)), strict=True)
            values["start_words"] = tuple(values["start_words"])
            header = cls(**values, images=tuple(Entry(*row) for row in rows))
        except (KeyError, TypeError, ValueError):
            raise ValueError("its header is incomplete") from None
        header.check()
        return header

    def check(self) -> None:
        """Refuse a header that ``compress`` cannot have written, by a ValueError."""
        texts = [self.run, self.model, self.arithmetic, *(p.name for p in self.images)]
        numbers = [self.group, *self.start_words, *(n for size in self.sizes for n in size)]
        made = self.made
        if (
            not all(type(text) is str for text in texts)
            or not all(type(number) is int and 0 < number <= 1 << 32 for number in numbers)
            or not all(type(image.gray) is bool for image in self.images)
            or not isinstance(made, dict)
            or not all(type(text) is str for item in made.items() for text in item)
            or self.arithmetic not in ("fp64", "fp32")
            or not self.images
            or any(max(size) > SIDE for size in self.sizes)
        ):
            raise ValueError("its header is inconsistent")
        names = [image.name for image in self.images]
        for name in names:
            if name in ("", ".", "..") or not name.isprintable() or set(name) & set('/\\:\0"<>|?*'):
                raise ValueError(f"it names an image {name!r}, which is not a valid file name")
        if len({name.casefold() for name in names}) < len(names):
            raise ValueError("it gives two images the same name")


def names_of(texts: Sequence[str], most: int = NAME) -> list[str]:
    """A unique name of at most ``most`` bytes for each image that every system takes."""
    names: list[str] = []
    numbers: dict[str, int] = {}  # by each name that is taken, the last one behind it
    for text in texts:
        plain = "".join(c if c.isprintable() and c not in '/\\:"<>|?*' else "_" for c in text)
        plain = plain.encode("utf-8", "replace").decode() or "image"
        if plain in (".", "..") or RESERVED.match(plain):
            plain = f"_{plain}"
        name = plain = _cut(plain, most)
        number = numbers.get(_alike(plain), 1)
        while _alike(name) in numbers:
            number += 1
            ending = f"-{number}"
            name = _cut(plain, most - len(ending)) + ending
        numbers[_alike(plain)] = number
        numbers.setdefault(_alike(name), 1)
        names.append(name)
    return names


def _cut(text: str, most: int) -> str:
    return text.encode()[:most].decode(errors="ignore")


def _alike(name: str) -> str:
    """A key that is the same for names that some systems do not distinguish."""
    return unicodedata.normalize("NFC", name.casefold())


@dataclass(frozen=True)
class Container:
    """The content of a file, or of its first part."""

    header: Header
    fingerprints: bytes  # checksums of all y's together and of each image, 4 bytes each
    chains: list[NDArray[np.uint32]]  # those that were read
    bytes_read: int = 0
    size: int = 0  # of the whole file

    def matches(self, images: Sequence[Tensor], preview: bool = False) -> bool:
        """Whether the images, or with ``preview`` the y's, have the file's checksums."""
        if preview:
            return fingerprint_of_all(images) == self.fingerprints[:FINGERPRINT]
        return b"".join(map(fingerprint, images)) == self.fingerprints[FINGERPRINT:]


def _hash(content: bytes, size: int) -> bytes:
    return hashlib.blake2b(content, digest_size=size).digest()


def fingerprint(image: Tensor) -> bytes:
    """Four bytes of a checksum of an image's levels, uint8 (C, H, W)."""
    return _hash(image.cpu().contiguous().numpy().tobytes(), FINGERPRINT)


def fingerprint_of_all(images: Sequence[Tensor]) -> bytes:
    return _hash(b"".join(map(fingerprint, images)), FINGERPRINT)


def fingerprints_of(images: Sequence[Tensor], lower: Sequence[Tensor]) -> bytes:
    return fingerprint_of_all(lower) + b"".join(map(fingerprint, images))


def packed(content: Container) -> bytes:
    parts = [content.header.to_bytes(), content.fingerprints]
    parts += [chain.astype(WORD).tobytes() for chain in content.chains]
    return MAGIC + b"".join(
        len(part).to_bytes(LENGTH, "little") + part + _hash(part, CHECK) for part in parts
    )


def write_parts(path: Path, content: Container) -> int:
    """Write a file, whole or not at all; its bytes."""
    whole = packed(content)
    write_whole(path, lambda partial: partial.write_bytes(whole))
    return len(whole)


def is_packed(path: Path) -> bool:
    """Whether a file begins as one that :func:`write_parts` wrote."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_parts(path: Path, preview: bool = False) -> Container:
    """Read a file, or with ``preview`` its beginning, which has every y."""
    try:
        if kind := special_kind(path):
            raise ValueError(f"it is {kind}")
        with path.open("rb") as file:
            return read_from(file, preview)
    except OSError as error:
        raise UserError(f"cannot read {shown(path)}: {error.strerror or error}") from None
    except ValueError as error:
        raise UserError(f"{shown(path)} cannot be decompressed: {error}") from None


def read_from(file: BinaryIO, preview: bool = False) -> Container:
    """Read an open file, or with ``preview`` its beginning; a ValueError says what is wrong."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(len(MAGIC)) != MAGIC:
        raise ValueError("it is not a file that python -m srvae_pyro.compress wrote")
    most = min(LARGEST, 4096 + LARGEST_OF_BYTE * size)
    header = Header.from_bytes(_part(file, size), most)
    fingerprints = _part(file, size)
    if len(fingerprints) != FINGERPRINT * (1 + len(header.images)):
        raise ValueError("its header and its checksums do not match")
    chains = []
    for _ in header.start_words[:1] if preview else header.start_words:
        part = _part(file, size)
        if len(part) % WORD.itemsize or not len(part):
            raise ValueError("one of its chains is not a sequence of 32-bit words")
        chains.append(np.frombuffer(part, WORD).astype(np.uint32))
    bytes_read = file.tell()
    if not preview and bytes_read != size:
        raise ValueError(f"it has {size - bytes_read} bytes too many")
    return Container(header, fingerprints, chains, bytes_read, size)


def _part(file: BinaryIO, size: int) -> bytes:
    length = file.read(LENGTH)
    count = int.from_bytes(length, "little")
    if len(length) < LENGTH or count + CHECK > size - file.tell():
        raise ValueError("it is truncated or damaged")
    part = file.read(count)
    if file.read(CHECK) != _hash(part, CHECK):
        raise ValueError("it is damaged: a checksum does not match")
    return part
