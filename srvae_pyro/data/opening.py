"""Picture files opened as viewers open them: neither bad metadata nor a missing end matters.

Pillow's switches for that apply to all threads of the process. Here a file that Pillow refuses is
mended in memory instead, and only if all its pixels are there.
"""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageFile, ImageOps, TiffImagePlugin

from srvae_pyro.data.colours import Meaning, eight_bits, meaning_of
from srvae_pyro.data.mending import CutOffError, mended
from srvae_pyro.data.tiff import PLANES, read_planes_whole, seek_full_page
from srvae_pyro.data.unreadable import UnreadableError
from srvae_pyro.formats import FORMATS, HEAD, unread_by_content, unread_by_name
from srvae_pyro.system.device import process_memory
from srvae_pyro.system.files import special_kind

__all__ = ["Opened", "open_picture", "size_by_header"]

# Measured: the most that reading takes, with the conversion to levels; without and with
# transparency or low bytes.
BYTES_PER_PIXEL = (15, 36)
ALWAYS_AVAILABLE = 100_000_000  # bytes; asking for more takes as long as reading a small picture
ORIENTATION, QUARTER_TURNS = 274, (5, 6, 7, 8)  # EXIF's tag; values that swap width and height


@dataclass
class Opened:
    """A picture file's content, upright.

    Attributes:
        image: the decoded pixels, in the file's mode; of colours of 16 bits the high bytes.
        meaning: of its levels.
        low_bytes: makes the low bytes of colours of 16 bits, if they can be had.
        page: index of the picture in the file.
        notes: what of the file is left out, in words, beside what ``meaning`` has.
    """

    image: ImageFile.ImageFile
    meaning: Meaning
    low_bytes: Callable[[], Image.Image | None]
    page: int = 0
    notes: list[str] = field(default_factory=list)

    def eight_bits(self) -> Image.Image:
        """The picture in 8 bits as it is meant; transparency by a colour is a band.

        What it takes from the levels is noted in ``meaning``. To be called while the file is open.

        Raises:
            UnreadableError: the levels are floats, negative or beyond 16 bits.
        """
        return eight_bits(self.image, self.meaning, self.low_bytes)


@contextmanager
def open_picture(path: Path, content: bytes | None = None) -> Iterator[Opened]:
    """Open a picture file; its metadata can be read while it is open.

    Of a TIFF with a picture in several resolutions the full one is taken.

    Args:
        path: the file.
        content: its content, if it is not a file of its own at that path.

    Raises:
        UnreadableError: it is no regular file, no picture, or of a format that is not read.
        Exception: whatever Pillow raises on a damaged file.
    """
    with _file(path, content) as file:
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


def size_by_header(path: Path, content: bytes | None = None) -> tuple[int, int]:
    """Width and height of a picture file, not decoded; EXIF may say that they are to be swapped.

    Args:
        path: the file.
        content: its content, if it is not a file of its own at that path. The beginning is enough
            for most formats, but with the beginning of a TIFF it could be another page's size.

    Raises:
        UnreadableError: it is no picture, of a format that is not read, or too large to decode.
        Exception: whatever Pillow raises on a damaged file.
    """
    with _file(path, content) as file:
        image = _identify(file, file.read(HEAD), path)
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            seek_full_page(image, file, path)
        _check_memory(image)
        return image.size


def _file(path: Path, content: bytes | None) -> BinaryIO:
    """A picture file, opened; see :func:`open_picture`."""
    if content is not None:
        return io.BytesIO(content)
    if kind := special_kind(path):
        raise UnreadableError(f"it is {kind}", "save what it gives as a file, and name that")
    return path.open("rb")


def _open_mended(content: bytes, path: Path, error: Exception) -> tuple[Opened, BinaryIO]:
    """Open a file that Pillow refuses with ``error``, mended.

    Returns:
        The picture, and the mended file.

    Raises:
        UnreadableError: pixels are missing.
        Exception: ``error``, if the file cannot be mended.
    """

    def pixels(candidate: bytes) -> Image.Image:
        return _identify(io.BytesIO(candidate), candidate[:HEAD], path).copy()

    try:
        for candidate, note in mended(content, pixels):
            file = io.BytesIO(candidate)
            try:
                opened = _open(file, path)
            except (UnreadableError, MemoryError):
                raise
            except Exception:  # Pillow refuses this one too
                continue
            opened.notes.append(note)
            return opened, file
    except (UnreadableError, MemoryError):
        raise
    except CutOffError:
        raise UnreadableError(
            "pixels are missing, it is cut off or damaged", "copy it again or leave it out"
        ) from error
    except Exception:  # it cannot be mended; the first error tells more
        pass
    raise error


