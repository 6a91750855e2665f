"""Metadata of a photograph that hold for its enlargement too: EXIF, XMP, resolution."""

from __future__ import annotations

import math
from typing import Any

from PIL import ExifTags, Image, TiffImagePlugin

__all__ = ["dpi_of", "exif_of", "xmp_of"]

# Of a TIFF all tags count as EXIF, also those that say where its pixels are. The resolution is told
# by a PNG itself.
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
    """XMP, as Pillow left it when it turned the picture upright."""
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if xmp is None and isinstance(image, TiffImagePlugin.TiffImageFile):
        xmp = image.tag_v2.get(ExifTags.Base.XMLPacket)
    if isinstance(xmp, str):
        xmp = xmp.encode("utf-8", "replace")
    return xmp if isinstance(xmp, bytes) and len(xmp) < MOST_XMP else None


def dpi_of(image: Image.Image) -> tuple[float, float] | None:
    """Dots per inch across and down; None if the file does not say, or nothing sensible."""
    dpi: Any = image.info.get("dpi")
    try:
        across, down = (float(value) for value in dpi)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    sensible = all(math.isfinite(value) and 1 <= value < 1e6 for value in (across, down))
    return (across, down) if sensible else None
