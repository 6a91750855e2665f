"""What every distribution of images has to do. A new one joins by a line in ``CASES``."""

import copy
import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pyro
import pytest
import torch
from scipy import stats
from torch import Tensor, float64

from srvae_pyro.distributions import (
    ConsistentGroups,
    DiscretizedLogisticMixture,
    ImageDistribution,
    Pyramid,
    TruncatedMixture,
)
from srvae_pyro.distributions.block_averages import PAIRS, Block, PixelContext
from srvae_pyro.distributions.image_distribution import image_grid
from srvae_pyro.pixels import to_levels, to_unit


class Case(NamedTuple):
    """A distribution by parameters (..., channels, h, w), and all images that it can draw.

    These are (N, C, H, W), for parameters of one pixel.
    """

    make: Callable[[Tensor], ImageDistribution]
    channels: int
    images: Tensor

    def parameters(self, *batch: int, spread: float = 1.0) -> Tensor:
        return spread * torch.randn(*batch, self.channels, 1, 1, dtype=torch.float64)


CHANNELS = DiscretizedLogisticMixture.parameter_channels
LEVELS = to_unit(torch.arange(256)).view(256, 1, 1, 1)


def dark(parameters: Tensor) -> DiscretizedLogisticMixture:
    """Of three colours near black, with less than 1e-9 above the levels of ``DARK``."""
    parameters = parameters.to(torch.promote_types(parameters.dtype, torch.float32))
    logits, means, log_scales, coefficients = parameters.split([2, 6, 6, 6], -3)
    parts = logits, means.tanh() / 255, 0.1 * log_scales.tanh() - 6.8, coefficients
    return DiscretizedLogisticMixture.from_channels(torch.cat(parts, -3))


def truncated(low: int, high: int, colours: int, parameters: Tensor) -> TruncatedMixture:
    ends = (parameters.new_full((colours, 1, 1), end) for end in (low, high, low, high))
    mixture = DiscretizedLogisticMixture.from_channels(parameters, colours)
    return TruncatedMixture(mixture, PixelContext(*ends))


def group(
    parameters: Tensor, y: Tensor, block: Block, before: Sequence[Tensor]
) -> TruncatedMixture:
    colours = y.shape[-3]
    needed = ConsistentGroups.parameter_channels(2, colours, len(before))
    return ConsistentGroups.pixel(parameters[..., :needed, :, :], y, before, (), block)


def groups(levels: Sequence[int], block: Block, parameters: Tensor) -> ConsistentGroups:
    dtype = torch.promote_types(parameters.dtype, torch.float32)
    return finer(parameters, block, to_unit(torch.tensor(levels).view(-1, 1, 1), dtype))


def finer(
    parameters: Tensor, block: Block, y: Tensor, validate_args: bool | None = None
) -> ConsistentGroups:
    y = y.expand(*parameters.shape[:-3], *y.shape[-3:]) if y.dim() == 3 else y
    given = partial(group, parameters, y, block)
    return ConsistentGroups(y, given, block=block, validate_args=validate_args)


def pyramid(parameters: Tensor) -> Pyramid:
    coarsest = truncated(0, 1, 1, parameters[..., : CHANNELS(2, 1), :, :])
    return Pyramid(coarsest, [partial(finer, parameters, PAIRS, validate_args=False)])


def blocks(block: Block, y: int) -> Tensor:
    """All blocks (N, P) of levels whose rounded average is y, near an end of the range."""
    least, most = (int(end) for end in block.allowed_sums(torch.tensor(y)))
    if y > 127:  # count down from 255
        least, most = (255 * block.pixels - end for end in (most, least))

    def tuples(count: int, most: int) -> Iterator[tuple[int, ...]]:
        if not count:
            yield ()
            return
        for value in range(min(most, 255) + 1):
            for rest in tuples(count - 1, most - value):
                yield (value, *rest)

    found = torch.tensor([t for t in tuples(block.pixels, most) if sum(t) >= least])
    return 255 - found if y > 127 else found


