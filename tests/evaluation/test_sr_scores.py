"""The measures of super-resolution, each on cases whose output is known by hand."""

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.signal import convolve2d
from skimage.color import rgb2ycbcr
from torch import Tensor

from srvae_pyro.errors import UserError
from srvae_pyro.evaluate import EvaluateArguments, main
from srvae_pyro.evaluation import sr_scores as features
from srvae_pyro.evaluation.kid import scaled
from srvae_pyro.evaluation.record import newest_results
from srvae_pyro.evaluation.sr_scores import (
    LEVELS,
    RANKED,
    Calibration,
    FeatureDistance,
    Ranks,
    calibration_figure,
    central_shares,
    coverage,
    differences,
    diversity_score,
    feature_distance,
    image_scores,
    squared_errors,
    y_channel,
)
from srvae_pyro.evaluation.super_resolution import (
    SuperResolver,
    evaluate_super_resolution,
    factors_for,
)
from srvae_pyro.inference.decoding import ImageNoise
from srvae_pyro.inference.statistics import standard_error
from srvae_pyro.models import SRVAE
from srvae_pyro.models.base import save_pretrained
from srvae_pyro.pixels import to_levels, to_unit
from srvae_pyro.system.cli import check_arguments
from srvae_pyro.upscaling.upscaler import downscaled, upscale_batch
from tests.builders import initialized, write_images
from tests.builders import random_levels as levels

pytestmark = pytest.mark.usefixtures("two_strips")


@pytest.fixture
def make() -> Callable[..., SRVAE]:
    """Makes a model that upscales images of 32x32, not trained, with consistent outputs."""

    def made(**changes: Any) -> SRVAE:
        settings = {"d": "average2", "likelihood": "groups", "likelihood_scale": 0.3, **changes}
        x, shape = to_unit(levels(8, (3, 32, 32))), (3, 32, 32)
        model = initialized(x, image_shape=shape, p_u="standard", **settings)
        return model.eval().requires_grad_(False)

    return made


# Y


def test_luma_is_that_of_scikit_image_and_matlab_but_for_rounding() -> None:
    x = levels(2)
    expected = rgb2ycbcr(x.permute(0, 2, 3, 1).numpy())[..., 0]
    np.testing.assert_allclose(y_channel(x)[:, 0], expected, atol=1e-9)
    ends = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 2)
    assert y_channel(ends).flatten().tolist() == pytest.approx([16, 235])  # gray is R = G = B


def test_psnr_of_y_by_hand() -> None:
    truth = torch.full((1, 3, 16, 16), 100, dtype=torch.uint8)
    output = truth.clone()
    output[:, 1, 2:-2, 2:-2] += 10  # green alone, which counts 128.553 / 255
    output[:, :, :2] = 255  # the border does not count
    output[:, :, :, -2:] = 0
    found = image_scores(output, truth, border=2)
    expected = 20 * math.log10(255 / (10 * 128.553 / 255))
    assert found["psnr_y"].item() == pytest.approx(expected, abs=1e-4)
    assert found["psnr"].item() < 15
    assert found["ssim_y"].item() > 0.9 > found["ssim"].item()


def test_a_border_that_leaves_too_little_leaves_scores_out() -> None:
    x = levels(2)
    assert set(image_scores(x, x, border=2)) == {"psnr", "ssim", "psnr_y", "ssim_y"}
    assert set(image_scores(x, x, border=4)) == {"psnr", "ssim", "psnr_y"}
    assert set(image_scores(x, x, border=8)) == {"psnr", "ssim"}


# Diversity


def test_diversity_of_two_samples_by_hand() -> None:
    """One sample is right at the left and wrong at the right, the other the other way round."""
    distances = torch.tensor([[[[0.0, 4.0]]], [[[6.0, 2.0]]]])
    # Global best: 2, the first; local best: (0 + 2) / 2 = 1.
    assert diversity_score(distances).tolist() == [50.0]


