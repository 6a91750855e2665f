"""``python -m srvae_pyro.upscale``: any photograph, whole or in tiles."""

import os
import struct
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from srvae_pyro.errors import UserError, with_flags
from srvae_pyro.formats import FORMATS
from srvae_pyro.inference.decoding import TileNoise
from srvae_pyro.models import SRVAE, load
from srvae_pyro.models.base import save_pretrained
from srvae_pyro.networks.dense import ChannelAttention
from srvae_pyro.pixels import to_unit
from srvae_pyro.system.cli import check_arguments
from srvae_pyro.upscale import UpscaleArguments, main
from srvae_pyro.upscaling.arguments import UpscaleOptions
from srvae_pyro.upscaling.files import names_for
from srvae_pyro.upscaling.photographs import read_photograph
from srvae_pyro.upscaling.quality import lr_psnr, psnr
from srvae_pyro.upscaling.tiling import MemoryCanvas, spans
from srvae_pyro.upscaling.upscaler import Upscaler, downscaled
from tests.builders import initialized

pytestmark = pytest.mark.usefixtures("two_strips")


def smooth(height: int, width: int, channels: int = 3, seed: int = 0) -> Tensor:
    """An image with structure of all sizes, uint8 (C, H, W)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 5 + 2, width // 5 + 2, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    levels = np.asarray(image.convert("RGB" if channels == 3 else "L"))
    return torch.from_numpy(levels.reshape(height, width, channels).transpose(2, 0, 1).copy())


def image_of(levels: Tensor) -> Image.Image:
    return Image.fromarray(levels.permute(1, 2, 0).numpy().squeeze())


def make(**changes: Any) -> Any:
    """A model that was initialised on smooth images but not trained."""
    settings = {"likelihood_scale": 0.3, "likelihood_start": "images", "head_scale": 0.3}
    channels, size, _ = changes.get("image_shape", (3, 16, 16))
    x = torch.stack([smooth(size, size, channels, seed) for seed in range(8)])
    return initialized(to_unit(x), **(settings | {"p_u": "standard"} | changes)).eval()


RUNS = tempfile.TemporaryDirectory()


@cache
def run(**changes: Any) -> Path:
    """The folder of such a model, made once."""
    folder = Path(tempfile.mkdtemp(dir=RUNS.name))
    save_pretrained(make(**changes), folder)
    return folder


@pytest.fixture
def model() -> SRVAE:
    model = load(run())
    return model


def with_options(upscaler: Upscaler, **changes: Any) -> Upscaler:
    return replace(upscaler, options=replace(upscaler.options, **changes))


def upscale(
    run: Path, *images: Path, out: Path | None = None, gif: bool = False, **options: Any
) -> int:
    arguments = UpscaleArguments(str(run), images, out, UpscaleOptions(**options), gif)
    check_arguments(arguments)  # as run_command does
    return main(arguments)


# Kinds of files


def palette() -> Image.Image:
    image = image_of(smooth(10, 12)).quantize(16)
    image.info["transparency"] = 3
    return image


def sixteen_bits() -> Image.Image:
    return Image.fromarray(smooth(10, 12, 1)[0].numpy().astype(np.uint16) * 257)


def with_alpha(mode: str) -> Image.Image:
    image = image_of(smooth(10, 12, 3 if mode == "RGBA" else 1))
    image.putalpha(image_of(smooth(10, 12, 1, seed=5)))
    assert image.mode == mode
    return image


KINDS: dict[str, tuple[Callable[[], Image.Image], str]] = {
    "rgb.png": (lambda: image_of(smooth(10, 12)), "RGB"),
    "gray.png": (lambda: image_of(smooth(10, 12, 1)), "L"),
    "gray-alpha.png": (lambda: with_alpha("LA"), "LA"),
    "alpha.png": (lambda: with_alpha("RGBA"), "RGBA"),
    "transparent-palette.png": (palette, "RGBA"),
    "16-bit.png": (sixteen_bits, "L"),
    "cmyk.jpg": (lambda: image_of(smooth(10, 12)).convert("CMYK"), "RGB"),
    "photo.gif": (lambda: image_of(smooth(10, 12)), "RGB"),
    "one pixel.png": (lambda: Image.new("RGB", (1, 1), (200, 100, 50)), "RGB"),
    "tiny.png": (lambda: image_of(smooth(3, 5)), "RGB"),
    "odd.png": (lambda: image_of(smooth(33, 47)), "RGB"),
    "näme.with.dots.png": (lambda: image_of(smooth(10, 12)), "RGB"),
}


def test_every_kind_of_image(tmp_path: Path) -> None:
    files = []
    for name, (make, _) in KINDS.items():
        folder = tmp_path / "in"
        folder.mkdir(exist_ok=True)
        files.append(folder / name)
        make().save(files[-1])
    assert upscale(run(), *files, out=tmp_path / "out") == 0
    names = names_for(files)
    assert len(list((tmp_path / "out").iterdir())) == len(files)
    for file, name in zip(files, names, strict=True):
        with Image.open(file) as before, Image.open(tmp_path / "out" / f"{name}-x2.png") as after:
            assert after.size == (2 * before.width, 2 * before.height), name
            assert after.mode == KINDS[file.name][1], name


def test_alpha_is_bicubic(tmp_path: Path) -> None:
    image = with_alpha("RGBA")
    image.save(tmp_path / "a.png")
    image.convert("RGB").save(tmp_path / "b.png")
    upscale(run(), tmp_path / "a.png", tmp_path / "b.png", out=tmp_path / "out")
    with Image.open(tmp_path / "out" / "a-x2.png") as file:
        expected = image.getchannel("A").resize((24, 20), Image.Resampling.BICUBIC)
        assert np.array_equal(file.getchannel("A"), expected)
        with Image.open(tmp_path / "out" / "b-x2.png") as opaque:
            assert np.array_equal(file.convert("RGB"), opaque)


def test_of_an_animation_the_first_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    photograph = read_photograph(tmp_path / "moving.gif", 3)
    assert photograph.levels[:, 4, 4].tolist() == [255, 0, 0]
    upscale(run(), tmp_path / "moving.gif", out=tmp_path / "out")
    assert "the first of its 3 images" in capsys.readouterr().out


# Files that are none


def bomb(width: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, width, 8, 2, 0, 0, 0)
    checked = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + checked
    return start + struct.pack(">I", 9) + b"IDAT"


def truncated() -> bytes:
    import io

    buffer = io.BytesIO()
    image_of(smooth(64, 64)).save(buffer, "JPEG")
    return buffer.getvalue()[:700]


BAD: dict[str, tuple[Callable[[], bytes] | None, str]] = {
    "empty.png": (lambda: b"", "it is empty"),
    "text.png": (lambda: b"no picture at all", "its format is unknown"),
    "drawing.png": (
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "is unknown",
    ),
    "cut.jpg": (truncated, "cut.jpg"),
    "bomb.png": (lambda: bomb(10**6), "1000000x1000000 pixels need 15000.0 GB of memory"),
    "missing.png": (None, "there is no file"),
    "two\nlines.png": (None, "there is no file"),
    os.fsdecode(b"\xff\xfe.png"): (None, "there is no file"),
}


def test_a_bad_file_by_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(truncated())
    with pytest.raises(UserError, match=r"cut\.jpg"):
        upscale(run(), tmp_path / "cut.jpg", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_files_do_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, (content, _) in BAD.items():
        if content is not None:
            (tmp_path / name).write_bytes(content())
    for name in ("first.png", "last.png"):
        image_of(smooth(8, 8)).save(tmp_path / name)
    files = [tmp_path / name for name in ("first.png", *BAD, "last.png")]
    assert upscale(run(), *files, out=tmp_path / "out") == 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"first-x2.png", "last-x2.png"}
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert len(lines) == len(BAD)
    for name, (_, message) in BAD.items():
        shown = name if name.isascii() and name.isprintable() else ""
        assert any(message in line and shown in line for line in lines), message
    assert f"2 of {len(files)} images upscaled" in said.out


def test_an_image_name_for_the_output_folder_is_refused(tmp_path: Path) -> None:
    image_of(smooth(8, 8)).save(tmp_path / "good.png")
    with pytest.raises(UserError, match="--out takes a folder"):
        upscale(run(), tmp_path / "good.png", out=tmp_path / "upscale_from.png")
    assert not (tmp_path / "upscale_from.png").exists()
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(UserError, match=r"--out takes a folder, and .*notes is a file"):
        upscale(run(), tmp_path / "good.png", out=tmp_path / "notes")


def test_only_formats_that_no_other_program_reads() -> None:
    assert not {"EPS", "WMF", "FITS"} & set(FORMATS)


# Tiles


@pytest.mark.parametrize(
    ("length", "side", "multiple"), [(64, 32, 4), (100, 32, 4), (33, 16, 1), (1000, 512, 4)]
)
def test_weights_of_tiles_add_up(length: int, side: int, multiple: int) -> None:
    parts = spans(length, side, multiple)
    assert len(parts) > 1
    total, cut = torch.zeros(2 * length), torch.zeros(2 * length)
    for part in parts:
        cuts = part.weights(2, cut=True)  # between pixels of the input
        assert cuts.unique().tolist() in ([0, 1], [1])
        assert torch.equal(cuts[::2], cuts[1::2])
        cut[part.upscaled(2)] += cuts
        weights = part.weights(2)
        assert weights.min() >= 0
        assert part.start % multiple == 0
        assert part.stop - part.start == side
        total[part.upscaled(2)] += weights
        inner = weights[[0] * (part.start > 0) + [-1] * (part.stop < length)]
        assert not inner.any()  # what lies at a tile's border counts nothing
    torch.testing.assert_close(total, torch.ones(2 * length))
    assert cut.eq(1).all()


def test_large_tiles_overlap_by_no_more_than_they_need_and_one_has_weight_1() -> None:
    parts = spans(8 * 448 + 64, 512, 4)
    assert [part.start for part in parts] == [448 * i for i in range(8)]
    assert {part.ramp for part in parts} == {32}
    (part,) = spans(16, 16, 4)
    assert part.weights(2).eq(1).all()


def test_noise_of_tiles_agrees_where_they_overlap() -> None:
    # Sites at half the image's resolution and at twice it; across blocks of 64.
    whole = TileNoise((1, 2), 0, 0, 200)
    for scale in (0.5, 2):
        full = whole.normal("z", torch.empty(1, 3, int(200 * scale), int(160 * scale)))
        tile = TileNoise((1, 2), 60, 100, 40)
        part = tile.normal("z", torch.empty(1, 3, int(40 * scale), int(60 * scale)))
        rows = slice(int(60 * scale), int(100 * scale))
        assert torch.equal(part, full[..., rows, int(100 * scale) : int(160 * scale)])
    uniform = whole.uniform("x", torch.empty(1, 4, 200, 200))
    assert 0 <= uniform.min() < 0.01 < 0.99 < uniform.max() < 1
    assert uniform.unique().numel() > 0.9 * uniform.numel()  # no block is another's copy
    assert abs(full.mean()) < 0.02
    assert abs(full.std() - 1) < 0.02
    for other in (TileNoise((1, 3), 0, 0, 200), TileNoise((2, 2), 0, 0, 200)):
        assert not torch.equal(other.uniform("x", torch.empty(1, 4, 200, 200)), uniform)
    assert not torch.equal(whole.uniform("u", torch.empty(1, 4, 200, 200)), uniform)


@pytest.mark.parametrize(
    ("exact", "decode"), [(False, "mean"), (False, "sample"), (True, "sample"), (True, "mode")]
)
def test_tiles_are_the_whole_where_attention_is_constant(
    monkeypatch: pytest.MonkeyPatch, exact: bool, decode: Any
) -> None:
    model = make(**({"d": "average2", "likelihood": "groups"} if exact else {}))
    monkeypatch.setattr(ChannelAttention, "forward", lambda self, x: 0.7 * x)
    image = smooth(100, 72)
    upscaler = Upscaler(model, UpscaleOptions(decode=decode, temperature=1.0, tile=64, seed=3))
    difference = (upscaler(image).int() - with_options(upscaler, tile=0)(image).int()).abs()
    # Not all of the receptive field is within the margin, but what is beyond weighs little.
    assert difference.float().mean() < 0.05
    assert (difference > 1).float().mean() < 0.01


def test_no_seams(model: SRVAE) -> None:
    image = smooth(104, 64)
    upscaler = Upscaler(model, UpscaleOptions(decode="mean", tile=64))
    tiled, whole = upscaler(image).float(), with_options(upscaler, tile=0)(image).float()
    assert psnr(tiled, whole) > 30
    # Where the weights of two tiles cross, the step from row to row is like anywhere.
    (first, _) = spans(104, 64, 4)
    crossing = int(2 * first.fall)
    step = (tiled - whole).diff(dim=1).abs().mean(dim=(0, 2))
    near = step[crossing - 20 : crossing + 20]
    rest = torch.cat([step[: crossing - 20], step[crossing + 20 :]])
    assert near.max() <= rest.max() + 0.5


def test_tiles_follow_the_memory(model: SRVAE) -> None:
    need = Upscaler(model).need
    whole = Upscaler(model, UpscaleOptions(memory_gb=need(100, 100) / 1e9 * (1 + 1e-9)))
    assert whole.tile_for(100, 100) == 0
    side = whole.tile_for(100, 104)
    assert 0 < side <= 100
    assert need(100, 104, side) <= need(100, 100) < need(100, 104, side + 4)
    # Of a wider image the strips take more, and the tiles must be smaller.
    assert 0 < whole.tile_for(100, 4_000) < side
    assert Upscaler(model, UpscaleOptions(tile=0, memory_gb=1e-6)).tile_for(4000, 4000) == 0
    with pytest.raises(UserError, match="use at least") as error:
        Upscaler(model, UpscaleOptions(memory_gb=1e-6)).tile_for(100, 100)
    enough = float(str(error.value).split()[-1])
    assert Upscaler(model, UpscaleOptions(memory_gb=enough)).tile_for(100, 100) > 0


# Outputs


def test_the_default_is_super_resolves_mean(model: SRVAE) -> None:
    image = smooth(16, 24)
    expected = model.super_resolve(to_unit(image[None]), decode="mean", temperature=0)["x"]
    assert torch.equal(Upscaler(model)(image), (255 * expected[0, 0]).round().to(torch.uint8))


def test_four_times_is_twice_twice(model: SRVAE) -> None:
    image = smooth(9, 11)
    upscaler = Upscaler(model)
    x = with_options(upscaler, factor=4)(image)
    assert torch.equal(x, upscaler(upscaler(image)))
    assert (
        lr_psnr(model, MemoryCanvas(x), MemoryCanvas(image), 2)
        == psnr(downscaled(model, downscaled(model, x)), image).item()
    )


def test_animations_of_large_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_alpha("RGBA").save(tmp_path / "a.png")
    folder = run()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow's limit, which photographs pass
    assert upscale(folder, tmp_path / "a.png", samples=2, gif=True) == 0
    monkeypatch.setattr("srvae_pyro.upscaling.files.GIF_SIDE", 23)
    with pytest.raises(UserError, match="24x20 pixels, and a GIF has at most 23 a side: leave out"):
        upscale(folder, tmp_path / "a.png", samples=2, gif=True)


def test_samples_mean_deviation_and_animation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_alpha("RGBA").save(tmp_path / "a.png")
    folder = run()
    assert upscale(folder, tmp_path / "a.png", samples=3, gif=True) == 0
    out = folder / "figures" / "upscaled"
    names = [f"a-x2{e}" for e in ("-01.png", "-02.png", "-03.png", "-mean.png", "-std.png", ".gif")]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    images = []
    for name in names[:3]:
        with Image.open(out / name) as file:
            images.append(np.asarray(file.convert("RGB"), float))
    with Image.open(out / "a-x2-mean.png") as file:
        assert file.mode == "RGBA"
        assert np.array_equal(file.convert("RGB"), np.rint(np.mean(images, axis=0)))
    with Image.open(out / "a-x2-std.png") as file:
        assert file.mode == "L"
        deviation = np.sqrt(np.var(images, axis=0, ddof=1).mean(axis=-1))
        assert np.abs(np.asarray(file) - deviation * 255 / deviation.max()).max() <= 0.51
        assert f"{deviation.max():.2f} levels" in file.info["Comment"]
    with Image.open(out / "a-x2.gif") as file:
        assert file.n_frames == 3
        assert file.size == (24, 20)
    assert capsys.readouterr().out.count("LR-PSNR") == 4
    # One sample of more is the same image.
    upscale(folder, tmp_path / "a.png", decode="sample", out=tmp_path / "out")
    one = (tmp_path / "out" / "a-x2.png").read_bytes()
    assert one == (out / "a-x2-01.png").read_bytes()


def test_a_model_of_one_channel_takes_luma(tmp_path: Path) -> None:
    with_alpha("RGBA").save(tmp_path / "a.png")
    folder = run(image_shape=(1, 16, 16), p_u="mixture")
    assert upscale(folder, tmp_path / "a.png", out=tmp_path / "out") == 0
    with Image.open(tmp_path / "out" / "a-x2.png") as file:
        assert (file.mode, file.size) == ("LA", (24, 20))


def test_a_factor_of_four_in_one(tmp_path: Path) -> None:
    image_of(smooth(6, 7)).save(tmp_path / "a.png")
    folder = run(d="downscale4")
    assert upscale(folder, tmp_path / "a.png", out=tmp_path / "out") == 0
    with Image.open(tmp_path / "out" / "a-x4.png") as file:
        assert file.size == (28, 24)
    with pytest.raises(UserError, match="4, 16, 64"):
        upscale(folder, tmp_path / "a.png", factor=2)


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "vae"}, "one-level VAE"),
        ({"d": "grayscale"}, "grayscale"),
        ({"d": "sketch"}, "sketch"),
    ],
)
def test_models_that_do_not_upscale(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        upscale(run(**changes), tmp_path / "a.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": 3}, "one of 2, 4, 8"),
        ({"samples": 0}, "--samples"),
        ({"gif": True}, "--samples 2"),
        ({"tile": 30}, "such as 32"),
        ({"image_temperature": 0.0}, "temperature"),
        ({"samples": 2, "decode": "mode", "temperature": 0.0}, "one output"),
    ],
)
def test_settings_that_make_no_sense(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    image_of(smooth(8, 8)).save(tmp_path / "a.png")
    with pytest.raises(UserError) as error:
        upscale(run(p_u="realnvp"), tmp_path / "a.png", out=tmp_path / "out", **options)
    assert message in with_flags(str(error.value))
    assert not (tmp_path / "out").exists()


def test_names_that_would_clash(tmp_path: Path) -> None:
    names = names_for([Path("a.png"), Path("a.jpg"), Path("b.png")])
    assert list(map(str, names)) == ["a-png", "a-jpg", "b"]
    for files, expected in (
        (["a-png.png", "a.jpg", "a.png"], ["a-png", "a-jpg", "a-png-2"]),
        (["a.png", "other/a.png"], ["a-png", "a-png-2"]),
        (["A.png", "a.jpg"], ["A-png", "a-jpg"]),
        (["A.png", "other/a.png"], ["A-png", "a-png-2"]),  # one file where case does not count
    ):
        assert list(map(str, names_for(list(map(Path, files))))) == expected
    # An output never takes the place of an input.
    for name in ("a.png", "a-x2.png"):
        image_of(smooth(8, 8)).save(tmp_path / name)
    before = (tmp_path / "a-x2.png").read_bytes()
    with pytest.raises(UserError, match="overwritten"):
        upscale(run(), tmp_path / "a.png", tmp_path / "a-x2.png", out=tmp_path)
    assert (tmp_path / "a-x2.png").read_bytes() == before


def test_a_name_is_as_long_as_the_file_system_takes(tmp_path: Path) -> None:
    longest, longer = "é" * 120, "é" * 125  # with -x2-mean.png 252 and 262 bytes; 255 can be
    for name in (longest, longer):
        image_of(smooth(8, 8)).save(tmp_path / f"{name}.png")
    with pytest.raises(UserError, match="shorten it to 248 bytes, excluding the extension"):
        upscale(run(), tmp_path / f"{longer}.png", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert upscale(run(), tmp_path / f"{longest}.png", out=tmp_path / "out", samples=2) == 0
    assert (tmp_path / "out" / f"{longest}-x2-mean.png").is_file()


def test_an_output_too_large_for_memory_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_of(smooth(80, 100)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"more memory than `memory_gb=0.0001`: use at least 0.0"):
        upscale(run(), tmp_path / "a.png", out=tmp_path / "out", memory_gb=1e-4)
    monkeypatch.setattr("srvae_pyro.upscaling.files.process_memory", lambda: 1e5)
    with pytest.raises(UserError, match=r"would become 200x160 pixels.*crop it"):
        upscale(run(), tmp_path / "a.png", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_image_in_place_of_a_run_is_refused(tmp_path: Path) -> None:
    image_of(smooth(8, 8)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="is a file: name a model first"):
        upscale(tmp_path / "a.png", tmp_path / "a.png")


def test_replacing_an_earlier_output_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image_of(smooth(8, 8)).save(tmp_path / "a.png")
    for earlier in (0, 5):  # two samples, their mean, where they differ, the animation
        assert upscale(run(), tmp_path / "a.png", out=tmp_path / "out", samples=2, gif=True) == 0
        assert capsys.readouterr().out.count("replacing an earlier one") == earlier


def test_outputs_that_are_left_of_an_earlier_call_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "a-x2-01.png"):  # the second is no output to the first
        image_of(smooth(8, 8)).save(tmp_path / name)
    files, out = [tmp_path / "a.png", tmp_path / "a-x2-01.png"], tmp_path / "out"
    assert upscale(run(), *files, out=out, samples=3, gif=True) == 0
    assert "earlier call" not in capsys.readouterr().out
    assert upscale(run(), *files, out=out, samples=2) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if "earlier call" in line]
    assert [line.partition(": ")[2] for line in told] == [
        f"{name}-03.png, {name}.gif" for name in ("a-x2", "a-x2-01-x2")
    ]
    assert (out / "a-x2-03.png").exists()
