"""Each image's own q: against closed forms, never worse than the encoder's, the model untouched."""

import copy
import math

import pyro
import pytest
import torch
from torch import Tensor

from srvae_pyro import SRVAE, VAE, UserError
from srvae_pyro.evaluation.likelihood import evaluate_likelihood, sweep
from srvae_pyro.inference import refinement
from srvae_pyro.inference.decoding import Decode, ImageNoise
from srvae_pyro.inference.elbo import TermsELBO
from srvae_pyro.inference.importance import estimate_log_likelihood
from srvae_pyro.inference.refinement import RefinedGuide, refine, refined_at_once
from srvae_pyro.system.device import peak_bytes
from srvae_pyro.system.parallel import ProcessGroup
from tests.inference.test_importance import Linear, linear_gaussian, make, make_images

CPU = torch.device("cpu")


def elbo(net, guide, x: Tensor, samples: int = 50) -> Tensor:
    """The mean of many samples of each image's ELBO, by Pyro's programs."""
    particles = TermsELBO(num_particles=samples, vectorize_particles=True, max_plate_nesting=1)
    with torch.no_grad(), Decode(noise=ImageNoise(9, range(len(x)))):
        total: Tensor = particles.terms(net.model, guide, x).total
    return -total


@pytest.mark.parametrize("estimator", ["paired", "product"])
def test_reaches_the_best_independent_normals_of_a_linear_gaussian_model(estimator: str) -> None:
    linear = linear_gaussian()
    guide = linear.net.guide
    nothing = torch.zeros(2, 4, dtype=torch.float64)
    guide.q_z = Linear(1.5, nothing)  # far from the posterior
    before = estimate_log_likelihood(linear.net, linear.x, 500, estimator=estimator)
    refined = refine(linear.net, linear.x, 200)
    after = estimate_log_likelihood(linear.net, linear.x, 500, estimator=estimator, guide=refined)
    assert refined.improved.all()
    assert after.improved.all()
    assert not before.improved.any()
    torch.testing.assert_close(after.elbo, linear.best, atol=0.07, rtol=0)
    assert (before.elbo < linear.best - 1).all()
    torch.testing.assert_close(after.log_likelihood, linear.truth, atol=0.05, rtol=0)
    assert (after.effective_samples > 2 * before.effective_samples).all()
    assert (after.pareto_k < 0.7).all()


# Real models.

MODELS = {
    "srvae": (SRVAE, {}),
    "srvae, z sees y, mixture": (
        SRVAE,
        {"guide_z_sees_y": True, "p_u": "mixture", "p_u_components": 3},
    ),
    "vae": (VAE, {}),
}


@pytest.fixture(params=MODELS, scope="module")
def net(request) -> SRVAE | VAE:
    kind, changes = MODELS[request.param]
    return make(kind, **changes)


def test_raises_the_elbo_of_every_image(net) -> None:
    x = make_images(2)
    guide = refine(net, x, 20, learning_rate=0.05)
    assert guide.improved.all()
    assert (elbo(net, guide, x) - elbo(net, net.guide, x) > 1).all()


def test_no_steps_are_the_encoders_q(net) -> None:
    x = make_images(2)
    guide = refine(net, x, 0)
    assert not guide.improved.any()
    assert not any(q.mean.requires_grad for q in guide.posteriors.values())
    torch.testing.assert_close(elbo(net, guide, x), elbo(net, net.guide, x))


@pytest.mark.parametrize("rate", [5.0, 1e30])  # too high; without a number at the end
def test_a_refined_q_that_is_worse_is_not_taken(net, rate: float) -> None:
    x = make_images(3)
    guide = refine(net, x, 4, learning_rate=rate)
    assert not guide.improved.any()
    before = estimate_log_likelihood(net, x, 5)
    after = estimate_log_likelihood(net, x, 5, guide=guide)
    torch.testing.assert_close(after.log_likelihood, before.log_likelihood)
    torch.testing.assert_close(after.elbo, before.elbo)


def test_only_the_images_that_gain_nothing_keep_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, real = make(VAE), make_images(3), refinement._elbo

    def worse_for_the_first(model, guide: RefinedGuide, x: Tensor, noise: ImageNoise) -> Tensor:
        values = real(model, guide, x, noise)
        moved = (guide.q_z(x).mean[0] - net.guide.q_z(x).mean[0]).abs().max() > 1e-3
        return values - 1e6 * moved * torch.eye(3)[0]

    monkeypatch.setattr(refinement, "_elbo", worse_for_the_first)
    guide = refine(net, x, 5, learning_rate=0.05)
    assert guide.improved.tolist() == [False, True, True]
    encoder = net.guide.q_z(x)
    torch.testing.assert_close(guide.q_z(x).mean[0], encoder.mean[0])
    torch.testing.assert_close(guide.q_z(x).stddev[0], encoder.stddev[0])
    assert (guide.q_z(x).mean - encoder.mean)[1:].abs().amax((1, 2, 3)).min() > 1e-3


