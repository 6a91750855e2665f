"""The learning rate, the KL's weight, gradient clipping, the objective and EMA weights."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from srvae_pyro.config import TrainingConfig
from srvae_pyro.inference.elbo import ElboTerms
from srvae_pyro.training.learner import weighted_loss
from srvae_pyro.training.schedule import ExponentialAverage, GradientClip, kl_weights, learning_rate

# The learning rate


def test_learning_rate_warms_up_linearly() -> None:
    config = TrainingConfig(lr=1e-2, lr_decay=1.0, warmup_steps=4)
    rates = [learning_rate(config, step, 0.0) for step in range(6)]
    assert rates == pytest.approx([0.25e-2, 0.5e-2, 0.75e-2, 1e-2, 1e-2, 1e-2])


def test_learning_rate_decays_as_published() -> None:
    config = TrainingConfig()
    for step in (1_000, 100_000, 1_000_000):
        assert learning_rate(config, step, 0.0) == pytest.approx(2e-3 * 0.999999**step)
    assert learning_rate(config, 10_000_000, 0.0) == 1e-4


def test_without_warm_up_the_rate_starts_in_full_even_below_the_floor() -> None:
    assert learning_rate(TrainingConfig(warmup_steps=0), 0, 0.0) == 2e-3
    config = TrainingConfig(lr=1e-5, lr_min=1e-4, warmup_steps=0)
    assert learning_rate(config, 0, 0.0) == pytest.approx(1e-5)


def test_learning_rate_anneals_to_its_floor() -> None:
    config = TrainingConfig(lr=1e-2, lr_min=1e-5, lr_decay=1.0, warmup_steps=0, anneal=0.4)
    rates = [learning_rate(config, 100, progress) for progress in (0.0, 0.6, 0.7, 0.8, 0.9, 1.0)]
    assert rates[:2] == [1e-2, 1e-2]
    assert rates[3] == pytest.approx((1e-2 + 1e-5) / 2)
    assert rates[-1] == pytest.approx(1e-5)
    assert rates[1:] == sorted(rates[1:], reverse=True)


def test_each_kls_weight_rises_to_one_and_stays() -> None:
    config = TrainingConfig(kl_start=0.2, kl_warmup=0.5, kl_u_start=0.0, kl_u_warmup=1.0)
    weights = [kl_weights(config, progress) for progress in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert [weight["z"] for weight in weights] == pytest.approx([0.2, 0.6, 1.0, 1.0, 1.0])
    assert [weight["u"] for weight in weights] == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0])
    # Published: the plain ELBO throughout.
    assert kl_weights(TrainingConfig(), 0.0) == {"z": 1.0, "u": 1.0}


# Clipping


def test_normal_gradients_are_not_scaled() -> None:
    clip = GradientClip(10.0)
    generator = torch.Generator().manual_seed(0)
    norms = (1e5 * (1 + 4 * torch.rand(300, generator=generator))).tolist()
    assert [clip.scale(norm) for norm in norms] == [1.0] * 300


def test_an_outlier_is_scaled_to_the_bound() -> None:
    clip = GradientClip(10.0)
    for _ in range(20):
        clip.scale(2.0)
    assert clip.scale(1e6) * 1e6 == pytest.approx(20.0)
    assert clip.scale(2.0) == 1.0


@pytest.mark.parametrize("growth", [100.0, 1e9])
def test_clipping_cannot_lock(growth: float) -> None:
    clip = GradientClip(10.0, window=100)
    for _ in range(500):
        clip.scale(1.0)
    scales = [clip.scale(growth) for _ in range(100)]
    assert scales[0] == pytest.approx(10 / growth)
    assert scales[-1] == 1.0


def test_clipping_never_scales_up_or_divides_by_zero() -> None:
    clip = GradientClip(10.0)
    scales = [clip.scale(norm) for norm in (0.0, 0.0, 1e-12, 5.0, 1e30, 0.0)]
    assert all(0 <= scale <= 1 for scale in scales)
    assert all(math.isfinite(scale) for scale in scales)


# The objective


def some_terms() -> ElboTerms:
    generator = torch.Generator().manual_seed(0)

    def values() -> Tensor:
        return torch.rand(5, generator=generator).requires_grad_()

    return ElboTerms({"x": values(), "y": values()}, {"z": values(), "u": values()}, {})


def test_loss_with_nothing_weighted_is_the_negative_elbo() -> None:
    terms = some_terms()
    loss = weighted_loss(terms)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(terms.total.mean().item(), rel=1e-6)


@pytest.mark.parametrize("site", ["z", "u"])
def test_only_the_weighted_site_is_weighted(site: str) -> None:
    terms = some_terms()
    difference = weighted_loss(terms) - weighted_loss(terms, {site: 0.25})
    assert difference.item() == pytest.approx(0.75 * terms.kl[site].mean().item(), rel=1e-5)


# Averaged weights


class OneNumber(nn.Module):
    """A parameter that every training step adds to."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))
        self.register_buffer("initialized", torch.tensor(True))

    @torch.no_grad()
    def step(self, by: float) -> None:
        self.value += by


def test_half_life_does_not_depend_on_the_batch_size() -> None:
    finals = []
    for batch in (1, 4, 16):
        module = OneNumber()
        average = ExponentialAverage(module, half_life=50.0)
        module.step(1.0)
        for seen in range(10_000 + batch, 10_000 + 64 + 1, batch):
            average.update(seen, batch)
        finals.append(average.module.value.item())
    assert finals == pytest.approx([1 - 0.5 ** (64 / 50)] * 3, abs=1e-4)


def test_first_steps_soon_forget_the_initial_weights() -> None:
    module = OneNumber()
    average = ExponentialAverage(module, half_life=1e6)
    values = []
    for number in range(1, 101):
        module.step(1.0)
        average.update(32 * number, 32)
        values.append(average.module.value.item())
    assert values[0] == pytest.approx(1.0, abs=1e-3)
    # Behind the weights by about the ramp's mean age, not by the million images.
    assert values[-1] > 85
    assert values == sorted(values)


def test_average_is_a_copy_that_learns_nothing() -> None:
    module = OneNumber()
    average = ExponentialAverage(module, half_life=10.0)
    assert bool(average.module.initialized)
    assert not any(p.requires_grad for p in average.module.parameters())
    before = copy.deepcopy(average.module.state_dict())
    module.step(1.0)
    assert torch.equal(average.module.state_dict()["value"], before["value"])
    average.update(4, 4)
    assert module.value.item() == 1.0
    assert module.value.requires_grad
