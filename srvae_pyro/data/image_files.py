"""Image files: found in a folder, opened as viewers open them, converted to 8-bit levels."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import sys
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin
from torch import Tensor

from srvae_pyro.data.levels import (
    PLANES,
    Meaning,
    UnreadableError,
    as_rgb,
    eight_bits,
    jxl_size,
    meaning_of,
    png_without_metadata,
    read_planes_whole,
    seek_full_page,
)
from srvae_pyro.errors import UserError, left_out_of
from srvae_pyro.formats import EXTENSIONS, FORMATS, HEAD, UNREAD, extra_format
from srvae_pyro.system.console import Bar
from srvae_pyro.system.device import process_memory
from srvae_pyro.system.environment import allowed_cores
from srvae_pyro.system.files import special_kind

# Measured: the most that reading takes, with the conversion to levels; without and with
# transparency or low bytes.
BYTES_PER_PIXEL = (15, 36)
ALWAYS_AVAILABLE = 100_000_000  # bytes; asking for more takes as long as reading a small image
ORIENTATION, QUARTER_TURNS = 274, (5, 6, 7, 8)  # EXIF's tag; values that swap width and height
JPEG, END = b"\xff\xd8\xff", b"\xff\xd9"  # how a JPEG begins and ends
FILLER = b"\x55" * 64  # which decodes to pixels


@dataclass
class Opened:
    """An image file's content, upright."""

    image: ImageFile.ImageFile  # decoded, in the file's mode; of 16-bit colours the high bytes
    meaning: Meaning
    low_bytes: Callable[[], Image.Image | None]  # decodes the low bytes of 16-bit colours
    page: int = 0  # index of the image in the file
    notes: list[str] = field(default_factory=list)  # what else is left out of the file

    def eight_bits(self) -> Image.Image:
        return eight_bits(self.image, self.meaning, self.low_bytes)


@contextmanager
def open_image(path: Path, content: bytes | None = None) -> Iterator[Opened]:
    """Decode an image file, of a TIFF the full resolution, and keep it open for its metadata."""
    with _file(path, content) as file:
        opened, repaired = _open_repaired(file, path)
        with repaired or file:
            yield opened


def size_by_header(path: Path, content: bytes | None = None) -> tuple[int, int]:
    """Width and height, not decoded, before EXIF's turn; a TIFF's ``content`` must be complete."""
    with _file(path, content) as file:
        image, _ = _identify(file, path)
        _check_memory(image)
        return image.size


def pixels_of(path: Path) -> int:
    """How many pixels an image has by its header, not decoded; 0 if that cannot be read."""
    try:
        with _file(path, None) as file:
            if extra_format(file.read(HEAD)) == "JXL":  # which _identify would decode
                file.seek(0)
                width, height = jxl_size(file.read())
            else:
                width, height = _identify(file, path)[0].size
    except MemoryError:
        raise
    except Exception:  # what is wrong is reported when it is read
        return 0
    return width * height


def _file(path: Path, content: bytes | None) -> BinaryIO:
    if content is not None:
        return io.BytesIO(content)
    if kind := special_kind(path):
        raise UnreadableError(f"it is {kind}", "save its content to a regular file and use that")
    return path.open("rb")


def _open_repaired(file: BinaryIO, path: Path) -> tuple[Opened, BinaryIO | None]:
    """Decode a file; if Pillow refuses it, a copy in memory without metadata or with an end."""
    try:
        return _open(file, path), None
    except (UnreadableError, MemoryError):
        raise
    except Exception as error:
        failure = error
    file.seek(0)
    content = file.read()
    if content.startswith(JPEG):
        start = content.rstrip(END[:1])  # half of the end marker
        candidates = iter([(start + END, "its end is missing, but no pixels")])
    else:
        candidates = png_without_metadata(content)
    for candidate, note in candidates:
        repaired = io.BytesIO(candidate)
        try:
            opened = _open(repaired, path)
            # If pixels are missing the filler is decoded as pixels, and otherwise skipped. It is
            # skipped between the scans of a progressive JPEG too, where details are missing.
            if content.startswith(JPEG) and (
                "progressive" in opened.image.info
                or _open(io.BytesIO(start + FILLER + END), path).image.tobytes()
                != opened.image.tobytes()
            ):
                break
        except (UnreadableError, MemoryError):
            raise
        except Exception:  # the first error says more
            continue
        opened.notes.append(note)
        return opened, repaired
    if "truncated" in str(failure).lower():
        raise UnreadableError(
            "pixels are missing: it is truncated or damaged", "copy it again or leave it out"
        ) from failure
    raise failure


def _open(file: BinaryIO, path: Path) -> Opened:
    image, page = _identify(file, path)
    _check_memory(image)
    notes = []
    try:
        meaning = meaning_of(image, file)
    except MemoryError:
        raise
    except Exception:  # metadata is as easily damaged as pixels
        meaning = Meaning(16 if image.mode.startswith("I") else 8)
        notes.append("its metadata about levels cannot be read")
    if not _decode(image):
        notes.append("its EXIF cannot be read")
    return Opened(image, meaning, lambda: _low_bytes(file, path), page, notes)


