"""Images that agree with their y: the likelihood against its definition, its samples against it."""

import copy
import itertools
import math
import pickle

import mpmath
import numpy as np
import pyro
import pytest
import torch
from PIL import Image
from scipy import special, stats
from torch import Tensor, float64

from srvae_pyro.distributions import ConsistentMixture, DiscretizedLogisticMixture
from srvae_pyro.distributions.blocks import agreeing, from_blocks, to_blocks
from srvae_pyro.distributions.truncated import (
    _log_masses,
    expectation,
    log_mass,
    log_masses,
    quantile,
)
from srvae_pyro.errors import UserError
from srvae_pyro.models.transforms import make_transform
from srvae_pyro.pixels import to_unit

d = make_transform("average2")


@pytest.fixture(autouse=True)
def _seed():
    pyro.set_rng_seed(0)
    with pyro.validation_enabled():
        yield


def random_mixture(
    y: Tensor,
    batch: tuple[int, ...] = (),
    components: int = 2,
    log_scale: float = -2.5,
    spread: float = 0.1,
) -> ConsistentMixture:
    """Of levels y (..., C, h, w), in float64."""
    channels, *size = y.shape[-3:]
    shape = (*batch, 4, components, channels, *size)
    pixels = DiscretizedLogisticMixture(
        torch.randn(*batch, 4, components, *size).double(),
        spread * torch.randn(shape).double(),
        log_scale + 0.5 * torch.randn(shape).double(),
        torch.rand(shape).double() - 0.2 if channels == 3 else None,
    )
    earlier = 0.3 * torch.randn(*batch, 6, channels, *size).double()
    return ConsistentMixture(to_unit(y, torch.float64), pixels, earlier)


def levels_of(*values: int) -> Tensor:
    """A y of one pixel, its colours as given."""
    return torch.tensor(values).view(-1, 1, 1)


def reference(mixture: ConsistentMixture, x: np.ndarray) -> np.ndarray:
    """log p of one block of levels (4, C) from the definition, in float64."""
    pixels = mixture.pixels
    named = {name: getattr(pixels, name) for name in pixels.arg_constraints}
    named |= {"y": mixture.y, "earlier": mixture.earlier}
    part = {name: value.double().numpy()[..., 0, 0] for name, value in named.items()}
    y, total = np.rint(255 * part["y"]), 0.0
    channels = len(y)
    for i in range(4):
        before = x[:i].sum(0)
        least, most = np.maximum(4 * y - 2, 0), np.minimum(4 * y + 1, 1020)
        low = np.maximum(0, least - before - 255 * (3 - i))
        high = np.minimum(255, most - before)
        if ((x[i] < low) | (x[i] > high)).any():
            return np.float64(-np.inf)
        v = y - (x[:i] - y).sum(0) / (4 - i)
        weights = special.log_softmax(part["logits"][i])
        for c in range(channels):
            masses = np.zeros((2, len(weights)))  # of the bin, of the interval
            for k in range(len(weights)):
                mu = v[c] + 255 * part["means"][i, k, c]
                for j in range(i):
                    mu += part["earlier"][[0, 0, 1, 3][i] + j, c] * (x[j, c] - y[c])
                for e in range(c):
                    mu += part["coefficients"][i, k, c - 1 + e if c == 2 else 0] * (x[i, e] - v[e])
                s = 255 * math.exp(part["log_scales"][i, k, c])
                for row, (first, last) in enumerate(((x[i, c], x[i, c]), (low[c], high[c]))):
                    edges = np.array([first - 0.5, last + 0.5])
                    edges[edges < 0], edges[edges > 255] = -np.inf, np.inf
                    masses[row, k] = np.diff(special.expit((edges - mu) / s))[0]
            joint, allowed = weights + np.log(masses)
            total += special.logsumexp(joint) - special.logsumexp(allowed)
            weights = joint
    return np.float64(total)