def test_diversity_is_nothing_without_gain() -> None:
    distances = torch.rand(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert diversity_score(distances.expand(10, -1, -1, -1)).tolist() == [0.0] * 4
    exact = torch.cat([distances, torch.zeros(1, 4, 8, 8)])
    assert diversity_score(exact).tolist() == [0.0] * 4


def test_halves_that_are_right_in_turn_score_all() -> None:
    truth = torch.full((1, 3, 40, 80), 90, dtype=torch.uint8)
    samples = truth.expand(2, -1, -1, -1, -1).clone()
    samples[0, ..., :40] += 7
    samples[1, ..., 40:] += 7
    found = differences(samples, truth)
    assert found["score_mse_pixels"].tolist() == [100.0]
    # A window across the border has errors in both; those are 15 of the 95 columns of windows.
    assert 80 < found["score_mse"].item() < 100
    apart = squared_errors(samples[0], truth)
    assert (apart[0, 15:-15, 15:25] == 49).all()
    assert found["pairwise_rmse"].item() == pytest.approx(7)


def test_windows_are_those_of_the_challenge() -> None:
    """As its code has them: SciPy's full convolution with an even kernel."""
    a, b = levels(2, (3, 20, 33)), levels(2, (3, 20, 33), seed=1)
    errors = (a.double() - b.double()).square().mean(dim=1).numpy()
    kernel = np.ones((16, 16)) / 16**2
    expected = np.stack([convolve2d(error, kernel) for error in errors])
    np.testing.assert_allclose(squared_errors(a, b), expected, rtol=1e-4, atol=1e-2)


def test_features_are_compared_place_by_place() -> None:
    distance = FeatureDistance()
    truth = F.avg_pool2d(levels(2, (3, 96, 96)).float(), 3, 1, 1).round().to(torch.uint8)
    changed = truth.clone()
    changed[0, :, :24, :24] = levels(1, (3, 24, 24), seed=3)[0]
    found = distance(changed, truth)
    assert found.shape == (2, 96, 96)
    assert found[1].abs().max() == 0
    assert found[0, :24, :24].mean() > 10 * found[0, 64:, 64:].mean() > 0
    # The finest of its maps, by hand.
    net = distance.network
    with torch.no_grad():
        x = net._swish(net._bn0(net._conv_stem(scaled(torch.cat([changed, truth])))))
        finest = F.normalize(net._blocks[0](x), dim=1).chunk(2)
    apart = F.interpolate((finest[0] - finest[1]).square().sum(1, keepdim=True), (96, 96))
    assert (found[0] + 0.3 >= apart[0, 0]).float().mean() > 0.99
    for shape in ((3, 8, 8), (1, 16, 20), (3, 33, 47)):
        a, b = levels(2, shape), levels(2, shape, seed=1)
        assert (distance(a, b).mean(dim=(1, 2)) > 0).all()


def test_without_the_extra_there_are_no_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "find_spec", lambda _: None)
    assert feature_distance() is None
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(UserError, match=r"the distance of features needs .*\[features\]"):
        FeatureDistance()


# Calibration


def ranks_of(truth: Tensor, samples: Iterable[Tensor], indices: Sequence[int], seed: int) -> Ranks:
    """The ranks of the truth among samples of it."""
    ranks = Ranks(truth, indices, seed)
    for sample in samples:
        ranks.add(sample)
    return ranks


