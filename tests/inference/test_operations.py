"""Generating, reconstructing and super-resolving: shapes, values, decoding, temperatures."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from srvae_pyro.distributions import Prior
from srvae_pyro.errors import UserError
from srvae_pyro.evaluation.likelihood import evaluate_elbo
from srvae_pyro.evaluation.super_resolution import evaluate_super_resolution
from srvae_pyro.inference.decoding import Decode
from srvae_pyro.inference.importance import estimate_log_likelihood
from srvae_pyro.inference.operations import slerp
from srvae_pyro.models import SRVAE, ImageModel, make_model
from srvae_pyro.pixels import to_levels, to_unit
from srvae_pyro.upscaling.arguments import UpscaleOptions
from srvae_pyro.upscaling.upscaler import Upscaler
from tests.builders import make_images, refused, smallest

LATENT = (2, 4, 4)


def make(model: Any = "srvae", **changes: Any) -> ImageModel:
    """A tiny model of 3x16x16 images, initialised."""
    made = make_model(smallest(model=model, **changes))
    made.initialize(images(8, 16, made.config.image_shape[0]))
    return made.eval()


def images(count: int, size: int = 16, channels: int = 3, seed: int = 0) -> Tensor:
    return make_images(count, (channels, size, size), seed)


def is_on_grid(images: Tensor) -> bool:
    inside = bool(((images >= 0) & (images <= 1)).all())
    return inside and torch.equal(to_unit(to_levels(images)), images)


@pytest.fixture
def srvae() -> SRVAE:
    model = make()
    return model


# Generating


@pytest.mark.parametrize("decode", ["sample", "mode"])
@pytest.mark.parametrize("model", ["srvae", "vae"])
def test_generated_sites(model: str, decode: Any) -> None:
    sites = make(model, p_u="realnvp").generate(5, decode=decode, batch_size=2)
    shapes = {"x": (3, 16, 16), "z": LATENT}
    if model == "srvae":
        shapes |= {"y": (3, 8, 8), "u": LATENT}
    assert {name: tuple(value.shape) for name, value in sites.items()} == {
        name: (5, *shape) for name, shape in shapes.items()
    }
    assert all(is_on_grid(sites[name]) for name in sites.keys() & {"x", "y"})
    assert not any(value.requires_grad for value in sites.values())
    assert len(sites["z"].unique(dim=0)) == 5


def test_mode_is_decided_by_the_latents() -> None:
    made = make("vae")
    torch.manual_seed(0)
    sites = made.generate(3, decode="mode")
    expected = made.model.p_x(sites["z"]).location
    assert torch.equal(sites["x"], expected)
    torch.manual_seed(0)
    sampled = made.generate(3)
    assert torch.equal(sampled["z"], sites["z"])
    assert not torch.equal(sampled["x"], expected)


def test_at_temperature_0_the_modes_are_one_image(srvae: SRVAE) -> None:
    sites = srvae.generate(3, decode="mode", temperature=0)
    torch.manual_seed(1)
    alone = srvae.generate(1, decode="mode", temperature=0)
    for name, value in sites.items():  # last bits of convolutions depend on an image's place
        torch.testing.assert_close(value, alone[name].expand_as(value), rtol=1e-4, atol=1 / 255)


def test_latents_of_temperature_0_are_the_means(srvae: SRVAE) -> None:
    sites = srvae.generate(4, temperature=0)
    assert sites["u"].abs().max() == 0
    prior = srvae.model.p_z(sites["y"], sites["u"])
    torch.testing.assert_close(sites["z"], prior.base_dist.mean, rtol=1e-4, atol=1e-5)


class Laplace(Prior):
    def forward(self, size: tuple[int, int] | None = None) -> dist.TorchDistribution:
        return dist.Laplace(torch.zeros(self.shape), 1.0).to_event(3)


def test_latents_that_are_not_normal_are_drawn_by_pyro_and_have_no_temperature() -> None:
    made = make("vae")
    made.model.p_z = Laplace((2, 4, 4))
    z = made.generate(500)["z"]
    assert z.abs().mean().item() == pytest.approx(1, abs=0.05)  # 0.8 of a normal as wide
    z = made.generate(4, seed=1, batch_size=2)["z"]
    assert torch.equal(made.generate(4, seed=1, batch_size=2)["z"], z)
    assert len(torch.cat([z, made.generate(4, seed=2)["z"]]).unique(dim=0)) == 8
    with pytest.raises(UserError, match="latents that are normal, which z is not"):
        made.generate(1, temperature=0.5)


def test_temperature_0_of_a_mixture_is_one_of_its_means() -> None:
    made = make("vae", p_u="mixture")
    means = made.model.get_submodule("p_z").get_parameter("means")
    z = made.generate(20, temperature=0)["z"]
    distances = (z[:, None] - means[None]).abs().flatten(2).amax(dim=2)
    assert distances.amin(dim=1).max() < 1e-6
    assert len(distances.argmin(dim=1).unique()) > 1


def test_temperature_scales_the_latents_spread() -> None:
    made = make("vae")
    cold, warm = (made.generate(64, temperature=t)["z"].std() for t in (0.5, 2.0))
    assert cold.item() == pytest.approx(0.5, rel=0.1)
    assert warm.item() == pytest.approx(2.0, rel=0.1)


def test_the_flow_is_cooled_at_its_base() -> None:
    made = make("vae", p_u="realnvp")
    z = made.generate(3, temperature=0)["z"]
    prior = made.model.p_z(None)
    expected = torch.zeros(1, *LATENT)
    for transform in prior.transforms:
        expected = transform(expected)
    torch.testing.assert_close(z, expected.expand_as(z))


def test_y_has_a_temperature_of_its_own(srvae: SRVAE) -> None:
    both = srvae.generate(4, seed=1, image_temperature=0.3)
    y_alone = srvae.generate(4, seed=1, y_temperature=0.3)
    assert torch.equal(y_alone["y"], both["y"])
    assert not torch.equal(y_alone["x"], both["x"])
    x_alone = srvae.generate(4, seed=1, image_temperature=0.3, y_temperature=1.0)
    plain = srvae.generate(4, seed=1)
    assert torch.equal(x_alone["y"], plain["y"])
    assert not torch.equal(x_alone["x"], plain["x"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"decode": "median"},
        {"count": 0},
        {"temperature": -0.1},
        {"image_temperature": 0.0},
        {"y_temperature": float("nan")},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_decoding_that_makes_no_sense_is_refused(srvae: SRVAE, wrong: dict[str, Any]) -> None:
    with refused(next(iter(wrong)).replace("count", "at least 1")):
        srvae.generate(**({"count": 1} | wrong))


def test_decoding_leaves_given_sites_alone(srvae: SRVAE) -> None:
    x = images(2)
    with Decode("mode", temperature=0.0):
        trace = poutine.trace(srvae.model).get_trace(x)
    assert torch.equal(trace.nodes["x"]["value"], x)


# Reconstructing


@pytest.mark.parametrize("decode", ["sample", "mode"])
@pytest.mark.parametrize("model", ["srvae", "vae"])
def test_reconstructions(model: str, decode: Any) -> None:
    made, x = make(model, p_u="realnvp"), images(5)
    sites = made.reconstruct(x, decode=decode, batch_size=2)
    assert sites["x"].shape == x.shape
    assert sites["z"].shape == (5, *LATENT)
    assert is_on_grid(sites["x"])
    if model == "srvae":
        assert torch.equal(sites["y"], make_y(made, x))
        assert sites["u"].shape == (5, *LATENT)


def make_y(model: ImageModel, x: Tensor) -> Tensor:
    return model.guide.get_submodule("d")(x)


def test_reconstruction_is_decoded_from_the_guides_latents(srvae: SRVAE) -> None:
    """Latents near q's means where q is narrow, not drawn anew from the prior."""
    x = images(3)
    head = srvae.guide.q_z.encoder[-1]
    with torch.no_grad():
        head.bias[2:] = -40.0  # log-variances, clamped at -7
    sites = srvae.reconstruct(x)
    q = srvae.guide.q_z(x).base_dist
    assert (sites["z"] - q.mean).abs().max() < 6 * q.stddev.max()
    assert q.stddev.max() < 0.05