def blocks_averaging_to(y: int) -> Tensor:
    """All blocks (N, 4) of levels whose rounded average is y, near an end of the range."""
    offsets = range(min(4 * min(y, 255 - y) + 3, 256))
    values = offsets if y < 128 else [255 - o for o in offsets]
    every = torch.tensor(list(itertools.product(values, repeat=4)))
    return every[every.sum(1) + 2 >> 2 == y]


def every_image(*ys: int) -> Tensor:
    """All images (N, C, 2, 2) of one block with these averages, float64."""
    blocks = [blocks_averaging_to(y) for y in ys]
    index = torch.cartesian_prod(*(torch.arange(len(b)) for b in blocks)).view(-1, len(ys))
    levels = torch.stack([b[index[:, c]] for c, b in enumerate(blocks)], 1)
    return to_unit(levels.unflatten(-1, (2, 2)), torch.float64)


# The transform


@pytest.mark.parametrize("channels", [1, 3])
def test_average2_is_pillows_reduce(channels):
    levels = torch.randint(0, 256, (10, channels, 6, 14)).byte()
    for x in levels:
        image = Image.fromarray(x.permute(1, 2, 0).squeeze().numpy())
        expected = np.asarray(image.reduce(2)).reshape(3, 7, channels).transpose(2, 0, 1)
        assert torch.equal(d(to_unit(x)), to_unit(torch.from_numpy(expected.copy())))
    with pytest.raises(UserError, match="multiples of 2"):
        d(torch.zeros(3, 5, 4))


def test_a_lifted_y_lies_in_the_middle_of_its_blocks():
    y = to_unit(torch.arange(8, dtype=torch.uint8).repeat(1, 8, 1))
    lifted = d.lift(y, (16, 16))
    torch.testing.assert_close(to_blocks(lifted).mean(-4)[..., 1:-1], y[..., 1:-1])


def test_blocks_are_pixels_row_by_row():
    x = torch.randint(0, 256, (5, 3, 6, 8))
    blocks = to_blocks(x)
    assert blocks.shape == (5, 4, 3, 3, 4)
    for i, (row, column) in enumerate(itertools.product(range(2), repeat=2)):
        assert torch.equal(blocks[:, i], x[..., row::2, column::2])
    assert torch.equal(from_blocks(blocks), x)


# A factor of the chain

LOCATIONS = (-1e5, -400.0, -1.0, 0.0, 0.5, 100.3, 254.6, 700.0, 1e5)
LOG_SCALES = (-40.0, -12.0, -7.0, -4.0, -2.0, 1.0, 5.0, 10.0, 40.0)
BOUNDS = (0, 1, 2, 3, 99, 100, 103, 200, 252, 253, 254, 255)
INTERVALS = [(a, b) for a in BOUNDS for b in BOUNDS if a <= b]


def extreme_factors(*farther: float) -> tuple[Tensor, ...]:
    """low, high, location and log-scale of all combinations, (N, 1) each."""
    where = list(itertools.product((*LOCATIONS, *farther), LOG_SCALES))
    cases = [(*i, *p) for i in INTERVALS for p in where]
    return tuple(column[:, None] for column in torch.tensor(cases).unbind(-1))


@pytest.mark.parametrize("masses", [log_masses, _log_masses])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_factor_sums_to_one_at_the_extremes(dtype, masses):
    low, high, location, log_scale = (part.to(dtype) for part in extreme_factors(-1e30, 1e30))
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


