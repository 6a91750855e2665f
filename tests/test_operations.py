"""Generating, reconstructing and super-resolving: shapes, values, decoding, temperatures."""

from dataclasses import fields
from typing import Any

import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from torch import Tensor

from srvae_pyro.config import Dense, ModelConfig
from srvae_pyro.data import to_unit
from srvae_pyro.data.grid import to_levels
from srvae_pyro.errors import UserError
from srvae_pyro.models import SRVAE, ImageModel, make_model
from srvae_pyro.models.decoding import Decode

LATENT = (2, 4, 4)


def make(model: Any = "srvae", **changes: Any) -> ImageModel:
    """A tiny model of 3x16x16 images, initialised."""
    networks = [f.name for f in fields(ModelConfig) if isinstance(f.default, Dense)]
    settings: dict[str, Any] = {
        "model": model,
        "image_shape": (3, 16, 16),
        "latent_channels": 2,
        "components": 2,
        "prior": "standard",
        "prior_components": 3,
        "init_scale": 0.5,
        "head_scale": 0.5,
        "likelihood_scale": 0.5,
        "likelihood_start": "pictures",
        **dict.fromkeys(networks, Dense(2, 1)),
    }
    made = make_model(ModelConfig(**(settings | changes)))
    made.initialize(pictures(8, 16, made.config.image_shape[0]))
    return made.eval()


