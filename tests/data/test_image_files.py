"""Image files that others write: damaged beside their pixels, large, of many pages, or none."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin, features

from srvae_pyro.data import ImageOptions, load_data
from srvae_pyro.data.image_files import find_images, pixels_of, read_image
from srvae_pyro.errors import UserError
from srvae_pyro.formats import EXTENSIONS
from srvae_pyro.upscaling.photographs import read_photograph, save_photograph
from srvae_pyro.upscaling.tiling import MemoryCanvas
from tests.builders import file_of, refused


def make_image(width: int = 24, height: int = 20, seed: int = 0) -> Image.Image:
    """An image with structure."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def opened(content: bytes, tmp_path: Path, name: str = "image") -> np.ndarray:
    """The levels of a file, which training and upscaling read alike."""
    (tmp_path / name).write_bytes(content)
    levels = np.asarray(read_image(tmp_path / name, 3))
    photograph = read_photograph(tmp_path / name, 3).levels
    assert np.array_equal(levels, photograph.permute(1, 2, 0))
    return levels


def unread(path: Path, match: str) -> None:
    """Neither training nor upscaling reads the file."""
    for read in (read_image, read_photograph):
        with refused(match):
            read(path, 3)


# What is beside the pixels


def test_texts_of_any_length_do_not_keep_a_png_from_being_read(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * 3_000_000, zip=True)
    content = file_of(make_image(), "PNG", pnginfo=info, dpi=(300, 300))
    assert np.array_equal(opened(content, tmp_path), make_image())
    photograph = read_photograph(tmp_path / "image", 3)
    assert photograph.note == "without its texts, which cannot be read"
    assert photograph.dpi == pytest.approx((300, 300), abs=0.1)


@pytest.mark.filterwarnings("ignore:.*")  # Pillow's
def test_damaged_metadata_does_not_keep_an_image_from_being_read(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    options = {"exif": exif, "icc_profile": b"no profile"}
    rng = np.random.default_rng(0)
    content = file_of(make_image(), "PNG", **options)
    for mark in (b"iCCP", b"eXIf"):
        place = content.index(mark)
        for _ in range(20):
            damaged = bytearray(content)
            damaged[place + 4 + int(rng.integers(0, 12))] ^= int(rng.integers(1, 256))
            assert np.array_equal(opened(bytes(damaged), tmp_path), make_image())
    content = file_of(make_image(), "JPEG", **options)
    pixels = opened(content, tmp_path)
    start = content.index(b"Exif\0\0")
    for offset in range(6, 26):
        damaged = bytearray(content)
        damaged[start + offset] ^= 0xFF
        assert np.array_equal(opened(bytes(damaged), tmp_path), pixels)


# Files that were cut off


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}])
def test_a_jpeg_whose_end_alone_is_missing_is_read(tmp_path: Path, options: dict[str, Any]) -> None:
    content = file_of(make_image(), "JPEG", **options)
    pixels = opened(content, tmp_path)
    for missing in (1, 2):
        assert np.array_equal(opened(content[:-missing], tmp_path), pixels)
        note = read_photograph(tmp_path / "image", 3).note
        assert note == "its end is missing, but no pixels"


