"""How image files mean their levels, and their conversion to 8-bit gray or sRGB."""

from __future__ import annotations

import io
import itertools
import math
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageFile, TiffImagePlugin


class UnreadableError(Exception):
    """An image cannot be read: the reason, and advice if there is any."""

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason)
        self.reason, self.advice = reason, advice


PNG = b"\x89PNG\r\n\x1a\n"
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
# The PNG chunks that say how colours are meant, and their bytes.
COLOUR_CHUNKS = {b"cICP": 4, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32}
USUAL_BITS = (8, 10, 12, 14)  # of levels in fields of 16 bits that they do not fill
DARK = (1 << 14) - 1  # the highest of these levels
BOXES = 1 << 20  # bytes that have all before the pixels of an AVIF or JPEG 2000 file
# TIFF's tags.
WIDTH, HEIGHT, BITS, PHOTOMETRIC, HIGHEST = 256, 257, 258, 262, 281
PLANES, EXTRA, SAMPLE_FORMAT = 284, 338, 339
REDUCED, SUB_DIRECTORIES, DNG_VERSION = 254, 330, 50706
TRANSFER, WHITE_POINT, PRIMARIES = 301, 318, 319
KNOWN = (0, 12, 15, 16, 17, 18)  # JPEG 2000's colour spaces that Pillow converts
SIGNED = 2  # a sample format
MODES = ("", "L", "LA", "RGB", "RGBA")  # Pillow's, by the number of bands


@dataclass
class Meaning:
    """How the levels of a file are meant."""

    bits: int = 8  # of a value
    white: int = 65535  # the level that is white, if Pillow gives more than 8 bits
    loose: bool = False  # levels may have fewer bits than their fields of 16
    significant_bits: int = 0  # by a tag that does not change what viewers show
    stated: bool = False  # something else in the file confirms ``white``
    inverted: bool = False  # 0 is white
    overflows: bool = False  # Pillow gives 0 for white when it makes 8 bits of more
    signed: bool = False
    lossy: bool | None = False  # whether another compression than JPEG's changed it; None: unknown
    key: tuple[int, ...] = ()  # the gray level, or those of RGB, that is transparent
    guess: str = ""  # how levels that do not fill their fields are taken, in words
    chunks: dict[bytes, bytes] = field(default_factory=dict)  # colours, as in a PNG
    lost: list[str] = field(default_factory=list)  # what is left out of the pixels, in words
    unkept: list[str] = field(default_factory=list)  # and beside the pixels

    def settle(self, most: int, scalable: bool = True) -> int:
        """The level that is white if none is above ``most``; losses are noted."""
        white, bits = self.white, self.bits
        if self.loose and scalable and most:
            for fewer in (self.significant_bits, *(() if self.stated else USUAL_BITS)):
                if most < 1 << fewer < self.white:
                    white, bits = (1 << fewer) - 1, fewer
                    break
        if bits > 8:
            self.lost.append(f"8 of its {bits} bits")
        if white != self.white:
            self.guess = f"scaled by {white:,}, as no level is above it"
        elif self.loose and 0 < most <= DARK:
            self.guess = f"dark, as no level is above {DARK:,} of {white:,}"
        self.lost += [self.guess] if self.guess else []
        return white


