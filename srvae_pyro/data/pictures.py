"""Picture files: found in a folder, read one by one or in parallel into one tensor."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from srvae_pyro.data.colours import as_rgb
from srvae_pyro.data.opening import open_picture, size_by_header
from srvae_pyro.data.unreadable import UnreadableError
from srvae_pyro.errors import UserError
from srvae_pyro.formats import EXTENSIONS
from srvae_pyro.system.console import Bar
from srvae_pyro.system.cores import allowed_cores

__all__ = [
    "find_pictures",
    "in_parts",
    "picture_size",
    "read_picture",
    "read_pictures",
    "read_readable",
]

T = TypeVar("T")


def find_pictures(
    folder: Path,
    exclude: Iterable[Path] = (),
    other: Callable[[Path], object] | None = None,
    unread: Callable[[OSError], object] = lambda _: None,
) -> list[Path]:
    """Every picture file in ``folder`` and below, by extension, in the order of their paths.

    Links to folders are followed, and each folder is visited once. Hidden files and folders are
    left out, and so are named pipes, devices and sockets.

    Args:
        folder: the folder.
        exclude: folders that are not entered through links.
        other: told each file that is no picture; without, a warning tells of pipes and the like
            that are called as pictures are.
        unread: told why a folder cannot be listed.
    """
    pictures = []
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
            unread(error)
            continue
        folders = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            named = os.path.splitext(entry.name)[1].lower() in EXTENSIONS
            if _is_folder(entry):
                folders.append(entry)
            # Where a link leads to is looked at when the picture is opened: it takes time.
            elif named and (entry.is_symlink() or entry.is_file()):
                pictures.append(Path(entry.path))
            elif other is not None:
                other(Path(entry.path))
            elif named:
                warnings.warn(f"left out, as it is no regular file: {entry.path}", stacklevel=2)
        folders.sort(key=lambda entry: entry.name)
        links += [entry.path for entry in folders if entry.is_symlink()]
        waiting += [entry.path for entry in reversed(folders) if not entry.is_symlink()]
    return sorted(pictures, key=lambda path: path.relative_to(folder).parts)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    with contextlib.suppress(OSError):  # a link that leads to itself
        return entry.is_dir()
    return False


def _identity(folder: str | Path) -> tuple[int, int]:
    """Device and inode, which identify a folder whatever path leads to it."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def read_picture(
    path: Path, channels: int, image_size: int | None = None, content: bytes | None = None
) -> Image.Image:
    """One picture file, upright, in 8 bits, mode RGB (3 channels) or L (1 channel).

    EXIF orientation is applied, transparency composed on white, 16 bits scaled to 8, CMYK and Lab
    converted to sRGB; of an animation the first frame is read. Faults of a file that do not
    affect its pixels are ignored.

    Args:
        path: the file.
        channels: 3 or 1.
        image_size: crop the central square and resize it (Lanczos) to this side in pixels.
        content: the file's content, if it is not a file of its own at that path.

    Raises:
        UserError: the file cannot be read as a picture; names it.
    """
    try:
        with open_picture(path, content) as opened:
            image = as_rgb(opened.eight_bits())
        if opened.meaning.guess:  # without the name, so that it is shown once
            warnings.warn(f"pictures of 16 bits are {opened.meaning.guess}", stacklevel=1)
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


def picture_size(path: Path, content: bytes | None = None) -> tuple[int, int]:
    """Width and height of a picture file; EXIF may say that they are to be swapped.

    It is decoded only if its header cannot be read. Arguments and errors are those of
    :func:`read_picture`.
    """
    try:
        with contextlib.suppress(Exception):
            return size_by_header(path, content)
        with open_picture(path, content) as opened:
            return opened.image.size
    except MemoryError:
        raise
    except Exception as error:
        raise _unread(path, error) from error


def _unread(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())
    advice = (isinstance(error, UnreadableError) and error.advice) or "repair or remove it"
    return UserError(f"cannot read the picture {path} ({reason}): {advice}")


