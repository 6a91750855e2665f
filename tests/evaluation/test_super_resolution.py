"""The measure of super-resolution, and what it is made of."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from srvae_pyro.evaluation.super_resolution import evaluate_super_resolution
from srvae_pyro.models import SRVAE, ImageModel
from srvae_pyro.pixels import interpolated, to_levels, to_unit
from srvae_pyro.upscaling.quality import psnr, ssim
from srvae_pyro.upscaling.upscaler import downscaled, upscale_batch
from tests.builders import initialized
from tests.builders import random_levels as levels


@pytest.fixture
def model() -> ImageModel:
    settings = {"head_scale": 0.5, "likelihood_scale": 0.3, "likelihood_start": "images"}
    model = initialized(to_unit(levels(8)), p_u="standard", **settings)
    return model.eval().requires_grad_(False)


def test_shrinking_is_the_models_transform(model: SRVAE) -> None:
    x = levels(2)
    expected = to_levels(model.guide.d(to_unit(x)))
    assert torch.equal(downscaled(model, x).int(), expected)
    assert torch.equal(downscaled(model, x, 2), downscaled(model, downscaled(model, x)))


def test_what_is_measured(model: SRVAE) -> None:
    images = levels(5)
    result = evaluate_super_resolution(model, images, samples=3, batch_size=6)
    y = downscaled(model, images)
    nearest = y.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    scores = result.methods["nearest"]
    assert scores.psnr == pytest.approx(psnr(nearest, images).mean().item())
    assert scores.ssim == pytest.approx(ssim(nearest, images).mean().item())
    assert scores.lr_psnr == pytest.approx(psnr(downscaled(model, nearest), y).mean().item())
    mode = to_levels(upscale_batch(model, to_unit(y), decode="mode", temperature=0.0)).to(
        torch.uint8
    )
    expected = psnr(mode, images).mean().item()
    assert result.methods["mode"].psnr == pytest.approx(expected, abs=0.01)
    # The mean of outputs is nearer to anything than an output is, on average.
    assert result.methods["mean"].psnr > result.methods["sample"].psnr
    assert result.diversity.pairwise_rmse > result.diversity.std > 0
    assert json.loads(json.dumps(asdict(result), allow_nan=False)) == asdict(result)


def test_numbers_do_not_depend_on_the_batch(model: SRVAE) -> None:
    images = levels(5)
    whole = evaluate_super_resolution(model, images, samples=2, seed=3)
    parts = evaluate_super_resolution(model, images, samples=2, seed=3, batch_size=1)
    for name, scores in whole.methods.items():
        assert asdict(parts.methods[name]) == pytest.approx(asdict(scores), rel=1e-3)
    # An image's noise goes with its index.
    last, other = (
        evaluate_super_resolution(model, images[4:], samples=2, seed=3, indices=torch.tensor([i]))
        for i in (4, 5)
    )
    assert last.methods["mode"] == other.methods["mode"]
    assert last.methods["sample"] != other.methods["sample"]


def test_table_is_aligned(model: SRVAE) -> None:
    text = evaluate_super_resolution(model, levels(2), samples=2).table()
    table, others = text.splitlines()[:9], text.splitlines()[9:]
    assert len({len(line) for line in table}) == 1
    assert "mean of 2 samples" in text
    starts = (
        "Y: luma without 2 pixels",
        "standard deviation of the samples",
        "NTIRE diversity of 2 samples",
    )
    assert all(line.startswith(start) for line, start in zip(others, starts, strict=False))
    assert others[-1].endswith("megapixels of samples per second and process")


def test_small_images_have_no_ssim() -> None:
    small = to_unit(levels(4, (1, 8, 8)))
    model = initialized(small, image_shape=(1, 8, 8), p_u="standard")
    result = evaluate_super_resolution(model, levels(3, (1, 8, 8)), samples=1)
    assert result.methods["lanczos"].ssim is None
    assert result.methods["lanczos"].ssim_y is None
    assert result.diversity.std is None  # of one sample
    assert "differ" not in result.table()
    name, _, _, similarity, *_ = result.table().splitlines()[4].split()
    assert (name, similarity) == ("lanczos", "-")


def test_interpolation_is_pillows_on_colours() -> None:
    from PIL import Image

    y = levels(2, (3, 5, 7))
    image = Image.fromarray(y[1].permute(1, 2, 0).numpy()).resize((14, 10), Image.BICUBIC)
    found = interpolated(y, 2, Image.Resampling.BICUBIC)[1]
    assert np.array_equal(found.permute(1, 2, 0).numpy(), np.asarray(image))