def images_of(levels: Sequence[int], block: Block) -> Tensor:
    """All images (N, C, f, f) of one block with these rounded averages."""
    each = [blocks(block, y) for y in levels]
    index = torch.cartesian_prod(*(torch.arange(len(b)) for b in each)).view(-1, len(each))
    colours = torch.stack([b[index[:, c]] for c, b in enumerate(each)], 1)
    return to_unit(colours.unflatten(-1, (block.factor, block.factor)))


def case_of_groups(levels: Sequence[int], block: Block = PAIRS) -> Case:
    channels = ConsistentGroups.parameter_channels(2, len(levels), block.pixels - 1)
    return Case(partial(groups, levels, block), channels, images_of(levels, block))


DARK = to_unit(torch.cartesian_prod(*map(torch.arange, (9, 17, 33))), float64).view(-1, 3, 1, 1)
COLOURS = to_unit(torch.cartesian_prod(*[torch.arange(100, 106)] * 3)).view(-1, 3, 1, 1)
CASES = {
    "mixture": Case(partial(DiscretizedLogisticMixture.from_channels, channels=1), 6, LEVELS),
    "mixture in colour": Case(dark, 20, DARK),
    "truncated": Case(partial(truncated, 3, 250, 1), CHANNELS(2, 1), LEVELS[3:251]),
    "truncated in colour": Case(partial(truncated, 100, 105, 3), CHANNELS(2, 3), COLOURS),
    "groups": case_of_groups([1]),
    "groups near white": case_of_groups([254]),
    "groups in colour": case_of_groups([0, 255, 0]),
    "groups of 3x3": case_of_groups([0], Block(3)),
    "pyramid": Case(pyramid, 9, torch.cat([images_of([y], PAIRS) for y in (0, 1)])),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def goodness_of_fit(observed: np.ndarray, expected: np.ndarray) -> float:
    """The p-value of counts, with cells too rare for the test put together."""
    rare = expected < 10
    observed = np.append(observed[~rare], observed[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    keep = expected > 10
    chi = ((observed - expected)[keep] ** 2 / expected[keep]).sum()
    return float(stats.chi2.sf(chi, max(keep.sum() - 1, 1)))


def fits(likelihood: ImageDistribution, images: Tensor, count: int) -> None:
    """So many samples occur as often as the log-probabilities of all possible images say."""
    chances = likelihood.log_prob(images).double().exp()
    index = {tuple(x.flatten().tolist()): i for i, x in enumerate(to_levels(images))}
    drawn = to_levels(likelihood.sample((count,))).flatten(1).tolist()
    observed = np.bincount([index[tuple(x)] for x in drawn], minlength=len(index))
    assert goodness_of_fit(observed, count * chances.numpy()) > 1e-3


@pytest.mark.parametrize("spread", [0.3, 1.0, 4.0])
def test_probabilities_sum_to_one(case: Case, spread: float) -> None:
    likelihood = case.make(case.parameters(spread=spread))
    total = likelihood.log_prob(case.images.double()).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_samples_fit_log_prob(case: Case, temperature: float) -> None:
    fits(case.make(case.parameters()).with_temperature(temperature), case.images.double(), 20_000)


def test_what_is_drawn_is_in_the_support(case: Case) -> None:
    likelihood = case.make(case.parameters(4))
    noise = torch.rand(likelihood.uniform_noise.shape, dtype=likelihood.uniform_noise.dtype)
    x = likelihood.icdf_sample(noise)
    assert torch.equal(x, likelihood.icdf_sample(noise))
    parameters = case.parameters(4).requires_grad_()
    assert not case.make(parameters).sample().requires_grad
    for image in (x, likelihood.sample(), likelihood.mode, likelihood.location):
        assert image.shape == (4, *case.images.shape[1:])
        assert image.dtype == torch.float64
        assert image_grid.check(image).all()
        assert likelihood.log_prob(image).isfinite().all()
    with pytest.raises(ValueError, match="within the support"):
        likelihood.log_prob(0.5 * x + 0.1001)
    with pytest.raises(ValueError, match="event_shape"):
        likelihood.log_prob(torch.cat([x, x], -1))


def test_the_mean_is_near_the_expectation(case: Case) -> None:
    likelihood = case.make(case.parameters())
    images = case.images.double()
    chances = likelihood.log_prob(images).exp()[:, None, None, None]
    expected = (chances * images).sum(0)
    spread = (chances * (images - expected) ** 2).sum(0).sqrt()
    assert ((likelihood.mean - expected).abs() < 0.3 * spread + 0.5 / 255).all()


def test_temperature(case: Case) -> None:
    likelihood = case.make(case.parameters(20))
    x = likelihood.sample((50,))
    torch.testing.assert_close(likelihood.with_temperature(1).log_prob(x), likelihood.log_prob(x))
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="temperature must be positive"):
            likelihood.with_temperature(temperature)


def test_expanded_it_is_the_same_distribution(case: Case) -> None:
    likelihood = case.make(case.parameters(2))
    larger = likelihood.expand((5, 2))
    assert type(larger) is type(likelihood)
    assert (larger.batch_shape, larger.event_shape) == ((5, 2), likelihood.event_shape)
    x = larger.sample((3,))
    assert x.shape == (3, 5, 2, *likelihood.event_shape)
    torch.testing.assert_close(larger.log_prob(x), likelihood.log_prob(x))
    assert larger.mode.shape == larger.mean.shape == larger.location.shape == x.shape[1:]
    assert larger.with_temperature(2.0).batch_shape == (5, 2)
    with pytest.raises(RuntimeError):
        likelihood.expand((3,)).log_prob(x[0, 0])


def test_copies(case: Case) -> None:
    likelihood = case.make(case.parameters(2))
    x = likelihood.sample()
    for twin in (copy.deepcopy(likelihood), pickle.loads(pickle.dumps(likelihood))):
        assert twin.batch_shape == likelihood.batch_shape
        assert torch.equal(twin.log_prob(x), likelihood.log_prob(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_scored_in_float32(case: Case, dtype: torch.dtype) -> None:
    parameters = case.parameters(2).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        likelihood = case.make(parameters)
        x = likelihood.sample()
        log_prob = likelihood.log_prob(x)
    assert x.dtype == log_prob.dtype == torch.float32
    assert torch.equal(log_prob, case.make(parameters.float()).log_prob(x))


def test_first_and_second_derivatives(case: Case) -> None:
    """By autograd, by ``torch.func`` and by finite differences."""
    parameters = case.parameters(3)
    x = case.make(parameters).sample()
    pyro.enable_validation(False)  # vmap cannot follow the checks of any distribution

    def score(parameters: Tensor, x: Tensor) -> Tensor:
        return case.make(parameters).log_prob(x)

    def slope(at: Tensor) -> Tensor:
        return torch.func.vmap(torch.func.grad(score))(at, x)

    torch.testing.assert_close(torch.func.vmap(score)(parameters, x), score(parameters, x))
    leaf = parameters.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: score(p, x), leaf, fast_mode=True)
    (slopes,) = torch.autograd.grad(score(leaf, x).sum(), leaf, create_graph=True)
    torch.testing.assert_close(slope(parameters), slopes)
    (curved,) = torch.autograd.grad(slopes.square().sum(), leaf)
    step = 1e-5 * slopes.detach()
    difference = (slope(parameters + step) - slope(parameters - step)) / 1e-5
    torch.testing.assert_close(curved, difference, rtol=1e-4, atol=1e-4)


def test_as_a_site_of_a_program(case: Case) -> None:
    likelihood = case.make(case.parameters(4))

    def model(x: Tensor | None) -> Tensor:
        with pyro.plate("images", 4, dim=-1):
            return pyro.sample("x", likelihood, obs=x)

    x = likelihood.sample()
    trace = pyro.poutine.trace(model).get_trace(x)
    torch.testing.assert_close(trace.log_prob_sum(), likelihood.log_prob(x).sum())
    particles = pyro.plate("particles", 3, dim=-2)(model)
    trace = pyro.poutine.trace(particles).get_trace(None)
    trace.compute_log_prob()
    assert trace.nodes["x"]["log_prob"].shape == (3, 4)