# Super-resolving


@pytest.mark.parametrize("prior", ["standard", "realnvp"])
@pytest.mark.parametrize("size", [4, 8, 12, 16])
def test_super_resolution_of_any_size(prior: str, size: int) -> None:
    made = make(p_u=prior)
    y = images(3, size)
    sites = made.super_resolve(y, 2)
    assert sites["x"].shape == (2, 3, 3, 2 * size, 2 * size)
    assert sites["z"].shape == sites["u"].shape == (2, 3, 2, size // 2, size // 2)
    assert torch.equal(sites["y"], y.expand(2, 3, 3, size, size))
    assert is_on_grid(sites["x"])
    assert len(sites["x"].flatten(0, 1).unique(dim=0)) == 6


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_super_resolution_does_not_mix_images_up(srvae: SRVAE, batch_size: int) -> None:
    y = images(5, 8)
    sites = srvae.super_resolve(y, 2, decode="mode", temperature=0, batch_size=batch_size)
    for sample in (0, 1):
        for number in range(5):
            alone = srvae.super_resolve(y[number, None], decode="mode", temperature=0)["x"][0, 0]
            # Sums may be ordered otherwise in another batch: a level of difference.
            difference = (sites["x"][sample, number] - alone).abs()
            assert (difference > 1.5 / 255).float().mean() < 0.02


@pytest.mark.parametrize("transform", ["downscale4", "grayscale", "sketch"])
def test_super_resolution_by_every_transform(transform: str) -> None:
    made = make(d=transform)
    y = make_y(made, images(2))
    sites = made.super_resolve(y, 3, decode="mode")
    assert sites["x"].shape == (3, 2, 3, 16, 16)
    assert torch.equal(sites["y"], y.expand(3, *y.shape))


@pytest.mark.parametrize(
    ("y", "advice"),
    [
        (torch.rand(2, 1, 8, 8), r"\(B, 3, h, w\)"),
        (torch.rand(2, 3, 7, 8), "multiples of"),
        (torch.rand(2, 3, 8, 6), "multiples of"),  # u of 3 rows suits no flow
        (255 * torch.rand(2, 3, 8, 8), r"\[0, 1\]"),
    ],
    ids=["channels", "odd", "odd latent", "levels"],
)
def test_a_y_that_does_not_suit_is_refused(y: Tensor, advice: str) -> None:
    made = make(p_u="realnvp")
    with refused(advice):
        made.super_resolve(y)


BAD_IMAGES = {
    "channels": (torch.rand(2, 1, 16, 16), r"\(B, 3, h, w\)"),
    "no batch": (torch.rand(3, 16, 16), r"\(B, 3, h, w\); one image is \w+\[None\]"),
    "nothing": (torch.rand(0, 3, 16, 16), "has no images"),
    "odd": (torch.rand(2, 3, 16, 18), "multiples of 8"),
    "uint8": (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), "divide uint8"),
    "levels": (255 * torch.rand(2, 3, 16, 16), r"\[0, 1\]"),
    "nan": (torch.full((2, 3, 16, 16), float("nan")), r"\[0, 1\]"),
    "off the grid": (
        torch.rand(2, 3, 16, 16),
        r"values k/255: use \(255 \* \w+\)\.round\(\) / 255",
    ),
}