def pictures(count: int, size: int = 16, channels: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return to_unit(torch.randint(0, 256, (count, channels, size, size), generator=generator))


def is_on_grid(images: Tensor) -> bool:
    inside = bool(((images >= 0) & (images <= 1)).all())
    return inside and torch.equal(to_unit(to_levels(images)), images)


@pytest.fixture
def srvae() -> SRVAE:
    model = make()
    assert isinstance(model, SRVAE)
    return model


# Generating


@pytest.mark.parametrize("decode", ["sample", "mode"])
@pytest.mark.parametrize("model", ["srvae", "vae"])
def test_generated_sites(model: str, decode: Any) -> None:
    sites = make(model, prior="realnvp").generate(5, decode=decode, batch_size=2)
    shapes = {"x": (3, 16, 16), "z": LATENT}
    if model == "srvae":
        shapes |= {"y": (3, 8, 8), "u": LATENT}
    assert {name: tuple(value.shape) for name, value in sites.items()} == {
        name: (5, *shape) for name, shape in shapes.items()
    }
    assert all(is_on_grid(sites[name]) for name in sites.keys() & {"x", "y"})
    assert not any(value.requires_grad for value in sites.values())
    assert len(sites["z"].unique(dim=0)) == 5


def test_stock_predictive_gives_the_same_sites(srvae: SRVAE) -> None:
    sites = Predictive(srvae.model, num_samples=3)()
    assert sites.keys() == srvae.generate(3).keys()
    assert sites["x"].shape == (3, 1, 3, 16, 16)


@pytest.mark.parametrize("model", ["srvae", "vae"])
def test_generating_repeats_with_its_seed(model: str) -> None:
    made = make(model)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(made.generate(2)["x"])
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_mode_is_decided_by_the_latents() -> None:
    made = make("vae")
    torch.manual_seed(0)
    sites = made.generate(3, decode="mode")
    expected = made.model.likelihood(sites["z"]).mode
    assert torch.equal(sites["x"], expected)
    torch.manual_seed(0)
    sampled = made.generate(3)
    assert not torch.equal(sampled["x"], expected)


def test_at_temperature_0_the_modes_are_one_picture(srvae: SRVAE) -> None:
    sites = srvae.generate(3, decode="mode", temperature=0)
    assert all(len(value.unique(dim=0)) == 1 for value in sites.values())
    torch.manual_seed(1)
    assert torch.equal(srvae.generate(1, decode="mode", temperature=0)["x"], sites["x"][:1])


def test_latents_of_temperature_0_are_the_means(srvae: SRVAE) -> None:
    sites = srvae.generate(4, temperature=0)
    assert sites["u"].abs().max() == 0
    prior = srvae.model.prior(sites["y"], sites["u"])
    torch.testing.assert_close(sites["z"], prior.base_dist.mean, rtol=1e-4, atol=1e-5)


def test_temperature_0_of_a_mixture_is_one_of_its_means() -> None:
    made = make("vae", prior="mixture")
    means = made.model.get_submodule("prior").get_parameter("means")
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
    made = make("vae", prior="realnvp")
    z = made.generate(3, temperature=0)["z"]
    prior = made.model.prior(None)
    expected = torch.zeros(1, *LATENT)
    for transform in prior.transforms:
        expected = transform(expected)
    torch.testing.assert_close(z, expected.expand_as(z))


def test_cold_pixels_are_nearer_to_their_mode() -> None:
    made = make("vae")

    def distance(temperature: float) -> float:
        torch.manual_seed(0)
        x = made.generate(4, image_temperature=temperature, temperature=0)["x"]
        mode = made.generate(1, decode="mode", temperature=0)["x"]
        return (x - mode).abs().mean().item()

    assert distance(0.05) < 0.7 * distance(1.0)


@pytest.mark.parametrize(
    "wrong",
    [{"decode": "mean"}, {"temperature": -0.1}, {"image_temperature": 0.0}],
    ids=["decode", "temperature", "image_temperature"],
)
def test_decoding_that_makes_no_sense_is_refused(srvae: SRVAE, wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError) as error:
        srvae.generate(1, **wrong)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("count", [0, -1])
def test_no_pictures_are_refused(srvae: SRVAE, count: int) -> None:
    with pytest.raises(UserError, match="at least 1"):
        srvae.generate(count)
    with pytest.raises(UserError, match="at least 1"):
        srvae.super_resolve(pictures(1, 8), count)


def test_decoding_leaves_given_sites_alone(srvae: SRVAE) -> None:
    x = pictures(2)
    with Decode("mode", temperature=0.0):
        trace = poutine.trace(srvae.model).get_trace(x)
    assert torch.equal(trace.nodes["x"]["value"], x)


# Reconstructing


@pytest.mark.parametrize("decode", ["sample", "mode"])
@pytest.mark.parametrize("model", ["srvae", "vae"])
def test_reconstructions(model: str, decode: Any) -> None:
    made, x = make(model, prior="realnvp"), pictures(5)
    sites = made.reconstruct(x, decode=decode, batch_size=2)
    assert sites["x"].shape == x.shape
    assert sites["z"].shape == (5, *LATENT)
    assert is_on_grid(sites["x"])
    if model == "srvae":
        assert torch.equal(sites["y"], make_y(made, x))
        assert sites["u"].shape == (5, *LATENT)


def make_y(model: ImageModel, x: Tensor) -> Tensor:
    return model.guide.get_submodule("transform")(x)


def test_one_picture_is_reconstructed_as_a_batch(srvae: SRVAE) -> None:
    assert srvae.reconstruct(pictures(1))["x"].shape == (1, 3, 16, 16)


def test_reconstruction_is_decoded_from_the_guides_latents(srvae: SRVAE) -> None:
    """Latents near q's means where q is narrow, not drawn anew from the prior."""
    x = pictures(3)
    head = srvae.guide.posterior.encoder[-1]
    with torch.no_grad():
        head.bias[2:] = -40.0  # log-variances, clamped at -7
    sites = srvae.reconstruct(x)
    q = srvae.guide.posterior(x).base_dist
    assert (sites["z"] - q.mean).abs().max() < 6 * q.stddev.max()
    assert q.stddev.max() < 0.05


def test_reconstructions_of_other_sizes(srvae: SRVAE) -> None:
    x = pictures(2, 32)
    sites = srvae.reconstruct(x)
    assert sites["x"].shape == x.shape
    assert torch.equal(sites["y"], make_y(srvae, x))


# Super-resolving


@pytest.mark.parametrize("prior", ["standard", "realnvp"])
@pytest.mark.parametrize("size", [4, 8, 12, 16])
def test_super_resolution_of_any_size(prior: str, size: int) -> None:
    made = make(prior=prior)
    assert isinstance(made, SRVAE)
    y = pictures(3, size)
    sites = made.super_resolve(y, 2)
    assert sites["x"].shape == (2, 3, 3, 2 * size, 2 * size)
    assert sites["z"].shape == sites["u"].shape == (2, 3, 2, size // 2, size // 2)
    assert torch.equal(sites["y"], y.expand(2, 3, 3, size, size))
    assert is_on_grid(sites["x"])
    assert len(sites["x"].flatten(0, 1).unique(dim=0)) == 6


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_super_resolution_does_not_mix_pictures_up(srvae: SRVAE, batch_size: int) -> None:
    y = pictures(5, 8)
    sites = srvae.super_resolve(y, 2, decode="mode", temperature=0, batch_size=batch_size)
    for sample in (0, 1):
        for number in range(5):
            alone = srvae.super_resolve(y[number, None], decode="mode", temperature=0)["x"][0, 0]
            # Sums may be ordered otherwise in another batch: a level of difference.
            difference = (sites["x"][sample, number] - alone).abs()
            assert (difference > 1.5 / 255).float().mean() < 0.02


@pytest.mark.parametrize("transform", ["downscale4", "grayscale", "sketch"])
def test_super_resolution_by_every_transform(transform: str) -> None:
    made = make(transform=transform)
    assert isinstance(made, SRVAE)
    y = make_y(made, pictures(2))
    sites = made.super_resolve(y, 3, decode="mode")
    assert sites["x"].shape == (3, 2, 3, 16, 16)
    assert torch.equal(sites["y"], y.expand(3, *y.shape))


@pytest.mark.parametrize(
    ("y", "advice"),
    [
        (torch.rand(2, 1, 8, 8), r"\(B, 3, h, w\)"),
        (torch.rand(3, 8, 8), r"\(B, 3, h, w\)"),
        (torch.rand(2, 3, 7, 8), "multiples of"),
        (torch.rand(2, 3, 8, 6), "multiples of"),  # u of 3 rows suits no flow
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "divide uint8"),
        (255 * torch.rand(2, 3, 8, 8), r"\[0, 1\]"),
        (torch.full((2, 3, 8, 8), float("nan")), r"\[0, 1\]"),
    ],
    ids=["channels", "no batch", "odd", "odd latent", "uint8", "levels", "nan"],
)
def test_a_y_that_does_not_suit_is_refused(y: Tensor, advice: str) -> None:
    made = make(prior="realnvp")
    assert isinstance(made, SRVAE)
    with pytest.raises(UserError, match=advice) as error:
        made.super_resolve(y)
    assert "\n" not in str(error.value)


def test_the_mixture_prior_says_which_size_it_takes() -> None:
    made = make(prior="mixture")
    assert isinstance(made, SRVAE)
    assert made.super_resolve(pictures(2, 8), 2)["x"].shape == (2, 2, 3, 16, 16)
    with pytest.raises(UserError, match="8x8") as error:
        made.super_resolve(pictures(2, 16))
    assert "\n" not in str(error.value)


def test_the_vae_has_no_super_resolution() -> None:
    assert not hasattr(make("vae"), "super_resolve")