def test_ranks_of_what_is_drawn_as_the_samples_are_uniform() -> None:
    """Ties too: of ten levels 40 draws share most."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, 10, (RANKED + 1, 6, 3, 64, 64), generator=generator).to(torch.uint8)
    found = Calibration.of(ranks_of(drawn[0], drawn[1:], range(6), seed=1).shares(), 1)
    assert found.samples == RANKED
    assert sum(found.ranks) == pytest.approx(1)
    assert found.ranks == pytest.approx([1 / 40] * 40, rel=0.1)
    for level in LEVELS:
        assert found.within[str(level)] == pytest.approx(level / 100, abs=0.006)
    assert found.certain == 0


def test_ranks_and_ties_by_hand() -> None:
    truth = torch.tensor([[[[5, 0, 9, 7]]]], dtype=torch.uint8)
    samples = torch.full((RANKED, 1, 1, 1, 4), 7, dtype=torch.uint8)
    samples[:10, ..., 0] = 3
    samples[10:13, ..., 0] = 5  # of three that tie: 10, 11, 12 or 13 are below
    ranks = ranks_of(truth, samples, [4], seed=0)
    first, *others = ranks.ranks().flatten().tolist()
    assert 10 <= first <= 13
    assert others[:2] == [0, RANKED]
    assert torch.equal(ranks.ranks(), ranks.ranks())
    assert ranks.shares()["certain"].tolist() == [0.25]
    seen = set()
    for index in range(60):
        ranks.indices = [index]
        seen.add(ranks.ranks()[0, 0, 0, 0].item())
    assert seen == {10, 11, 12, 13}


def test_intervals_leave_out_as_many_ranks_at_each_end() -> None:
    ranks = torch.zeros(40)
    ranks[[0, 1, 3, 4, 9, 10, 29, 30, 35, 36, 38, 39]] = torch.arange(1.0, 13)
    assert coverage(ranks, 50) == 6 + 7
    assert coverage(ranks, 80) == 4 + 5 + 6 + 7 + 8 + 9
    assert coverage(ranks, 95) == 78 - 1 - 12
    with pytest.raises(ValueError, match="no central interval of 95 %"):
        coverage(torch.ones(10), 95)
    shares = [0.1, 0.2, 0.3, 0.4]
    expected = [(0, 0), (0.5, 0.5), (1, 1)]
    assert np.allclose(central_shares(shares), expected)


def test_figure_shows_the_shares() -> None:
    shares = np.zeros(40)
    shares[0], shares[39] = 0.75, 0.25
    image = np.asarray(calibration_figure(shares.tolist(), "title"), int)
    blue = (image == (120, 150, 190)).all(axis=-1)
    columns = np.flatnonzero(blue.any(axis=0))
    left, right = blue[:, columns[2]].sum(), blue[:, columns[-2]].sum()
    assert left == pytest.approx(3 * right, rel=0.05)
    assert columns[-1] - columns[0] > 300
    assert not blue[:, columns[0] + 20].sum() > 1


# All together


def test_four_times_is_twice_twice(make: Callable[..., SRVAE]) -> None:
    model = make()
    x = levels(3, (3, 32, 32))
    resolver = SuperResolver(model, 4, seed=5)
    y = resolver.small(x)
    assert torch.equal(y, downscaled(model, downscaled(model, x)))
    found = resolver.sample(y, 2, [7, 8, 9])
    half = SuperResolver(model, 2, seed=5).sample(y, 2, [7, 8, 9])
    expected = upscale_batch(model, to_unit(y), noise=ImageNoise((5, 2), [7, 8, 9]))
    assert torch.equal(half.int(), to_levels(expected))
    assert torch.equal(downscaled(model, found), half)  # exact in each step
    result = evaluate_super_resolution(model, x, samples=2, factor=4)
    assert (result.factor, result.passes) == (4, 2)
    for method in ("sample", "mean", "mode", "expectation"):
        assert result.methods[method].lr_psnr == 100
    twice = evaluate_super_resolution(model, x, samples=2)
    assert twice.methods["lanczos"].lr_psnr != result.methods["lanczos"].lr_psnr
    assert "super-resolution x4" in result.table()


def test_calibration_does_not_change_the_rest(make: Callable[..., SRVAE]) -> None:
    model, x = make(), levels(4, (3, 32, 32))
    plain = evaluate_super_resolution(model, x, samples=3)
    ranked = evaluate_super_resolution(model, x, samples=3, calibrate=True, batch_size=3)
    assert plain.calibration is None
    found = ranked.calibration
    assert ranked.methods["sample"].psnr == pytest.approx(plain.methods["sample"].psnr, rel=1e-4)
    assert sum(found.ranks) == pytest.approx(1)
    # By hand, of the same 39 samples.
    resolver = SuperResolver(model, 2, seed=0)
    samples = (resolver.sample(resolver.small(x), n, range(4)) for n in range(RANKED))
    ranks = ranks_of(x, samples, range(4), seed=0)
    assert found.ranks == pytest.approx(ranks.shares()["ranks"].mean(dim=0).tolist(), abs=1e-3)
    text = ranked.table()
    assert f"{100 * found.within['80']:.1f} %" in text
    assert "calibration" not in plain.table()


def test_errors_are_over_photographs(make: Callable[..., SRVAE]) -> None:
    model, x = make(), levels(6, (3, 32, 32))
    photographs = torch.tensor([0, 0, 0, 1, 1, 2])
    alone = evaluate_super_resolution(model, x, samples=2)
    clustered = evaluate_super_resolution(model, x, samples=2, photographs=photographs)
    each = [
        evaluate_super_resolution(model, x[i : i + 1], samples=2, indices=torch.tensor([i]))
        for i in range(6)
    ]
    values = torch.tensor([one.methods["mode"].psnr_y for one in each])
    scores = clustered.methods["mode"]
    assert scores.psnr_y == pytest.approx(values.mean().item(), rel=1e-4)
    assert scores.psnr_y_error == pytest.approx(standard_error(values, photographs), rel=0.02)
    assert alone.methods["mode"].psnr_y_error == pytest.approx(standard_error(values), rel=0.02)
    assert each[0].methods["mode"].psnr_error is None
    assert "± over 3 photographs" in clustered.table()
    assert "± over 6 images" in alone.table()
    assert "± over" not in each[0].table()
    assert (alone.photographs, clustered.photographs) == (None, 3)


def test_speed_is_of_all_pixels_but_the_first_draw(
    make: Callable[..., SRVAE], monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(1000))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))  # a second a look
    result = evaluate_super_resolution(make(), levels(5, (3, 32, 32)), samples=2, batch_size=3)
    # Draws of 3, 3, 2 and 2 images in a second each.
    assert result.megapixels_per_second == pytest.approx((3 + 2 + 2) * 32 * 32 / 3 / 1e6)


def test_the_command_records_all_of_it(
    make: Callable[..., SRVAE], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_pretrained(make(), tmp_path / "run")
    for split in ("train", "test"):
        images = to_unit(levels(4, (3, 32, 32), seed=len(split)))
        write_images(tmp_path / "images" / split, images)
    run, data = tmp_path / "run", str(tmp_path / "images")
    arguments = EvaluateArguments(
        str(run), data, elbo_only=True, super_resolution=True, factor=(2, 4, 2), calibration=True
    )
    check_arguments(arguments)
    assert main(arguments) == 0
    text = capsys.readouterr().out
    line = newest_results(run)["super_resolution"]
    assert line["flags"]["factor"] == [2, 4, 2]
    twice, four_times = line["result"]["x2"], line["result"]["x4"]
    assert twice["samples"] == 10
    assert twice["diversity"]["score_features"] > 0
    assert four_times["factor"] == 4
    for found in (twice, four_times):
        assert len(found["calibration"]["ranks"]) == 40
        assert found["calibration"]["within_error"]["50"] > 0
    for name in ("super-resolution x2", "super-resolution x4", "calibration x4", "not LPIPS"):
        assert name in text
    assert Image.open(run / "figures" / "calibration-x2.png").size[0] > 600
    assert (run / "figures" / "calibration-x4.png").is_file()


@pytest.mark.parametrize(
    ("asked", "size", "message"),
    [
        ((3,), (32, 32), "`factor=3`: this model upscales by 2, so the factor is one of 2, 4"),
        ((2, 8), (32, 40), "factor 8 needs images whose sides are multiples of .* 32x40"),
    ],
)
def test_factors_that_cannot_be_are_refused(
    make: Callable[..., SRVAE], asked: tuple[int, ...], size: tuple[int, int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        factors_for(make(), asked, size)