@pytest.mark.parametrize("kind", ["srvae", "vae"])
@pytest.mark.parametrize("what", BAD_IMAGES)
def test_every_operation_refuses_what_are_no_images_for_it(what: str, kind: Any) -> None:
    made = make(kind, p_u="realnvp")
    x, advice = BAD_IMAGES[what]
    good = images(2)
    operations: list[Callable[[], Any]] = [
        lambda: made.reconstruct(x),
        lambda: made.interpolate(x, x, 3),
        lambda: made.interpolate(good, x, 3),
        lambda: made.log_likelihood(x, 2),
    ]
    if isinstance(made, SRVAE):
        operations += [
            lambda: made.generative_reconstruct(x),
            lambda: made.recombine(x, good),
            lambda: made.recombine(good, x),
        ]
    for operation in operations:
        with refused(advice):
            operation()


def test_the_mixture_prior_takes_one_size() -> None:
    made = make(p_u="mixture")
    assert made.super_resolve(images(2, 8), 2)["x"].shape == (2, 2, 3, 16, 16)
    with refused("8x8"):
        made.super_resolve(images(2, 16))


def test_operations_without_y_are_refused() -> None:
    vae = make("vae")
    with pytest.raises(UserError, match="super-resolution needs an srVAE"):
        vae.super_resolve(images(1, 8))
    with pytest.raises(UserError, match="generative reconstruction needs an srVAE"):
        vae.generative_reconstruct(images(1))
    with pytest.raises(UserError, match="`y_temperature` needs an srVAE: this model has no y"):
        vae.generate(1, y_temperature=0.5)


# Generative reconstruction


