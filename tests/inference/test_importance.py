"""The importance-sampled likelihood against closed forms and against Pyro's own traces."""

from __future__ import annotations

import math
from types import SimpleNamespace
from unittest.mock import Mock

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from srvae_pyro import SRVAE, VAE, UserError
from srvae_pyro.evaluation.likelihood import evaluate_likelihood
from srvae_pyro.inference.decoding import Decode, ImageNoise
from srvae_pyro.inference.importance import estimate_log_likelihood, evaluations_at_once
from srvae_pyro.inference.importance_weights import (
    effective_pairs,
    effective_samples,
    log_mean,
    normal_log_prob,
    pareto_k,
)
from srvae_pyro.inference.statistics import standard_error
from srvae_pyro.models.srvae import SRVAEGuide, SRVAEModel
from srvae_pyro.networks import cached_weights
from srvae_pyro.system.device import peak_bytes
from tests.builders import make_images, smallest

TINY = dict(latent_channels=4, p_u="realnvp", posterior_log_variance=-1.0, head_scale=0.3)


# A linear-Gaussian srVAE, whose likelihood is known: every image is one row of numbers.


class Linear(nn.Module):
    """N(sum_i W_i a_i, s) of its arguments, events (1, 1, D)."""

    def __init__(self, scale: float, *weights: Tensor) -> None:
        super().__init__()
        self.weights = weights
        self.scale = torch.tensor(scale, dtype=torch.float64)

    def forward(self, *arguments: Tensor) -> dist.TorchDistribution:
        mean = sum((a @ w.T for a, w in zip(arguments, self.weights, strict=True)), torch.zeros(()))
        return dist.Normal(mean, self.scale.expand(mean.shape)).to_event(3)

    def given(self, y: Tensor):
        return lambda u: self(y, u)


class Standard(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, size=None) -> dist.TorchDistribution:
        zeros = torch.zeros(1, 1, self.width, dtype=torch.float64)
        return dist.Normal(zeros, 1.0).to_event(3)


