"""Outputs strip by strip: as they were whole, several at once, and never whole in floats."""

import itertools
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor

from srvae_pyro.inference.decoding import TileNoise
from srvae_pyro.models.base import save_pretrained
from srvae_pyro.pixels import to_unit
from srvae_pyro.system.device import peak_bytes
from srvae_pyro.upscaling import tiling as canvas
from srvae_pyro.upscaling.arguments import UpscaleOptions
from srvae_pyro.upscaling.quality import lr_psnr, psnr
from srvae_pyro.upscaling.tiling import MemoryCanvas, Scratch, bands, spans
from srvae_pyro.upscaling.upscaler import (
    Upscaler,
    downscaled,
    downscaled_rows,
    rounded,
    upscale_batch,
)
from tests.upscaling.test_command import image_of, make, smooth, upscale, with_options
from tests.upscaling.test_consistency import extremes

pytestmark = pytest.mark.usefixtures("two_strips")
EXACT = {"d": "average2", "likelihood": "groups"}


def whole_in_floats(upscaler: Upscaler, image: Tensor, sample: int) -> Tensor:
    """What an upscaler does, with the whole output in memory: all tiles added up, then rounded."""
    model, side, decode = upscaler.model, upscaler.options.tile, upscaler.decode
    multiple, (height, width) = model.lower_multiple, image.shape[1:]
    pads = ((0, 0), (0, -height % multiple), (0, -width % multiple))
    y = torch.from_numpy(np.pad(image.numpy(), pads, mode="reflect"))
    out = torch.zeros(3, 2 * y.shape[1], 2 * y.shape[2])
    cut = model.is_consistent and decode != "mean"
    rows, columns = (spans(n, side or n, multiple) for n in y.shape[1:])
    for row, column in itertools.product(rows, columns):
        stream = (upscaler.options.seed, sample, 0)
        noise = TileNoise(stream, row.start, column.start, row.stop - row.start)
        part = to_unit(y[None, :, row.pixels, column.pixels])
        x = upscale_batch(model, part, decode, upscaler.temperature, noise=noise)[0]
        weights = row.weights(2, cut)[:, None] * column.weights(2, cut)
        out[:, row.upscaled(2), column.upscaled(2)] += x * weights
    out = 255 * out[:, : 2 * height, : 2 * width]
    if decode == "mean":
        return rounded(out, image, model)
    return out.round().clamp(0, 255).byte()


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("decode", ["sample", "mean"])
def test_strips_are_the_whole_to_the_bit(decode: Any, exact: bool) -> None:
    image = smooth(60, 38)  # rows of tiles of which three overlap
    upscaler = Upscaler(
        make(**EXACT) if exact else make(),
        UpscaleOptions(decode=decode, temperature=1.0, seed=3, tile=32),
    )
    together = [MemoryCanvas.blank((3, 120, 76)) for _ in range(2)]
    upscaler.upscale(MemoryCanvas(image), together, first=4)
    for sample, output in enumerate(together, 4):
        assert torch.equal(output.levels, whole_in_floats(upscaler, image, sample))
    assert torch.equal(upscaler(image, sample=5), together[1].levels)  # by itself


def test_what_sees_y_alone_is_computed_once_a_tile() -> None:
    model = make()
    networks = {"q_u": model.guide.q_u.encoder, "from_y": model.model.p_z.from_y}
    networks |= {"from_u": model.model.p_z.from_u, "joint": model.model.p_x.joint}
    hooks = {name: Mock(return_value=None) for name in networks}
    for name, network in networks.items():
        network.register_forward_hook(hooks[name])
    upscaler = Upscaler(model, UpscaleOptions(decode="sample", temperature=1.0, tile=32))
    image, tiles = MemoryCanvas(smooth(50, 30)), 2
    upscaler.network_bytes  # noqa: B018 (measured by calls of its own)
    for hook in hooks.values():
        hook.reset_mock()
    upscaler.upscale(image, [MemoryCanvas.blank((3, 100, 60)) for _ in range(3)])
    calls = {name: hook.call_count for name, hook in hooks.items()}
    assert calls == {"q_u": tiles, "from_y": tiles, "from_u": 3 * tiles, "joint": 3 * tiles}