def test_neither_batches_nor_order_nor_memory_matter(net) -> None:
    x, every = make_images(3), [0, 1, 2]

    def refined(images: list[int], seed: int = 0) -> RefinedGuide:
        guide = refine(net, x[images], 6, seed=seed, images=images, learning_rate=0.05)
        assert guide.improved.any()
        return guide

    guides = {(0, 1, 2, 0): refined(every), (2, 0, 0): refined([2, 0])}
    guides[0, 1, 2, 1] = refined(every, seed=1)

    def estimate(estimator: str, images: list[int], at_once: int = 64, seed: int = 0):
        return estimate_log_likelihood(
            net,
            x[images],
            6,
            estimator=estimator,
            images=images,
            guide=guides[*images, seed],
            at_once=at_once,
            seed=seed,
        )

    for estimator in ("paired", "product"):
        whole, parts = estimate(estimator, every), estimate(estimator, every, at_once=6)
        some = estimate(estimator, [2, 0])
        for name in ("log_likelihood", "elbo", "effective_samples"):
            expected = getattr(whole, name)
            torch.testing.assert_close(getattr(parts, name), expected, atol=5e-3, rtol=1e-5)
            torch.testing.assert_close(getattr(some, name), expected[[2, 0]], atol=2e-2, rtol=1e-4)
        other = estimate(estimator, every, seed=1)
        assert ((other.log_likelihood - whole.log_likelihood).abs() > 1e-2).all()


def test_the_networks_are_left_as_they_are(net) -> None:
    x = make_images(2)
    (-net.model(x).sum() + net.guide.q_z(x).mean.sum()).backward()  # some gradients of before
    state = copy.deepcopy(net.state_dict())
    gradients = {name: copy.deepcopy(p.grad) for name, p in net.named_parameters()}
    assert any(gradient is not None for gradient in gradients.values())
    net.log_likelihood(x, 3, refine=3)
    for name, value in net.state_dict().items():
        assert torch.equal(value, state[name])
    for name, parameter in net.named_parameters():
        assert parameter.requires_grad
        before = gradients[name]
        assert parameter.grad is before is None or torch.equal(parameter.grad, before)
    assert not pyro.get_param_store().keys()
    net.zero_grad()


def test_without_gradients_around_it() -> None:
    net, x = make(SRVAE, p_u="standard"), make_images(2)
    expected = net.log_likelihood(x, 3, refine=3)
    with torch.inference_mode():
        found = net.log_likelihood(x.clone(), 3, refine=3)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad


def test_memory_bounds_how_many_are_refined_at_once() -> None:
    net, memory_gb = make(SRVAE, p_u="standard"), 0.003
    few = refined_at_once(net, make_images(1), memory_gb)
    assert 1 <= few < refined_at_once(net, make_images(1), 2 * memory_gb)
    assert peak_bytes(lambda: refine(net, make_images(few), 3)) < 0.6e9 * memory_gb
    with pytest.raises(UserError, match=r"`memory_gb=1e-06` is too little to refine: use at least"):
        refined_at_once(net, make_images(1), 1e-6)
    expected = net.log_likelihood(make_images(few + 2), 2, refine=3)
    found = net.log_likelihood(make_images(few + 2), 2, refine=3, memory_gb=memory_gb)
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_over_a_set_of_images(precision) -> None:
    net = make(SRVAE, p_u="standard")
    images = (make_images(4) * 255).round().to(torch.uint8)
    found = evaluate_likelihood(net, images, CPU, 3, refine=4, precision=precision, memory_gb=0.03)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        each = net.log_likelihood(make_images(4), 3, refine=4)
        guide = refine(net, make_images(4), 4)
    assert found.kept == 4 - guide.improved.sum()
    values = found.to_json()
    assert (values["refine"], values["kept"]) == (4, found.kept)
    unit = 3 * 16 * 16 * math.log(2)
    rel = 1e-5 if precision == "fp32" else 1e-3
    assert found.bits_per_dim == pytest.approx(-each.mean().item() / unit, rel=rel)


def test_the_bar_counts_parts_of_a_batch_once() -> None:
    images = torch.zeros(5, 1, 1, 1)
    with sweep(images, batch_size=3, group=ProcessGroup(), progress=True) as batches:
        seen = []
        for batch, _ in batches:
            batches.done(1)
            seen.append((len(batch), batches.bar.n))
        assert seen == [(3, 1), (2, 4)]
        assert batches.bar.n == 5


def test_bad_requests() -> None:
    net = make(VAE)
    for ask in (
        lambda: refine(net, make_images(1), -1),
        lambda: net.log_likelihood(make_images(1), 2, refine=-1),
    ):
        with pytest.raises(UserError, match="a number of gradient steps, at least 0, not -1"):
            ask()
