"""The ELBO's terms: against Pyro's own estimate, by hand, in closed form and with particles."""

import math
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor

from srvae_pyro.config import ModelConfig
from srvae_pyro.inference.elbo import ElboTerms, TermsELBO
from srvae_pyro.models import SRVAE, VAE, ImageModel
from tests.builders import make_images, refused, tiny

OPTIONS: dict[str, dict[str, Any]] = {
    "srvae": {},
    "z sees y": {"guide_z_sees_y": True},
    "standard": {"p_u": "standard"},
    "vae": {"model": "vae"},
    "vae, standard": {"model": "vae", "p_u": "standard"},
}


def build(config: ModelConfig, x: Tensor) -> ImageModel:
    m: ImageModel = VAE(config) if config.model == "vae" else SRVAE(config)
    m.initialize(x)
    return m


def seeded(function: Callable[..., Any], *args: Any) -> Any:
    pyro.set_rng_seed(7)
    return function(*args)


def by_hand(m: ImageModel, x: Tensor) -> dict[str, Tensor]:
    """The terms, from the networks alone, at the guide's samples."""
    q = {
        name: node["value"]
        for name, node in poutine.trace(m.guide).get_trace(x).nodes.items()
        if name in ("y", "u", "z")
    }
    model, guide = m.model, m.guide
    if isinstance(m, VAE):
        return {
            "re_x": -model.p_x(q["z"]).log_prob(x),
            "kl_z": guide.q_z(x).log_prob(q["z"]) - model.p_z().log_prob(q["z"]),
        }
    y, u, z = q["y"], q["u"], q["z"]
    return {
        "re_x": -model.p_x(y, z).log_prob(x),
        "re_y": -model.p_y(u).log_prob(y),
        "kl_z": guide.q_z(x).log_prob(z) - model.p_z(y, u).log_prob(z),
        "kl_u": guide.q_u(y).log_prob(u) - model.p_u().log_prob(u),
    }


@pytest.mark.parametrize("option", OPTIONS)
def test_terms_are_those_by_hand_and_add_up_to_pyros_loss(option: str) -> None:
    x = make_images(3)
    m = build(tiny(**OPTIONS[option]), x)
    expected = seeded(by_hand, m, x)
    terms: ElboTerms = seeded(TermsELBO().terms, m.model, m.guide, x)
    assert terms.named().keys() == expected.keys()
    for name, term in terms.named().items():
        assert term.shape == (3,)
        assert term.requires_grad
        torch.testing.assert_close(term, expected[name], rtol=1e-5, atol=1e-3, msg=name)
    assert terms.total.shape == (3,)
    torch.testing.assert_close(terms.total, sum(expected.values()), rtol=1e-5, atol=1e-3)
    stock = seeded(Trace_ELBO().loss, m.model, m.guide, x)
    assert terms.total.sum().item() == pytest.approx(stock, rel=1e-5)
    assert seeded(TermsELBO().loss, m.model, m.guide, x) == pytest.approx(stock, rel=1e-5)


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("vectorized", [False, True])
@pytest.mark.parametrize("option", ["srvae", "vae"])
def test_loss_and_gradients_are_pyros(option: str, vectorized: bool, particles: int) -> None:
    x = make_images(2)
    m = build(tiny(**OPTIONS[option]), x)
    settings: dict[str, Any] = {
        "num_particles": particles,
        "vectorize_particles": vectorized,
        "max_plate_nesting": 1,
    }
    parameters = list(m.parameters())
    losses, gradients = [], []
    for elbo in (Trace_ELBO(**settings), TermsELBO(**settings)):
        loss = seeded(elbo(m.model, m.guide), x)
        losses.append(loss.item())
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert (gradients[1] - gradients[0]).norm() < 1e-4 * gradients[0].norm()


@torch.no_grad()
def test_terms_of_vectorized_particles_have_one_value_an_image() -> None:
    x = make_images(2)
    m = build(tiny(), x)
    four = TermsELBO(
        num_particles=4, vectorize_particles=True, max_plate_nesting=1, detailed_kl=True
    )
    terms = four.terms(m.model, m.guide, x)
    assert {name: tuple(term.shape) for name, term in terms.named().items()} == dict.fromkeys(
        ("re_x", "re_y", "kl_z", "kl_u"), (2,)
    )
    assert terms.detailed_kl["z"].shape == (2, 4, 4, 4)


@torch.no_grad()
def test_closed_form_kl_is_the_sampled_ones_expectation() -> None:
    x = make_images(2)
    config = tiny(p_u="standard", posterior_scale=0.5, posterior_log_variance=-1.0)
    m = build(config, x)
    settings: dict[str, Any] = {
        "num_particles": 256,
        "vectorize_particles": True,
        "max_plate_nesting": 1,
        "detailed_kl": True,
    }
    exact = seeded(TermsELBO(analytic_kl=True, **settings).terms, m.model, m.guide, x)
    sampled = seeded(TermsELBO(**settings).terms, m.model, m.guide, x)
    u = m.guide.q_u(m.guide.d(x)).base_dist
    formula = 0.5 * (u.scale**2 + u.loc**2 - 1) - u.scale.log()
    torch.testing.assert_close(exact.detailed_kl["u"], formula, rtol=1e-4, atol=1e-5)
    for name in ("u", "z"):
        closed = exact.kl[name]
        torch.testing.assert_close(exact.detailed_kl[name].sum((1, 2, 3)), closed)
        torch.testing.assert_close(sampled.detailed_kl[name], exact.detailed_kl[name])
        # The sampled KL varies by about sqrt(elements / 2) nats, 64 elements here.
        assert ((sampled.kl[name] - closed).abs() < 5 * math.sqrt(64 / 256)).all()
        assert not torch.equal(sampled.kl[name], closed)
    for name in ("x", "y"):
        assert torch.equal(sampled.reconstruction[name], exact.reconstruction[name])


