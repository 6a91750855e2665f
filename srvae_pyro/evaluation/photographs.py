"""Photographs of any kind as levels and transparency, and answers written beside each other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin
from torch import Tensor

from srvae_pyro.data.pictures import eight_bits
from srvae_pyro.errors import UserError
from srvae_pyro.files import write_whole

__all__ = ["Photograph", "names_for", "read_photograph", "save_gif", "save_photograph", "shown"]

# Those that a library decodes by itself: Pillow would call other programs for some of the rest.
FORMATS = (
    *("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "TGA", "TIFF"),
    "WEBP",
)
FRAME_MILLISECONDS = 250  # of the animated answers


@dataclass(frozen=True)
class Photograph:
    """A picture file's content.

    Attributes:
        levels: uint8 (C, H, W), C as the model takes.
        alpha: transparency as Pillow's mode L, if the file has one.
        profile: the colours' ICC profile, if they are still the file's.
        note: what of the file is left out, for the user.
    """

    levels: Tensor
    alpha: Image.Image | None = None
    profile: bytes | None = None
    note: str = ""


def shown(path: Path) -> str:
    """A file's name as it can be printed, whatever bytes it is made of."""
    name = os.fsencode(path).decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)


def read_photograph(path: Path, channels: int) -> Photograph:
    """A picture file, upright, in 8 bits.

    EXIF orientation is applied and 16 bits become 8. A model of 3 channels takes grey as RGB, one
    of 1 channel takes the luma of colours.

    Args:
        path: the file.
        channels: 3 or 1.

    Raises:
        UserError: it cannot be read as a picture; names it.
    """
    if path.is_dir():
        raise UserError(f"{shown(path)} is a folder: name the picture files in it")
    if not path.exists():
        raise UserError(f"there is no file {shown(path)}")
    Image.init()
    try:
        with Image.open(path, formats=[f for f in FORMATS if f in Image.OPEN]) as file:
            frames = getattr(file, "n_frames", 1) if file.format != "MPO" else 1
            profile, mode = file.info.get("icc_profile"), file.mode
            image = eight_bits(ImageOps.exif_transpose(file))
        alpha = None
        if image.has_transparency_data:
            image = image.convert("RGBA")
            alpha = image.getchannel("A")
            image = image.convert("RGB")
        image = image.convert("RGB" if channels == 3 else "L")
    except Image.UnidentifiedImageError:
        empty = "it is empty" if not path.stat().st_size else "its format is not known"
        raise UserError(f"cannot read the picture {shown(path)} ({empty}): name another") from None
    except MemoryError:
        raise UserError(f"{shown(path)} is too large for this machine's memory") from None
    except Exception as error:  # a damaged file makes Pillow's decoders raise almost anything
        reason = " ".join(str(error).split()).replace(str(path), "it") or type(error).__name__
        raise UserError(
            f"cannot read the picture {shown(path)} ({reason}): repair it or leave it out"
        ) from None
    levels = np.array(image).reshape(image.height, image.width, channels).transpose(2, 0, 1)
    # A profile describes the file's own colours: not those converted from CMYK, or to grey.
    kept = mode.startswith(("RGB", "P")) if channels == 3 else mode.startswith("L")
    return Photograph(
        torch.from_numpy(np.ascontiguousarray(levels)),
        alpha,
        profile if kept else None,
        f"the first of its {frames} pictures" if frames > 1 else "",
    )


def as_image(levels: Tensor, alpha: Image.Image | None = None) -> Image.Image:
    """uint8 levels (C, H, W) as Pillow's RGB or L, with ``alpha`` (bicubic) if given."""
    array = levels.permute(1, 2, 0).contiguous().numpy()
    image = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
    if alpha is not None:
        image.putalpha(alpha.resize(image.size, Image.Resampling.BICUBIC))
    return image


def save_photograph(
    path: Path, levels: Tensor, like: Photograph | None = None, comment: str = ""
) -> None:
    """Write uint8 levels (C, H, W) as PNG, with the transparency and colour profile of ``like``."""
    options: dict[str, Any] = {}
    if like is not None and like.profile:
        options["icc_profile"] = like.profile
    if comment:
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_text("Comment", comment)
    image = as_image(levels, like.alpha if like else None)
    write_whole(path, lambda partial: image.save(partial, **options))


def save_gif(path: Path, pictures: Sequence[Path]) -> None:
    """Write picture files as one endless animation, transparency composed on white."""

    def frame(picture: Path) -> Image.Image:
        with Image.open(picture) as file:
            image = file.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")

    first, *rest = pictures
    write_whole(
        path,
        lambda partial: frame(first).save(
            partial,
            save_all=True,
            append_images=(frame(picture) for picture in rest),
            duration=FRAME_MILLISECONDS,
            loop=0,
        ),
    )


def names_for(pictures: Sequence[Path]) -> list[str]:
    """What the answers to each picture are called: its name, with its extension if need be.

    Raises:
        UserError: two would be called the same.
    """
    stems = [path.stem for path in pictures]
    names = [
        path.stem if stems.count(path.stem) == 1 else path.name.replace(".", "-")
        for path in pictures
    ]
    for i, name in enumerate(names):
        if name in names[:i]:
            first, second = shown(pictures[names.index(name)]), shown(pictures[i])
            raise UserError(
                f"{first} and {second} would be written under one name: enlarge them one at a "
                "time, with different --out"
            )
    return names
