"""Pictures that visitors send: how large they may be, and as what a model takes them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from srvae_pyro.data.image_files import read_picture
from srvae_pyro.errors import UserError
from srvae_pyro.models import ImageModel
from srvae_pyro.pixels import to_unit
from srvae_pyro.upscaling.files import pixels_of
from srvae_pyro.upscaling.photographs import shown

__all__ = ["check_upload", "image_for", "size_in_words", "without_folder"]


def check_upload(path: str | os.PathLike[str] | None, megapixels: float) -> Path:
    """The file of a picture that was sent, if it may be read.

    By its header, before it is decoded.

    Raises:
        UserError: there is none, or it is too large.
    """
    if path is None:
        raise UserError("drop a picture first, or choose a file")
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{shown(Path(file.name))} is kept here no longer: drop it again")
    if (pixels := pixels_of(file)) > megapixels * 1e6:
        raise UserError(
            f"{shown(Path(file.name))} has {pixels / 1e6:.3g} megapixels, and this page takes "
            f"{megapixels:g}: make it smaller or cut out a part"
        )
    return file


@contextmanager
def without_folder(path: Path) -> Iterator[None]:
    """Within it mistakes name the file by its name alone: where it is concerns no visitor."""
    try:
        yield
    except UserError as error:
        text = str(error).replace(f"{shown(path.parent)}/", "").replace(f"{path.parent}/", "")
        raise UserError(text) from None


def size_in_words(model: ImageModel) -> str:
    """Width and height of the images that a model has learnt from, such as ``32x32``."""
    _, height, width = model.config.image_shape
    return f"{width}x{height}"


def image_for(model: ImageModel, path: Path) -> Tensor:
    """A picture file as an image (1, C, H, W) of the size that a model has learnt from.

    Its central square, made smaller, if that is a square.

    Raises:
        UserError: it cannot be read, or there is but one size that it may have, and it is another.
    """
    channels, height, width = model.config.image_shape
    with without_folder(path):
        picture = read_picture(path, channels, height if height == width else None)
    if picture.size != (width, height):
        raise UserError(
            f"{shown(Path(path.name))} has {picture.width}x{picture.height} pixels, and the model "
            f"takes {size_in_words(model)}: bring it to that size"
        )
    levels = np.array(picture).reshape(height, width, channels).transpose(2, 0, 1)
    return to_unit(torch.from_numpy(levels.copy()))[None]
