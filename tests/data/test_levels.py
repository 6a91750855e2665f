"""What image files say of how their levels are meant, and what becomes of it.

A table of formats, modes and depths: each row is a file, its levels as a viewer shows them, and
what is said of it. Upscaling, training and compressing read all of them.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms

from srvae_pyro.compression.command import read_lossless
from srvae_pyro.data.image_files import read_image
from srvae_pyro.data.levels import png_chunks
from srvae_pyro.errors import UserError
from srvae_pyro.upscaling.photographs import read_photograph, save_photograph
from srvae_pyro.upscaling.tiling import MemoryCanvas
from tests.builders import file_of, refused

SIDE = 8
RAMP = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) / (SIDE * SIDE - 1)  # 0 to 1
COLOURS = np.stack([RAMP, RAMP[::-1], RAMP.T], -1)


def of_bits(part: np.ndarray, bits: int) -> np.ndarray:
    """Numbers from 0 to 1 as levels of so many bits."""
    return np.round(part * ((1 << bits) - 1)).astype(int)


def shown_as(levels: np.ndarray, bits: int) -> np.ndarray:
    """Levels of so many bits as viewers show them, uint8 (H, W, 3)."""
    shown = np.round(levels / ((1 << bits) - 1) * 255).astype(np.uint8)
    return np.stack([shown] * 3, -1) if shown.ndim == 2 else shown[..., :3]


@dataclass
class Row:
    """A file and what is to become of it."""

    content: bytes
    shown: np.ndarray  # its levels in 8 bits, uint8 (H, W, 3)
    opacity: np.ndarray | None = None  # 0 to 255 (H, W), if not all is opaque
    note: str = ""  # what of the pixels is said to be lost


# The files


def chunk(kind: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def png(levels: np.ndarray, depth: int, colour: int, *chunks: bytes) -> bytes:
    """A PNG of levels (H, W) or (H, W, C) in fields of ``depth`` bits."""
    height, width = levels.shape[:2]
    rows = levels.reshape(height, -1)
    if depth < 8:
        bits = np.unpackbits(rows.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :]
        packed = np.packbits(bits.reshape(height, -1), axis=1)
    else:
        packed = rows.astype(">u2" if depth == 16 else np.uint8)
    stream = zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = (chunk(b"IHDR", header), *chunks, chunk(b"IDAT", stream), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(levels: np.ndarray, kind: str = "u2", **options: Any) -> bytes:
    file = io.BytesIO()
    options = {"photometric": "rgb" if levels.ndim == 3 else "minisblack"} | options
    tifffile.imwrite(
        file, levels.astype(kind), byteorder=kind[0] if kind[0] in "<>" else "<", **options
    )
    return file.getvalue()


def netpbm(mark: bytes, levels: np.ndarray, most: int) -> bytes:
    body = levels.astype(">u2" if most > 255 else np.uint8).tobytes()
    return b"%s\n%d %d\n%d\n" % (mark, SIDE, SIDE, most) + body


def sgi(levels: np.ndarray) -> bytes:
    header = struct.pack(">HBBHHHHII", 474, 0, 2, 3, SIDE, SIDE, 3, 0, 65535)
    return header.ljust(512, b"\0") + levels[::-1].transpose(2, 0, 1).astype(">u2").tobytes()


def packed_tiff(levels: np.ndarray) -> bytes:
    """A TIFF of 12 bits in as many."""
    bits = np.unpackbits(levels.astype(">u2").view(np.uint8).reshape(SIDE, SIDE, 2), axis=-1)
    body = np.packbits(bits[..., 4:].reshape(SIDE, -1), axis=1).tobytes()
    tags = ((256, SIDE), (257, SIDE), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1))
    tags = (*tags, (278, SIDE), (279, len(body)))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    end = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + end


# Rows with transparency by a colour


def key_of_gray(depth: int) -> Row:
    levels = of_bits(RAMP, depth)
    key = int(levels[4, 4])
    opacity = np.where(levels == key, 0, 255)
    content = png(levels, depth, 0, chunk(b"tRNS", struct.pack(">H", key)))
    return Row(content, shown_as(levels, depth), opacity, "8 of its 16 bits" * (depth == 16))


def key_of_colours(depth: int) -> Row:
    """One of two colours that are the same in their high bytes."""
    levels = of_bits(COLOURS, depth)
    levels[3] = 2 << (depth - 8)
    levels[3, ::2, 1] += 1
    key = levels[3, 0]
    opacity = np.where((levels == key).all(-1), 0, 255)
    assert (opacity == 0).sum() == SIDE / 2
    content = png(levels, depth, 2, chunk(b"tRNS", struct.pack(">3H", *key)))
    return Row(content, shown_as(levels, depth), opacity, "8 of its 16 bits" * (depth == 16))


def palette(depth: int) -> Row:
    count = 1 << depth
    colours = np.random.default_rng(0).integers(0, 256, (count, 3), dtype=np.uint8)
    alphas = np.full(count, 255, dtype=np.uint8)
    alphas[-1], alphas[0] = 0, 128
    indices = of_bits(RAMP, depth)
    chunks = chunk(b"PLTE", colours.tobytes()), chunk(b"tRNS", alphas.tobytes())
    return Row(png(indices, depth, 3, *chunks), colours[indices], alphas[indices])


def with_alpha(
    content: Callable[[np.ndarray], bytes], bits: int, note: str = "", gray: bool = False
) -> Row:
    alpha = np.where(RAMP > 0.5, (1 << bits) - 1, 0)
    levels = of_bits(RAMP if gray else COLOURS, bits)
    return Row(content(np.dstack([levels, alpha])), shown_as(levels, bits), alpha >> bits - 8, note)


def gray_with_alpha(bits: int, note: str) -> Row:
    return with_alpha(lambda x: png(x, 16, 4), bits, note, gray=True)


def gif() -> Row:
    indices = of_bits(RAMP, 4).astype(np.uint8)
    image = Image.fromarray(indices).convert("P")
    colours = np.random.default_rng(1).integers(0, 256, (16, 3), dtype=np.uint8)
    image.putpalette(colours.tobytes())
    content = file_of(image, "GIF", transparency=5)
    return Row(content, colours[indices], np.where(indices == 5, 0, 255))


def webp(levels: np.ndarray) -> bytes:
    return file_of(Image.fromarray(levels.astype(np.uint8)), "WEBP", lossless=True)


TRANSPARENT: dict[str, Callable[[], Row]] = {
    **{f"PNG gray {depth}": lambda depth=depth: key_of_gray(depth) for depth in (1, 2, 4, 8, 16)},
    **{f"PNG RGB {depth}": lambda depth=depth: key_of_colours(depth) for depth in (8, 16)},
    **{f"PNG palette {depth}": lambda depth=depth: palette(depth) for depth in (1, 2, 4, 8)},
    "PNG RGBA 16": lambda: with_alpha(lambda x: png(x, 16, 6), 16, "8 of its 16 bits"),
    "PNG gray and alpha 16": lambda: gray_with_alpha(16, "8 of its 16 bits"),
    "GIF": gif,
    "WebP": lambda: with_alpha(webp, 8),
    "TIFF RGBA 8": lambda: with_alpha(lambda x: tiff(x, "u1", extrasamples=["unassalpha"]), 8),
    "TIFF RGBA 16": lambda: with_alpha(
        lambda x: tiff(x, extrasamples=["unassalpha"]), 16, "8 of its 16 bits"
    ),
}

# Rows of levels that do not fill their fields, or lie in them in another way than Pillow has it


def of(content: Callable[[np.ndarray], bytes], bits: int, note: str, gray: bool = True) -> Row:
    levels = of_bits(RAMP if gray else COLOURS, bits)
    return Row(content(levels), shown_as(levels, bits), note=note)


def tiles() -> Row:
    """Those at the right and below are cut."""
    levels = np.tile(of_bits(COLOURS, 12), (3, 3, 1))
    return Row(tiff(levels, tile=(16, 16)), shown_as(levels, 12), note=scaled(12))


def jpeg2000(levels: np.ndarray, bits: int) -> bytes:
    options: dict[str, Any] = {"level": 0, "reversible": True, "bitspersample": bits}
    return bytes(imagecodecs.jpeg2k_encode(levels.astype(np.uint16), **options))


def avif(levels: np.ndarray, bits: int = 10, **options: Any) -> bytes:
    levels = levels.astype(np.uint16 if bits > 8 else np.uint8)
    return bytes(imagecodecs.avif_encode(levels, level=100, bitspersample=bits, **options))


def scaled(bits: int) -> str:
    most = f"{(1 << bits) - 1:,}"
    start = f"8 of its {bits} bits; " if bits > 8 else ""
    return f"{start}scaled by {most}, as no level is above it"


def dim(levels: np.ndarray) -> bytes:
    """Levels up to 900 whose tag says that white is 4,095."""
    return tiff(levels, extratags=[(281, 3, 1, 4095, True)])


FULL = "8 of its 16 bits"
DARK = f"{FULL}; dark, as no level is above 16,383 of 65,535"
GAMMA = chunk(b"gAMA", struct.pack(">I", 45_455))
PARTLY: dict[str, Callable[[], Row]] = {
    **{
        f"TIFF {kind} {bits} of 16": lambda bits=bits, gray=kind == "gray": of(
            tiff, bits, scaled(bits), gray
        )
        for kind, bits in product(("gray", "RGB"), (8, 10, 12, 14))
    },
    "TIFF gray 16": lambda: of(tiff, 16, FULL),
    "TIFF RGB 16": lambda: of(tiff, 16, FULL, gray=False),
    "TIFF gray 12 of 16, big-endian": lambda: of(lambda x: tiff(x, ">u2"), 12, scaled(12)),
    "TIFF RGB 12 of 16, deflated": lambda: of(
        lambda x: tiff(x, compression="zlib"), 12, scaled(12), gray=False
    ),
    "TIFF RGB 12 of 16, in tiles": tiles,
    "TIFF RGBA 12 of 16": lambda: with_alpha(
        lambda x: tiff(x, extrasamples=["unassalpha"]), 12, scaled(12)
    ),
    "TIFF 9 of 16 by its tag": lambda: of(
        lambda x: tiff(x, extratags=[(281, 3, 1, 511, True)]), 9, scaled(9)
    ),
    "TIFF 12 of 16 by its tag": lambda: Row(
        dim(of_bits(RAMP, 12) // 5), shown_as(of_bits(RAMP, 12) // 5, 12), note=scaled(12)
    ),
    "TIFF 16 by its tag": lambda: Row(
        tiff(of_bits(RAMP, 12), extratags=[(281, 3, 1, 65535, True)]),
        shown_as(of_bits(RAMP, 12), 16),
        note=DARK,
    ),
    "TIFF 12 of 12": lambda: of(packed_tiff, 12, "8 of its 12 bits"),
    "TIFF signed 16": lambda: of(lambda x: tiff(x, "i2"), 15, "8 of its 15 bits"),
    "TIFF 16, 0 is white": lambda: of(
        lambda x: tiff(65535 - x, photometric="miniswhite"), 16, FULL
    ),
    "TIFF RGB 16 in planes": lambda: of(
        lambda x: tiff(x.transpose(2, 0, 1), planarconfig="separate"), 16, FULL, gray=False
    ),
    "TIFF RGB with more": lambda: Row(
        tiff(np.concatenate([of_bits(COLOURS, 8)] * 2, -1)[..., :4], "u1", extrasamples=[0]),
        shown_as(of_bits(COLOURS, 8), 8),
        note="without its extra channels",
    ),
    "PNG gray 12 of 16": lambda: of(lambda x: png(x, 16, 0), 12, scaled(12)),
    "PNG RGB 12 of 16": lambda: of(lambda x: png(x, 16, 2), 12, scaled(12), gray=False),
    "PNG gray and alpha 12 of 16": lambda: gray_with_alpha(12, scaled(12)),
    "PNG 16 by its gamma": lambda: Row(
        png(of_bits(RAMP, 12), 16, 0, GAMMA), shown_as(of_bits(RAMP, 12), 16), note=DARK
    ),
    "PNG 12 by its sBIT": lambda: of(
        lambda x: png(x, 16, 0, GAMMA, chunk(b"sBIT", b"\x0c")), 12, scaled(12)
    ),
    "PNG 12 scaled to 16": lambda: of(
        lambda x: png(x << 4 | x >> 8, 16, 0, chunk(b"sBIT", b"\x0c")), 12, "8 of its 12 bits"
    ),
    "PNG RGB 16, black": lambda: Row(
        png(np.zeros((SIDE, SIDE, 3)), 16, 2), np.zeros((SIDE, SIDE, 3), np.uint8), note=FULL
    ),
    "PGM 10": lambda: of(lambda x: netpbm(b"P5", x, 1023), 10, "8 of its 10 bits"),
    "PPM 10": lambda: of(lambda x: netpbm(b"P6", x, 1023), 10, "8 of its 10 bits", gray=False),
    "PGM 4": lambda: of(lambda x: netpbm(b"P5", x, 15), 4, ""),
    "PGM 12 of 16": lambda: of(lambda x: netpbm(b"P5", x, 65535), 12, scaled(12)),
    "PPM 12 of 16": lambda: Row(
        netpbm(b"P6", of_bits(COLOURS, 12), 65535), shown_as(of_bits(COLOURS, 12), 16), note=DARK
    ),
    "SGI 16": lambda: of(sgi, 16, FULL, gray=False),
    "JPEG 2000 gray 12": lambda: of(lambda x: jpeg2000(x, 12), 12, "8 of its 12 bits"),
    "JPEG 2000 RGB 12": lambda: Row(
        jpeg2000(of_bits(0.1 + COLOURS / 2, 12), 12),
        shown_as(of_bits(0.1 + COLOURS / 2, 12), 12),
        note="8 of its 12 bits",
    ),
    "AVIF 10": lambda: of(avif, 10, "8 of its 10 bits", gray=False),
}


# What becomes of them


@pytest.mark.parametrize("name", [*TRANSPARENT, *PARTLY])
def test_levels_are_read_as_they_are_meant(name: str, tmp_path: Path) -> None:
    row = (TRANSPARENT | PARTLY)[name]()
    path = tmp_path / "a"
    path.write_bytes(row.content)
    opaque = np.full(row.shown.shape[:2], 255) if row.opacity is None else row.opacity
    near = 1 if "bits" in row.note else 0  # 16 bits are cut to 8, not rounded
    # Upscaling.
    photograph = read_photograph(path, 3)
    levels = photograph.levels.permute(1, 2, 0).numpy().astype(int)
    assert np.abs(levels - row.shown)[opaque > 0].max() <= near
    assert photograph.note == row.note
    if row.opacity is None:
        assert photograph.alpha is None
    else:
        assert np.array_equal(np.asarray(photograph.alpha), opaque)
    save_photograph(tmp_path / "output.png", MemoryCanvas(photograph.levels), photograph)
    with Image.open(tmp_path / "output.png") as output:
        transparent = np.asarray(output.convert("RGBA").getchannel("A"))
    assert np.array_equal(transparent, opaque)
    # Training.
    white = 255 - opaque[..., None] / 255 * (255.0 - row.shown)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        read = np.asarray(read_image(path, 3)).astype(float)
    assert np.abs(read - white).max() <= near + (0 if set(np.unique(opaque)) <= {0, 255} else 1)
    guess = row.note.partition("; ")[2] or row.note
    assert [str(warning.message) for warning in told] == (
        [f"16-bit images are {guess}"] if "as no level" in guess else []
    )
    # Compressing.
    if row.note or row.opacity is not None:
        with pytest.raises(UserError, match="cannot be stored losslessly"):
            read_lossless([path], 3)
    else:
        (kept,), _ = read_lossless([path], 3)
        assert torch.equal(kept, photograph.levels)


REFUSED: dict[str, Callable[[], bytes]] = {
    "floats": lambda: tiff(RAMP, "f4"),
    "floats of colours": lambda: tiff(COLOURS, "f4"),
    "floats of 64 bits": lambda: tiff(RAMP, "f8"),
    "floats as PFM": lambda: b"Pf\n8 8\n-1.0\n" + RAMP.astype("<f4").tobytes(),
    "negative": lambda: tiff(of_bits(RAMP, 12) - 9, "i2"),
    "negative in 8 bits": lambda: tiff(of_bits(RAMP, 7) - 9, "i1"),
    "JPEG 2000 whose white is read as black": lambda: jpeg2000(
        of_bits(0.1 + 0.9 * COLOURS, 12), 12
    ),
    "beyond 16 bits": lambda: tiff(of_bits(RAMP, 20), "u4"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_levels_without_a_white_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(REFUSED[name]())
    for read in (read_image, read_photograph):
        with refused(r"(levels|white).*: save it in 8"):
            read(tmp_path / "a", 3)


# Gray by the pixels

GRAY = Image.fromarray(of_bits(RAMP, 8).astype(np.uint8))


def hidden() -> Image.Image:
    """Gray but for the colour of what is wholly transparent."""
    image = Image.merge("RGBA", (*[GRAY] * 3, GRAY.point(lambda level: 255 * (level > 99))))
    pixels = np.array(image)
    pixels[pixels[..., 3] == 0, :3] = 9, 99, 200
    return Image.fromarray(pixels)


GRAYS: dict[str, Callable[[], bytes]] = {
    "PNG": lambda: file_of(GRAY, "PNG"),
    "PNG RGB": lambda: file_of(GRAY.convert("RGB"), "PNG"),
    "PNG palette": lambda: file_of(GRAY.convert("RGB").quantize(256), "PNG"),
    "PNG RGBA": lambda: file_of(hidden(), "PNG"),
    "PNG gray and alpha 16": lambda: gray_with_alpha(16, "").content,
    "WebP": lambda: file_of(GRAY, "WEBP", lossless=True),
    "BMP": lambda: file_of(GRAY.convert("RGB"), "BMP"),
    "GIF": lambda: file_of(GRAY, "GIF"),
    "JPEG of colours": lambda: file_of(GRAY.convert("RGB"), "JPEG", quality=100),
    "TIFF RGB 16": lambda: tiff(np.stack([of_bits(RAMP, 16)] * 3, -1)),
}


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("name", GRAYS)
def test_gray_is_what_has_equal_colours(name: str, channels: int, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(GRAYS[name]())
    photograph = read_photograph(path, channels)
    assert photograph.gray
    save_photograph(tmp_path / "output.png", MemoryCanvas(photograph.levels), photograph)
    with Image.open(tmp_path / "output.png") as output:
        assert output.mode == ("L" if photograph.alpha is None else "LA")
    if not photograph.note and photograph.alpha is None:
        _, (about,) = read_lossless([path], channels)
        assert about.gray == (channels == 3)  # it comes back with one channel


def test_one_level_of_colour_is_no_gray(tmp_path: Path) -> None:
    levels = np.array(GRAY.convert("RGB"))
    levels[3, 3, 2] += 1
    Image.fromarray(levels).save(tmp_path / "a.png")
    assert not read_photograph(tmp_path / "a.png", 3).gray


def test_a_profile_of_colours_is_not_written_to_one_channel(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for space, mode in ((b"RGB ", "RGB"), (b"GRAY", "L")):
        profile = profile[:16] + space + profile[20:]
        for channels in (3, 1):
            GRAY.save(tmp_path / "a.png", icc_profile=profile)
            photograph = read_photograph(tmp_path / "a.png", channels)
            save_photograph(tmp_path / "b.png", MemoryCanvas(photograph.levels), photograph)
            with Image.open(tmp_path / "b.png") as output:
                assert (output.mode, output.info["icc_profile"]) == (mode, profile)
                assert np.array_equal(output.convert("L"), GRAY)


# How colours are meant


def chunks_of_answer(content: bytes, tmp_path: Path, channels: int = 3) -> dict[bytes, bytes]:
    """The chunks of the output to a file, which is the file's own image."""
    (tmp_path / "a").write_bytes(content)
    photograph = read_photograph(tmp_path / "a", channels)
    save_photograph(tmp_path / "b.png", MemoryCanvas(photograph.levels), photograph)
    with (tmp_path / "b.png").open("rb") as file:
        return {kind: chunk[8:-4] for kind, chunk, _ in png_chunks(file) if kind != b"IDAT"}