def meaning_of(image: ImageFile.ImageFile, file: BinaryIO) -> Meaning:
    """How an opened image file means its levels; raises anything if metadata is damaged."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _meaning_of_tiff(image)
    tile = image.tile[0] if image.tile else None
    args = (tile.args if isinstance(tile.args, tuple) else (tile.args,)) if tile else ()
    match image.format:
        case "PNG":
            return _meaning_of_png(file)
        case "PPM":
            most = 65535 if args == ("I;16B",) else args[1] if len(args) == 2 else 255
            return Meaning(max(int(most).bit_length(), 8), loose=most == 65535)
        case "SGI" if tile and (tile.codec_name == "SGI16" or args[-1] == 2):
            return Meaning(16, loose=True)
        case "JPEG2000":
            boxes = _beginning(file)
            size = boxes.index(b"\xff\x4f\xff\x51") + 40  # the marker of sizes: its components
            count = int.from_bytes(boxes[size : size + 2], "big")
            bits = max(1 + (depth & 127) for depth in boxes[size + 2 : size + 2 + 3 * count : 3])
            _, _, space = boxes[:size].partition(b"colr")
            known = not space or (space[0] == 1 and int.from_bytes(space[3:7], "big") in KNOWN)
            unkept = [] if known else ["without its colour profile"]
            meaning = Meaning(max(bits, 8), loose=bits == 16, overflows=bits > 8, unkept=unkept)
            meaning.lossy = None
            return meaning
        case "JXL":
            return Meaning(lossy=None)
        case "WEBP":
            return Meaning(lossy=_is_lossy_webp(file))
        case "AVIF" | "HEIF":
            return _meaning_of_heif(_beginning(file), image.info)
        case "QOI" if _beginning(file)[13:14] == b"\1":  # linear light
            return Meaning(chunks={b"gAMA": struct.pack(">I", 100_000)})
        case "BMP" | "DIB":
            header = _beginning(file)[14 if image.format == "BMP" else 0 :]
            # The fourth version's colour space: by a profile, or by primaries and gamma.
            has_profile = header[56:60] in (b"DEBM", b"KNIL") or (
                header[56:60] == bytes(4) and any(header[60:108])
            )
            if has_profile and int.from_bytes(header[:4], "little") >= 108:
                return Meaning(unkept=["without its colour profile"])
        case "JPEG" | "MPO":
            segments = [segment for _, segment in getattr(image, "applist", [])]
            if any(mark in s for s in segments for mark in (b"hdrgm:Version", b"iso:ts:21496")):
                return Meaning(unkept=["without its HDR gain map"])
    return Meaning()


def _beginning(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(BOXES)


def png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes, bool]]:
    """Kind and bytes of each chunk of a PNG, and whether its checksum is right."""
    file.seek(len(PNG))
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        body, checksum = kind + file.read(length), file.read(4)
        yield kind, head[:4] + body + checksum, checksum == struct.pack(">I", zlib.crc32(body))


def png_without_metadata(content: bytes) -> Iterator[tuple[bytes, str]]:
    """A PNG without its texts and damaged metadata, then without all of it; and how to say so."""
    chunks = list(png_chunks(io.BytesIO(content))) if content.startswith(PNG) else []
    pixels = [kind[:1].isupper() or kind == b"tRNS" for kind, _, _ in chunks]
    for what in ("texts", "metadata") if chunks else ():
        kept = [
            chunk
            for (kind, chunk, intact), needed in zip(chunks, pixels, strict=True)
            if needed or (what == "texts" and intact and kind not in TEXTS)
        ]
        yield PNG + b"".join(kept), f"without its {what}, which cannot be read"


def _is_lossy_webp(file: BinaryIO) -> bool:
    """Whether the first chunk with pixels is a lossy one."""
    file.seek(12)
    while len(head := file.read(8)) == 8:
        kind, length = struct.unpack("<4sI", head)
        if kind in (b"VP8 ", b"VP8L"):
            return bool(kind == b"VP8 ")
        # A frame of an animation has chunks of its own.
        file.seek(16 if kind == b"ANMF" else length + length % 2, io.SEEK_CUR)
    return False


def _meaning_of_png(file: BinaryIO) -> Meaning:
    before = itertools.takewhile(lambda chunk: chunk[0] != b"IDAT", png_chunks(file))
    chunks = {kind: chunk[8:-4] for kind, chunk, intact in before if intact}
    depth, colour = chunks[b"IHDR"][8:10]
    channels = 3 if colour & 2 else 1
    meaning = Meaning(
        max(depth, 8),
        loose=depth == 16,
        chunks={
            kind: chunks[kind]
            for kind, size in COLOUR_CHUNKS.items()
            if len(chunks.get(kind, b"")) == size
        },
    )
    # Each of these says what white is; primary colours alone do not.
    meaning.stated = b"iCCP" in chunks or any(kind != b"cHRM" for kind in meaning.chunks)
    if depth == 16 and b"sBIT" in chunks:
        meaning.significant_bits = max(chunks[b"sBIT"][:channels])
        meaning.stated |= meaning.significant_bits == 16
        if 8 < meaning.significant_bits < 16:
            meaning.bits = meaning.significant_bits
    for kind in (b"mDCV", b"cLLI"):  # of screens for HDR
        meaning.unkept += [f"without its {kind.decode()}"] if kind in chunks else []
    if colour in (0, 2) and b"tRNS" in chunks:
        key = struct.unpack(f">{channels}H", chunks[b"tRNS"])
        most = (1 << depth) - 1  # bits above those of the field do not count
        meaning.key = tuple((level & most) * max(255 // most, 1) for level in key)
    return meaning


def _meaning_of_tiff(image: TiffImagePlugin.TiffImageFile) -> Meaning:
    def values(tag: int) -> tuple[float, ...]:
        value = image.tag_v2.get(tag, ())
        return value if isinstance(value, tuple) else (value,)

    bits = int(max(values(BITS), default=1))
    meaning = Meaning(max(min(bits, 16), 8), signed=SIGNED in values(SAMPLE_FORMAT))
    profile = bool(image.info.get("icc_profile"))
    if bits == 12:  # in as many, and Pillow gives them as they are
        meaning.white = 4095
    elif bits > 8:
        if meaning.signed and bits == 16:
            meaning.bits, meaning.white = 15, 32767
        meaning.loose, meaning.significant_bits = (
            True,
            int(max(values(HIGHEST), default=0)).bit_length(),
        )
        meaning.stated = profile or meaning.significant_bits >= meaning.bits
    # Pillow inverts only 8 bits and less.
    meaning.inverted = bits > 8 and values(PHOTOMETRIC) == (0,)
    if 0 in values(EXTRA):
        meaning.lost.append("without its extra channels")
    if not profile:  # which comes before these
        colours = (*values(WHITE_POINT), *values(PRIMARIES))
        if len(colours) == 8:
            numbers = (round(float(value) * 100_000) for value in colours)
            meaning.chunks[b"cHRM"] = struct.pack(">8I", *numbers)
        elif values(PRIMARIES):
            meaning.unkept.append("without its primaries")
        if values(TRANSFER):
            meaning.unkept.append("without its transfer function")
    return meaning


def _meaning_of_heif(boxes: bytes, info: dict[Any, Any]) -> Meaning:
    meaning = Meaning(info.get("bit_depth", 8), lossy=True)  # nearly always
    if (place := boxes.find(b"av1C")) >= 0:
        high, twelve = boxes[place + 6] & 64, boxes[place + 6] & 32
        meaning.bits = 12 if high and twelve else 10 if high else 8
    if (place := boxes.find(b"colrnclx")) >= 0 and "icc_profile" not in info:
        primaries, transfer = struct.unpack_from(">HH", boxes, place + 8)
        # 2 is unknown; 1 and 13 are sRGB. Pillow gives RGB of the full range.
        if 2 not in (primaries, transfer) and (primaries, transfer) != (1, 13):
            meaning.chunks[b"cICP"] = bytes([primaries, transfer, 0, 1])
    if b"tmap" in boxes[8 : int.from_bytes(boxes[:4], "big")] or b":hdrgainmap" in boxes:
        meaning.unkept.append("without its HDR gain map")
    return meaning


def eight_bits(
    image: Image.Image, meaning: Meaning, low_bytes: Callable[[], Image.Image | None]
) -> Image.Image:
    """An image in 8 bits; losses are noted in ``meaning``, ``low_bytes`` decodes the low bytes."""
    if image.mode.startswith(("I", "F")):
        return _gray(np.asarray(image), meaning)
    if image.mode == "L" and meaning.signed and np.asarray(image).max() > 127:
        raise _unmeant("negative")
    if meaning.overflows and any(band.getextrema()[0] == 0 for band in image.split()):
        raise UnreadableError(
            "it is JPEG 2000 of more than 8 bits, whose white Pillow reads as black",
            "save it in 8 bits, or as PNG or TIFF",
        )
    if not meaning.key and (meaning.bits == 8 or image.mode not in MODES):
        meaning.settle(meaning.white)
        return image
    bands = [np.asarray(band) for band in image.convert(image.mode.replace("1", "L")).split()]
    colours = 3 if len(bands) > 2 else 1
    levels, most = bands[:colours], max(int(band.max()) for band in bands[:colours])
    dark = meaning.loose and most <= DARK >> 8
    low = low_bytes() if meaning.bits > 8 and (meaning.key or dark) else None
    if low:
        wide = [
            np.left_shift(high, 8, dtype=np.uint16) | below
            for high, below in zip(bands, map(np.asarray, low.split()), strict=True)
        ]
        levels = wide[:colours]
        white = meaning.settle(max(int(level.max()) for level in levels))
        if white != meaning.white:  # of transparency only if that does not fill its field either
            bands = [
                _scaled(level, white) if level.max() <= white else band
                for level, band in zip(wide, bands, strict=True)
            ]
    else:
        white = meaning.settle(most << 8 | 255, scalable=False)
    if meaning.key:
        bands = [*bands[:colours], _opacity(levels, meaning.key)]
    elif white == meaning.white:
        return image
    return Image.merge(MODES[len(bands)], [Image.fromarray(band) for band in bands])


def _gray(levels: np.ndarray, meaning: Meaning) -> Image.Image:
    if levels.dtype.kind == "f":
        raise _unmeant("floats")
    if levels.min() < 0 or levels.max() > 65535:
        raise _unmeant("negative" if levels.min() < 0 else "beyond 16 bits")
    white = meaning.settle(int(levels.max()))
    gray = Image.fromarray(_scaled(white - levels if meaning.inverted else levels, white))
    if meaning.key:
        gray.putalpha(Image.fromarray(_opacity([levels], meaning.key)))
    return gray


def _scaled(levels: np.ndarray, white: int) -> np.ndarray:
    wide = levels.astype(np.uint32)
    wide *= 255
    wide += white // 2
    wide //= white
    return wide.astype(np.uint8)


def _opacity(levels: Sequence[np.ndarray], key: Sequence[int]) -> np.ndarray:
    """0 where the levels of all colours are the key's, 255 elsewhere."""
    same = [level == value for level, value in zip(levels, key, strict=True)]
    return np.where(np.logical_and.reduce(same), 0, 255).astype(np.uint8)