def test_generative_reconstruction_goes_by_u_alone(srvae: SRVAE) -> None:
    x = images(3)
    sites = srvae.generative_reconstruct(x, decode="mode", temperature=0.0, batch_size=2)
    u = srvae.guide.q_u(srvae.guide.d(x)).mean
    torch.testing.assert_close(sites["u"], u, atol=1e-5, rtol=1e-5)
    y = srvae.model.p_y(u).location
    assert (sites["y"] - y).abs().mean() < 1e-3
    assert not torch.equal(sites["y"], srvae.guide.d(x))
    z = srvae.model.p_z(sites["y"], sites["u"]).mean
    torch.testing.assert_close(sites["z"], z, atol=1e-5, rtol=1e-5)
    assert sites["x"].shape == x.shape
    assert is_on_grid(sites["x"])


@pytest.mark.parametrize("sees_y", [False, True])
def test_u_of_one_image_goes_with_z_of_another(sees_y: bool) -> None:
    model = make(guide_z_sees_y=sees_y, posterior_scale=1.0)
    a, b = images(3), images(3, seed=1)
    sites = model.recombine(a, b, decode="mode", temperature=0.0, batch_size=2)
    d = model.guide.d
    u = model.guide.q_u(d(a)).mean
    z = model.guide.q_z(b).mean
    torch.testing.assert_close(sites["u"], u, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sites["z"], z, atol=1e-5, rtol=1e-5)
    assert (sites["y"] - model.model.p_y(u).location).abs().mean() < 1e-3
    x = model.model.p_x(sites["y"], z).location
    assert (sites["x"] - x).abs().mean() < 1e-3
    other = model.recombine(a, a, decode="mode", temperature=0.0)
    torch.testing.assert_close(other["u"], sites["u"])
    assert not torch.equal(other["x"], sites["x"])
    with pytest.raises(UserError, match="do not pair up"):
        model.recombine(a, b[:2])


# Interpolation


def sharp(model: str = "srvae", **changes: Any) -> ImageModel:
    """One whose posteriors are narrow and different for each image."""
    return make(model, posterior_log_variance=-6.0, posterior_scale=1.0, **changes)


@pytest.mark.parametrize("prior", ["standard", "realnvp", "mixture"])
@pytest.mark.parametrize("model", ["srvae", "vae"])
def test_interpolation_starts_and_ends_at_the_latents(model: str, prior: str) -> None:
    net, a, b = sharp(model, p_u=prior), images(2), images(2, seed=1)
    sites = net.interpolate(a, b, 4, decode="mode", temperature=0.0, seed=3, batch_size=3)
    lowest = "z" if model == "vae" else "u"
    for end, x in ((0, a), (-1, b)):
        y = x if model == "vae" else net.guide.d(x)
        posterior = net.guide.q_z if model == "vae" else net.guide.q_u
        torch.testing.assert_close(sites[lowest][end], posterior(y).mean, atol=1e-3, rtol=1e-3)
    assert {name: value.shape[:2] for name, value in sites.items()} == dict.fromkeys(
        net.generate(1), (4, 2)
    )
    assert is_on_grid(sites["x"])
    steps = (sites[lowest][1:] - sites[lowest][:-1]).flatten(2).norm(dim=-1)
    assert (steps > 0).all()


def test_details_are_interpolated_as_the_noise_of_their_prior() -> None:
    net, a, b = sharp(), images(1), images(1, seed=1)
    sites = net.interpolate(a, b, 3, decode="mode", temperature=0.0)
    noise = []
    for step in range(3):
        p = net.model.p_z(sites["y"][step], sites["u"][step])
        noise.append((sites["z"][step] - p.mean) / p.stddev)
    torch.testing.assert_close(noise[1], slerp(noise[0], noise[2], 0.5), atol=1e-3, rtol=1e-3)