class FirstHalf(nn.Module):
    """The deterministic y = d(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., : x.shape[-1] // 2]


def matrix(rows: int, columns: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.7 * torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def linear_gaussian() -> SimpleNamespace:
    """The model, a guide that is near its posterior but not it, images, and log p(x, d(x)).

    And ``best``, the highest ELBO of independent normals: with the posterior's precision L they
    have its mean and variances 1 / L_ii.
    """
    width, latent, half = 4, 2, 2
    a, b, c = matrix(half, latent, 1), matrix(latent, half, 2), matrix(latent, latent, 3)
    d, e = matrix(width, half, 4), matrix(width, latent, 5)
    model = SRVAEModel(
        p_u=Standard(latent), p_y=Linear(0.8, a), p_z=Linear(0.9, b, c), p_x=Linear(0.7, d, e)
    )
    # Covariance of (u, y, z, x), built up as the model is.
    cov = torch.eye(latent, dtype=torch.float64)
    no_u = torch.zeros(width, latent, dtype=torch.float64)
    for weights, scale in (
        (a, 0.8),
        (torch.cat([c, b], 1), 0.9),
        (torch.cat([no_u, d, e], 1), 0.7),
    ):
        cross = weights @ cov
        own = cross @ weights.T + scale**2 * torch.eye(len(weights), dtype=torch.float64)
        cov = torch.cat([torch.cat([cov, cross.T], 1), torch.cat([cross, own], 1)])
    u, y = slice(0, latent), slice(latent, latent + half)
    z = slice(latent + half, 2 * latent + half)
    seen = torch.cat([torch.arange(2, 4), torch.arange(6, 10)])  # y and x
    # The guide: u given y, and z given x and so y, which is its first half; widened a little.
    gain_u = cov[u, y] @ torch.linalg.inv(cov[y, y])
    gain = cov[z, seen] @ torch.linalg.inv(cov[seen][:, seen])
    gain_z = gain[:, half:].clone()
    gain_z[:, :half] += gain[:, :half]
    guide = SRVAEGuide(FirstHalf(), q_u=Linear(0.9, gain_u), q_z=Linear(0.8, gain_z))
    images = 0.7 * torch.randn(
        3, 1, 1, width, generator=torch.Generator().manual_seed(7), dtype=torch.float64
    )
    values = torch.cat([images[..., :half], images], -1).reshape(3, -1)
    marginal = dist.MultivariateNormal(
        torch.zeros(len(seen), dtype=torch.float64), cov[seen][:, seen]
    )
    truth = marginal.log_prob(values)
    latents = torch.cat([torch.arange(2), torch.arange(4, 6)])  # u and z
    precision = torch.linalg.inv(cov)[latents][:, latents]
    best = truth - 0.5 * (precision.diagonal().log().sum() - precision.logdet())
    net = SimpleNamespace(model=model, guide=guide)
    return SimpleNamespace(net=net, x=images, truth=truth, best=best)


@pytest.fixture(scope="module")
def linear() -> SimpleNamespace:
    return linear_gaussian()


@pytest.mark.parametrize("estimator", ["paired", "product"])
def test_converges_to_the_truth_of_a_linear_gaussian_model(linear, estimator: str) -> None:
    samples = 60_000 if estimator == "paired" else 3000
    estimate = estimate_log_likelihood(
        linear.net, linear.x, samples, estimator=estimator, at_once=10**6
    )
    torch.testing.assert_close(estimate.log_likelihood, linear.truth, atol=0.05, rtol=0)
    assert (estimate.elbo < linear.truth - 0.02).all()
    assert (estimate.pareto_k < 0.7).all()


def repeated(linear, samples: int, estimator: str, times: int) -> Tensor:
    """Independent estimates of each image: (times, images)."""
    x = linear.x.repeat_interleave(times, 0)
    estimate = estimate_log_likelihood(linear.net, x, samples, estimator=estimator, at_once=10**6)
    return estimate.log_likelihood.reshape(len(linear.x), times).T


def test_product_is_tighter_and_varies_less_than_paired(linear) -> None:
    paired = repeated(linear, 8, "paired", 600)
    product = repeated(linear, 8, "product", 600)
    assert (product.var(0) < 0.8 * paired.var(0)).all()
    assert (product.mean(0) > paired.mean(0)).all()
    assert (product.mean(0) < linear.truth + 0.05).all()


def test_effective_pairs_tell_how_much_the_average_of_pairs_varies(linear) -> None:
    samples, times = 30, 500
    x = linear.x.repeat_interleave(times, 0)
    estimate = estimate_log_likelihood(linear.net, x, samples, at_once=10**6)
    means = (estimate.log_likelihood - linear.truth.repeat_interleave(times)).exp()
    variance = means.reshape(len(linear.x), times).var(dim=1)  # relative: the mean is 1
    # Of S weights with effective size E the average varies by 1/E - 1/S.
    told = (1 / estimate.effective_samples).reshape(len(linear.x), times).mean(dim=1) - 1 / samples
    torch.testing.assert_close(told, variance, rtol=0.3, atol=0)
    assert (estimate.effective_samples >= 1).all()
    assert (estimate.effective_samples <= samples).all()


def test_effective_pairs_of_even_weights_are_all_and_of_single_ones_one() -> None:
    even = torch.zeros(5, 1, dtype=torch.float64)
    single = torch.tensor([[0.0], [-90.0], [-90.0], [-90.0], [-90.0]], dtype=torch.float64)
    assert effective_pairs(even, even).item() == pytest.approx(5)
    assert effective_pairs(single, even).item() == pytest.approx(1)
    assert effective_pairs(single, single).item() == 1


# Real models.


def make(kind: type, **changes) -> SRVAE | VAE:
    torch.manual_seed(0)
    name = "vae" if kind is VAE else "srvae"
    net = kind(smallest(model=name, **{**TINY, **changes}))
    net.initialize(make_images(8))
    return net.eval()


MODELS = {
    "srvae": (SRVAE, {}),
    "srvae, z sees y": (SRVAE, {"guide_z_sees_y": True}),
    "srvae, mixture": (SRVAE, {"p_u": "mixture", "p_u_components": 3}),
    "srvae, standard": (SRVAE, {"p_u": "standard"}),
    "srvae, sketch": (SRVAE, {"d": "sketch"}),
    "vae": (VAE, {}),
    "vae, mixture": (VAE, {"p_u": "mixture", "p_u_components": 3}),
}


@pytest.fixture(params=MODELS, scope="module")
def net(request) -> SRVAE | VAE:
    kind, changes = MODELS[request.param]
    return make(kind, **changes)


def log_weights(net, x: Tensor, samples: int) -> Tensor:
    """By Pyro's traces of guide and model, with the same noise: (S, B)."""
    with Decode(noise=ImageNoise(0, range(len(x)))), pyro.plate("samples", samples, dim=-2):
        guide = pyro.poutine.trace(net.guide).get_trace(x)
        model = pyro.poutine.trace(pyro.poutine.replay(net.model, trace=guide)).get_trace(x)
    model.compute_log_prob()
    guide.compute_log_prob()
    total = torch.zeros(samples, len(x), dtype=torch.float64)
    for trace, sign in ((model, 1), (guide, -1)):
        for name, site in trace.nodes.items():
            # y is deterministic: its point mass in the guide has no density to divide by.
            if site["type"] == "sample" and name in ("x", "y", "z", "u"):
                total += sign * (0 if name == "y" and sign < 0 else site["log_prob"].double())
    return total


