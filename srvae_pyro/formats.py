"""Formats of image files; it imports nothing heavy, as every command needs the extensions."""

from __future__ import annotations

# Pillow's names of what a library decodes by itself, and the files' extensions. For some of the
# rest Pillow would call other programs.
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
    "TGA": (".tga", ".icb", ".vda", ".vst"),  # last: a TGA has no signature
}
FORMATS = tuple(READ)
# Read if the extra [formats] is installed.
EXTRA = {
    "HEIF": (".heic", ".heif", ".hif", ".heics", ".heifs"),
    "JXL": (".jxl",),
}
# Never read. In many of a camera's raw files Pillow would find the thumbnail alone.
UNREAD = frozenset(
    (
        *(".dng", ".nef", ".nrw", ".cr2", ".cr3", ".crw", ".arw", ".sr2", ".srf", ".orf", ".rw2"),
        *(".rwl", ".raf", ".pef", ".srw", ".x3f", ".3fr", ".fff", ".iiq", ".erf", ".mef", ".mos"),
        *(".mrw", ".kdc", ".dcr"),
        *(".jxr", ".wdp", ".hdp", ".psd", ".psb", ".xcf", ".svg", ".svgz", ".exr", ".hdr"),
    )
)
EXTENSIONS = UNREAD.union(*READ.values(), *EXTRA.values())

HEAD = 1024  # bytes of a file's beginning that tell its format
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
JXL_MARKS = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")


def extra_format(head: bytes) -> str | None:
    if head[4:8] == b"ftyp":
        # The first brand may be that of the container; another one names the codec.
        size = int.from_bytes(head[:4], "big")
        brands = {head[8:12], *(head[i : i + 4] for i in range(16, min(size, len(head)), 4))}
        return "HEIF" if brands & HEIF_BRANDS and not brands & {b"avif", b"avis"} else None
    return "JXL" if head.startswith(JXL_MARKS) else None