LINEAR = struct.pack(">I", 100_000)
PRIMARIES = struct.pack(">8I", 31270, 32900, 70800, 29200, 17000, 79700, 13100, 4600)
PQ = bytes([9, 16, 0, 1])
SAID: dict[str, tuple[Callable[[], bytes], dict[bytes, bytes]]] = {
    "gAMA": (lambda: of_chunks(gAMA=LINEAR), {b"gAMA": LINEAR}),
    "cHRM": (lambda: of_chunks(gAMA=LINEAR, cHRM=PRIMARIES), {b"gAMA": LINEAR, b"cHRM": PRIMARIES}),
    "cICP": (lambda: of_chunks(cICP=PQ), {b"cICP": PQ}),
    "sRGB": (lambda: of_chunks(sRGB=b"\1", gAMA=LINEAR), {b"sRGB": b"\1", b"gAMA": LINEAR}),
    "damaged": (lambda: of_chunks(cICP=b"\1", gAMA=LINEAR), {b"gAMA": LINEAR}),
    "none": (lambda: of_chunks(), {}),
    "AVIF": (lambda: avif(of_bits(COLOURS, 8), 8, primaries=9, transfer=16), {b"cICP": PQ}),
    "AVIF sRGB": (lambda: avif(of_bits(COLOURS, 8), 8, primaries=1, transfer=13), {}),
    "QOI": (lambda: qoi(linear=True), {b"gAMA": LINEAR}),
    "QOI sRGB": (lambda: qoi(linear=False), {}),
    "TIFF": (lambda: tiff_of_colours(), {b"cHRM": PRIMARIES}),
}


