"""2x2 blocks of given rounded averages: the transform, rounding, and their likelihood."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import special
from torch import Tensor

from srvae_pyro.distributions import ConsistentGroups, DiscretizedLogisticMixture, TruncatedMixture
from srvae_pyro.distributions.block_averages import PAIRS, Block
from srvae_pyro.errors import UserError
from srvae_pyro.models.transforms import BlockAverage, make_transform
from srvae_pyro.pixels import to_unit

d = make_transform("average2")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("factor", [2, 4])
def test_block_averages_are_pillows_reduce(channels, factor):
    levels = torch.randint(0, 256, (10, channels, 3 * factor, 7 * factor)).byte()
    for x in levels:
        image = Image.fromarray(x.permute(1, 2, 0).squeeze().numpy())
        expected = np.asarray(image.reduce(factor)).reshape(3, 7, channels).transpose(2, 0, 1)
        y = BlockAverage(factor)(to_unit(x))
        assert torch.equal(y, to_unit(torch.from_numpy(expected.copy())))
    with pytest.raises(UserError, match="multiples of 2"):
        d(torch.zeros(3, 5, 4))


def test_a_lifted_y_lies_in_the_middle_of_its_blocks():
    y = to_unit(torch.arange(8, dtype=torch.uint8).repeat(1, 8, 1))
    lifted = d.lift(y, (16, 16))
    torch.testing.assert_close(PAIRS.split(lifted).mean(-4)[..., 1:-1], y[..., 1:-1])


@pytest.mark.parametrize("channels", [1, 3])
def test_consistent_images(channels):
    x = torch.randint(-40, 296, (20, channels, 8, 8)).clamp(0, 255)
    y = (PAIRS.split(x).sum(-4) + 2) >> 2
    assert torch.equal(PAIRS.project(x, y), x.double())
    for other in (torch.randint(0, 256, y.shape), torch.zeros_like(y), torch.full_like(y, 255)):
        near = PAIRS.project(x + torch.rand(x.shape) - 0.5, other)
        assert torch.equal((PAIRS.split(near).sum(-4) + 2).floor().div(4).floor(), other.double())
        assert near.min() >= 0
        assert near.max() <= 255
    # An average of images that agree needs no more than rounding.
    parts = [PAIRS.project(torch.rand(x.shape) * 255, y) for _ in range(3)]
    mean = torch.stack(parts).mean(0)
    assert (PAIRS.project(mean, y) - mean).abs().max() <= 1 + 1e-5


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_any_block(factor: int) -> None:
    block = Block(factor)
    x = torch.randint(0, 256, (2, 3, 3 * factor, 2 * factor))
    parts = block.split(x)
    for i, (row, column) in enumerate(itertools.product(range(factor), repeat=2)):
        assert torch.equal(parts[:, i], x[..., row::factor, column::factor])
    assert torch.equal(block.join(parts), x)
    assert torch.equal(block.from_groups(block.groups(x)), x)
    assert len(set(block.places)) == block.pixels
    assert block.places[:2] == ((0, 0), (factor // 2, factor // 2))
    y = block.average(x)
    least, most = block.allowed_sums(y)
    sums = parts.sum(-4)
    assert ((least <= sums) & (sums <= most)).all()
    assert torch.equal(block.average(block.project(255.0 - x, y).int()), y.int())


# The likelihood, of parameters that are not a network's


def levels_of(*values: int) -> Tensor:
    """A y of one pixel, its colours as given."""
    return torch.tensor(values).view(-1, 1, 1)


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
    colours, x = len(y), x[[2 * row + column for row, column in PAIRS.places]]
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


@pytest.mark.parametrize("estimate", [False, True])
@pytest.mark.parametrize("colours", [1, 3])
def test_log_prob_is_the_definition(colours: int, estimate: bool) -> None:
    for log_scale in (-2.5,) * 5 + (7.0,):  # of the last half are clamped
        given = random_groups(torch.randint(0, 256, (colours, 1, 1)), 2, log_scale, 0.1, estimate)
        x = given.likelihood.sample((3,))
        expected = [reference(given, b.numpy()) for b in PAIRS.split(255 * x).round()[..., 0, 0]]
        found = given.likelihood.log_prob(x)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-8, atol=1e-8)


def test_the_mode_is_the_usual_sample_of_a_sharp_mixture() -> None:
    given = random_groups(torch.randint(20, 230, (3, 2, 2)), 2, -5.0, 0.02)
    for part in given.channels:  # one logit above the rest by more than any difference of masses
        part[:2] = 1e6 * torch.nn.functional.one_hot(part[:2].argmax(0), 2).movedim(-1, 0)
    sharp = given.likelihood.with_temperature(1e-3)
    assert torch.equal(sharp.sample((11,)).median(0).values, sharp.mode)