def test_gradients_of_a_factor_are_those_of_the_definition():
    """Against autograd through the plain formula, where that has its digits, and broadcast."""
    location = (40 * torch.rand(2, 3, 4).double() + 10).requires_grad_()
    precision = (0.04 * torch.rand(3, 4).double() + 0.01).requires_grad_()

    def plain(first: Tensor, last: Tensor) -> Tensor:
        def below(edge: Tensor) -> Tensor:
            return torch.sigmoid((edge - location) * precision)

        upper = torch.where(last >= 255, 1, below(last + 0.5))
        return (upper - torch.where(first <= 0, 0, below(first - 0.5))).log()

    for ends in ((0, 255), (0, 50), (3, 255), (3, 55)):
        low, high = (torch.tensor(end).double() for end in ends)
        level = torch.tensor([0, 255, 60, 9]).clamp(*ends).double()
        found = log_masses(level, low, high, location, precision)
        expected = plain(level, level) - plain(low, high), plain(low, high)
        for ours, theirs in zip(found, expected, strict=True):
            theirs = theirs.expand(ours.shape)
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)
            weight = torch.rand(ours.shape).double()
            slopes = [
                torch.autograd.grad((v * weight).sum(), (location, precision), retain_graph=True)
                for v in (ours, theirs)
            ]
            torch.testing.assert_close(*slopes, rtol=1e-6, atol=1e-8)


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


# The block


@pytest.mark.parametrize("ys", [(0,), (1,), (254,), (255,), (0, 255, 0), (255, 1, 0)])
def test_blocks_sum_to_one(ys):
    images = every_image(*ys)
    for log_scale, spread in ((-5.0, 0.02), (-2.0, 0.5), (2.0, 3.0)):
        mixture = random_mixture(levels_of(*ys), log_scale=log_scale, spread=spread)
        assert abs(mixture.log_prob(images).exp().sum().item() - 1) < 1e-9


@pytest.mark.parametrize("channels", [1, 3])
def test_log_prob_is_the_definition(channels):
    for seed in range(10):
        torch.manual_seed(seed)
        mixture = random_mixture(torch.randint(0, 256, (channels, 1, 1)))
        x = mixture.sample((3,))
        expected = [reference(mixture, b.numpy()) for b in to_blocks(255 * x).round()[..., 0, 0]]
        np.testing.assert_allclose(mixture.log_prob(x).numpy(), expected, rtol=1e-8, atol=1e-8)