def _unmeant(what: str) -> UnreadableError:
    return UnreadableError(f"its levels are {what}", "save it in 8 or 16 bits")


def as_rgb(image: Image.Image) -> Image.Image:
    """CMYK or Lab converted to sRGB, by an intact embedded profile; other modes unchanged."""
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


RATIOS = (0, 1, 1.2, 4 / 3, 1.5, 16 / 9, 1.25, 2)  # of JPEG XL's width to its height


def jxl_size(content: bytes) -> tuple[int, int]:
    """Width and height of a JPEG XL image by its header, rounded up."""
    place = 0
    while not content.startswith(b"\xff\x0a", place):  # a box
        length, kind = struct.unpack_from(">I4s", content, place)
        place += {b"jxlc": 8, b"jxlp": 12}.get(kind, max(length, 8))
    bits = int.from_bytes(content[place + 2 : place + 12], "little")

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & (1 << count) - 1, bits >> count
        return value

    def side() -> int:
        return 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1

    small = take(1)
    height = side()
    ratio = take(3)
    return math.ceil(height * RATIOS[ratio]) if ratio else side(), height


# The bits of the tag REDUCED that mark a smaller copy and a mask.
SMALL_COPY, MASK = 1, 4
SENSOR = (32803, 34892)  # photometric interpretations: a mosaic of colours, a camera's colours
MOST_DIRECTORIES = 1000
DEVELOP = "develop it to TIFF, PNG or JPEG"