def test_closed_form_kl_is_left_to_sampling_where_there_is_none() -> None:
    x = make_images(2)
    m = build(tiny(), x)  # u's prior is a flow, z's a normal
    elbo = TermsELBO(analytic_kl=True, detailed_kl=True)
    closed = seeded(elbo.terms, m.model, m.guide, x)
    sampled = seeded(TermsELBO().terms, m.model, m.guide, x)
    assert closed.detailed_kl.keys() == {"z"}
    assert torch.equal(closed.kl["u"], sampled.kl["u"])
    assert not torch.equal(closed.kl["z"], sampled.kl["z"])


@pytest.mark.parametrize("analytic_kl", [False, True])
def test_stock_svi_takes_the_loss(analytic_kl: bool) -> None:
    """... and optimises what the loss says it does."""
    x = make_images(2)
    m = build(tiny(model="vae", p_u="standard"), x)
    elbo = TermsELBO(analytic_kl=analytic_kl)
    expected = seeded(elbo.differentiable_loss, m.model, m.guide, x).item()
    svi = SVI(*m.programs(), pyro.optim.Adam({"lr": 0.01}), elbo)
    assert seeded(svi.evaluate_loss, x) == pytest.approx(expected, rel=1e-6)
    assert seeded(svi.step, x) == pytest.approx(expected, rel=1e-6)


@torch.no_grad()
def test_closed_form_kl_is_scaled_as_the_sampled_one() -> None:
    x = make_images(2)
    m = build(tiny(model="vae", p_u="standard"), x)
    elbo = TermsELBO(analytic_kl=True)
    plain = elbo.terms(m.model, m.guide, x)
    scaled = elbo.terms(poutine.scale(m.model, 0.25), poutine.scale(m.guide, 0.25), x)
    torch.testing.assert_close(scaled.kl["z"], 0.25 * plain.kl["z"])
    # Where model and guide differ there is no closed form.
    arguments = poutine.scale(m.model, 0.25), m.guide, x
    closed, sampled = (seeded(e.terms, *arguments) for e in (elbo, TermsELBO()))
    assert torch.equal(closed.kl["z"], sampled.kl["z"])


@torch.no_grad()
@pytest.mark.parametrize("analytic_kl", [False, True])
def test_elbo_is_exact_where_the_posterior_is(analytic_kl: bool) -> None:
    """z ~ N(0, 1), x ~ N(z, 1), q(z|x) = N(x/2, 1/2): every sample's ELBO is log p(x)."""
    x = torch.linspace(-2, 2, 5).reshape(5, 1, 1, 1)

    def model(x: Tensor) -> None:
        with pyro.plate("images", 5):
            z = pyro.sample("z", dist.Normal(torch.zeros(1, 1, 1), 1.0).to_event(3))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(3), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("images", 5):
            pyro.sample("z", dist.Normal(x / 2, math.sqrt(0.5)).to_event(3))

    elbo = TermsELBO(
        analytic_kl=analytic_kl,
        num_particles=20_000 if analytic_kl else 1,
        vectorize_particles=analytic_kl,
        max_plate_nesting=1,
    )
    total = elbo.terms(model, guide, x).total
    expected = -dist.Normal(0.0, math.sqrt(2.0)).log_prob(x.flatten())
    torch.testing.assert_close(total, expected, rtol=0, atol=0.06 if analytic_kl else 1e-5)


@pytest.mark.parametrize("kind", ["srvae", "vae"])
def test_images_of_another_size_have_latents_of_theirs(kind: Any) -> None:
    m = build(tiny(model=kind, p_u="realnvp"), make_images(4))
    x = make_images(2, (3, 32, 16))
    found = seeded(TermsELBO().terms, m.model, m.guide, x)
    assert found.total.sum().item() == pytest.approx(seeded(Trace_ELBO().loss, m.model, m.guide, x))
    assert m.log_likelihood(x, 2, refine=1).shape == (2,)
    # With a standard prior a wrong size could pass: each latent's terms broadcast.
    m = build(tiny(model=kind, p_u="standard"), make_images(4))
    lowest = m.model.levels[0][0]
    trace = poutine.trace(poutine.replay(m.model, poutine.trace(m.guide).get_trace(x))).get_trace(x)
    assert trace.nodes[lowest]["fn"].event_shape == trace.nodes[lowest]["value"].shape[1:]


def test_pairs_that_the_terms_do_not_suit_are_refused() -> None:
    x = make_images(2)
    m = build(tiny(), x)

    def auxiliary(x: Tensor) -> None:
        pyro.sample("extra", dist.Normal(0.0, 1.0))
        m.guide(x)

    def discrete(x: Tensor) -> None:
        m.guide(x)
        pyro.sample("switch", dist.Bernoulli(0.5))

    def switched(x: Tensor) -> None:
        pyro.sample("switch", dist.Bernoulli(0.5))
        m.model(x)

    for model, guide, message in (
        (m.model, auxiliary, "no term for the guide's extra"),
        (switched, discrete, "switch is not reparametrised"),
        (poutine.uncondition(m.model), m.guide, "the guide does not sample x"),
        (m.model, poutine.block(m.guide, hide=["u"]), "the guide does not sample u"),
    ):
        with pytest.warns() if guide is not discrete else nullcontext(), refused(message):
            TermsELBO().terms(model, guide, x)
    given = poutine.condition(m.model, {"y": m.guide.d(x)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pyro's, that the guide samples y too
        assert TermsELBO().terms(given, m.guide, x).total.isfinite().all()
