"""Priors as Pyro distributions: densities, shapes, gradients."""

import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch

from srvae_pyro.distributions import MixturePrior, Prior, RealNVPPrior, StandardPrior
from tests.distributions.test_realnvp import shaken

Shape = tuple[int, int, int]


def mixture(shape: Shape) -> Prior:
    prior = MixturePrior(shape, 3)
    with torch.no_grad():
        prior.logits.normal_()
        prior.log_scales.uniform_(-0.5, 0.5)
    return prior


PRIORS: dict[str, Callable[[Shape], Prior]] = {
    "realnvp": lambda shape: shaken(RealNVPPrior(shape, 4, 1)),
    "mixture": mixture,
    "standard": StandardPrior,
}
SHAPE = (4, 4, 6)


@pytest.mark.parametrize("name", PRIORS)
@torch.no_grad()
def test_samples_have_the_moments_of_a_density_that_integrates_to_one(name: str) -> None:
    """E_p[f] of samples against the same by importance weights from a wider distribution."""
    density = PRIORS[name]((1, 2, 2)).double()()
    proposal = dist.StudentT(5.0, torch.zeros(1, 2, 2).double(), 2.0).to_event(3)
    u = proposal.sample((40_000,))
    weights = (density.log_prob(u) - proposal.log_prob(u)).exp().unsqueeze(-1)
    samples = density.sample((40_000,)).flatten(1)
    for power in (0, 1, 2):
        weighted, direct = weights * u.flatten(1) ** power, samples**power
        error = ((weighted.var(0) + direct.var(0)) / 40_000).sqrt()
        assert (error < 0.03).all() or power > 0
        assert ((weighted.mean(0) - direct.mean(0)).abs() < 5 * error).all()


def test_standard_prior_is_the_standard_normal() -> None:
    u = torch.randn(5, *SHAPE)
    expected = -0.5 * (u**2 + math.log(2 * math.pi)).sum(dim=(1, 2, 3))
    torch.testing.assert_close(StandardPrior(SHAPE)().log_prob(u), expected)
    assert not list(StandardPrior(SHAPE).parameters())


def test_mixture_density_by_hand() -> None:
    prior = MixturePrior(SHAPE, 3)
    with torch.no_grad():
        prior.logits.normal_()
        prior.log_scales.normal_()
        prior.log_scales[0, 0] = -9.0  # raised to -5
        prior.log_scales[1, 0] = 9.0  # lowered to 5
    u = torch.randn(5, *SHAPE)
    logs = []
    for k in range(3):
        log_scale = prior.log_scales[k].clamp(-5, 5)
        squares = ((u - prior.means[k]) / log_scale.exp()) ** 2
        elements = -0.5 * squares - log_scale - 0.5 * math.log(2 * math.pi)
        logs.append(prior.logits.log_softmax(0)[k] + elements.sum(dim=(1, 2, 3)))
    expected = torch.stack(logs).logsumexp(0)
    torch.testing.assert_close(prior().log_prob(u), expected)


def test_mixture_components_differ_from_the_start() -> None:
    """Equal components would stay equal: their gradients are."""
    prior = MixturePrior(SHAPE, 3)
    prior().log_prob(torch.randn(5, *SHAPE)).sum().backward()
    assert not torch.equal(prior.means[0], prior.means[1])
    assert prior.means.grad is not None
    assert not torch.equal(prior.means.grad[0], prior.means.grad[1])


@pytest.mark.parametrize("name", PRIORS)
def test_shapes_in_plates_and_expanded(name: str) -> None:
    density = PRIORS[name](SHAPE)()
    assert density.batch_shape == ()
    assert density.event_shape == SHAPE
    assert density.sample((2, 3)).shape == (2, 3, *SHAPE)
    expanded = density.expand((5,))
    u = expanded.sample((2,))
    assert u.shape == (2, 5, *SHAPE)
    torch.testing.assert_close(expanded.log_prob(u), density.log_prob(u))
    with pyro.plate("particles", 2, dim=-2), pyro.plate("images", 5, dim=-1):
        u = pyro.sample("u", density)
    assert u.shape == (2, 5, *SHAPE)
    assert len({round(value, 4) for value in density.log_prob(u).flatten().tolist()}) == 10


@pytest.mark.parametrize("name", PRIORS)
def test_own_size_and_another(name: str) -> None:
    prior = PRIORS[name](SHAPE)
    u = torch.randn(2, *SHAPE)
    torch.testing.assert_close(prior((4, 6)).log_prob(u), prior().log_prob(u))
    if name == "mixture":
        with pytest.raises(ValueError, match=r"tied to 4x6, not 8x8.*realnvp and standard"):
            prior((8, 8))
    else:
        assert prior((8, 8)).sample((3,)).shape == (3, 4, 8, 8)


@pytest.mark.parametrize("name", PRIORS)
def test_precision_follows_the_module_also_when_loaded(name: str) -> None:
    prior = PRIORS[name](SHAPE)
    assert prior().sample().dtype == torch.float32
    other = PRIORS[name](SHAPE)
    other.load_state_dict(prior.state_dict())
    other.double()
    u = other().sample((2,))
    assert u.dtype == torch.float64
    torch.testing.assert_close(
        other().log_prob(u), prior().log_prob(u.float()).double(), atol=1e-3, rtol=1e-4
    )
