"""Picture files opened as viewers open them: metadata and a missing end do not decide over pixels.

Pillow's switches for that hold for the whole process, all its threads. Here a file that Pillow
refuses is mended in memory instead, and only if no pixel changes by it.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageFile, ImageOps, TiffImagePlugin

from srvae_pyro.data.mending import CutOffError, mended
from srvae_pyro.formats import (
    FORMATS,
    HEAD,
    RAW,
    Unread,
    unread_by_content,
    unread_by_name,
)
from srvae_pyro.runtime import process_memory

__all__ = ["Opened", "UnreadableError", "open_picture"]

# Measured: what reading takes at most, with the conversion to levels; with transparency.
BYTES_PER_PIXEL = (15, 36)
ALWAYS_THERE = 100_000_000  # bytes; to look for more takes as long as to read a small picture
ORIENTATION, QUARTER_TURNS = 274, (5, 6, 7, 8)  # EXIF's tag; values that swap width and height
PHOTOMETRIC, REDUCED, SUB_DIRECTORIES, DNG_VERSION = 262, 254, 330, 50706  # TIFF's tags
SENSOR = (32803, 34892)  # photometric interpretations: a mosaic of colours, a camera's own colours
MOST_DIRECTORIES = 1000


class UnreadableError(Exception):
    """A picture that cannot be read, and why.

    Attributes:
        reason: a few words.
        advice: what to do; empty: nothing in particular.
    """

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason)
        self.reason, self.advice = reason, advice


@dataclass
class Opened:
    """A picture file's content, upright.

    Attributes:
        image: the pixels, loaded, in the file's mode.
        deep: whether the file has more than 8 bits a value.
        page: which of the file's pictures it is, from 0.
        notes: what of the file is left out.
    """

    image: ImageFile.ImageFile
    deep: bool = False
    page: int = 0
    notes: list[str] = field(default_factory=list)


@contextmanager
def open_picture(path: Path, content: bytes | None = None) -> Iterator[Opened]:
    """A picture file, whose metadata can be read as long as it is open.

    Of a TIFF with a picture in several resolutions the full one is taken.

    Args:
        path: the file.
        content: its content, where it is not on its own at that path.

    Raises:
        UnreadableError: it is none, or not one that can be read here.
        Exception: anything that Pillow raises on a damaged file.
    """
    with path.open("rb") if content is None else io.BytesIO(content) as file:
        mending = None
        try:
            opened = _open(file, path)
        except (UnreadableError, MemoryError):
            raise
        except Exception as error:
            file.seek(0)
            opened, mending = _open_mended(file.read(), path, error)
        with mending or file:
            yield opened


def _open_mended(content: bytes, path: Path, error: Exception) -> tuple[Opened, BinaryIO]:
    """A file that Pillow refuses because of ``error``, mended if that can be done."""

    def pixels(candidate: bytes) -> Image.Image:
        return _identify(io.BytesIO(candidate), candidate[:HEAD], path).copy()

    try:
        for candidate, note in mended(content, pixels):
            file = io.BytesIO(candidate)
            try:
                opened = _open(file, path)
            except (UnreadableError, MemoryError):
                raise
            except Exception:  # as for the first time
                continue
            opened.notes.append(note)
            return opened, file
    except (UnreadableError, MemoryError):
        raise
    except CutOffError:
        raise UnreadableError(
            "pixels are missing, it is cut off or damaged", "copy it again or leave it out"
        ) from error
    except Exception:  # nothing that can be mended; the first error tells more
        pass
    raise error


def _open(file: BinaryIO, path: Path) -> Opened:
    """The picture in a file that is open and at its beginning."""
    head = file.read(HEAD)
    image = _identify(file, head, path)
    page = _full_page(image, file, path) if isinstance(image, TiffImagePlugin.TiffImageFile) else 0
    _check_memory(image)
    # What the decoder makes values of: RGB;16B, or for TIFF ("RGB;16L", ...).
    opened = Opened(image, any(";16" in str(tile[3]) for tile in image.tile), page)
    # Of a TIFF it is gone when that is loaded, as is the way to its further directories.
    orientation = image.getexif().get(ORIENTATION) if image.format == "TIFF" else None
    image.load()
    try:
        orientation = orientation or image.getexif().get(ORIENTATION)
        ImageOps.exif_transpose(image, in_place=True)
        if orientation in QUARTER_TURNS and "dpi" in image.info:
            image.info["dpi"] = tuple(image.info["dpi"])[::-1]
    except MemoryError:
        raise
    except Exception:  # metadata is as easily damaged as pixels
        opened.notes.append("its EXIF cannot be read")
    return opened


def _identify(file: BinaryIO, head: bytes, path: Path) -> ImageFile.ImageFile:
    """The image that Pillow makes of a file, not yet decoded.

    Not by ``Image.open``, which refuses what has more pixels than a number for all of a process.
    """
    if not head:
        raise UnreadableError("it is empty")
    Image.init()
    failure: Exception | None = None
    for name in FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory is None or (accept and accept(head[:16].ljust(16)) is not True):
            continue
        if not failure and (kind := unread_by_content(head, known=accept is not None)):
            raise _named(kind)
        file.seek(0)
        try:
            return factory(file, "")
        except (SyntaxError, IndexError, TypeError, struct.error) as error:
            failure = failure or (error if accept else None)
    # A file of a known kind that is damaged, or of a kind that only its name tells.
    if kind := unread_by_name(path):
        raise _named(kind) from failure
    raise failure or UnreadableError("its format is not known")


def _named(kind: Unread) -> UnreadableError:
    return UnreadableError(f"it is {kind.name}", kind.advice)


def _check_memory(image: Image.Image) -> None:
    """Refuse a picture that is too large to be read here, before it is decoded."""
    width, height = image.size
    need = BYTES_PER_PIXEL[image.has_transparency_data] * width * height
    if need < ALWAYS_THERE:
        return
    memory = process_memory()
    if need > memory:
        raise UnreadableError(
            f"its {width}x{height} pixels take {need / 1e9:.1f} GB of memory, and there are "
            f"{memory / 1e9:.1f}",
            "make it smaller or cut out a part",
        )


def _full_page(image: TiffImagePlugin.TiffImageFile, file: BinaryIO, path: Path) -> int:
    """Go to the page of full resolution; which one that is."""
    kind = unread_by_name(path)
    if kind is RAW or any(
        DNG_VERSION in directory or directory.get(PHOTOMETRIC) in SENSOR
        for directory in _directories(file, beside=True)
    ):
        raise _named(RAW)
    pages = _directories(file)
    # 1: a smaller copy; 4: a mask.
    full = [i for i, page in enumerate(pages) if not _number(page.get(REDUCED)) & 5]
    if not full:
        if _number(pages[0].get(REDUCED)) & 1 if pages else False:
            raise UnreadableError(
                "it has a small copy of the picture alone, as cameras' raw files have", RAW.advice
            )
        return 0
    # Pages of a document differ; of a picture in several resolutions all have its shape.
    shapes = [(_number(page.get(256)), _number(page.get(257))) for page in pages]
    width, height = shapes[full[0]]
    alike = [i for i in full if _alike(shapes[i], (width, height))] or full[:1]
    page = max(alike, key=lambda i: shapes[i][0] * shapes[i][1])
    if page:
        image.seek(page)
    return page


def _alike(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether two sizes are of one shape, but for rounding to whole pixels."""
    return abs(a[0] * b[1] - b[0] * a[1]) <= max(*a, *b)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _directories(
    file: BinaryIO, beside: bool = False
) -> list[TiffImagePlugin.ImageFileDirectory_v2]:
    """A TIFF's pages, and if ``beside`` what hangs on each; as far as they can be read."""
    file.seek(0)
    head = file.read(8)
    if head[2:3] == b"+" or head[3:4] == b"+":  # 64-bit offsets
        head += file.read(8)
    found: list[TiffImagePlugin.ImageFileDirectory_v2] = []
    offsets = [TiffImagePlugin.ImageFileDirectory_v2(head).next]
    seen = set()
    while offsets and len(found) < MOST_DIRECTORIES:
        offset = offsets.pop(0)
        if not offset or offset in seen:
            continue
        seen.add(offset)
        directory = TiffImagePlugin.ImageFileDirectory_v2(head)
        try:
            file.seek(offset)
            directory.load(file)
            found.append(directory)
            offsets.append(directory.next)
            if beside:
                more = directory.get(SUB_DIRECTORIES, ())
                offsets += more if isinstance(more, tuple) else [more]
        except Exception:  # a damaged one
            break
    return found
