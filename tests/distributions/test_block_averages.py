"""2x2 blocks of given rounded averages: the transform, rounding, and their likelihood."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import special, stats
from torch import Tensor

from srvae_pyro.distributions import ConsistentGroups, DiscretizedLogisticMixture, TruncatedMixture
from srvae_pyro.distributions.block_averages import from_blocks, project_to_consistent, to_blocks
from srvae_pyro.distributions.pixel_groups import ORDER
from srvae_pyro.errors import UserError
from srvae_pyro.models.transforms import make_transform
from srvae_pyro.pixels import to_unit

d = make_transform("average2")


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


@pytest.mark.parametrize("channels", [1, 3])
def test_agreeing_images(channels):
    x = torch.randint(-40, 296, (20, channels, 8, 8)).clamp(0, 255)
    y = (to_blocks(x).sum(-4) + 2) >> 2
    assert torch.equal(project_to_consistent(x, y), x.double())
    for other in (torch.randint(0, 256, y.shape), torch.zeros_like(y), torch.full_like(y, 255)):
        near = project_to_consistent(x + torch.rand(x.shape) - 0.5, other)
        assert torch.equal((to_blocks(near).sum(-4) + 2).floor().div(4).floor(), other.double())
        assert near.min() >= 0
        assert near.max() <= 255
    # An average of images that agree needs no more than rounding.
    parts = [project_to_consistent(torch.rand(x.shape) * 255, y) for _ in range(3)]
    mean = torch.stack(parts).mean(0)
    assert (project_to_consistent(mean, y) - mean).abs().max() <= 1 + 1e-5


# The likelihood, of parameters that are not a network's


def levels_of(*values: int) -> Tensor:
    """A y of one pixel, its colours as given."""
    return torch.tensor(values).view(-1, 1, 1)


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


def goodness_of_fit(observed: np.ndarray, expected: np.ndarray) -> float:
    """The p-value of counts, with cells too rare for the test put together."""
    rare = expected < 10
    observed = np.append(observed[~rare], observed[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    keep = expected > 10
    chi = ((observed - expected)[keep] ** 2 / expected[keep]).sum()
    return float(stats.chi2.sf(chi, keep.sum() - 1))


def fits(likelihood: ConsistentGroups, images: Tensor, count: int) -> None:
    """So many samples occur as often as the log-probabilities of all possible images say."""
    key = 256 ** torch.arange(images[0].numel()).clamp_max(6).double()  # exact: few levels occur
    code = lambda v: ((v * 255).round().double().flatten(1) + 1) @ key.sqrt()  # noqa: E731
    names, where = np.unique(code(images).numpy().round(6), return_inverse=True)
    expected = np.bincount(where, likelihood.log_prob(images).double().exp().numpy())
    drawn = code(likelihood.sample((count,))).numpy().round(6)
    found = np.searchsorted(names, drawn).clip(0, len(names) - 1)
    observed = np.bincount(found, minlength=len(names))
    assert goodness_of_fit(observed, count * expected) > 1e-3


class Given(NamedTuple):
    """What the groups are made of: channels of each, (n, h, w), y, and estimates if there are."""

    channels: Sequence[Tensor]
    y: Tensor
    estimates: Sequence[Tensor]

    @property
    def likelihood(self) -> ConsistentGroups:
        def group(before: Sequence[Tensor]) -> TruncatedMixture:
            return ConsistentGroups.pixel(
                self.channels[len(before)], self.y, before, self.estimates
            )

        return ConsistentGroups(self.y, group)


def random_groups(
    y: Tensor,
    components: int = 2,
    log_scale: float = -2.5,
    spread: float = 0.1,
    estimate: bool = False,
) -> Given:
    """Of levels y (C, h, w), in float64."""
    colours, *size = y.shape
    means = components * colours
    channels = []
    for before in range(4):
        count = ConsistentGroups.parameter_channels(components, colours, before)
        part = 0.3 * torch.randn(count, *size).double()
        part[:components] /= 0.3
        part[components : components + means] *= spread / 0.3
        part[components + means : components + 2 * means] += log_scale
        channels.append(part)
    y = to_unit(y, torch.float64)
    apart = 0.02 * torch.randn(4, *y.shape).double()
    return Given(channels, y, list(y + apart - apart.mean(0)) if estimate else [])


def reference(given: Given, x: np.ndarray) -> np.ndarray:
    """log p of one block of levels (4, C), row by row, from the definition, in float64."""
    y, total = np.rint(255 * given.y.numpy()[..., 0, 0]), 0.0
    colours, x = len(y), x[list(ORDER)]
    starts = [255 * e.numpy()[..., 0, 0] for e in given.estimates] or [y] * 4
    for i, channels in enumerate(given.channels):
        before = x[:i].sum(0)
        least, most = np.maximum(4 * y - 2, 0), np.minimum(4 * y + 1, 1020)
        low = np.maximum(0, least - before - 255 * (3 - i))
        high = np.minimum(255, most - before)
        if ((x[i] < low) | (x[i] > high)).any():
            return np.float64(-np.inf)
        v = starts[i] - sum(x[j] - starts[j] for j in range(i)) / (4 - i)
        raw = channels.numpy()[:, 0, 0]
        k = (len(raw) - i * colours) // DiscretizedLogisticMixture.parameter_channels(1, colours)
        logits, of_colours, earlier = np.split(raw, [k, len(raw) - i * colours])
        means, log_scales, *coefficients = of_colours.reshape(-1, k, colours)
        earlier = np.tanh(earlier).reshape(i, colours)
        weights = special.log_softmax(logits)
        for c in range(colours):
            masses = np.zeros((2, k))  # of the bin, of the interval
            for n in range(k):
                mu = v[c] + 255 * means[n, c]
                mu += sum(earlier[j, c] * (x[j, c] - starts[j][c]) for j in range(i))
                for e in range(c):
                    a = np.tanh(coefficients[0][n, c - 1 + e if c == 2 else 0])
                    mu += a * (x[i, e] - v[e])
                s = 255 * math.exp(np.clip(log_scales[n, c], -7, 7))
                for row, (first, last) in enumerate(((x[i, c], x[i, c]), (low[c], high[c]))):
                    edges = np.array([first - 0.5, last + 0.5])
                    edges[edges < 0], edges[edges > 255] = -np.inf, np.inf
                    masses[row, n] = np.diff(special.expit((edges - mu) / s))[0]
            joint, allowed = weights + np.log(masses)
            total += special.logsumexp(joint) - special.logsumexp(allowed)
            weights = joint
    return np.float64(total)


@pytest.mark.parametrize("ys", [(0,), (1,), (254,), (255,), (0, 255, 0), (255, 1, 0)])
def test_blocks_sum_to_one(ys: tuple[int, ...]) -> None:
    images = every_image(*ys)
    for log_scale, spread in ((-5.0, 0.02), (-2.0, 0.5), (2.0, 3.0)):
        likelihood = random_groups(levels_of(*ys), 2, log_scale, spread).likelihood
        assert abs(likelihood.log_prob(images).exp().sum().item() - 1) < 1e-9


@pytest.mark.parametrize("estimate", [False, True])
@pytest.mark.parametrize("colours", [1, 3])
def test_log_prob_is_the_definition(colours: int, estimate: bool) -> None:
    for log_scale in (-2.5,) * 5 + (7.0,):  # of the last half are clamped
        given = random_groups(torch.randint(0, 256, (colours, 1, 1)), 2, log_scale, 0.1, estimate)
        x = given.likelihood.sample((3,))
        expected = [reference(given, b.numpy()) for b in to_blocks(255 * x).round()[..., 0, 0]]
        found = given.likelihood.log_prob(x)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-8, atol=1e-8)


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
def test_samples_fit_log_prob(ys: tuple[int, ...], log_scale: float, spread: float) -> None:
    likelihood = random_groups(levels_of(*ys), 2, log_scale, spread).likelihood
    fits(likelihood, every_image(*ys), 40_000)


@pytest.mark.parametrize("colours", [1, 3])
def test_gradients_against_finite_differences(colours: int) -> None:
    y = torch.tensor([[0, 77]] if colours == 1 else [[255, 3]]).expand(colours, 1, 2)
    given = random_groups(y)
    x = given.likelihood.sample()

    def log_prob(*channels: Tensor) -> Tensor:
        return given._replace(channels=channels).likelihood.log_prob(x)

    channels = [part.requires_grad_() for part in given.channels]
    assert torch.autograd.gradcheck(log_prob, channels, fast_mode=True)


def test_the_mode_is_the_usual_sample_of_a_sharp_mixture() -> None:
    given = random_groups(torch.randint(20, 230, (3, 2, 2)), 2, -5.0, 0.02)
    for part in given.channels:  # one logit above the rest by more than any difference of masses
        part[:2] = 1e6 * torch.nn.functional.one_hot(part[:2].argmax(0), 2).movedim(-1, 0)
    sharp = given.likelihood.with_temperature(1e-3)
    assert torch.equal(sharp.sample((11,)).median(0).values, sharp.mode)


def test_temperature() -> None:
    likelihood = random_groups(torch.randint(60, 200, (3, 4, 4))).likelihood
    x = likelihood.sample()
    torch.testing.assert_close(likelihood.with_temperature(1).log_prob(x), likelihood.log_prob(x))
    cold = likelihood.with_temperature(0.25)
    assert cold.sample((100,)).std(0).mean() < 0.7 * likelihood.sample((100,)).std(0).mean()
    with pytest.raises(ValueError, match="temperature must be positive"):
        likelihood.with_temperature(0)


def test_low_precision_is_scored_in_float32() -> None:
    given = random_groups(torch.randint(0, 256, (3, 4, 4)))
    low = Given([part.bfloat16() for part in given.channels], given.y.float(), [])
    exact = low._replace(channels=[part.float() for part in low.channels])
    with torch.autocast("cpu", torch.bfloat16):
        x = low.likelihood.sample()
        log_prob = low.likelihood.log_prob(x)
    assert x.dtype == log_prob.dtype == torch.float32
    assert torch.equal(log_prob, exact.likelihood.log_prob(x))
