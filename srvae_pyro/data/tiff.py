"""The page of a TIFF to read: the full resolution of its picture, and no camera's raw data."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from PIL import ImageFile, TiffImagePlugin

from srvae_pyro.data.unreadable import UnreadableError
from srvae_pyro.formats import RAW, unread_by_name

__all__ = ["PLANES", "read_planes_whole", "seek_full_page"]

# Tags, and the bits of the tag REDUCED that mark a smaller copy and a mask.
WIDTH, HEIGHT, BITS, PLANES = 256, 257, 258, 284
PHOTOMETRIC, REDUCED, SUB_DIRECTORIES, DNG_VERSION = 262, 254, 330, 50706
SMALL_COPY, MASK = 1, 4
SENSOR = (32803, 34892)  # photometric interpretations: a mosaic of colours, a camera's colours
MOST_DIRECTORIES = 1000

Directory = TiffImagePlugin.ImageFileDirectory_v2


def seek_full_page(image: TiffImagePlugin.TiffImageFile, file: BinaryIO, path: Path) -> int:
    """Go to the page of full resolution.

    Pages of a document differ in shape, and then the first one is taken; those of a picture in
    several resolutions all have its shape.

    Args:
        image: the opened TIFF, moved to that page.
        file: its file.
        path: the file's name.

    Returns:
        The page's index.

    Raises:
        UnreadableError: it is a camera's raw file.
    """
    if unread_by_name(path) is RAW or any(
        DNG_VERSION in directory or directory.get(PHOTOMETRIC) in SENSOR
        for directory in _directories(file, nested=True)
    ):
        raise UnreadableError.of_format(RAW)
    pages = _directories(file)
    full = [i for i, page in enumerate(pages) if not _integer(page, REDUCED) & (SMALL_COPY | MASK)]
    if not full:
        if pages and _integer(pages[0], REDUCED) & SMALL_COPY:
            raise UnreadableError(
                "it has a small copy of the picture alone, as cameras' raw files have", RAW.advice
            )
        return 0
    sizes = [(_integer(page, WIDTH), _integer(page, HEIGHT)) for page in pages]
    alike = [i for i in full if _same_shape(sizes[i], sizes[full[0]])] or full[:1]
    largest = max(alike, key=lambda i: sizes[i][0] * sizes[i][1])
    if largest:
        image.seek(largest)
    return largest


def read_planes_whole(image: TiffImagePlugin.TiffImageFile) -> None:
    """Have a TIFF whose 16-bit colours lie in separate planes decoded by libtiff.

    Pillow's own decoder takes their bytes for levels of 8 bits, without a word.
    """
    bits = image.tag_v2.get(BITS)
    if image.tag_v2.get(PLANES) != 2 or not isinstance(bits, tuple) or 16 not in bits:
        return
    if image.tile and image.tile[0].codec_name == "raw":
        arguments = (f"{image.mode};16N", "raw", False, image.tag_v2.offset)
        size = _integer(image.tag_v2, WIDTH), _integer(image.tag_v2, HEIGHT)
        image.tile = [ImageFile._Tile("libtiff", (0, 0, *size), 0, arguments)]
        image.use_load_libtiff = True


def _same_shape(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether two sizes have one aspect ratio, up to rounding to whole pixels."""
    return abs(a[0] * b[1] - b[0] * a[1]) <= max(*a, *b)


def _integer(directory: Directory, tag: int) -> int:
    value = directory.get(tag)
    return value if isinstance(value, int) else 0


def _directories(file: BinaryIO, nested: bool = False) -> list[Directory]:
    """The pages of a TIFF, as far as they can be read; with ``nested`` their subdirectories too."""
    file.seek(0)
    head = file.read(8)
    if head[2:3] == b"+" or head[3:4] == b"+":  # 64-bit offsets
        head += file.read(8)
    directories: list[Directory] = []
    offsets = [Directory(head).next]
    seen = set()
    while offsets and len(directories) < MOST_DIRECTORIES:
        offset = offsets.pop(0)
        if not offset or offset in seen:
            continue
        seen.add(offset)
        directory = Directory(head)
        try:
            file.seek(offset)
            directory.load(file)
            directories.append(directory)
            offsets.append(directory.next)
            if nested:
                more = directory.get(SUB_DIRECTORIES, ())
                offsets += more if isinstance(more, tuple) else [more]
        except Exception:  # a damaged one
            break
    return directories