def test_as_many_at_once_as_memory_allows() -> None:
    image = smooth(50, 30)
    upscaler = Upscaler(make(), UpscaleOptions(decode="sample", temperature=1.0))
    upscaler.__dict__["network_bytes"] = 500.0  # of such networks the strips take the most
    need = upscaler.need(52, 32, 32, samples=2)
    assert need < upscaler.need(52, 32, 32, samples=3)
    less = with_options(upscaler, memory_gb=need / 1e9 * (1 + 1e-9), tile=32)
    less.__dict__["network_bytes"] = upscaler.network_bytes
    groups: list[int] = []
    once = less._at_once

    def told(*given: Any) -> int:
        groups.append(once(*given))
        return groups[-1]

    less._at_once = told
    few = [MemoryCanvas.blank((3, 100, 60)) for _ in range(3)]
    less.upscale(MemoryCanvas(image), few)
    assert groups == [2]
    for sample, output in enumerate(few):
        assert torch.equal(output.levels, less(image, sample=sample))


def test_samples_four_times_as_large_are_each_its_own() -> None:
    model, image = make(**EXACT), extremes(9, 10)
    upscaler = Upscaler(model, UpscaleOptions(decode="sample", temperature=1.0))
    with Scratch(Path()) as scratch:
        upscale_from = [scratch.canvas((3, 36, 40)) for _ in range(3)]
        with_options(upscaler, factor=4).upscale(MemoryCanvas(image), upscale_from)
        for sample, output in enumerate(upscale_from):
            x = output.rows(0, 36)
            assert torch.equal(x, with_options(upscaler, factor=4)(image, sample))
            assert torch.equal(downscaled(model, x), upscaler(image, sample))
            assert lr_psnr(model, output, MemoryCanvas(image), 2) == 100


def test_no_output_is_ever_whole_in_floats(tmp_path: Path) -> None:
    upscaler = Upscaler(make(), UpscaleOptions(decode="sample", temperature=1.0, tile=32))

    def peak(height: int) -> int:
        image = MemoryCanvas(smooth(height, 32))
        with Scratch(tmp_path) as scratch:
            upscale_from = [scratch.canvas((3, 2 * height, 64)) for _ in range(3)]
            return peak_bytes(lambda: upscaler.upscale(image, upscale_from))

    upscaler.network_bytes  # noqa: B018
    values = 3 * 2 * (304 - 104) * 2 * 32
    # Of three outputs: each value of each would be 12 bytes in floats, or 3 in levels.
    assert peak(304) - peak(104) < 2 * values


def test_canvases_share_a_file(tmp_path: Path) -> None:
    images = [smooth(7, 5), smooth(7, 9), smooth(12, 4, 1)]
    with Scratch(tmp_path) as scratch:
        canvases = [scratch.canvas(image.shape) for image in images]
        for start in range(0, 12, 3):
            for drawn, image in zip(canvases, images, strict=True):
                drawn.append(image[:, start : start + 3])
        for drawn, image in zip(canvases, images, strict=True):
            assert torch.equal(drawn.rows(0, image.shape[1]), image)
            assert torch.equal(drawn.rows(2, 5), image[:, 2:5])
        blank = scratch.canvas((3, 4, 5))
        with pytest.raises(ValueError, match="not there"):
            blank.rows(0, 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("d", "passes"), [("downscale2", 2), ("downscale4", 1), ("average2", 2)])
def test_consistency_by_rows_is_that_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, d: str, passes: int
) -> None:
    model = make(d=d)
    factor = model.guide.d.factor**passes
    x, y = smooth(13 * factor, 6 * factor), smooth(13, 6, seed=1)
    expected = downscaled(model, x, passes)
    for start, stop in ((0, 13), (0, 1), (3, 5), (12, 13)):
        rows = downscaled_rows(model, MemoryCanvas(x), start, stop, passes)
        assert torch.equal(rows, expected[:, start:stop])
    monkeypatch.setattr(canvas, "BAND", 40)
    assert len(list(bands(y.shape))) > 1
    found = lr_psnr(model, MemoryCanvas(x), MemoryCanvas(y), passes)
    assert found == psnr(expected, y).item()


def test_bands_do_not_show_in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_pretrained(make(), tmp_path / "run")
    image = image_of(smooth(21, 16))
    image.putalpha(image_of(smooth(21, 16, 1)))
    image.save(tmp_path / "a.png")
    for out, band in (("one", 1 << 21), ("many", 1)):
        monkeypatch.setattr(canvas, "BAND", band)
        settings: dict[str, Any] = {"factor": 4, "samples": 3, "tile": 32}
        assert upscale(tmp_path / "run", tmp_path / "a.png", out=tmp_path / out, **settings) == 0
    files = sorted((tmp_path / "one").iterdir())
    assert len(files) == 5
    for file in files:
        assert file.read_bytes() == (tmp_path / "many" / file.name).read_bytes(), file.name