def _open(file: BinaryIO, path: Path) -> Opened:
    """Decode the picture in an open file, from its beginning."""
    image, page = _find(file, path)
    _check_memory(image)
    notes = []
    try:
        meaning = meaning_of(image, file)
    except MemoryError:
        raise
    except Exception:  # metadata is as easily damaged as pixels
        meaning = Meaning(16 if image.mode.startswith("I") else 8)
        notes.append("what it says of its levels cannot be read")
    if not _decode(image):
        notes.append("its EXIF cannot be read")
    return Opened(image, meaning, lambda: _low_bytes(file, path), page, notes)


def _find(file: BinaryIO, path: Path) -> tuple[ImageFile.ImageFile, int]:
    """The picture in a file, not yet decoded, and its page."""
    file.seek(0)
    image, page = _identify(file, file.read(HEAD), path), 0
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        page = seek_full_page(image, file, path)
        read_planes_whole(image)
    return image, page


def _decode(image: ImageFile.ImageFile) -> bool:
    """Decode an image and turn it upright; whether its EXIF can be read."""
    # Loading a TIFF loses this and its directories.
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
        return False
    return True


def _low_bytes(file: BinaryIO, path: Path) -> Image.Image | None:
    """The low bytes of 16-bit colours, whose high bytes Pillow decodes; None where it cannot.

    Told that the file has the other byte order, Pillow decodes the low ones instead.
    """
    image, _ = _find(file, path)
    planes = isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(PLANES) == 2
    args = image.tile[0].args if image.tile and not planes else None
    raw = args[0] if isinstance(args, tuple) else args
    kind, _, order = str(raw).partition(";16")
    others = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
    if order not in others or kind not in ("RGB", "RGBX", "RGBA", "LA"):
        return None
    # Of gray and transparency Pillow knows one order: they are read as four colours of a byte each.
    other = "RGBA" if kind == "LA" else f"{kind};16{others[order]}"
    _check_memory(image, low_bytes=True)
    image.tile = [
        tile._replace(args=(other, *tile.args[1:]) if isinstance(tile.args, tuple) else other)
        for tile in image.tile
    ]
    _decode(image)
    if kind == "LA":
        _, gray, _, alpha = image.split()
        return Image.merge("RGBA", (gray, gray, gray, alpha))
    return image


def _identify(file: BinaryIO, head: bytes, path: Path) -> ImageFile.ImageFile:
    """The image that Pillow makes of a file, not yet decoded.

    Not by ``Image.open``, which refuses pictures above a number of pixels that is set for the whole
    process.

    Raises:
        UnreadableError: the format is not read, or not known.
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
            raise UnreadableError.of_format(kind)
        file.seek(0)
        try:
            return factory(file, "")
        except (SyntaxError, IndexError, TypeError, struct.error) as error:
            failure = failure or (error if accept else None)
    if "unknown pixel mode" in str(failure):  # of a TIFF
        raise UnreadableError("its kind of levels is not known", "save it in 8 bits") from failure
    # It is damaged, or of a format that only its name tells.
    if kind := unread_by_name(path):
        raise UnreadableError.of_format(kind) from failure
    raise failure or UnreadableError("its format is not known")


def _check_memory(image: Image.Image, low_bytes: bool = False) -> None:
    """Refuse a picture that is too large for the memory, before it is decoded."""
    width, height = image.size
    need = BYTES_PER_PIXEL[low_bytes or image.has_transparency_data] * width * height
    if need < ALWAYS_AVAILABLE:
        return
    memory = process_memory()
    if need > memory:
        raise UnreadableError(
            f"its {width}x{height} pixels take {need / 1e9:.1f} GB of memory, and there are "
            f"{memory / 1e9:.1f}",
            "make it smaller or cut out a part",
        )