def of_chunks(**chunks: bytes) -> bytes:
    return png(of_bits(COLOURS, 8), 8, 2, *(chunk(k.encode(), data) for k, data in chunks.items()))


def qoi(linear: bool) -> bytes:
    content = bytearray(imagecodecs.qoi_encode(of_bits(COLOURS, 8).astype(np.uint8)))
    content[13] = linear
    return bytes(content)


def tiff_of_colours(transfer: bool = False, profile: bytes = b"") -> bytes:
    numbers = struct.unpack(">8I", PRIMARIES)
    ratios = [part for number in numbers for part in (number, 100_000)]
    tags: list[tuple[Any, ...]] = [(318, 5, 2, ratios[:4], True), (319, 5, 6, ratios[4:], True)]
    if transfer:
        tags.append((301, 3, 256, tuple(range(0, 65536, 256)), True))
    options: dict[str, Any] = {"iccprofile": profile} if profile else {}
    return tiff(of_bits(COLOURS, 8), "u1", extratags=tags, **options)


@pytest.mark.parametrize("name", SAID)
def test_colour_metadata_is_kept(name: str, tmp_path: Path) -> None:
    make, kept = SAID[name]
    found = chunks_of_answer(make(), tmp_path)
    assert {k: found[k] for k in (b"gAMA", b"cHRM", b"cICP", b"sRGB") if k in found} == kept
    assert read_photograph(tmp_path / "a", 3).note == ""
    # Of levels that are not the file's own it does not hold.
    assert not set(kept) & set(chunks_of_answer((tmp_path / "a").read_bytes(), tmp_path, 1))
    note = "; ".join(f"without its {kind.decode()}" for kind in kept)
    assert sorted(read_photograph(tmp_path / "a", 1).note.split("; ")) == sorted(note.split("; "))


