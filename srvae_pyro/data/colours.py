"""Colours of printing and of measuring, as a screen has them."""

from __future__ import annotations

import io

from PIL import Image

__all__ = ["as_rgb"]


def as_rgb(image: Image.Image) -> Image.Image:
    """A picture in CMYK or Lab as sRGB, by its own profile if it has a sound one.

    Of other modes as it is.
    """
    if image.mode not in ("CMYK", "LAB"):
        return image
    profile = image.info.get("icc_profile") if image.mode == "CMYK" else None
    if image.mode == "CMYK" and not profile:
        return image.convert("RGB")
    from PIL import ImageCms

    try:
        own = io.BytesIO(profile) if profile else ImageCms.createProfile("LAB")
        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, own, srgb, outputMode="RGB")
        assert converted is not None  # it is where the picture itself is changed
        return converted
    except (ImportError, OSError, ValueError, ImageCms.PyCMSError):
        if image.mode == "LAB":
            raise  # Pillow has no other way
        return image.convert("RGB")
