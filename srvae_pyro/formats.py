"""Formats of image files: those that are read, and those that are only recognised.

It imports nothing heavy: every command knows these files by their extensions.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = ["EXTENSIONS", "FORMATS", "HEAD", "RAW", "Unread", "unread_by_content", "unread_by_name"]

# Pillow's names of what a library decodes by itself, for some of the rest it would call other
# programs, and the files' extensions.
READ = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "AVIF": (".avif", ".avifs"),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "ICO": (".ico",),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "MPO": (".mpo",),
    "PCX": (".pcx",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "QOI": (".qoi",),
    "SGI": (".sgi", ".rgb", ".rgba", ".bw"),
    "TIFF": (".tif", ".tiff"),
    "TGA": (".tga", ".icb", ".vda", ".vst"),  # last: it has no mark to be known by
}
FORMATS = tuple(READ)
HEAD = 1024  # bytes of a file's beginning that tell what it is


@dataclass(frozen=True)
class Unread:
    """A format that is recognised but not read.

    Attributes:
        name: what to call it.
        advice: what its owner can do.
        extensions: its files', in lower case.
        marks: how they begin.
        brands: those of the ISO media files that it is in.
    """

    name: str
    advice: str
    extensions: tuple[str, ...]
    marks: tuple[bytes, ...] = ()
    brands: tuple[bytes, ...] = ()


RAW = Unread(
    "a camera's raw file",
    "develop it to TIFF, PNG or JPEG, for example with darktable or RawTherapee",
    (
        *(".dng", ".nef", ".nrw", ".cr2", ".cr3", ".crw", ".arw", ".sr2", ".srf", ".orf", ".rw2"),
        *(".rwl", ".raf", ".pef", ".srw", ".x3f", ".3fr", ".fff", ".iiq", ".erf", ".mef", ".mos"),
        *(".mrw", ".kdc", ".dcr"),
    ),
    (
        *(b"II*\0\x10\0\0\0CR", b"II\x1a\0\0\0HEAPCCDR", b"FUJIFILMCCD-RAW", b"FOVb", b"\0MRM"),
        *(b"IIRO", b"IIRS", b"MMOR", b"IIU\0"),
    ),
    (b"crx ",),
)
UNREAD = (
    Unread(
        "HEIC",
        "convert it to JPEG or PNG, for example with heif-convert",
        (".heic", ".heif", ".hif", ".heics", ".heifs"),
        brands=(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
    ),
    Unread(
        "JPEG XL",
        "convert it to JPEG or PNG, for example with djxl",
        (".jxl",),
        (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"),
    ),
    Unread(
        "JPEG XR",
        "convert it to JPEG or PNG, for example with ImageMagick",
        (".jxr", ".wdp", ".hdp"),
        (b"II\xbc\x01",),
    ),
    Unread(
        "a Photoshop document",
        "save it as TIFF, PNG or JPEG",
        (".psd", ".psb"),
        (b"8BPS",),
    ),
    Unread("a GIMP document", "export it as TIFF, PNG or JPEG", (".xcf",), (b"gimp xcf",)),
    Unread(
        "a drawing in SVG",
        "export it as PNG, for example with Inkscape",
        (".svg", ".svgz"),
        (b"<svg",),
    ),
    Unread(
        "an image of high dynamic range",
        "save it in 8 bits, as PNG or JPEG",
        (".exr", ".hdr"),
        (b"v/1\x01", b"#?RADIANCE", b"#?RGBE"),
    ),
    RAW,
)
AVIF = Unread(
    "AVIF, which the installed Pillow does not read",
    "pip install --upgrade pillow, or convert it to JPEG or PNG",
    READ["AVIF"],
    brands=(b"avif", b"avis"),
)
EXTENSIONS = frozenset(
    extension
    for extensions in (*READ.values(), *(kind.extensions for kind in UNREAD))
    for extension in extensions
)


def unread_by_content(head: bytes, known: bool) -> Unread | None:
    """The format of a file by its content, if it is one that is not read.

    Args:
        head: its first :data:`HEAD` bytes.
        known: whether the installed Pillow takes it for one of :data:`FORMATS` by a mark.
    """
    if head[4:8] == b"ftyp":
        # The first brand may be that of the container: which codec is in it, another one tells.
        size = int.from_bytes(head[:4], "big")
        brands = {head[8:12], *(head[i : i + 4] for i in range(16, min(size, len(head)), 4))}
        if brands.intersection(AVIF.brands):
            return None if known else AVIF
        return next((kind for kind in UNREAD if brands.intersection(kind.brands)), None)
    if known and not head.startswith(RAW.marks):
        return None
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith((b"<?xml", b"<!--", b"<!DOCTYPE svg")) and b"<svg" in text:
        head = b"<svg"
    return next((kind for kind in UNREAD if kind.marks and head.startswith(kind.marks)), None)


def unread_by_name(name: str | os.PathLike[str]) -> Unread | None:
    """The format of a file by its extension, if it is one that is not read."""
    extension = os.path.splitext(name)[1].lower()
    return next((kind for kind in UNREAD if extension in kind.extensions), None)
