"""Picture files of which nothing that is kept gets lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from srvae_pyro.compression.container import SIDE, Picture, names_of
from srvae_pyro.data.pictures import find_pictures
from srvae_pyro.errors import UserError
from srvae_pyro.system.console import say, shown
from srvae_pyro.upscaling.photographs import Photograph, read_photograph

__all__ = ["read_lossless"]


def read_lossless(paths: Sequence[Path], channels: int) -> tuple[list[Tensor], list[Picture]]:
    """The levels of picture files, uint8 (C, h, w), and what is to be kept beside them.

    Args:
        paths: files, and folders whose pictures are taken.
        channels: the model's, 3 or 1.

    Raises:
        UserError: one cannot be read, or has pixels that would not be kept whole.
    """
    files = [file for path in paths for file in (find_pictures(path) if path.is_dir() else [path])]
    if not files:
        raise UserError(f"there are no pictures in {shown(paths[0])}")
    levels, about, beside = [], [], 0
    for file, name in zip(files, names_of([file.stem for file in files]), strict=True):
        photograph = read_photograph(file, channels)
        _check(file, photograph, channels)
        others = photograph.exif, photograph.xmp, photograph.profile, photograph.chunks
        beside += any(others) or bool(photograph.unkept)
        levels.append(photograph.levels)
        height, width = photograph.levels.shape[-2:]
        about.append(Picture(name, height, width, photograph.gray and channels == 3))
    if beside:
        say(f"EXIF, XMP, colour profiles and gamma of {beside} pictures are not kept")
    return levels, about


def _check(file: Path, photograph: Photograph, channels: int) -> None:
    """Refuse a picture whose pixels are more than the model's 8-bit levels.

    Raises:
        UserError: it is one; says what would be lost.
    """
    lost = photograph.lost
    if photograph.alpha is not None and photograph.alpha.getextrema() != (255, 255):
        lost = "its transparency"
    elif channels == 1 and not photograph.gray:
        lost = "its colours, of which the model knows none"
    elif max(photograph.levels.shape) > SIDE:
        lost = f"what is beyond {SIDE} pixels a side"
    if lost:
        raise UserError(f"{shown(file)} would not be kept whole ({lost}): leave it out")
