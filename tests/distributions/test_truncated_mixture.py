"""A mixture within an interval of levels, colour by colour, in the precision that is used."""

import itertools
from functools import partial
from typing import Any

import mpmath
import numpy as np
import pyro
import pytest
import torch
from torch import Tensor, float64

from srvae_pyro.distributions import DiscretizedLogisticMixture, TruncatedMixture
from srvae_pyro.distributions.block_averages import PixelContext
from srvae_pyro.distributions.truncated import (
    _log_masses,
    expectation,
    log_mass,
    log_masses,
    quantile,
)
from srvae_pyro.pixels import to_levels, to_unit
from tests.distributions.test_image_distributions import goodness_of_fit

# One component, one value

LOCATIONS = (-1e5, -400.0, -1.0, 0.0, 0.5, 100.3, 254.6, 700.0, 1e5)
LOG_SCALES = (-40.0, -12.0, -7.0, -4.0, -2.0, 1.0, 5.0, 10.0, 40.0)
BOUNDS = (0, 1, 2, 3, 99, 100, 103, 200, 252, 253, 254, 255)
INTERVALS = [(a, b) for a in BOUNDS for b in BOUNDS if a <= b]


def extreme_factors() -> tuple[Tensor, ...]:
    """low, high, location and log-scale of all combinations, (N, 1) each."""
    cases = [(*i, *p) for i in INTERVALS for p in itertools.product(LOCATIONS, LOG_SCALES)]
    return tuple(column[:, None] for column in torch.tensor(cases).unbind(-1))


@pytest.mark.parametrize("masses", [log_masses, _log_masses])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_factor_sums_to_one_at_the_extremes(dtype, masses):
    low, high, location, log_scale = (part.to(dtype) for part in extreme_factors())
    location.requires_grad_()
    log_scale.requires_grad_()
    level = torch.arange(256, dtype=dtype)
    inside = (low <= level) & (level <= high)
    level = torch.minimum(torch.maximum(level, low), high)
    share, interval = masses(level, low, high, location, torch.exp(-log_scale) / 255)
    assert share.isfinite().all()
    assert (share <= 1e-6).all()
    assert ((share.exp() * inside).sum(-1) - 1).abs().max() < 1e-6
    assert interval.isfinite().all()
    assert (interval <= 1e-6).all()
    for part in (share, interval):
        for gradient in torch.autograd.grad(part.sum(), (location, log_scale), retain_graph=True):
            assert gradient.isfinite().all()


def test_a_factor_is_the_definition():
    mpmath.mp.dps = 400

    def mass(a: float, b: float, location: float, scale: float) -> mpmath.mpf:
        def cdf(edge: float) -> mpmath.mpf:
            if edge < 0 or edge > 255:
                return mpmath.mpf(edge > 0)
            return 1 / (1 + mpmath.exp((mpmath.mpf(location) - edge) / mpmath.mpf(scale)))

        return cdf(b + 0.5) - cdf(a - 0.5)

    for low, high in ((0, 255), (0, 40), (20, 23), (250, 255)):
        for where in itertools.product((-20.0, 21.25, 260.0), (1.5, 9.0, 300.0)):
            for level in {low, low + 1, high - 1, high}:
                expected = mpmath.log(mass(level, level, *where) / mass(low, high, *where))
                numbers = torch.tensor((level, low, high, where[0], 1 / where[1]), dtype=float64)
                share, interval = log_masses(*numbers)
                assert share.item() == pytest.approx(float(expected), rel=1e-12)
                expected = mpmath.log(mass(low, high, *where))
                assert interval.item() == pytest.approx(float(expected), rel=1e-12)
                assert log_mass(*numbers[1:]).item() == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize(
    ("location", "log_scale"),
    [(120.3, -3.0), (120.3, 8.0), (-300.0, -4.0), (555.0, -7.0), (100.0, -5.0), (0.2, -3.0)],
)
@pytest.mark.parametrize("interval", [(0, 255), (100, 103), (0, 30), (230, 255), (90, 200)])
def test_quantiles_fit_the_shares(interval, location, log_scale):
    low, high = (torch.tensor(float(bound)) for bound in interval)
    where = torch.tensor(location), torch.exp(torch.tensor(-log_scale)) / 255
    levels = torch.arange(interval[0], interval[1] + 1).float()
    cumulative = log_masses(levels, low, high, *where)[0].exp().double().cumsum(0)
    uniform = (torch.arange(2**16) + 0.5) / 2**16
    drawn = quantile(uniform, low, high, *where).round().clamp(low, high)
    count = torch.stack([(drawn <= level).sum() for level in levels]) / 2**16
    assert (count - cumulative).abs().max() < 5e-5