Directory = TiffImagePlugin.ImageFileDirectory_v2


def seek_full_page(image: TiffImagePlugin.TiffImageFile, file: BinaryIO) -> int:
    """Move a TIFF to the page of full resolution, or a document's first page; its index."""
    file.seek(8)
    if file.read(2) == b"CR" or any(
        DNG_VERSION in directory or directory.get(PHOTOMETRIC) in SENSOR
        for directory in _directories(file, nested=True)
    ):
        raise UnreadableError("it is a camera's raw file", DEVELOP)
    pages = _directories(file)
    full = [i for i, page in enumerate(pages) if not _integer(page, REDUCED) & (SMALL_COPY | MASK)]
    if not full:
        if pages and _integer(pages[0], REDUCED) & SMALL_COPY:
            raise UnreadableError(
                "it contains only a thumbnail, as raw files of cameras do", DEVELOP
            )
        return 0
    sizes = [(_integer(page, WIDTH), _integer(page, HEIGHT)) for page in pages]
    alike = [i for i in full if _same_shape(sizes[i], sizes[full[0]])] or full[:1]
    largest = max(alike, key=lambda i: sizes[i][0] * sizes[i][1])
    if largest:
        image.seek(largest)
    return largest


def read_planes_whole(image: TiffImagePlugin.TiffImageFile) -> None:
    """Let libtiff decode 16-bit colours in planes, whose bytes Pillow takes for levels."""
    bits = image.tag_v2.get(BITS)
    if image.tag_v2.get(PLANES) != 2 or not isinstance(bits, tuple) or 16 not in bits:
        return
    if image.tile and image.tile[0].codec_name == "raw":
        arguments = (f"{image.mode};16N", "raw", False, image.tag_v2.offset)
        size = _integer(image.tag_v2, WIDTH), _integer(image.tag_v2, HEIGHT)
        image.tile = [ImageFile._Tile("libtiff", (0, 0, *size), 0, arguments)]
        image.use_load_libtiff = True


def _same_shape(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether two sizes have one aspect ratio, up to rounding to whole pixels."""
    return abs(a[0] * b[1] - b[0] * a[1]) <= max(*a, *b)


def _integer(directory: Directory, tag: int) -> int:
    value = directory.get(tag)
    return value if isinstance(value, int) else 0


def _directories(file: BinaryIO, nested: bool = False) -> list[Directory]:
    """The pages of a TIFF, as far as they can be read; with ``nested`` their subdirectories too."""
    file.seek(0)
    head = file.read(8)
    if head[2:3] == b"+" or head[3:4] == b"+":  # 64-bit offsets
        head += file.read(8)
    directories: list[Directory] = []
    offsets = [Directory(head).next]
    seen = set()
    while offsets and len(directories) < MOST_DIRECTORIES:
        offset = offsets.pop(0)
        if not offset or offset in seen:
            continue
        seen.add(offset)
        directory = Directory(head)
        try:
            file.seek(offset)
            directory.load(file)
            directories.append(directory)
            offsets.append(directory.next)
            if nested:
                more = directory.get(SUB_DIRECTORIES, ())
                offsets += more if isinstance(more, tuple) else [more]
        except Exception:  # a damaged one
            break
    return directories
