"""The pyramid: probabilities, samples, order, noise; and as p(y|u) in the models."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from srvae_pyro.config import Dense, ModelConfig, Residual
from srvae_pyro.distributions import ConsistentGroups, Pyramid
from srvae_pyro.distributions.block_averages import PAIRS
from srvae_pyro.errors import UserError
from srvae_pyro.inference.decoding import TileNoise
from srvae_pyro.inference.importance import estimate_log_likelihood
from srvae_pyro.models import SRVAE, make_model
from srvae_pyro.models.pixel_groups import PyramidGivenLatent
from srvae_pyro.models.transforms import make_transform
from srvae_pyro.pixels import to_levels, to_unit
from tests.builders import initialized, make_images, refused, tiny
from tests.distributions.test_image_distributions import blocks, finer, fits, images_of, truncated


def of_size(height: int, width: int, most: int = 255) -> Pyramid:
    """A pyramid of two levels above a coarsest image of levels up to ``most``, without networks."""
    torch.manual_seed(0)
    parameters = torch.randn(9, 1, 1).double()
    parameters[2:4] = 0.1  # means
    coarsest = truncated(0, most, 1, parameters[:6].expand(-1, height, width))

    def level(y: Tensor) -> ConsistentGroups:
        return finer(parameters.expand(-1, *y.shape[-2:]), PAIRS, y, validate_args=False)

    return Pyramid(coarsest, [level, level])


def finer_than(image: Tensor) -> Tensor:
    """All images (N, 1, 4, 4) whose rounded averages are an image (1, 2, 2)."""
    each = [to_unit(blocks(PAIRS, level)) for level in to_levels(image).flatten().tolist()]
    index = torch.cartesian_prod(*(torch.arange(len(block)) for block in each))
    four = torch.stack([block[index[:, place]] for place, block in enumerate(each)], 1)
    return four.view(-1, 1, 2, 2, 2, 2).transpose(3, 4).reshape(-1, 1, 4, 4)


def conditional(levels: int = 2, channels: int = 3, **changes: Any) -> PyramidGivenLatent:
    """A small p(y|u) of 2x2 at the coarsest, initialised on noise, whose factors differ."""
    torch.manual_seed(1)
    config = ModelConfig(
        latent_channels=4,
        components=3,
        pyramid=Residual(4, 1),
        pyramid_channels=5,
        likelihood_start="images",
        **changes,
    )
    return PyramidGivenLatent(config, channels, Dense(4, 1), levels)


# The distribution


def test_two_levels_sum_to_one_and_samples_fit() -> None:
    pyramid = of_size(1, 1, most=0)
    images = torch.cat([finer_than(image) for image in images_of([0], PAIRS)]).double()
    assert pyramid.log_prob(images).exp().sum().item() == pytest.approx(1, abs=1e-8)
    fits(pyramid, images, 20_000)


def test_each_level_follows_noise_of_its_own() -> None:
    """A number of the noise changes one block: of 2x2 pixels, or 4x4 by coarser levels' noise."""
    pyramid = of_size(2, 2)
    noise = torch.rand(20, *pyramid.uniform_noise.shape)
    x, changed = pyramid.icdf_sample(noise), {2: set(), 4: set()}
    for place in itertools.product(range(4), range(0, 8, 2), range(0, 8, 2)):
        other = noise.clone()
        other[:, *place] = torch.rand(20)
        rows, columns = (pyramid.icdf_sample(other) != x).any(0)[0].nonzero(as_tuple=True)
        side = 2 if place[0] < 2 else 4
        found = set(zip((rows // side).tolist(), (columns // side).tolist(), strict=True))
        assert len(found) <= 1
        changed[side] |= found
    assert [len(found) for found in changed.values()] == [16, 4]


def test_mode_and_mean_go_from_coarse_to_fine() -> None:
    pyramid = of_size(2, 2)
    below = Pyramid(pyramid.coarsest, pyramid.finer[:1])
    assert torch.equal(pyramid.mode, pyramid.finer[1](below.mode).mode)
    torch.testing.assert_close(pyramid.mean, pyramid.finer[1](below.mean).mean)


def test_a_tile_of_the_noise_makes_that_tile_of_the_image() -> None:
    def drawn(top: int, height: int) -> Tensor:
        pyramid, tile = of_size(height // 4, 16), TileNoise((0,), top, 0, height)
        return pyramid.icdf_sample(tile.uniform("y", pyramid.uniform_noise))

    assert torch.equal(drawn(0, 128)[:, 36:100], drawn(36, 64))


# Its networks


@pytest.mark.parametrize("channels", [1, 3])
def test_no_level_sees_a_finer_one(channels: int) -> None:
    p_y = conditional(2, channels)
    seen: list[Tensor] = []
    for network in itertools.chain(*(level.networks for level in p_y.levels)):
        network.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0][:, 5:]))
    y = to_unit(torch.randint(0, 256, (2, channels, 8, 8)))
    p_y(torch.randn(2, 4, 2, 2)).log_prob(y)
    assert len(seen) == 8
    d = make_transform("average2")
    for number, pixels in enumerate(seen):
        fine = d(y) if number < 4 else y
        coarse = d(fine)
        before = [image - coarse for image in PAIRS.groups(fine)[: number % 4]]
        assert torch.equal(pixels, torch.cat([coarse - 0.5, *before], 1))


def test_coarser_images_are_averages_whatever_is_drawn() -> None:
    p_y, d = conditional(2), make_transform("average2")
    drawn: list[Tensor] = []
    likelihood = p_y(torch.randn(3, 4, 2, 2))
    finer = [lambda y, f=f: drawn.append(y) or f(y) for f in likelihood.finer]
    for temperature in (0.1, 1.0, 5.0):
        drawn.clear()
        y = Pyramid(likelihood.coarsest, finer).with_temperature(temperature).sample()
        assert torch.equal(d(y), drawn[1])
        assert torch.equal(d(drawn[1]), drawn[0])
        assert likelihood.log_prob(y).isfinite().all()


def test_any_batch_shape_scores_as_one_by_one() -> None:
    p_y = conditional()
    u, y = torch.randn(3, 2, 4, 2, 2), to_unit(torch.randint(0, 256, (2, 3, 8, 8)))
    scores = p_y(u).log_prob(y)
    assert scores.shape == (3, 2)
    for s, i in itertools.product(range(3), range(2)):
        torch.testing.assert_close(p_y(u[s, i]).log_prob(y[i]), scores[s, i])
    noise = torch.rand(3, 2, 12, 8, 8)
    drawn = p_y(u).icdf_sample(noise)
    assert torch.equal(to_unit(to_levels(drawn)), drawn)
    assert (p_y(u[1, 1]).icdf_sample(noise[1, 1]) - drawn[1, 1]).abs().mean() < 1e-3


def test_what_is_repeated_is_computed_once() -> None:
    p_y, sizes = conditional(), set()
    for network in (p_y.trunk, p_y.coarsest, *p_y.lifts, *p_y.levels[0].networks):
        network.register_forward_hook(lambda _m, inputs, _o: sizes.add(len(inputs[0])))
    u, y = torch.randn(2, 4, 2, 2), to_unit(torch.randint(0, 256, (2, 3, 8, 8)))
    p_y(u.expand(5, 2, 4, 2, 2)).log_prob(y.expand(5, 2, 3, 8, 8))
    assert sizes == {2}
    sizes.clear()
    p_y(torch.randn(5, 2, 4, 2, 2)).log_prob(y)
    assert sizes == {10}


# In the models


def test_u_has_a_size_of_its_own() -> None:
    net = SRVAE(tiny(latent_likelihood="pyramid"))
    net.initialize(make_images(4))
    sites = net.generate(3, seed=0)
    assert sites["u"].shape == (3, 4, 2, 2)
    assert sites["z"].shape == (3, 4, 4, 4)
    again = net.generate(2, first=1, seed=0, batch_size=1)
    torch.testing.assert_close(again["u"], sites["u"][1:])
    assert (again["y"] - sites["y"][1:]).abs().mean() < 1e-2
    assert net.model(count=2, size=(2, 4)).shape == (2, 3, 16, 32)
    between = net.interpolate(
        make_images(2, (3, 16, 32)), make_images(2, (3, 16, 32), seed=1), 3, seed=0
    )
    assert between["x"].shape == (3, 2, 3, 16, 32)
    assert between["u"].shape == (3, 2, 4, 2, 4)
    for decode in ("mode", "mean"):
        rebuilt = net.generative_reconstruct(make_images(2), decode=decode)
        assert rebuilt["y"].shape == (2, 3, 8, 8)
        assert torch.equal(to_unit(to_levels(rebuilt["y"])), rebuilt["y"])


@pytest.mark.parametrize(
    ("model", "estimator"), [("srvae", "product"), ("srvae", "paired"), ("vae", "paired")]
)
def test_importance_sampling(model: Any, estimator: Any) -> None:
    net, x = initialized(make_images(4), model=model, latent_likelihood="pyramid"), make_images(3)
    estimates = [
        estimate_log_likelihood(net, x, 3, estimator=estimator, at_once=at_once).log_likelihood
        for at_once in (1, 64)
    ]
    assert estimates[0].isfinite().all()
    torch.testing.assert_close(*estimates, atol=1e-2, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"u_stages": 3}, "images of 16x16 do not suit 4 halvings .* multiples of 32"),
        ({"image_shape": (3, 24, 24)}, "images of 24x24 do not suit 3 halvings .* multiples of 16"),
        ({"model": "vae", "u_stages": 2}, "`u_stages` needs an srVAE: the VAE has no u"),
    ],
)
def test_settings_that_do_not_suit_are_refused(changes: dict[str, Any], told: str) -> None:
    with refused(told):
        make_model(tiny(**({"latent_likelihood": "pyramid"} | changes)))


def test_a_y_that_u_cannot_be_made_of_is_refused() -> None:
    net = SRVAE(tiny(latent_likelihood="pyramid"))
    with pytest.raises(UserError, match="y of 12x8: its height and width must be multiples of 8"):
        net.super_resolve(torch.zeros(1, 3, 12, 8))