@torch.no_grad()
def test_paired_is_what_pyros_traces_give(net) -> None:
    x = make_images(2)
    expected = log_weights(net, x, 5)
    estimate = estimate_log_likelihood(net, x, 5, estimator="paired")
    torch.testing.assert_close(estimate.log_likelihood, log_mean(expected), atol=5e-3, rtol=1e-6)
    torch.testing.assert_close(estimate.elbo, expected.mean(0), atol=5e-3, rtol=1e-6)


@torch.no_grad()
def test_product_is_the_mean_over_all_pairs(net) -> None:
    if isinstance(net, VAE):
        pytest.skip("no pairs")
    x, samples = make_images(1), 4
    noise = ImageNoise(0, [0])
    y = net.guide.d(x)
    q_u, q_z = net.guide.q_u(y), net.guide.q_z(x)
    like = torch.zeros(samples, *q_u.mean.shape)
    u = q_u.mean + q_u.stddev * noise.normal("u", like)
    z = q_z.mean + q_z.stddev * noise.normal("z", like)
    weights = []
    for i in range(samples):
        below = net.model.p_u().log_prob(u[i]) + net.model.p_y(u[i]).log_prob(y)
        below = below - q_u.log_prob(u[i])
        for j in range(samples):
            own = net.model.p_x(y, z[j]).log_prob(x) - q_z.log_prob(z[j])
            weights.append((below + own + net.model.p_z(y, u[i]).log_prob(z[j])).double())
    estimate = estimate_log_likelihood(net, x, samples)
    expected = log_mean(torch.stack(weights))
    torch.testing.assert_close(estimate.log_likelihood, expected, atol=5e-3, rtol=1e-6)


@pytest.mark.parametrize("estimator", ["paired", "product"])
def test_neither_chunks_nor_batches_nor_order_matter(net, estimator: str) -> None:
    x = make_images(3)
    whole = estimate_log_likelihood(net, x, 9, estimator=estimator, at_once=1000)
    parts = estimate_log_likelihood(net, x, 9, estimator=estimator, at_once=6)
    alone = estimate_log_likelihood(net, x[[2, 0]], 9, estimator=estimator, images=[2, 0])
    other = estimate_log_likelihood(net, x, 9, estimator=estimator, seed=1)
    for name in ("log_likelihood", "elbo", "effective_samples"):
        expected = getattr(whole, name)
        torch.testing.assert_close(getattr(parts, name), expected, atol=5e-3, rtol=1e-5)
        torch.testing.assert_close(getattr(alone, name), expected[[2, 0]], atol=5e-3, rtol=1e-5)
    assert ((other.log_likelihood - whole.log_likelihood).abs() > 1e-2).all()


def test_encoders_run_once() -> None:
    net = make(SRVAE)
    p_z = net.model.p_z
    hooks = []
    for network in (net.guide.q_u.encoder, net.guide.q_z.encoder, p_z.from_y, p_z.joint):
        hooks.append(Mock(return_value=None))
        network.register_forward_hook(hooks[-1])
    estimate_log_likelihood(net, make_images(1), 12, at_once=3)
    assert [hook.call_count for hook in hooks] == [1, 1, 1, 4]


# Parts.


def test_pairs_by_matrix_products_equal_the_density() -> None:
    torch.manual_seed(0)
    z = torch.randn(2, 5, 12, dtype=torch.float64)
    mean, stddev = torch.randn(3, 2, 3, 2, 2), torch.rand(3, 2, 3, 2, 2) + 0.03
    found = normal_log_prob(z, mean, stddev)
    for i in range(3):
        for j in range(5):
            p = dist.Normal(mean[i].double(), stddev[i].double()).to_event(3)
            expected = p.log_prob(z[:, j].reshape(2, 3, 2, 2))
            torch.testing.assert_close(found[i, j], expected, rtol=1e-9, atol=1e-7)