def _decode(image: ImageFile.ImageFile) -> bool:
    """Decode an image and turn it upright; whether its EXIF can be read."""
    # Loading a TIFF loses this and its directories.
    orientation = image.getexif().get(ORIENTATION) if image.format == "TIFF" else None
    image.load()
    if image.format == "JXL" and not getattr(image, "jpeg", False):
        return True  # libjxl has turned it, and what EXIF says does not count
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
    """The low bytes of 16-bit colours, decoded as if in the other byte order, or None."""
    image, _ = _identify(file, path)
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


def _identify(file: BinaryIO, path: Path) -> tuple[ImageFile.ImageFile, int]:
    """The image in a file, not decoded, and its page; ``Image.open`` would limit the pixels."""
    extension = path.suffix.lower()
    if extension in UNREAD:
        raise UnreadableError(f"Pillow does not read {extension}", "save it as PNG, TIFF or JPEG")
    file.seek(0)
    head = file.read(HEAD)
    if not head:
        raise UnreadableError("it is empty")
    if extra := extra_format(head):
        return _identify_extra(extra, file), 0
    Image.init()
    failure: Exception | None = None
    for name in FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory is None or (accept and accept(head[:16].ljust(16)) is not True):
            continue
        file.seek(0)
        try:
            image = factory(file, "")
        except (SyntaxError, IndexError, TypeError, struct.error) as error:
            failure = failure or (error if accept else None)
            continue
        if not isinstance(image, TiffImagePlugin.TiffImageFile):
            return image, 0
        page = seek_full_page(image, file)
        read_planes_whole(image)
        return image, page
    if "unknown pixel mode" in str(failure):  # of a TIFF
        raise UnreadableError("its pixel format is unknown", "save it in 8 bits") from failure
    raise failure or UnreadableError("its format is unknown")


def _identify_extra(name: str, file: BinaryIO) -> ImageFile.ImageFile:
    factory: Callable[[BinaryIO, str], ImageFile.ImageFile]
    try:
        if name == "HEIF":
            from pillow_heif import HeifImageFile

            factory = HeifImageFile
        else:
            from pillow_jxl.JpegXLImagePlugin import JXLImageFile

            factory = JXLImageFile
    except ImportError:
        called = {"HEIF": "HEIC", "JXL": "JPEG XL"}[name]
        raise UnreadableError(
            f"it is {called}", "pip install 'srvae-pyro[formats]', or convert it to PNG or JPEG"
        ) from None
    file.seek(0)
    if name == "JXL":  # which is decoded as it is opened
        _check_size(*jxl_size(file.read()))
        file.seek(0)
    try:
        return factory(file, "")
    except (SyntaxError, RuntimeError) as error:
        raise UnreadableError("it is truncated or damaged", "copy it again") from error


def _check_memory(image: Image.Image, low_bytes: bool = False) -> None:
    _check_size(*image.size, BYTES_PER_PIXEL[low_bytes or image.has_transparency_data])


def _check_size(width: int, height: int, pixel: int = max(BYTES_PER_PIXEL)) -> None:
    """Refuse an image that is too large for the memory, before it is decoded."""
    need = pixel * width * height
    if need < ALWAYS_AVAILABLE:
        return
    memory = process_memory()
    if need > memory:
        raise UnreadableError(
            f"its {width}x{height} pixels need {need / 1e9:.1f} GB of memory, and "
            f"{memory / 1e9:.1f} GB are available",
            "make it smaller or crop it",
        )