def goodness_of_fit(observed: np.ndarray, expected: np.ndarray) -> float:
    """The p-value of counts, with cells too rare for the test put together."""
    rare = expected < 10
    observed = np.append(observed[~rare], observed[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    keep = expected > 10
    chi = ((observed - expected)[keep] ** 2 / expected[keep]).sum()
    return float(stats.chi2.sf(chi, keep.sum() - 1))


@pytest.mark.parametrize(
    ("ys", "log_scale", "spread"),
    [
        ((1,), -5.0, 0.01),
        ((1,), -5.5, 20 * math.exp(-5.5)),  # locations 20 scales outside
        ((254,), -5.5, 20 * math.exp(-5.5)),
        ((0, 255, 0), -5.0, 0.02),
        ((255, 0, 0), 0.0, 1.0),
    ],
)
def test_samples_fit_log_prob(ys, log_scale, spread):
    mixture = random_mixture(levels_of(*ys), log_scale=log_scale, spread=spread)
    images = every_image(*ys)
    x = mixture.sample((40_000,))
    key = 256 ** torch.arange(4 * len(ys)).clamp_max(6).double()  # exact: few levels occur
    code = lambda v: ((v * 255).round().flatten(1) + 1) @ key.sqrt()  # noqa: E731
    names, where = np.unique(code(images).numpy().round(6), return_inverse=True)
    p = np.bincount(where, mixture.log_prob(images).exp().numpy())
    found = np.searchsorted(names, code(x).numpy().round(6)).clip(0, len(names) - 1)
    observed = np.bincount(found, minlength=len(names))
    assert goodness_of_fit(observed, len(x) * p) > 1e-3


@pytest.mark.parametrize("y", [0, 3, 60, 128, 250, 255])
@pytest.mark.parametrize("log_scale", [-6.0, -3.0, 0.0])
def test_each_pixel_follows_its_conditional(y, log_scale):
    """The randomised probability integral transform of one component's draws is uniform."""
    mixture = random_mixture(levels_of(y), components=1, log_scale=log_scale)
    n = 4000
    x = mixture.sample((n,))
    blocks = to_blocks((255 * x).round())[..., 0, 0, 0]  # (n, 4)
    for i in range(4):
        before = blocks[:, :i].sum(1)
        low = (max(4 * y - 2, 0) - before - 255 * (3 - i)).clamp_min(0)
        high = (min(4 * y + 1, 1020) - before).clamp_max(255)
        location = y - (before - i * y) / (4 - i) + 255 * mixture.pixels.means[i].item()
        for j in range(i):
            pair = [0, 0, 1, 3][i] + j
            location = location + mixture.earlier[pair].item() * (blocks[:, j] - y)
        precision = torch.exp(-mixture.pixels.log_scales[i]).view(1, 1) / 255
        every = torch.arange(256).double()
        inside = (low[:, None] <= every) & (every <= high[:, None])
        bounds = low[:, None], high[:, None]
        level = torch.minimum(torch.maximum(every, bounds[0]), bounds[1])
        p = log_masses(level, *bounds, location[:, None], precision)[0].exp() * inside
        at = blocks[:, i : i + 1].long()
        upper = p.cumsum(1).gather(1, at).squeeze(1)
        u = upper - torch.rand(n) * p.gather(1, at).squeeze(1)
        assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-4


@pytest.mark.parametrize("channels", [1, 3])
def test_every_y_at_every_temperature(channels):
    y = torch.arange(256).repeat(channels, 1).view(channels, 16, 16)
    y[1:] = torch.randint(0, 256, y[1:].shape)
    count = ConsistentMixture.parameter_channels(3, channels)
    for spread in (0.3, 3.0, 100.0):
        parameters = (spread * torch.randn(count, 16, 16)).requires_grad_()
        for temperature in (0.05, 1.0, 20.0):
            mixture = ConsistentMixture.from_channels(parameters, to_unit(y))
            x = mixture.with_temperature(temperature).sample((2,))
            assert torch.equal(d(x), to_unit(y).expand(2, -1, -1, -1))
            log_prob = mixture.log_prob(x)
            assert log_prob.isfinite().all()
            assert (log_prob <= 1e-4).all()
            (gradient,) = torch.autograd.grad(log_prob.sum(), parameters)
            assert gradient.isfinite().all()
        assert torch.equal(d(mixture.mode), to_unit(y))
        mean = mixture.mean.detach()
        sums = 255 * to_blocks(mean.double()).sum(-4)
        assert (sums > (4 * y - 2).clamp_min(0) - 1e-3).all()
        assert (sums < (4 * y + 1).clamp_max(1020) + 1e-3).all()
        rounded = agreeing(255 * mean, y)
        assert (rounded - 255 * mean).abs().max() < 1 + 1e-3
        assert torch.equal(d(to_unit(rounded)), to_unit(y))


@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_against_finite_differences(channels):
    y = torch.tensor([[0, 77]] if channels == 1 else [[255, 3]]).expand(channels, 1, 2)
    mixture = random_mixture(y)
    x = mixture.sample()
    pixels = mixture.pixels
    parameters = [mixture.earlier, *(getattr(pixels, name) for name in pixels.arg_constraints)]
    parameters = [parameter.clone().requires_grad_() for parameter in parameters]

    def log_prob(earlier: Tensor, *of_pixels: Tensor) -> Tensor:
        pixels = DiscretizedLogisticMixture(*of_pixels)
        return ConsistentMixture(mixture.y, pixels, earlier).log_prob(x)

    assert torch.autograd.gradcheck(log_prob, parameters)


def test_another_y_has_no_probability():
    y = torch.randint(0, 256, (2, 3, 4, 4))
    count = ConsistentMixture.parameter_channels(2)
    parameters = torch.randn(2, count, 4, 4, requires_grad=True)
    x = ConsistentMixture.from_channels(parameters, to_unit(y)).sample()
    x[1] = torch.randint(0, 256, x[1].shape) / 255
    free = ConsistentMixture.from_channels(parameters, to_unit(y), validate_args=False)
    log_prob = free.log_prob(x)
    assert log_prob[0].isfinite()
    assert log_prob[1] == -math.inf
    (gradient,) = torch.autograd.grad(log_prob[0], parameters)
    assert gradient.isfinite().all()
    checked = ConsistentMixture.from_channels(parameters, to_unit(y))
    for distribution in (checked, checked.expand((3, 2)), checked.with_temperature(2.0)):
        with pytest.raises(ValueError, match="rounded averages y"):
            distribution.log_prob(x)
    with pytest.raises(ValueError, match="rounded averages y"):
        checked.log_prob(free.sample() + 0.3 / 255)


def test_the_mode_is_the_usual_sample_of_a_sharp_mixture():
    mixture = random_mixture(torch.randint(20, 230, (3, 2, 2)), log_scale=-12.0, spread=0.02)
    pixels = mixture.pixels
    # More than any difference of the components' masses in the intervals.
    likeliest = 1e6 * torch.nn.functional.one_hot(pixels.logits.argmax(-3), 2).movedim(-1, -3)
    sharp = ConsistentMixture(
        mixture.y,
        DiscretizedLogisticMixture(likeliest, pixels.means, pixels.log_scales, pixels.coefficients),
        mixture.earlier,
    )
    assert torch.equal(sharp.sample((11,)).median(0).values, sharp.mode)


def test_the_mean_is_the_average_sample():
    mixture = random_mixture(torch.randint(80, 180, (3, 3, 3)), log_scale=-4.0, spread=0.03)
    x = mixture.sample((10_000,))
    error = x.std(0) / math.sqrt(len(x))
    # Below the last pixel's, whose expectation is that at the others' expectations.
    gap = to_blocks((mixture.mean - x.mean(0)).abs() - 5 * error)
    assert gap[:3].max() < 0.3 / 255
    assert gap[3].max() < 1 / 255


# As a Pyro distribution


def test_order_of_channels():
    count = ConsistentMixture.parameter_channels(10)
    assert count == 418
    parameters = torch.randn(2, count, 3, 5)
    y = torch.rand(2, 3, 3, 5).mul(255).round() / 255
    mixture = ConsistentMixture.from_channels(parameters, y)
    assert mixture.batch_shape == (2,)
    assert mixture.event_shape == (3, 6, 10)
    pixels = mixture.pixels
    for i, k, c in itertools.product(range(4), range(10), range(3)):
        at = 100 * i + 10 + 3 * k + c
        assert torch.equal(pixels.logits[:, i, k], parameters[:, 100 * i + k])
        assert torch.equal(pixels.means[:, i, k, c], parameters[:, at])
        assert torch.equal(pixels.log_scales[:, i, k, c], parameters[:, 30 + at].clamp(-7, 7))
        assert torch.equal(pixels.coefficients[:, i, k, c], parameters[:, 60 + at].tanh())
    assert torch.equal(mixture.earlier[:, 4, 1], parameters[:, 400 + 13].tanh())
    assert ConsistentMixture.parameter_channels(10, 1) == 126
    gray = ConsistentMixture.from_channels(parameters[:, :126], y[:, :1])
    assert gray.pixels.coefficients is None
    assert gray.event_shape == (1, 6, 10)


def test_wrong_shapes_are_explained():
    y = torch.zeros(3, 4, 4)
    with pytest.raises(ValueError, match="417 parameter channels are not 18 and a multiple of 40"):
        ConsistentMixture.from_channels(torch.zeros(417, 4, 4), y)
    with pytest.raises(ValueError, match="1 or 3 colour channels, not 2"):
        ConsistentMixture.from_channels(torch.zeros(418, 4, 4), y[:2])
    means, logits = torch.zeros(4, 2, 3, 4, 4), torch.zeros(4, 2, 4, 4)
    pixels = DiscretizedLogisticMixture(logits, means, means, means)
    earlier = torch.zeros(6, 3, 4, 4)
    three = DiscretizedLogisticMixture(logits[:3], means[:3], means[:3], means[:3])
    with pytest.raises(ValueError, match=r"expected a mixture of batch shape \(\.\.\., 4\)"):
        ConsistentMixture(y, three, earlier)
    with pytest.raises(ValueError, match="y has shape"):
        ConsistentMixture(y[:1], pixels, earlier)
    with pytest.raises(ValueError, match="earlier has shape"):
        ConsistentMixture(y, pixels, earlier[:5])
    with pytest.raises(ValueError, match="earlier"):
        ConsistentMixture(y, pixels, earlier + torch.nan)
    with pytest.raises(ValueError, match="log_scales"):
        ConsistentMixture.from_channels(torch.full((418, 4, 4), torch.nan), y)


@pytest.mark.parametrize("channels", [1, 3])
def test_expand_broadcast_and_copies(channels):
    y = torch.randint(0, 256, (channels, 3, 3))
    mixture = random_mixture(y, (2,))
    assert mixture.batch_shape == (2,)
    larger = mixture.expand((5, 2))
    assert type(larger) is ConsistentMixture
    assert larger.pixels.means.data_ptr() == mixture.pixels.means.data_ptr()
    x = larger.sample()
    assert x.shape == (5, 2, channels, 6, 6)
    assert not torch.equal(x[0], x[1])
    torch.testing.assert_close(larger.log_prob(x), mixture.log_prob(x))
    assert larger.mode.shape == larger.mean.shape == x.shape
    assert mixture.log_prob(x[:, :1]).shape == (5, 2)
    for twin in (copy.deepcopy(mixture), pickle.loads(pickle.dumps(mixture))):
        assert torch.equal(twin.log_prob(x), mixture.log_prob(x))
    with pytest.raises(RuntimeError):
        mixture.expand((3,))


def test_temperature():
    mixture = random_mixture(torch.randint(60, 200, (3, 4, 4)))
    x = mixture.sample()
    torch.testing.assert_close(mixture.with_temperature(1).log_prob(x), mixture.log_prob(x))
    cold = mixture.with_temperature(0.25)
    assert cold.sample((100,)).std(0).mean() < 0.7 * mixture.sample((100,)).std(0).mean()
    with pytest.raises(ValueError, match="temperature must be positive"):
        mixture.with_temperature(0)


def test_low_precision_is_scored_in_float32():
    y = to_unit(torch.randint(0, 256, (2, 3, 4, 4)))
    parameters = torch.randn(2, 418, 4, 4).bfloat16()
    exact = ConsistentMixture.from_channels(parameters.float(), y)
    with torch.autocast("cpu", torch.bfloat16):
        mixture = ConsistentMixture.from_channels(parameters, y)
        x = mixture.sample()
        log_prob = mixture.log_prob(x)
    assert x.dtype == log_prob.dtype == torch.float32
    assert torch.equal(log_prob, exact.log_prob(x))


# Rounding


@pytest.mark.parametrize("channels", [1, 3])
def test_agreeing_pictures(channels):
    x = torch.randint(-40, 296, (20, channels, 8, 8)).clamp(0, 255)
    y = (to_blocks(x).sum(-4) + 2) >> 2
    assert torch.equal(agreeing(x, y), x.double())
    for other in (torch.randint(0, 256, y.shape), torch.zeros_like(y), torch.full_like(y, 255)):
        near = agreeing(x + torch.rand(x.shape) - 0.5, other)
        assert torch.equal((to_blocks(near).sum(-4) + 2).floor().div(4).floor(), other.double())
        assert near.min() >= 0
        assert near.max() <= 255
    # An average of pictures that agree needs no more than rounding.
    parts = [agreeing(torch.rand(x.shape) * 255, y) for _ in range(3)]
    mean = torch.stack(parts).mean(0)
    assert (agreeing(mean, y) - mean).abs().max() <= 1 + 1e-5