def read_pictures(
    paths: Sequence[Path], channels: int, image_size: int | None = None, what: str = "pictures"
) -> Tensor:
    """Picture files as uint8 levels (N, C, H, W), read by one thread a core.

    Args:
        paths: the files, at least one.
        channels: 3 or 1.
        image_size: see :func:`read_picture`; without it all must have one size.
        what: what the progress bar calls them.

    Raises:
        UserError: a file cannot be read, or sizes differ.
    """
    return read_readable(paths, channels, image_size, what=what, strict=True)[0]


def read_readable(
    paths: Sequence[Path],
    channels: int,
    image_size: int | None = None,
    *,
    what: str = "pictures",
    strict: bool = False,
) -> tuple[Tensor, list[int]]:
    """Read pictures as :func:`read_pictures` does, but leave out files that cannot be read.

    A warning names the first file that is left out.

    Returns:
        The images (N, C, H, W), and the ascending indices in ``paths`` of the files left out.

    Raises:
        UserError: no file can be read, or with ``strict`` one cannot, or sizes differ.
    """
    first, mistakes = 0, dict[int, str]()
    while True:
        try:
            width, height = read_picture(paths[first], channels, image_size).size
            break
        except UserError as error:
            if strict or first == len(paths) - 1:
                raise
            mistakes[first] = str(error)
            first += 1
    images = torch.empty(len(paths), channels, height, width, dtype=torch.uint8)
    target = images.numpy()

    def read(start: int, stop: int) -> None:
        for i in range(max(start, first), stop):
            try:
                image = read_picture(paths[i], channels, image_size)
            except UserError as error:
                if strict:
                    raise
                mistakes[i] = str(error)
                continue
            if image.size != (width, height):
                raise _SizesDifferError
            levels = np.asarray(image).reshape(height, width, channels)
            target[i] = levels.transpose(2, 0, 1)

    try:
        for _ in in_parts(read, len(paths), what):
            pass
    except _SizesDifferError:
        raise _sizes_error(paths, channels) from None
    if not mistakes:
        return images, []
    left_out = sorted(mistakes)
    more = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
    warnings.warn(f"left out{more}: {mistakes[left_out[0]]}", stacklevel=2)
    keep = torch.ones(len(paths), dtype=torch.bool)
    keep[left_out] = False
    return images[keep], left_out


class _SizesDifferError(Exception):
    """Two pictures have different sizes."""


def in_parts(work: Callable[[int, int], T], count: int, what: str) -> Iterator[T]:
    """Call ``work(start, stop)`` on parts of 0..count-1 in threads, with a progress bar."""
    workers = min(32, allowed_cores())
    # Parts of some hundred files: one future a file would cost as much as decoding a small file.
    size = max(1, min(256, count // (4 * workers)))
    starts = range(0, count, size)
    stops = [min(start + size, count) for start in starts]
    bar = Bar(
        total=count,
        desc=f"reading {what}",
        unit="file",
        leave=False,
        in_log=False,
    )
    with ThreadPoolExecutor(workers) as pool, bar:
        results = pool.map(work, starts, stops)  # an error cancels the parts not begun
        for start, stop, result in zip(starts, stops, results, strict=True):
            bar.update(stop - start)
            yield result


def _sizes_error(paths: Sequence[Path], channels: int) -> UserError:
    """The error that says how many sizes the files have; it takes reading all of them."""

    def sizes(start: int, stop: int) -> Counter[tuple[int, int]]:
        counts: Counter[tuple[int, int]] = Counter()
        for path in paths[start:stop]:
            with contextlib.suppress(UserError):  # this is about the others
                counts[read_picture(path, channels).size] += 1
        return counts

    counts: Counter[tuple[int, int]] = Counter()
    for part in in_parts(sizes, len(paths), "sizes"):
        counts.update(part)
    common = ", ".join(f"{w}x{h} ({n})" for (w, h), n in counts.most_common(3))
    return UserError(
        f"the {len(paths)} pictures have {len(counts)} different sizes, most often {common}: pass "
        "--image-size N to make each a square of N pixels"
    )