def test_a_profile_takes_precedence_over_other_colour_metadata(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    packed = chunk(b"iCCP", b"p\0\0" + zlib.compress(profile))
    content = png(of_bits(COLOURS, 8), 8, 2, packed, chunk(b"gAMA", LINEAR))
    assert {b"iCCP", b"gAMA"} <= set(chunks_of_answer(content, tmp_path))
    for content in (
        tiff_of_colours(transfer=True, profile=profile),
        file_of(Image.fromarray(of_bits(COLOURS, 8).astype(np.uint8)), "AVIF", icc_profile=profile),
    ):
        found = chunks_of_answer(content, tmp_path)
        assert b"iCCP" in found
        assert not {b"cICP", b"cHRM"} & set(found)
        assert read_photograph(tmp_path / "a", 3).note == ""


def gain_map() -> bytes:
    return file_of(GRAY.convert("RGB"), "JPEG", xmp=b'<x hdrgm:Version="1.0"/>')


def bitmap_with_profile() -> bytes:
    content = file_of(GRAY.convert("RGB"), "BMP")
    header = bytearray(content[14:54] + bytes(84))
    header[0], header[56:60] = 124, b"DEBM"
    return content[:10] + struct.pack("<I", 14 + 124) + bytes(header) + content[54:]


def jpeg2000_with_profile() -> bytes:
    content = bytes(
        imagecodecs.jpeg2k_encode(of_bits(COLOURS, 8).astype(np.uint8), level=0, codecformat="jp2")
    )
    place = content.index(b"colr") + 4
    return content[:place] + b"\2" + content[place + 1 :]


UNKEPT: dict[str, tuple[Callable[[], bytes], str]] = {
    "JPEG": (gain_map, "without its HDR gain map"),
    "TIFF": (lambda: tiff_of_colours(transfer=True), "without its transfer function"),
    "PNG": (lambda: of_chunks(mDCV=bytes(24)), "without its mDCV"),
    "BMP": (bitmap_with_profile, "without its colour profile"),
    "JPEG 2000": (jpeg2000_with_profile, "without its colour profile"),
}


@pytest.mark.parametrize("name", UNKEPT)
def test_lost_metadata_is_reported(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, note = UNKEPT[name]
    (tmp_path / "a").write_bytes(make())
    assert read_photograph(tmp_path / "a", 3).note == note
    read_lossless([tmp_path / "a"], 3)  # the pixels are whole
    assert "colour profiles and gamma of 1 image are not kept" in capsys.readouterr().out