def find_images(
    folder: Path,
    exclude: Iterable[Path] = (),
    other: Callable[[Path], object] | None = None,
    unread: Callable[[OSError], object] | None = None,
) -> list[Path]:
    """Image files in ``folder`` and below, by extension, sorted by path.

    Links to folders are followed, except into ``exclude``; each folder is visited once; hidden ones
    are skipped. ``other`` is called for other files, ``unread`` for folders that cannot be listed,
    of which the user is otherwise warned.
    """
    images = []
    seen = {_identity(place) for place in exclude} - {_identity(folder)}
    # Links last: so a folder is visited by its real path, in whatever order a disk lists them.
    waiting, links = [os.fspath(folder)], deque[str]()
    while waiting or links:
        place = waiting.pop() if waiting else links.popleft()
        try:
            if (identity := _identity(place)) in seen:
                continue
            seen.add(identity)
            entries = list(os.scandir(place))
        except OSError as error:
            if unread is None:
                warnings.warn(f"left out, cannot be read: {place} ({error.strerror})", stacklevel=2)
            else:
                unread(error)
            continue
        folders = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            named = os.path.splitext(entry.name)[1].lower() in EXTENSIONS
            if _is_folder(entry):
                folders.append(entry)
            # Where a link leads to is looked at when the image is opened: it takes time.
            elif named and (entry.is_symlink() or entry.is_file()):
                images.append(Path(entry.path))
            elif other is not None:
                other(Path(entry.path))
            elif named:
                warnings.warn(f"left out, not a regular file: {entry.path}", stacklevel=2)
        folders.sort(key=lambda entry: entry.name)
        links += [entry.path for entry in folders if entry.is_symlink()]
        waiting += [entry.path for entry in reversed(folders) if not entry.is_symlink()]
    return sorted(images, key=lambda path: path.relative_to(folder).parts)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    with contextlib.suppress(OSError):  # a link that leads to itself
        return entry.is_dir()
    return False


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def read_image(
    path: Path, channels: int, image_size: int | None = None, content: bytes | None = None
) -> Image.Image:
    """One image file, upright, in 8 bits, mode RGB (3 channels) or L (1), composed on white."""
    try:
        with open_image(path, content) as opened:
            image = as_rgb(opened.eight_bits())
        if opened.meaning.guess:  # without the name, so that it is shown once
            warnings.warn(f"16-bit images are {opened.meaning.guess}", stacklevel=1)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("RGB" if channels == 3 else "L")
        if image_size is not None and image.size != (image_size, image_size):
            side = min(image.size)
            left, top = (image.width - side) / 2, (image.height - side) / 2
            box = (left, top, left + side, top + side)
            image = image.resize((image_size, image_size), Image.Resampling.LANCZOS, box)
        return image
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes Pillow's decoders raise almost anything
        raise _unread(path, error) from error


def image_size(path: Path, content: bytes | None = None) -> tuple[int, int]:
    """Width and height of an image file before EXIF's turn; decoded only if its header fails."""
    try:
        with contextlib.suppress(Exception):
            return size_by_header(path, content)
        with open_image(path, content) as opened:
            return opened.image.size
    except MemoryError:
        raise
    except Exception as error:
        raise _unread(path, error) from error


def _unread(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())
    advice = (isinstance(error, UnreadableError) and error.advice) or "repair or remove it"
    return UserError(f"cannot read the image {path} ({reason}): {advice}")


def read_images(
    paths: Sequence[Path],
    channels: int,
    image_size: int | None = None,
    *,
    what: str = "images",
    strict: bool = False,
) -> tuple[Tensor, list[int]]:
    """Image files as uint8 levels (N, C, H, W), and the indices of those that cannot be read."""
    for path in paths:  # the first that can be read
        try:
            width, height = read_image(path, channels, image_size).size
            break
        except UserError:
            if strict or path is paths[-1]:
                raise
    images = torch.empty(len(paths), channels, height, width, dtype=torch.uint8)
    target = images.numpy()

    def read(index: int) -> None:
        image = read_image(paths[index], channels, image_size)
        if image.size != (width, height):
            raise _SizesDifferError
        levels = np.asarray(image).reshape(height, width, channels)
        target[index] = levels.transpose(2, 0, 1)

    try:
        errors = for_each(read, len(paths), what, strict)
    except _SizesDifferError:
        raise _sizes_error(paths, channels) from None
    if not errors:
        return images, []
    left_out = sorted(errors)
    warnings.warn(f"{left_out_of(len(errors))}: {errors[left_out[0]]}", stacklevel=2)
    keep = torch.ones(len(paths), dtype=torch.bool)
    keep[left_out] = False
    return images[keep], left_out


class _SizesDifferError(Exception):
    """Two images have different sizes."""


def for_each(
    work: Callable[[int], object], count: int, what: str, strict: bool = False
) -> dict[int, str]:
    """Call ``work`` for 0..count-1 in threads; the UserErrors by index, or raised if ``strict``."""
    workers = min(32, allowed_cores())
    # Parts of some hundred files: one future a file would cost as much as decoding a small file.
    size = max(1, min(256, count // (4 * workers)))
    errors: dict[int, str] = {}

    def part(start: int) -> int:
        stop = min(start + size, count)
        for index in range(start, stop):
            try:
                work(index)
            except UserError as error:
                if strict:
                    raise
                errors[index] = str(error)
        return stop - start

    bar = Bar(total=count, desc=f"reading {what}", unit="file", leave=False, in_log=False)
    with ThreadPoolExecutor(workers) as pool, bar:
        for done in pool.map(part, range(0, count, size)):  # an error cancels parts not begun
            bar.update(done)
    return errors


def _sizes_error(paths: Sequence[Path], channels: int) -> UserError:
    sizes: dict[int, tuple[int, int]] = {}

    def measure(index: int) -> None:
        sizes[index] = read_image(paths[index], channels).size

    for_each(measure, len(paths), "sizes")
    counts = Counter(sizes[index] for index in sorted(sizes))
    common = ", ".join(f"{w}x{h} ({n})" for (w, h), n in counts.most_common(3))
    return UserError(
        f"the {len(paths)} images have {len(counts)} different sizes, most often {common}: pass "
        "--image-size N to make each a square of N pixels"
    )