def test_a_png_whose_end_alone_is_missing_is_read(tmp_path: Path) -> None:
    for mode in ("RGB", "L", "P", "RGBA", "1"):
        image = make_image().convert(mode)
        content = file_of(image, "PNG")
        pixels = opened(content, tmp_path)
        end = content.index(b"IEND") - 4
        for stop in (end, end - 4, end - 8):  # also the checksums of the chunk and of the stream
            assert np.array_equal(opened(content[:stop], tmp_path), pixels)


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True})]
)
def test_an_image_without_all_its_pixels_is_refused(
    tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    content = file_of(make_image(64, 64), kind, **options)
    stops = [int(part * len(content)) for part in (0.6, 0.8, 0.95)]
    if options:
        stops += [content.rindex(b"\xff\xda"), len(content) - 2]  # between scans, and at the end
    for stop in stops:
        (tmp_path / "cut").write_bytes(content[:stop])
        unread(tmp_path / "cut", r"pixels are missing.*copy it again")


@pytest.mark.parametrize("chunk", [b"PLTE", b"tRNS"])
def test_a_png_whose_colours_are_damaged_is_refused(tmp_path: Path, chunk: bytes) -> None:
    image = make_image().convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    content = bytearray(file_of(image, "PNG", transparency=3))
    content[content.index(chunk) + 4] ^= 0x40
    (tmp_path / "image").write_bytes(content)
    with pytest.raises(UserError, match="cannot read the image"):
        read_image(tmp_path / "image", 3)


# Sizes


def test_no_number_of_pixels_is_too_many_where_there_is_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert np.array_equal(opened(file_of(make_image(), "PNG"), tmp_path), make_image())
    assert not recwarn.list
    assert Image.MAX_IMAGE_PIXELS == 100


def test_what_does_not_fit_into_memory_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_decoding(*_: object) -> None:
        raise AssertionError

    Image.new("1", (4000, 3000)).save(tmp_path / "large.png")
    monkeypatch.setattr("srvae_pyro.data.image_files.process_memory", lambda: 1e8)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", no_decoding)
    unread(tmp_path / "large.png", r"4000x3000 pixels need 0.2 GB.*0.1 GB are available\)")


# TIFFs of several images


def page(width: int, reduced: int | None = None, **tags: Any) -> Image.Image:
    image = make_image(width, width // 2)
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    if reduced is not None:
        directory[254] = reduced
    for tag, value in tags.items():
        directory[int(tag[1:])] = value
    image.encoderinfo = {"tiffinfo": directory}
    return image


def tiff(path: Path, *pages: Image.Image) -> Path:
    first, *rest = pages
    first.save(path, "TIFF", save_all=True, append_images=rest, **first.encoderinfo)
    return path


@pytest.mark.parametrize(
    ("widths", "taken"),
    [
        ([(16, 1), (64, 0)], 1),  # a thumbnail comes first
        ([(16, 1), (64, 0), (32, 1)], 1),
        ([(64, None), (32, None), (16, None)], 0),
        ([(16, None), (32, None), (64, None)], 2),
        ([(64, 0), (64, 0)], 0),
    ],
)
def test_of_a_tiff_the_full_resolution_is_taken(
    tmp_path: Path, widths: list[tuple[int, int | None]], taken: int
) -> None:
    path = tiff(tmp_path / "pages.tif", *(page(*width) for width in widths))
    width = widths[taken][0]
    assert read_image(path, 3).size == (width, width // 2)
    photograph = read_photograph(path, 3)
    assert photograph.levels.shape[1:] == (width // 2, width)
    number = f"image {taken + 1}, the largest," if taken else "the first"
    assert photograph.note == f"{number} of its {len(widths)} images"


def test_of_a_document_the_first_page_is_taken(tmp_path: Path) -> None:
    tall = make_image(30, 60)
    tall.encoderinfo = {}
    assert read_image(tiff(tmp_path / "pages.tif", page(16), tall), 3).size == (16, 8)


# Images that are not read


@pytest.mark.parametrize("name", ["photo.nef", "canon.CR3", "layers.psd", "layers.xcf", "a.svg"])
def test_a_format_that_is_not_read_is_named(tmp_path: Path, name: str) -> None:
    tiff(tmp_path / name, page(16))  # as if it were a raw file's thumbnail
    suffix = Path(name).suffix.lower()
    unread(tmp_path / name, rf"{name} \(Pillow does not read \{suffix}\): save it as PNG")


HEIC = b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(200)


@pytest.mark.parametrize(
    ("module", "content", "kind"),
    [
        ("pillow_heif", HEIC, "HEIC"),
        ("pillow_jxl.JpegXLImagePlugin", b"\xff\x0a" + bytes(200), "JPEG XL"),
    ],
)
def test_a_missing_package_is_named(
    tmp_path: Path, module: str, content: bytes, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "phone.jpg").write_bytes(content)
    unread(tmp_path / "phone.jpg", rf"it is {kind}\): pip install 'srvae-pyro\[formats\]'")


@pytest.mark.parametrize("kind", ["HEIF", "JXL"])
def test_formats_of_further_packages_are_read(tmp_path: Path, kind: str) -> None:
    heif = pytest.importorskip("pillow_heif")
    pytest.importorskip("pillow_jxl")
    heif.register_heif_opener()
    options = {"HEIF": {"quality": -1, "chroma": 444}, "JXL": {"lossless": True}}[kind]
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    content = file_of(make_image(), kind, exif=exif.tobytes(), **options)
    # Orientation is that of the file's header: pillow-heif writes it there, pillow-jxl does not.
    turned = kind == "HEIF"
    wanted = make_image().transpose(Image.Transpose.ROTATE_270) if turned else make_image()
    difference = opened(content, tmp_path).astype(int) - np.asarray(wanted)
    assert np.abs(difference).max() <= (3 if turned else 0)  # by way of YCbCr
    assert b"Maker" in (read_photograph(tmp_path / "image", 3).exif or b"")
    (tmp_path / "cut").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="it is truncated or damaged"):
        read_image(tmp_path / "cut", 3)


def test_a_large_jpeg_xl_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pillow_jxl")
    monkeypatch.setattr("srvae_pyro.data.image_files.process_memory", lambda: 1e8)
    monkeypatch.setattr("pillow_jxl.JpegXLImagePlugin.Decoder", None)
    for size in ((3000, 2000), (2400, 2400), (4001, 1003)):
        content = file_of(Image.new("L", size), "JXL")
        boxed = b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl \0\0\0\0jxl \0\0\0\0jxlc"
        for file in (content, boxed + content):
            (tmp_path / "large.jxl").write_bytes(file)
            assert pixels_of(tmp_path / "large.jxl") == size[0] * size[1]
            with pytest.raises(UserError, match=rf"its {size[0]}x{size[1]} pixels need"):
                read_image(tmp_path / "large.jxl", 3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: page(16, 1, _50706=b"\1\4\0\0"),  # a DNG by its tag
        lambda: page(16, 1),  # a small copy and nothing else
    ],
)
def test_a_raw_files_thumbnail_is_never_taken_for_the_photograph(
    tmp_path: Path, make: Callable[[], Image.Image]
) -> None:
    unread(tiff(tmp_path / "any.tif", make()), r"raw file.*develop it to TIFF")


def test_every_common_extension_of_an_image_counts_in_a_folder(tmp_path: Path) -> None:
    image = make_image(8, 8)
    kinds = {"a.jfif": "JPEG", "a.jpe": "JPEG", "a.JP2": "JPEG2000", "a.tga": "TGA", "a.pnm": "PPM"}
    if features.check("avif"):
        kinds["a.avif"] = "AVIF"
    for name, kind in kinds.items():
        image.save(tmp_path / name, kind)
    found = find_images(tmp_path)
    assert {path.name for path in found} == set(kinds)
    for path in found:
        assert read_image(path, 3).size == (8, 8)
    assert {".heic", ".dng", ".psd", ".svg", ".jxl"} < EXTENSIONS


def test_images_of_a_folder_that_are_not_read_are_named(tmp_path: Path) -> None:
    for number in range(10):
        make_image(8, 8, number).save(tmp_path / f"{number}.png")
    for name in ("a.nef", "b.nef"):
        (tmp_path / name).write_bytes(b"raw")
    with pytest.warns(UserWarning, match=r"2 images, the first: .*Pillow does not read \.nef"):
        data = load_data(str(tmp_path), tmp_path, ImageOptions(stream=False))
    assert sorted(data.info["left_out"]) == ["a.nef", "b.nef"]
    with pytest.raises(UserError, match=r"Pillow does not read \.nef"):
        load_data(str(tmp_path), tmp_path, ImageOptions(strict=True))


# What is kept


def test_hidden_colours_do_not_shine_through(tmp_path: Path) -> None:
    y, x = np.mgrid[:24, :24]
    disc = np.zeros((24, 24, 4), np.uint8)
    disc[(y - 12) ** 2 + (x - 12) ** 2 < 64] = 255
    Image.fromarray(disc).save(tmp_path / "disc.png")
    photograph = read_photograph(tmp_path / "disc.png", 3)
    assert photograph.levels.eq(255).all()
    assert np.array_equal(np.asarray(photograph.alpha), disc[..., 3])
    Image.new("RGBA", (4, 4), (9, 8, 7, 0)).save(tmp_path / "nothing.png")
    assert read_photograph(tmp_path / "nothing.png", 3).levels[:, 0, 0].tolist() == [9, 8, 7]


def upscaled(path: Path, channels: int = 3) -> Image.Image:
    """A photograph's output, by no model."""
    photograph = read_photograph(path, channels)
    x = photograph.levels.repeat_interleave(2, 1).repeat_interleave(2, 2)
    output = MemoryCanvas(x)
    save_photograph(path.with_name("output.png"), output, photograph)
    with Image.open(path.with_name("output.png")) as file:
        file.load()
        return file


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_what_the_photographer_noted_is_kept(tmp_path: Path, name: str) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010F], exif[0x8298], exif[0x0112] = "Maker", "Copyright of A", 6
    exif[0x8769] = {0x9003: "2020:01:01 00:00:00", 0xA002: 24}
    exif[0x8825] = {1: "N"}
    written = Image.Exif()
    written.load(exif.tobytes())
    make_image().save(tmp_path / name, exif=written, icc_profile=profile, dpi=(300, 200))
    output = upscaled(tmp_path / name)
    assert output.size == (40, 48)  # turned upright
    kept = output.getexif()
    assert (kept[0x010F], kept[0x8298]) == ("Maker", "Copyright of A")
    assert not {0x0112, 0x0111, 0x0100} & set(kept)  # the orientation, and where pixels are
    assert dict(kept.get_ifd(0x8769)) == {0x9003: "2020:01:01 00:00:00"}
    assert kept.get_ifd(0x8825)[1] == "N"
    assert output.info["icc_profile"] == profile
    if name != "a.webp":
        assert output.info["dpi"] == pytest.approx((200, 300), abs=0.1)  # turned too


def test_xmp_is_kept(tmp_path: Path) -> None:
    make_image().save(tmp_path / "a.jpg", xmp=b"<x:xmpmeta>a title</x:xmpmeta>")
    assert upscaled(tmp_path / "a.jpg").info["xmp"] == b"<x:xmpmeta>a title</x:xmpmeta>"


def test_colours_of_printing_become_those_of_screens(tmp_path: Path) -> None:
    image = make_image().convert("CMYK")
    image.save(tmp_path / "a.tif")
    photograph = read_photograph(tmp_path / "a.tif", 3)
    assert photograph.note == "its CMYK colours as sRGB"
    assert np.array_equal(photograph.levels.permute(1, 2, 0), image.convert("RGB"))
    image.save(tmp_path / "b.tif", icc_profile=b"no profile")
    assert np.array_equal(opened((tmp_path / "b.tif").read_bytes(), tmp_path), image.convert("RGB"))
    assert read_photograph(tmp_path / "b.tif", 3).profile is None


def test_lab_is_read(tmp_path: Path) -> None:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(make_image(), srgb, lab, outputMode="LAB")
    levels = opened(file_of(image, "TIFF"), tmp_path)
    assert np.abs(levels.astype(int) - np.asarray(make_image())).mean() < 5
