"""Photographs read as levels and transparency, and written with the metadata that still hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageChops, JpegImagePlugin, PngImagePlugin, TiffImagePlugin
from torch import Tensor

from srvae_pyro.data.degradations import luma_table
from srvae_pyro.data.image_files import Opened, open_image
from srvae_pyro.data.levels import UnreadableError, as_rgb
from srvae_pyro.errors import UserError
from srvae_pyro.models.restorer import InputKind
from srvae_pyro.system.console import shown
from srvae_pyro.system.files import write_whole
from srvae_pyro.upscaling.inspection import inspected
from srvae_pyro.upscaling.tiling import Levels, bands

# All tags of a TIFF count as EXIF, also those that say where its pixels are. A PNG has a field of
# its own for the resolution.
KEPT = frozenset(
    tag.value
    for tag in (
        *(ExifTags.Base.ImageDescription, ExifTags.Base.Make, ExifTags.Base.Model),
        *(ExifTags.Base.Software, ExifTags.Base.DateTime, ExifTags.Base.Artist),
        *(ExifTags.Base.HostComputer, ExifTags.Base.Copyright, ExifTags.Base.Rating),
        *(ExifTags.Base.XPTitle, ExifTags.Base.XPComment, ExifTags.Base.XPAuthor),
        *(ExifTags.Base.XPKeywords, ExifTags.Base.XPSubject),
        *(ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo),
    )
)
SIZES = (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight)  # are others now
MOST_XMP = 1_000_000  # bytes; more would not be read back from a PNG


def exif_of(image: Image.Image) -> bytes | None:
    """EXIF without orientation, sizes and thumbnail; None if there is none or it is damaged."""
    try:
        exif, kept = image.getexif(), Image.Exif()
        for tag in KEPT.intersection(exif):
            if tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
                further = dict(exif.get_ifd(tag))
                if ExifTags.IFD.Interop in further:
                    further[ExifTags.IFD.Interop] = exif.get_ifd(ExifTags.IFD.Interop)
                for size in SIZES:
                    further.pop(size, None)
                if further:
                    kept[tag] = further
            else:
                kept[tag] = exif[tag]
        return kept.tobytes() if len(kept) else None
    except MemoryError:
        raise
    except Exception:  # whatever is wrong with it, the pixels are not
        return None


def xmp_of(image: Image.Image) -> bytes | None:
    """XMP, as Pillow left it when it turned the image upright."""
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if xmp is None and isinstance(image, TiffImagePlugin.TiffImageFile):
        xmp = image.tag_v2.get(ExifTags.Base.XMLPacket)
    if isinstance(xmp, str):
        xmp = xmp.encode("utf-8", "replace")
    return xmp if isinstance(xmp, bytes) and len(xmp) < MOST_XMP else None


def dpi_of(image: Image.Image) -> tuple[float, float] | None:
    """Dots per inch across and down, if sensible."""
    dpi: Any = image.info.get("dpi")
    try:
        across, down = (float(value) for value in dpi)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    sensible = all(math.isfinite(value) and 1 <= value < 1e6 for value in (across, down))
    return (across, down) if sensible else None


FRAME_MILLISECONDS = 250  # of the animated outputs
MOST_NAMED = 20  # files in a line


@dataclass(frozen=True)
class Photograph:
    levels: Tensor  # uint8 (C, H, W), C as the model takes
    alpha: Image.Image | None = None  # transparency, of mode L
    gray: bool = False  # red, green and blue are equal in every pixel; outputs are gray then
    profile: bytes | None = None  # ICC, if the colours are still the file's
    chunks: dict[bytes, bytes] = field(default_factory=dict)  # other PNG chunks about colours
    exif: bytes | None = None  # without the orientation
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None  # dots per inch, across and down
    lost: str = ""  # what of the pixels is left out, for the user
    unkept: str = ""  # what of the rest is
    compression: InputKind = InputKind(table=0.0)  # by the file's format

    @property
    def note(self) -> str:
        return "; ".join(filter(None, (self.lost, self.unkept)))

    @cached_property
    def kind(self) -> InputKind:
        """What the file and its pixels tell of noise and compression."""
        return inspected(self.levels, self.compression)


def named(paths: Sequence[Path]) -> str:
    """The names of the first files, and how many more there are."""
    listed = ", ".join(shown(path) for path in paths[:MOST_NAMED])
    more = len(paths) - MOST_NAMED
    return f"{listed} and {more} more" if more > 0 else listed


def read_photograph(path: Path, channels: int) -> Photograph:
    """An image file, upright, in 8 bits, hidden pixels filled, with 3 or 1 channels."""
    if path.is_dir():
        raise UserError(f"{shown(path)} is a folder: name the image files in it")
    if not path.exists():
        raise UserError(f"there is no file {shown(path)}")
    try:
        with open_image(path) as opened:
            return _photograph(opened, channels)
    except UnreadableError as error:
        advice = error.advice or "choose another"
        raise UserError(f"cannot read the image {shown(path)} ({error.reason}): {advice}") from None
    except MemoryError:
        raise UserError(f"{shown(path)} is too large for this machine's memory") from None
    except Exception as error:  # a damaged file makes Pillow's decoders raise almost anything
        reason = " ".join(str(error).split()).replace(str(path), "it") or type(error).__name__
        raise UserError(
            f"cannot read the image {shown(path)} ({reason}): repair it or leave it out"
        ) from None


def _photograph(opened: Opened, channels: int) -> Photograph:
    file, meaning = opened.image, opened.meaning
    image = opened.eight_bits()
    frames = getattr(file, "n_frames", 1) if file.format != "MPO" else 1
    if frames > 1:
        number = f"image {opened.page + 1}, the largest," if opened.page else "the first"
        opened.notes.append(f"{number} of its {frames} images")
    lost = opened.notes + meaning.lost
    own = image.mode not in ("CMYK", "LAB", "YCbCr")
    if image.mode in ("CMYK", "LAB"):
        lost.append(f"its {image.mode} colours as sRGB")
    image = as_rgb(image)
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = _hidden_filled(image.convert("RGB"), alpha)
    if image.mode not in ("1", "L"):
        image = image.convert("RGB")
    gray = len(image.getbands()) == 1 or _is_gray(image)
    image = image.convert("RGB" if channels == 3 else "L")
    # A description of the file's colours does not fit converted ones.
    kept = own and (gray or channels == 3)
    profile, unkept = file.info.get("icc_profile"), list(meaning.unkept)
    if not kept and image.mode == "L":
        unkept += ["without its colour profile"] if profile else []
        unkept += [f"without its {kind.decode()}" for kind in meaning.chunks]
    levels = np.asarray(image).reshape(image.height, image.width, channels).transpose(2, 0, 1)
    return Photograph(
        torch.from_numpy(levels.copy()),
        alpha,
        gray,
        profile if kept else None,
        meaning.chunks if kept else {},
        exif_of(file),
        xmp_of(file),
        dpi_of(file),
        "; ".join(lost),
        "; ".join(unkept),
        _compression(file, meaning.lossy),
    )


def _compression(file: Image.Image, lossy: bool | None) -> InputKind:
    """What an opened file tells of its compression, ``lossy`` if it is another than JPEG's."""
    if not isinstance(file, JpegImagePlugin.JpegImageFile):
        # Of the networks' kinds, AVIF and HEIF are best told as WebP.
        return InputKind(table=None if lossy is None else 0.0, webp=bool(lossy))
    # -1 is another subsampling than 4:4:4, 4:2:2 and 4:2:0.
    subsampled = len(file.getbands()) == 3 and JpegImagePlugin.get_sampling(file) != 0
    return InputKind(table=luma_table(file), subsampled=subsampled)


