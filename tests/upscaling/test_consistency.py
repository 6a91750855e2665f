"""Outputs of exact models: made small again each is the photograph, in the file, in every pixel."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from srvae_pyro.models.base import save_pretrained
from srvae_pyro.upscaling.arguments import UpscaleOptions
from srvae_pyro.upscaling.upscaler import Upscaler, consistent_output, downscaled
from tests.upscaling.test_command import image_of, smooth, upscale
from tests.upscaling.test_command import make as make_model_of

pytestmark = pytest.mark.usefixtures("two_strips")
make = partial(make_model_of, d="average2", likelihood="groups", likelihood_scale=0.5)


def small_again(path: Path, times: int = 1) -> np.ndarray:
    """A file's colours, averaged so often by Pillow."""
    with Image.open(path) as file:
        image = file.convert("RGB") if file.mode == "RGBA" else file.copy()
    for _ in range(times):
        image = image.reduce(2)
    return np.asarray(image)


def extremes(height: int, width: int) -> Tensor:
    """An image of noise, black, white and what lies between."""
    levels = torch.randint(-100, 356, (3, height, width)).clamp(0, 255)
    levels[:, : height // 2, : width // 2] = smooth(height // 2, width // 2)
    return levels.byte()


@pytest.mark.parametrize(
    ("kind", "factor", "channels", "mode"),
    [("RGBA", 2, 3, "RGBA"), ("L", 4, 3, "L"), ("RGB", 2, 1, "L")],
)
def test_every_file_is_consistent(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    factor: int,
    channels: int,
    mode: str,
) -> None:
    save_pretrained(make(image_shape=(channels, 16, 16)), tmp_path / "run")
    image = image_of(extremes(9, 13)).convert(kind)
    if kind == "RGBA":
        image.putalpha(image_of(smooth(9, 13, 1).clamp_min(1)))
    image.save(tmp_path / "a.png")
    expected = np.asarray(image.convert("L" if mode == "L" else "RGB"))
    several = [f"-{ending}" for ending in ("01", "02", "03", "mean")]
    calls: list[tuple[dict[str, Any], list[str]]] = [
        ({"decode": "mode"}, [""]),
        ({"decode": "mean"}, [""]),
        ({"samples": 3}, several),
    ]
    for options, endings in calls:
        out = tmp_path / "out"
        options |= {"out": out, "factor": factor}
        assert upscale(tmp_path / "run", tmp_path / "a.png", **options) == 0
        said = capsys.readouterr().out
        assert said.count("LR-PSNR exact") == len(endings)  # of the mean too
        assert "JPEG" in said
        for ending in endings:
            path = out / f"a-x{factor}{ending}.png"
            with Image.open(path) as file:
                assert file.mode == mode
            assert np.array_equal(small_again(path, factor // 2), expected), path


def test_means_of_samples_are_only_rounded() -> None:
    model, image = make(), extremes(12, 12)
    upscaler = Upscaler(model, UpscaleOptions(decode="sample"))
    samples = [upscaler(image, i) for i in range(5)]
    mean = torch.stack(samples).double().mean(0)
    near = consistent_output(mean, image)
    assert torch.equal(downscaled(model, near), image)
    assert (near - mean).abs().max() < 1
    long = extremes(200, 3)  # of several bands of rows
    assert torch.equal(
        downscaled(model, consistent_output(torch.rand(3, 400, 6) * 255, long)), long
    )


def test_a_gray_output_is_near_the_luma_of_the_colours() -> None:
    model, gray = make(), smooth(12, 14, 1).expand(3, -1, -1).contiguous()
    upscaler = Upscaler(model, UpscaleOptions(decode="sample", temperature=1.0))
    x = upscaler(gray, gray=True)
    assert torch.equal(x[0], x[1])
    assert torch.equal(x[0], x[2])
    luma = torch.from_numpy(np.array(image_of(upscaler(gray)).convert("L")))
    assert (x[0].int() - luma.int()).abs().max() <= 2