def test_weights() -> None:
    equal = torch.full((40, 1), -1e5, dtype=torch.float64)
    one = equal.clone()
    one[3] += 100
    assert effective_samples(equal).item() == pytest.approx(40)
    assert effective_samples(one).item() == pytest.approx(1)
    assert log_mean(equal).item() == pytest.approx(-1e5)
    assert math.isnan(pareto_k(equal[:10]).item())


def test_pareto_k_finds_the_tail() -> None:
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(4000, 20, generator=generator, dtype=torch.float64)
    for k in (0.3, 1.0):
        # Weights (1 - v)^-k have a Pareto tail of that shape.
        assert pareto_k(-k * uniform.log()).mean().item() == pytest.approx(k, abs=0.12)


def test_peak_bytes_counts_what_lives_at_once() -> None:
    def one_after_the_other() -> None:
        for _ in range(4):
            torch.zeros(1000, 1000)

    def together() -> list[Tensor]:
        return [torch.zeros(1000, 1000) for _ in range(4)]

    assert peak_bytes(one_after_the_other) < 9_000_000
    assert peak_bytes(together) == 16_000_000


def test_memory_bounds_what_is_done_at_once() -> None:
    net = make(SRVAE)
    small, large = (evaluations_at_once(net, make_images(1), 5, gb) for gb in (0.001, 0.01))
    assert 1 <= small < large
    with cached_weights():  # which are then computed in the first measurement only
        assert evaluations_at_once(net, make_images(1), 5, 0.01) == large
    with pytest.raises(UserError, match=r"`memory_gb=1e-09` is too little"):
        evaluations_at_once(net, make_images(1), 5, 1e-9)


@pytest.mark.parametrize("estimator", ["paired", "product"])
def test_memory_counts_the_latents_of_all_samples(estimator: str) -> None:
    net, samples, memory_gb = make(SRVAE, p_u="standard"), 600, 0.004
    at_once = evaluations_at_once(net, make_images(1), samples, memory_gb)
    assert 1 < at_once < evaluations_at_once(net, make_images(1), 5, memory_gb)
    taken = peak_bytes(
        lambda: estimate_log_likelihood(
            net, make_images(1), samples, estimator=estimator, at_once=at_once
        )
    )
    assert taken < 0.6e9 * memory_gb


@pytest.mark.parametrize("estimator", ["paired", "product"])
def test_a_repeated_image_is_as_good_as_several(net, estimator: str) -> None:
    one = make_images(1)
    values = [
        estimate_log_likelihood(net, x, 4, estimator=estimator)
        for x in (one.expand(3, -1, -1, -1), one.repeat(3, 1, 1, 1))
    ]
    for name in ("log_likelihood", "elbo", "effective_samples"):
        repeated, several = (getattr(value, name) for value in values)
        torch.testing.assert_close(repeated, several, rtol=1e-5, atol=1e-3)
    assert len(values[0].log_likelihood.unique()) == 3  # noise of its own for each


def test_over_a_set_of_images() -> None:
    net = make(SRVAE)
    images = (make_images(5) * 255).round().to(torch.uint8)
    result = evaluate_likelihood(net, images, torch.device("cpu"), 6)
    each = estimate_log_likelihood(net, make_images(5), 6).log_likelihood
    unit = 3 * 16 * 16 * math.log(2)
    assert result.bits_per_dim == pytest.approx(-each.mean().item() / unit, rel=1e-6)
    assert result.standard_error == pytest.approx(each.std().item() / 5**0.5 / unit, rel=1e-3)
    assert result.elbo_bits_per_dim > result.bits_per_dim
    assert result.pareto_k is None  # too few samples to tell
    assert "photographs" not in result.to_json()
    cut = torch.tensor([0, 0, 1, 1, 1])
    alike = evaluate_likelihood(net, images, torch.device("cpu"), 6, photographs=cut)
    assert (alike.bits_per_dim, alike.photographs) == (result.bits_per_dim, 2)
    error = standard_error(each, cut)
    assert alike.standard_error == pytest.approx(error / unit, rel=1e-3)


def test_bad_requests() -> None:
    net = make(VAE)
    with pytest.raises(UserError, match="at least 1, not 0"):
        estimate_log_likelihood(net, make_images(1), 0)
    with pytest.raises(UserError, match="product or paired, not 'all'"):
        estimate_log_likelihood(net, make_images(1), 2, estimator="all")