def test_quantiles_are_finite_and_in_place_at_the_extremes():
    low, high, location, log_scale = extreme_factors()
    uniform = torch.tensor([2**-25, 0.1, 0.5, 0.9, 1 - 2**-24])
    drawn = quantile(uniform, low, high, location, torch.exp(-log_scale) / 255)
    assert not drawn.isnan().any()
    inner = (low > 0) & (high < 255)
    assert ((drawn > low - 0.6) & (drawn < high + 0.6) | ~inner).all()
    assert (drawn.diff(dim=-1) >= -1e-3).all()


def test_expectations_lie_in_the_interval_and_fit_the_shares():
    low, high, location, log_scale = (part.double() for part in extreme_factors())
    precision = torch.exp(-log_scale) / 255
    mean = expectation(low, high, location, precision)
    assert ((low - 1e-9 <= mean) & (mean <= high + 1e-9)).all()
    level = torch.arange(256).double()
    inside = (low <= level) & (level <= high)
    level = torch.minimum(torch.maximum(level, low), high)
    share = log_masses(level, low, high, location, precision)[0].exp() * inside
    wide = (log_scale > -5).squeeze()  # others lie within a level
    assert ((share * level).sum(-1) - mean.squeeze())[wide].abs().max() < 0.35


# The mixture

LEVELS = to_unit(torch.arange(256)).view(256, 1, 1, 1, 1)


def one_pixel(
    low: Tensor, high: Tensor, logits: Tensor, locations: Tensor, log_scales: Tensor
) -> TruncatedMixture:
    """Of one colour: ends (N,) and components (N, K), all in levels but the log-scales."""
    means, log_scales = (part[..., None, None, None] for part in (locations / 255, log_scales))
    mixture = DiscretizedLogisticMixture(logits[..., None, None], means, log_scales)
    low, high = (end.float().view(-1, 1, 1, 1) for end in (low, high))
    zero = torch.zeros_like(low)
    return TruncatedMixture(mixture, PixelContext(low, high, zero, zero))


def chances(pixels: TruncatedMixture) -> Tensor:
    """(256, N), float64."""
    return pixels.log_prob(LEVELS).double().exp()


def test_masses_sum_to_one_with_finite_gradients_at_the_extremes() -> None:
    count, generator = 1500, torch.Generator().manual_seed(0)

    def some(values: tuple[float, ...], size: tuple[int, ...]) -> Tensor:
        return torch.tensor(values)[torch.randint(len(values), size, generator=generator)]

    ends = torch.tensor(INTERVALS)[torch.randint(len(INTERVALS), (count,), generator=generator)]
    parameters = [
        20 * torch.randn(count, 3, generator=generator),
        some(LOCATIONS, (count, 3)),
        some(LOG_SCALES, (count, 3)),
    ]
    for parameter in parameters:
        parameter.requires_grad_()
    pixels = one_pixel(*ends.unbind(-1), *parameters)
    with torch.no_grad():
        assert (chances(pixels).sum(0) - 1).abs().max() < 1e-6
    x = pixels.sample((5,))
    levels = to_levels(x).flatten(1)
    assert ((ends[:, 0] <= levels) & (levels <= ends[:, 1])).all()
    score = pixels.log_prob(x)
    assert score.isfinite().all()
    for gradient in torch.autograd.grad(score.sum(), parameters):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("scoring", [lambda score: score, torch.func.vmap], ids=["plain", "vmap"])
def test_masses_sum_to_one_however_far_the_location_is(scoring: Any) -> None:
    pyro.enable_validation(False)
    ends = torch.tensor([[0, 255], [0, 255], [0, 9], [100, 103], [246, 255]])
    location = torch.tensor([[1e23], [-1e30], [1e30], [-1e23], [1e30]])
    pixels = one_pixel(*ends.unbind(-1), torch.zeros(5, 1), location, torch.full((5, 1), -5.0))
    for of in (pixels, pixels.mixture):
        scores = scoring(of.log_prob)(LEVELS.expand(256, 5, 1, 1, 1))
        torch.testing.assert_close(scores.double().exp().sum(0), torch.ones(5).double())


