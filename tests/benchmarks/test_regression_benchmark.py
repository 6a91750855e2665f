"""The learnt baseline of super-resolution: its size, that it learns, and what it measures."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from srvae_pyro.data import MemoryImages, load_data
from srvae_pyro.evaluation.sr_scores import image_scores
from srvae_pyro.models.transforms import BlockAverage
from srvae_pyro.pixels import to_unit
from srvae_pyro.training.loop import Batches
from srvae_pyro.upscaling.quality import psnr
from tests.builders import save_run, write_images

CPU = torch.device("cpu")


@pytest.fixture
def regression(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("regression")


def slopes(count: int, side: int = 32) -> Tensor:
    """Images that a network upscales better than nearest does, uint8 (N, 3, side, side)."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 3, 3, generator=generator)
    smooth = F.interpolate(coarse, (side, side), mode="bicubic", align_corners=True)
    return smooth.clamp(0, 1).mul(255).round().to(torch.uint8)


@pytest.mark.parametrize("parameters", [100_000, 583_098, 1_757_408])
def test_it_has_as_many_parameters(regression: ModuleType, parameters: int) -> None:
    width, blocks = regression.size_for(parameters)
    network = regression.Regression(3, width, blocks)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(parameters, rel=0.05)


def test_it_starts_from_nearest_and_learns(regression: ModuleType) -> None:
    x = slopes(16)
    y = regression.small(x)
    assert torch.equal(y, BlockAverage().of_levels(x.int()).to(torch.uint8))
    torch.manual_seed(0)
    network = regression.Regression(3, 16, 2)
    nearest = to_unit(y).repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(network(to_unit(y)), nearest)
    batches = Batches(MemoryImages(x), 8, CPU, 0)
    steps = regression.train(network, batches, 0.05, 4e-3, False, True)
    assert steps > 5
    found, speed = regression.measure(network, x, None, CPU)
    assert found["regression"].psnr > psnr((nearest * 255).round(), x).mean() + 1
    assert found["regression, agreeing"].lr_psnr == 100
    assert speed > 0


def test_the_command_measures_the_test_crops(
    regression: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_run(tmp_path / "run")
    for split in ("train", "test"):
        write_images(tmp_path / "images" / split, to_unit(slopes(3, 40)))
    data, out = str(tmp_path / "images"), tmp_path / "out"
    words = ["--data", data, "--crops", "32", "--minutes", "0.01", "--out", str(out)]
    regression.main([*words, "--parameters-of", str(tmp_path / "run"), "--threads", "1"])
    found = json.loads((out / "regression.json").read_text())
    options = regression.ImageOptions(crops=32)
    x = load_data(data, tmp_path, options).test
    y = regression.small(x)
    bicubic = regression.interpolated(y, 2, regression.INTERPOLATIONS["bicubic"])
    expected = image_scores(bicubic, x, 2)["psnr_y"].mean().item()
    assert found["methods"]["bicubic"]["psnr_y"] == pytest.approx(expected)
    assert found["images"] == len(x)
    assert (out / "model.safetensors").is_file()
    assert "regression, agreeing" in capsys.readouterr().out