def test_the_way_on_the_sphere_keeps_its_distance() -> None:
    a, b = torch.randn(2, 5, 16, 8, 8)
    middle = slerp(a, b, 0.5)
    assert ((middle.flatten(1).norm(dim=1) / a.flatten(1).norm(dim=1) - 1).abs() < 0.1).all()
    torch.testing.assert_close(slerp(a, b, 0.0), a, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(slerp(a, b, 1.0), b, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(slerp(a, 2 * a, 0.5), 1.5 * a)


def test_interpolation_that_makes_no_sense_is_refused(srvae: SRVAE) -> None:
    with pytest.raises(UserError, match="at least 2 steps, not 1"):
        srvae.interpolate(images(1), images(1), 1)
    with pytest.raises(UserError, match="do not pair up"):
        srvae.interpolate(images(1), images(2), 3)
    with pytest.raises(UserError, match="leave out `samples`"):
        srvae.interpolate(images(1), images(1), 3, samples=2)


# Seeds


@pytest.mark.parametrize("model", ["srvae", "vae"])
@pytest.mark.parametrize("prior", ["realnvp", "mixture"])
def test_image_i_of_a_seed_is_the_same_in_any_batch(model: str, prior: str) -> None:
    net = make(model, p_u=prior)
    whole = net.generate(64, seed=5, batch_size=64)
    for batch_size in (1, 7):
        same = net.generate(64, seed=5, batch_size=batch_size)
        lowest = "z" if model == "vae" else "u"
        torch.testing.assert_close(same[lowest], whole[lowest], atol=1e-4, rtol=1e-4)
        # A level differs where a value lay on the border between two.
        assert (same["x"] != whole["x"]).float().mean() < 1e-3
    later = net.generate(4, seed=5, first=60)
    assert (later["x"] != whole["x"][60:]).float().mean() < 1e-3
    assert not torch.equal(net.generate(2, seed=6)["x"], whole["x"][:2])
    assert len(whole["x"].unique(dim=0)) == 64


def test_outputs_and_reconstructions_keep_their_noise_too(srvae: SRVAE) -> None:
    x = images(5)
    y = srvae.guide.d(x)
    for operation in (
        lambda size: srvae.reconstruct(x, seed=1, batch_size=size),
        lambda size: srvae.generative_reconstruct(x, seed=1, batch_size=size),
        lambda size: srvae.super_resolve(y, 3, seed=1, batch_size=size),
    ):
        one, all_ = operation(1)["x"], operation(64)["x"]
        assert (one != all_).float().mean() < 1e-3


def test_a_call_with_a_seed_leaves_pytorchs_generator_as_it_was(srvae: SRVAE) -> None:
    x = images(2)
    y, levels = srvae.guide.d(x), to_levels(x).to(torch.uint8)
    calls = (
        lambda: srvae.generate(2, seed=1),
        lambda: srvae.reconstruct(x, seed=1),
        lambda: srvae.generative_reconstruct(x, seed=1),
        lambda: srvae.recombine(x, x, seed=1),
        lambda: srvae.interpolate(x, x, 2, seed=1),
        lambda: srvae.super_resolve(y, 2, decode="mode", seed=1),
        lambda: srvae.log_likelihood(x, 2, refine=1, seed=1),
        lambda: evaluate_elbo(srvae, levels, srvae.device, seed=1),
        lambda: evaluate_super_resolution(srvae, levels, samples=1, seed=1),
        lambda: Upscaler(srvae, UpscaleOptions(decode="sample", seed=1))(levels[0]),
    )
    before = torch.get_rng_state()
    for number, call in enumerate(calls):
        call()
        assert torch.equal(torch.get_rng_state(), before), number


def test_images_in_double_precision_are_taken(srvae: SRVAE) -> None:
    x = images(2)
    single, double = (srvae.reconstruct(images, seed=0)["x"] for images in (x, x.double()))
    assert torch.equal(single, double)


# The mean


def test_mean_is_the_expectation_of_x_and_the_mode_of_y(srvae: SRVAE) -> None:
    sites = srvae.generate(3, decode="mean", seed=0)
    assert is_on_grid(sites["y"])
    assert not is_on_grid(sites["x"])
    expected = srvae.model.p_x(sites["y"], sites["z"]).mean
    torch.testing.assert_close(sites["x"], expected, atol=1e-5, rtol=1e-5)


def test_log_likelihood_is_the_estimate(srvae: SRVAE) -> None:
    x = images(3)
    found = srvae.log_likelihood(x, 6, seed=2)
    expected = estimate_log_likelihood(srvae, x, 6, seed=2).log_likelihood
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_half_precision_are_refused(dtype: torch.dtype) -> None:
    made = make().to(dtype)
    for operation in (made.reconstruct, made.super_resolve, made.log_likelihood):
        with refused("for saving"):
            operation(images(1))
    with refused("for saving"):
        made.generate(1)


def test_a_seed_may_be_numpys(srvae: SRVAE) -> None:
    expected = srvae.generate(1, seed=3)["x"]
    assert torch.equal(srvae.generate(1, seed=np.int64(3))["x"], expected)