@pytest.mark.parametrize("ends", [(0, 255), (0, 9), (246, 255), (100, 103), (90, 140)])
def test_samples_fit_log_prob(ends: tuple[int, int]) -> None:
    """Of float32, with components 20 scales and more from the interval, and within it."""
    torch.manual_seed(0)
    scales = torch.tensor([[1.0, 1.0, 1.0], [1.0, 2.0, 30.0], [0.3, 5.0, 1e4], [1.0, 1.0, 8.0]])
    low, high = ends
    locations = torch.tensor(
        [
            [low - 20.0, low - 21.0, low - 22.0],
            [high + 20.0, high + 40.0, (low + high) / 2],
            [low + 1.3, high + 60.0, 80.0],
            [low - 19.0, high + 20.0, high + 160.0],
        ]
    )
    low, high = (torch.full((4,), end) for end in ends)
    logits = torch.randn(4, 3)
    pixels = one_pixel(low, high, logits, locations, (scales / 255).log())
    count = 40_000
    drawn = to_levels(pixels.sample((count,))).flatten(1)
    for case, expected in enumerate((count * chances(pixels)).T.numpy()):
        found = np.bincount(drawn[:, case], minlength=256)
        assert found[expected <= 10].sum() < 20 + 2 * expected[expected <= 10].sum()
        assert goodness_of_fit(found, expected) > 1e-4


def test_a_component_that_hardly_reaches_the_interval_hardly_counts() -> None:
    """Nine in ten parts of a sharp one far above, one of one around the interval."""
    logits = torch.tensor([[0.9, 0.1]]).log()
    locations, log_scales = torch.tensor([[200.0, 95.0]]), torch.tensor([[-6.0, -4.5]])
    low, high = torch.tensor([60]), torch.tensor([130])
    pixels = one_pixel(low, high, logits, locations, log_scales)
    alone = one_pixel(low, high, logits[:, 1:], locations[:, 1:], log_scales[:, 1:])
    torch.testing.assert_close(chances(pixels), chances(alone), atol=1e-6, rtol=1e-4)
    assert 255 * pixels.mode.item() == pytest.approx(95)
    assert pixels.mean.item() == pytest.approx(alone.mean.item(), abs=1e-5)
    drawn = 255 * pixels.sample((2000,))
    assert (drawn - 95).abs().max() < 30


def test_mode_is_the_likeliest_level_and_the_location_is_not() -> None:
    ends = torch.tensor([(0, 255), (0, 255), (0, 255), (0, 60), (200, 255), (1, 254), (0, 255)])
    location = torch.tensor([3.0, 20.0, 251.0, 90.0, 180.0, 3.0, 128.0])[:, None]
    scale = torch.tensor([4.7, 4.7, 4.7, 30.0, 30.0, 4.7, 4.7])[:, None]
    pixels = one_pixel(*ends.unbind(-1), torch.zeros(7, 1), location, (scale / 255).log())
    mode, where = (to_levels(x).flatten() for x in (pixels.mode, pixels.location))
    assert mode.tolist() == chances(pixels).argmax(0).tolist() == [0, 20, 255, 0, 255, 3, 128]
    assert where.tolist() == [3, 20, 251, 60, 200, 3, 128]


@pytest.mark.parametrize("part", ["logits", "means", "log_scales"])
def test_a_component_that_is_no_number_leaves_no_image(part: str) -> None:
    parts = ("logits", "means", "log_scales")
    parameters = dict(zip(parts, torch.rand(3, 2, 3), strict=True))
    parameters[part][1, 0] = torch.nan
    pyro.enable_validation(False)
    pixels = one_pixel(torch.tensor([0, 0]), torch.tensor([255, 99]), *parameters.values())
    for x in (pixels.mode, pixels.location, pixels.sample()):
        assert x.flatten().isnan().tolist() == [False, True]


# Derivatives


def test_derivatives_are_those_of_finite_differences() -> None:
    """Also with the location on a bin's edge, where formulas in pieces would have none."""
    low = torch.tensor([0, 0, 98, 200, 254, 7, 0, 0]).double()
    level = torch.tensor([0, 3, 100, 255, 254, 7, 255, 0]).double()
    high = torch.tensor([9, 255, 103, 255, 255, 7, 255, 255]).double()
    location = torch.tensor([3, 3.5, 101.5, 90, 254.5, 7.5, 100, -20]).double()
    location = torch.stack([location, location + 5]).requires_grad_()
    precision = torch.tensor([0.3, 0.2, 0.7, 0.1, 1, 2, 0.05, 0.4]).double().requires_grad_()
    masses = partial(log_masses, level, low, high)
    assert torch.autograd.gradcheck(masses, (location, precision))
    assert torch.autograd.gradgradcheck(masses, (location, precision))
    assert torch.autograd.gradgradcheck(masses, (location, precision.detach()))
