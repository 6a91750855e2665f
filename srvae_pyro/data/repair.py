"""Repair of PNG and JPEG files that Pillow refuses although all their pixels are there."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

from PIL import Image

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
TEXT = (b"tEXt", b"zTXt", b"iTXt")
END = b"\xff\xd9"  # of a JPEG
FILLER = b"\x55" * 64
WITHOUT_METADATA = "without its metadata, which cannot be read"
WITHOUT_TEXT = "without its texts, which cannot be read"
COMPLETE = "its end is missing, no pixel is"


class CutOffError(Exception):
    """Pixels at the end of a file are missing."""


def mended(content: bytes, decode: Callable[[bytes], Image.Image]) -> Iterator[tuple[bytes, str]]:
    """Candidates for a repaired file with the same pixels, and what each leaves out.

    Those that leave out least come first.

    Args:
        content: the file's content.
        decode: decodes a content to pixels; raises anything if it cannot.

    Raises:
        CutOffError: pixels at the end are missing.
    """
    if content.startswith(PNG):
        yield from _mended_png(content)
    elif content.startswith(JPEG):
        yield from _mended_jpeg(content, decode)


def _mended_png(content: bytes) -> Iterator[tuple[bytes, str]]:
    chunks = list(png_chunks(io.BytesIO(content)))
    if any(_has_pixels(k) and k not in (b"IDAT", b"IEND") and not ok for k, _, ok in chunks):
        return  # the palette or the size is damaged
    sound = [chunk for chunk in chunks if chunk[2] or _has_pixels(chunk[0])]
    yield _png((k, data) for k, data, _ in sound if k not in TEXT), WITHOUT_TEXT
    pixels = [(k, data) for k, data, _ in sound if _has_pixels(k)]
    yield _png(pixels), WITHOUT_METADATA
    stream = b"".join(data for k, data in pixels if k == b"IDAT")
    if not pixels or pixels[0][0] != b"IHDR":
        return
    size = _png_bytes(pixels[0][1])
    inflater = zlib.decompressobj()
    rows = inflater.decompress(stream, size)
    if inflater.eof:
        return  # the pixels are whole: the fault is elsewhere
    if len(rows) < size:
        raise CutOffError
    # Only the checksum behind the last row is missing.
    before = [(k, data) for k, data in pixels if k not in (b"IDAT", b"IEND")]
    yield _png([*before, (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")]), COMPLETE


def _has_pixels(kind: bytes) -> bool:
    """Whether a PNG's pixels depend on a kind of chunk: critical (capital) or transparency."""
    return kind[:1].isupper() or kind == b"tRNS"


def png_chunks(file: BinaryIO, until: bytes | None = None) -> Iterator[tuple[bytes, bytes, bool]]:
    """Kind and data of each chunk of a PNG, and whether its checksum is right.

    Args:
        file: its content.
        until: the kind of the first chunk that is not read; without it all are.
    """
    file.seek(len(PNG))
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == until:
            return
        data = file.read(length)
        yield kind, data, file.read(4) == struct.pack(">I", zlib.crc32(kind + data))


def _png(chunks: Iterator[tuple[bytes, bytes]] | list[tuple[bytes, bytes]]) -> bytes:
    """A PNG's content from the kind and data of its chunks."""
    parts = [PNG]
    for kind, data in chunks:
        parts += [struct.pack(">I", len(data)), kind, data]
        parts.append(struct.pack(">I", zlib.crc32(kind + data)))
    return b"".join(parts)


def _png_bytes(header: bytes) -> int:
    """Uncompressed bytes of a PNG's rows, each with one byte for its filter."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    starts_and_steps = [(0, 0, 1, 1)]
    if interlaced:
        starts_and_steps = [
            *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4)),
            *((1, 0, 2, 2), (0, 1, 1, 2)),
        ]
    total = 0
    for left, top, right, down in starts_and_steps:
        columns, rows = -((left - width) // right), -((top - height) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total


def _mended_jpeg(
    content: bytes, decode: Callable[[bytes], Image.Image]
) -> Iterator[tuple[bytes, str]]:
    bare = _jpeg_without_metadata(content)
    if bare != content:
        yield bare, WITHOUT_METADATA
    for whole, note in ((content, COMPLETE), (bare, f"{COMPLETE}; {WITHOUT_METADATA}")):
        start = whole.rstrip(b"\xff")  # half of the end marker
        try:
            pixels = decode(start + END)
            other = decode(start + FILLER + END)
        except MemoryError:
            raise
        except Exception:
            continue
        # If pixels were missing, the filler would have been decoded as pixels; but between the
        # scans of a progressive JPEG it is skipped.
        if not _has_all_scans(bare) or pixels.tobytes() != other.tobytes():
            raise CutOffError
        yield start + END, note


def _has_all_scans(content: bytes) -> bool:
    """Whether the scans begun in a JPEG have every coefficient of every colour in full."""
    missing: dict[int, set[int]] = {}
    place = 2
    while place >= 0 and place + 10 <= len(content):
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        body = content[place + 4 : place + 2 + length]
        if marker in (0xC0, 0xC1, 0xC2) and len(body) >= 6 + 3 * body[5]:
            missing = {body[6 + 3 * i]: set(range(64)) for i in range(body[5])}
        place += 2 + length
        if marker == 0xDA:
            if not body or len(body) < 4 + 2 * body[0]:
                return False
            first, last, precision = body[1 + 2 * body[0] : 4 + 2 * body[0]]
            if not precision & 15:  # else bits are still to come
                for i in range(body[0]):
                    missing.get(body[1 + 2 * i], set()).difference_update(range(first, last + 1))
            following = (content.find(bytes([0xFF, kind]), place) for kind in (0xDA, 0xC4))
            place = min((start for start in following if start >= 0), default=-1)
    return bool(missing) and not any(missing.values())


def _jpeg_without_metadata(content: bytes) -> bytes:
    """A JPEG's content without application segments and comments, except those about colours."""
    parts, place = [content[:2]], 2
    while place + 4 <= len(content) and content[place] == 0xFF:
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        if marker == 0xDA:  # pixels from here on
            break
        segment = content[place : place + 2 + length]
        colours = segment[4:9] == b"Adobe" or segment[4:8] == b"JFIF"
        if colours or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            parts.append(segment)
        place += 2 + length
    return b"".join([*parts, content[place:]])
