"""The stack of bits, and latents and pixels on it: all comes off again, at its rate."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from srvae_pyro.compression.ans import (
    CATEGORICAL,
    STEP,
    MismatchError,
    Posterior,
    Stack,
    pop_normal,
    push_normal,
    uniform,
)
from srvae_pyro.compression.pixels import Put, Take, code_image, code_levels
from srvae_pyro.compression.priors import MixtureCode, PriorCode, prior_code
from srvae_pyro.distributions import (
    ConsistentGroups,
    DiscretizedLogisticMixture,
    ImageDistribution,
    MixturePrior,
    Pyramid,
    RealNVPPrior,
    StandardPrior,
)
from srvae_pyro.errors import UserError
from srvae_pyro.pixels import to_levels, to_unit


def filled(words: int = 5000) -> Stack:
    """A stack with many random bits on it."""
    stack, sizes = Stack(), np.full(2 * words, 2**16)
    stack.push(np.random.default_rng(1).integers(0, 2**16, 2 * words), *uniform(sizes))
    stack.pushed = stack.popped = 0.0
    return stack


def test_an_empty_stack_lends_bits_and_gets_them_back() -> None:
    stack, table = Stack(), np.random.default_rng(0).dirichlet(np.ones(20), 3000)
    thrown = stack.pop(CATEGORICAL, table)
    entropy = -np.log2(table[np.arange(3000), thrown]).sum()
    assert stack.popped == pytest.approx(entropy, rel=1e-3)
    assert stack.start_words == pytest.approx(entropy / 32, abs=4)
    drawn = np.bincount(thrown[table.max(1) > 0.3], minlength=20)
    assert drawn.max() > 0  # and by their probabilities:
    assert np.mean(table[np.arange(3000), thrown]) == pytest.approx((table**2).sum(1).mean(), 0.05)
    stack.push(thrown, CATEGORICAL, table)
    assert stack.is_at_start()
    assert len(stack.words()) == stack.start_words


def test_a_stack_that_is_too_short_fails_at_once() -> None:
    stack = Stack(np.arange(1, 9, dtype=np.uint32))
    with pytest.raises(MismatchError, match="fewer words"):
        stack.pop(*uniform(np.full(8 * 7, 16)))  # 7 of its 8 words


def test_what_is_left_tells_of_another_table() -> None:
    sizes = np.full(50, 7)
    stack = Stack()
    bits = stack.pop(*uniform(sizes))
    stack.push(np.arange(50) % 7, *uniform(sizes))
    again = Stack(stack.words())
    symbols = again.pop(*uniform(sizes))
    assert symbols.tolist() == [i % 7 for i in range(50)]
    again.push(bits[::-1].copy(), *uniform(sizes))
    assert not again.is_at_start()
    with pytest.raises(MismatchError):
        again.pop(CATEGORICAL, np.full((3, 2), np.nan))
    with pytest.raises(MismatchError):
        Stack(np.zeros(3, np.uint32))


def test_a_posterior_draws_a_normal_and_gives_its_bits_back() -> None:
    count = 20_000
    stack = filled(2 * count)
    mean, std = np.linspace(-3000, 3000, count), np.full(count, 150.3)
    before = stack.coder.get_compressed()
    q = Posterior(mean, std)
    cells = q.pop(stack)
    z = (cells - mean) / std
    assert abs(z.mean()) < 0.03
    assert z.std() == pytest.approx(1.0, abs=0.02)
    assert (np.abs(z) > 2).mean() == pytest.approx(0.0455, abs=0.006)
    density = 0.5 * z**2 + np.log(math.sqrt(2 * math.pi) * 150.3)
    assert stack.popped == pytest.approx(density.sum() / math.log(2), rel=2e-4)
    q.push(stack, cells)
    assert np.array_equal(stack.coder.get_compressed(), before)


def test_no_posterior_is_too_narrow_wide_or_far() -> None:
    stack = filled()
    mean = np.array([0.3, -0.7, 1e4, -1e9, 1e12, 7.0])
    std = np.array([1e-9, 3.0, 1e5, 1e12, 40.0, 33.33])
    before = stack.coder.get_compressed()
    q = Posterior(np.repeat(mean, 100), np.repeat(std, 100))
    cells = q.pop(stack)
    assert np.abs(cells).max() < 2**23
    mid, wide = np.zeros(600), np.full(600, 1024.0)
    push_normal(stack, cells, mid, wide)
    assert np.array_equal(pop_normal(stack, mid, wide), cells)
    q.push(stack, cells)
    assert np.array_equal(stack.coder.get_compressed(), before)
    with pytest.raises(ValueError, match="not finite"):
        Posterior(np.array([math.nan]), np.ones(1))


def flow() -> RealNVPPrior:
    torch.manual_seed(3)
    prior = RealNVPPrior((4, 4, 6), growth=4, steps=1).double()
    for network in prior.modules():
        if hasattr(network, "gain"):
            torch.nn.init.normal_(network.gain, 0.5, 0.2)
    return prior


def mixture() -> MixturePrior:
    torch.manual_seed(3)
    prior = MixturePrior((4, 4, 6), components=5).double()
    prior.means.data *= 0.3  # so that no component has u for itself
    prior.logits.data = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5]).double()
    return prior


@pytest.mark.parametrize("prior", [StandardPrior((4, 4, 6)).double(), mixture(), flow()], ids=type)
@torch.no_grad()
def test_a_prior_costs_its_density_on_the_grid(prior: torch.nn.Module) -> None:
    """Net of the bits that the mixture's component and the flow's scales give back."""
    code = prior_code(prior)
    u = prior().sample((20,))
    cells = torch.round(u / STEP).long()
    stack = filled()
    before = stack.coder.get_compressed()
    code.push(stack, cells)
    net = stack.pushed - stack.popped
    wanted = -(prior().log_prob(code.values(cells)).sum() + cells.numel() * math.log(STEP))
    assert net == pytest.approx(wanted.item() / math.log(2), rel=2e-3)
    if isinstance(prior, RealNVPPrior):
        base = torch.distributions.Normal(0.0, 1.0).log_prob(u).sum() / math.log(2)
        assert abs(net + base.item() + cells.numel() * math.log2(STEP)) > 30  # scales do count
    assert torch.equal(code.pop(stack, tuple(cells.shape)), cells)
    assert np.array_equal(stack.coder.get_compressed(), before)


def test_a_prior_of_ones_own_is_refused() -> None:
    with pytest.raises(UserError, match="cannot code the prior Identity"):
        prior_code(torch.nn.Identity())
    with pytest.raises(NotImplementedError):
        PriorCode().push(Stack(), torch.zeros(1))
    assert isinstance(prior_code(mixture()), MixtureCode)


def plain(channels: int = 3) -> DiscretizedLogisticMixture:
    count = DiscretizedLogisticMixture.parameter_channels(4, channels)
    return DiscretizedLogisticMixture.from_channels(torch.randn(3, count, 6, 4).double(), channels)


def coarse() -> Tensor:
    return to_unit(torch.randint(0, 256, (3, 3, 6, 4)), torch.float64)


def groups(y: Tensor | None = None) -> ConsistentGroups:
    y = coarse() if y is None else y
    channels = [ConsistentGroups.parameter_channels(4, 3, before) for before in range(4)]
    given = [torch.randn(len(y), n, *y.shape[-2:]).double() for n in channels]

    def group(before):  # that sees what comes before
        shift = sum((image.mean(-3, keepdim=True) for image in before), torch.zeros(()))
        return ConsistentGroups.pixel(given[len(before)] + shift, y, before)

    return ConsistentGroups(y, group)


def pyramid() -> Pyramid:
    parameters = torch.randn(3, 40, 3, 2).double()
    coarsest = DiscretizedLogisticMixture.from_channels(parameters, 3)

    def finer(y: Tensor) -> ConsistentGroups:
        torch.manual_seed(y.shape[-1])  # the same networks each time
        return groups(y)

    return Pyramid(coarsest, [finer, finer])


@pytest.mark.parametrize("make", [plain, partial(plain, channels=1), groups, pyramid])
@torch.no_grad()
def test_a_likelihood_costs_its_log_probability(make: Callable[[], ImageDistribution]) -> None:
    torch.manual_seed(5)
    likelihood = make()
    levels = to_levels(likelihood.sample()).long()
    stack, put = filled(), Put()
    before = stack.coder.get_compressed()

    def onto(pixels, known):
        return code_levels(put, pixels, known)

    assert torch.equal(code_image(likelihood, onto, levels), levels)
    put.push(stack)
    wanted = -likelihood.log_prob(to_unit(levels, torch.float64)).sum().item() / math.log(2)
    assert stack.pushed == pytest.approx(wanted, rel=1e-3)

    def off(pixels, known):
        return code_levels(Take(stack), pixels, known)

    assert torch.equal(code_image(likelihood, off, None), levels)
    assert np.array_equal(stack.coder.get_compressed(), before)