def _is_gray(image: Image.Image) -> bool:
    red, *others = image.split()
    return not any(ImageChops.difference(red, other).getbbox() for other in others)


def _hidden_filled(image: Image.Image, alpha: Image.Image) -> Image.Image:
    from scipy.ndimage import distance_transform_edt  # slow to import, and seldom needed

    hidden = np.asarray(alpha) == 0
    if not hidden.any() or hidden.all():
        return image
    nearest = distance_transform_edt(hidden, return_distances=False, return_indices=True)
    return Image.fromarray(np.asarray(image)[tuple(nearest)])


def as_image(levels: Levels, alpha: Image.Image | None = None, gray: bool = False) -> Image.Image:
    """Levels (C, H, W) as RGB, or L if ``gray``, with ``alpha`` upscaled by bicubic."""
    channels, height, width = levels.shape
    image = Image.new("L" if gray or channels == 1 else "RGB", (width, height))
    for start, stop in bands(levels.shape):
        rows = levels.rows(start, stop)[: len(image.getbands())].permute(1, 2, 0)
        array = rows.contiguous().numpy()
        band = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
        image.paste(band, (0, start))
    if alpha is not None:
        image.putalpha(alpha.resize(image.size, Image.Resampling.BICUBIC))
    return image


def save_photograph(
    path: Path, levels: Levels, like: Photograph | None = None, comment: str = ""
) -> None:
    """Write uint8 levels (C, H, W) as PNG, with the metadata and transparency of ``like``."""
    options: dict[str, Any] = {"pnginfo": PngImagePlugin.PngInfo()}
    image = as_image(levels, like.alpha, like.gray) if like else as_image(levels)
    if like is not None:
        kept = {"icc_profile": like.profile, "exif": like.exif, "dpi": like.dpi}
        options |= {name: value for name, value in kept.items() if value}
        for kind, data in like.chunks.items():
            options["pnginfo"].add(kind, data)
        if like.xmp:
            options["pnginfo"].add_itxt("XML:com.adobe.xmp", like.xmp)
        # A PNG of one channel may not have a profile of colours.
        if like.profile and like.profile[16:20] == b"RGB " and image.mode in ("L", "LA"):
            image = image.convert("RGB" if image.mode == "L" else "RGBA")
    if comment:
        options["pnginfo"].add_text("Comment", comment)
    write_whole(path, lambda partial: image.save(partial, **options))


def save_gif(path: Path, images: Sequence[Path]) -> None:
    """Write image files as one endless animation, transparency composed on white."""

    def frame(source: Path) -> Image.Image:
        with open_image(source) as opened:  # which has no limit of pixels
            image = opened.image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")

    first, *rest = images
    write_whole(
        path,
        lambda partial: frame(first).save(
            partial,
            save_all=True,
            append_images=(frame(image) for image in rest),
            duration=FRAME_MILLISECONDS,
            loop=0,
        ),
    )
