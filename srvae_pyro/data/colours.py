"""Pillow's modes converted to the 8-bit grey or sRGB of screens."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms

__all__ = ["as_rgb", "eight_bits"]


def eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey scaled to 8 bits; other modes unchanged.

    Raises:
        ValueError: the pixels are floats or beyond 16 bits.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    levels = np.asarray(image)
    if levels.dtype.kind == "f" or levels.min() < 0 or levels.max() > 65535:
        raise ValueError(f"its pixels are not of 8 or 16 bits but of mode {image.mode}")
    return Image.fromarray(((levels.astype(np.uint32) + 128) // 257).astype(np.uint8))


def as_rgb(image: Image.Image) -> Image.Image:
    """CMYK or Lab converted to sRGB, by the embedded profile if it is sound; other modes unchanged.

    Raises:
        OSError, ValueError, ImageCms.PyCMSError: Lab cannot be converted.
    """
    if image.mode not in ("CMYK", "LAB"):
        return image
    profile = image.info.get("icc_profile") if image.mode == "CMYK" else None
    if image.mode == "CMYK" and not profile:
        return image.convert("RGB")
    try:
        source = io.BytesIO(profile) if profile else ImageCms.createProfile("LAB")
        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
        assert converted is not None  # it is None only for a conversion in place
        return converted
    except (ImportError, OSError, ValueError, ImageCms.PyCMSError):
        if image.mode == "LAB":
            raise  # Pillow has no other way
        return image.convert("RGB")
