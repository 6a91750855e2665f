"""The pyramid: probabilities, samples, order, noise; and as p(y|u) in the models."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from srvae_pyro.config import Dense, ModelConfig, Residual
from srvae_pyro.distributions import ImageDistribution, Pyramid
from srvae_pyro.distributions.block_averages import PAIRS
from srvae_pyro.errors import UserError
from srvae_pyro.inference.decoding import TileNoise
from srvae_pyro.inference.importance import estimate_log_likelihood
from srvae_pyro.models import SRVAE, make_model
from srvae_pyro.models.pixel_groups import PyramidGivenLatent
from srvae_pyro.models.transforms import make_transform
from srvae_pyro.networks import initializing
from srvae_pyro.pixels import to_levels, to_unit
from tests.builders import make_images, tiny
from tests.upscaling.test_command import smooth

Images = Callable[..., Tensor]


class Halves(ImageDistribution):
    """Images (1, 2h, 2w) of levels near those of a coarser one y, which they average to.

    Each block adds one of the three ``moves`` to y's level, by chances that depend on all of y.
    """

    arg_constraints = {}  # noqa: RUF012
    moves = torch.tensor([[0, 0, 0, 0], [9, -9, 5, -5], [-7, 7, 7, -7]])

    def __init__(self, y: Tensor, temperature: float = 1.0) -> None:
        self.y, self.temperature = y, temperature
        logits = torch.stack([0 * y, 3 * y - 1, y.roll(1, -1) - 0.5], -1)
        self.logits = logits / temperature  # (..., 1, h, w, 3)
        _, height, width = y.shape[-3:]
        event = torch.Size((1, 2 * height, 2 * width))
        super().__init__(y.shape[:-3], event, validate_args=False)

    def made(self, move: Tensor) -> Tensor:
        levels = (255 * self.y).round().unsqueeze(-1) + self.moves[move]  # (..., 1, h, w, 4)
        return PAIRS.join(levels.movedim(-1, -4)) / 255

    def log_prob(self, value: Tensor) -> Tensor:
        blocks = PAIRS.split(255 * value).movedim(-4, -1) - (255 * self.y).round().unsqueeze(-1)
        which = (blocks.round().unsqueeze(-2) == self.moves).all(-1)  # (..., 1, h, w, 3)
        chosen = self.logits.log_softmax(-1).masked_fill(~which, -torch.inf).logsumexp(-1)
        return chosen.sum((-3, -2, -1))

    @property
    def uniform_noise(self) -> Tensor:
        return self.y.new_empty(()).expand(*self.batch_shape, *self.event_shape)

    def icdf_sample(self, uniform: Tensor) -> Tensor:
        choice = uniform[..., ::2, ::2].unsqueeze(-1)
        return self.made((choice > self.logits.softmax(-1).cumsum(-1)[..., :2]).sum(-1))

    @property
    def mode(self) -> Tensor:
        return self.made(self.logits.argmax(-1))

    @property
    def mean(self) -> Tensor:
        return sum(
            self.logits.softmax(-1)[..., i].repeat_interleave(2, -1).repeat_interleave(2, -2)
            * self.made(torch.full(self.y.shape, i))
            for i in range(3)
        )

    def with_temperature(self, temperature: float) -> "Halves":
        return Halves(self.y, self.temperature * temperature)


class OneOf(ImageDistribution):
    """Images (1, h, w) of the levels 100 and 150, the second by a chance of 0.3 each."""

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, height: int, width: int, logit: float = math.log(3 / 7)) -> None:
        self.logit = logit
        super().__init__(torch.Size(), torch.Size((1, height, width)), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        second = (255 * value).round() == 150
        known = second | ((255 * value).round() == 100)
        chance = torch.where(second, self.logit, -self.logit) * torch.ones(())
        return chance.sigmoid().log().masked_fill(~known, -torch.inf).sum((-3, -2, -1))

    @property
    def uniform_noise(self) -> Tensor:
        return torch.empty(()).expand(self.event_shape)

    def icdf_sample(self, uniform: Tensor) -> Tensor:
        return to_unit(100 + 50 * (uniform < torch.tensor(self.logit).sigmoid()))

    @property
    def mode(self) -> Tensor:
        return to_unit(torch.full(self.event_shape, 150 if self.logit > 0 else 100))

    @property
    def mean(self) -> Tensor:
        chance = torch.tensor(self.logit).sigmoid()
        return ((100 + 50 * chance) / 255).expand(self.event_shape)

    def with_temperature(self, temperature: float) -> "OneOf":
        return OneOf(*self.event_shape[1:], self.logit / temperature)


def toy(levels: int, height: int = 1, width: int = 1) -> Pyramid:
    """A pyramid of 2 images at the coarsest pixel, times 3 to the blocks of each level."""
    return Pyramid(OneOf(height, width), [Halves] * levels, validate_args=False)


def all_images(levels: int) -> Tensor:
    """What a :func:`toy` of 1x1 at the coarsest can draw."""
    images = to_unit(torch.tensor([100, 150])).reshape(2, 1, 1, 1)
    for _ in range(levels):
        made = []
        for image in images:
            places = image.numel()
            choices = itertools.product(range(3), repeat=places)
            made += [Halves(image).made(torch.tensor(c).view(image.shape)) for c in choices]
        images = torch.stack(made)
    return images


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


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_probabilities_of_all_images_sum_to_one(levels: int) -> None:
    pyramid, images = toy(levels), all_images(levels)
    assert pyramid.event_shape == (1, 2**levels, 2**levels)
    assert len(images) == (2, 6, 6 * 81)[levels]
    total = pyramid.log_prob(images).double().exp().sum()
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-5, rtol=0)
    if levels:
        other = images[:1].clone()
        other[..., 0, 0] += 20 / 255
        assert pyramid.log_prob(other) == -torch.inf


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_fit_log_prob(temperature: float) -> None:
    pyramid, images = toy(2).with_temperature(temperature), all_images(2)
    chances = pyramid.log_prob(images).double().exp()
    drawn = pyramid.sample((20_000,))
    same = (255 * drawn).round().flatten(1).unsqueeze(1) == (255 * images).round().flatten(1)
    counts = same.all(-1).double().sum(0)
    assert counts.sum() == 20_000
    often = chances * 20_000 > 5
    grouped = [torch.cat([c[often], c[~often].sum(0, True)]) for c in (counts, chances * 20_000)]
    expected = grouped[1] * 20_000 / grouped[1].sum()
    assert stats.chisquare(grouped[0], expected).pvalue > 1e-3
    scores = pyramid.log_prob(drawn).double()
    entropy = -(chances * chances.log()).sum()
    assert abs(scores.mean() + entropy) < 4 * scores.std() / 20_000**0.5


def test_each_level_follows_noise_of_its_own() -> None:
    """A number of the noise changes one level's image, and those finer, within its own block."""
    pyramid, p_y = toy(2, 2, 2), conditional()
    assert pyramid.uniform_noise.shape == (4, 8, 8)
    assert p_y(torch.randn(4, 2, 2)).uniform_noise.shape == (12, 8, 8)
    noise = torch.rand(200, 4, 8, 8)
    y = pyramid.icdf_sample(noise)
    seen = set()
    for channel, row, column in itertools.product((0, 2), range(8), range(8)):
        other = noise.clone()
        other[:, channel, row, column] = torch.rand(200)
        changed = (pyramid.icdf_sample(other) != y).any(0)[0]
        if not changed.any():
            continue
        rows, columns = (changed.any(dim).nonzero().flatten() for dim in (1, 0))
        # The finest level's is of one block of 2x2, the next one's of 4x4 at least.
        size = max(rows.max() - rows.min(), columns.max() - columns.min()).item() + 1
        assert size == 2 if channel == 0 else size >= 4
        seen.add((channel, row, column))
    assert len(seen) == 16 + 4 + 4


def test_mode_and_mean_go_from_coarse_to_fine() -> None:
    pyramid = toy(1)
    # By hand: y^0 = 100, with logits 0, 3 * 100 / 255 - 1, 100 / 255 - 0.5 of the moves.
    expected = torch.tensor([[109, 91], [105, 95]]) / 255
    torch.testing.assert_close(pyramid.mode, expected.unsqueeze(0))
    y = 115 / 255
    chances = torch.tensor([0, 3 * y - 1, y - 0.5]).softmax(0)
    moved = (115 + chances @ Halves.moves.float()) / 255
    torch.testing.assert_close(pyramid.mean, moved.reshape(1, 2, 2))


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


def test_bfloat16_does_not_reach_probabilities() -> None:
    p_y = conditional()
    first: list[Tensor] = []
    p_y.levels[1].networks[3][0].register_forward_hook(lambda _m, inputs, _o: first.extend(inputs))
    y = to_unit(torch.randint(0, 256, (2, 3, 8, 8)))
    with torch.autocast("cpu", torch.bfloat16):
        scores = p_y(torch.randn(2, 4, 2, 2)).log_prob(y)
    assert scores.dtype == torch.float32
    assert torch.equal(first[0][:, -12:-9], make_transform("average2")(y) - 0.5)
    scores.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in p_y.parameters())


def test_the_mean_is_near_the_mean_of_samples() -> None:
    with torch.no_grad():
        p_y = conditional(1)
        x = to_unit(torch.stack([smooth(4, 4, 3, seed) for seed in range(8)]))
        with initializing(p_y, 0.1):
            p_y(torch.randn(8, 4, 2, 2)).log_prob(x)
        likelihood = p_y(torch.randn(4, 2, 2))
        drawn = likelihood.sample((4000,))
        spread = drawn.std(0)
        assert ((likelihood.mean - drawn.mean(0)).abs() < 0.15 * spread).all()


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
    net, x = make_model(tiny(model=model, latent_likelihood="pyramid")), make_images(3)
    net.initialize(make_images(4))
    estimates = [
        estimate_log_likelihood(net, x, 3, estimator=estimator, at_once=at_once).log_likelihood
        for at_once in (1, 64)
    ]
    assert estimates[0].isfinite().all()
    torch.testing.assert_close(*estimates, atol=1e-2, rtol=1e-5)


def test_a_tile_of_the_noise_makes_that_tile_of_the_image() -> None:
    def drawn(top: int, height: int) -> Tensor:
        pyramid = toy(2, height // 4, 16)
        return pyramid.icdf_sample(
            TileNoise((0,), top, 0, height).uniform("y", pyramid.uniform_noise)
        )

    assert torch.equal(drawn(0, 128)[:, 36:100], drawn(36, 64))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"u_stages": 3}, "images of 16x16 do not suit 4 halvings .* multiples of 32"),
        ({"image_shape": (3, 24, 24)}, "images of 24x24 do not suit 3 halvings .* multiples of 16"),
        ({"model": "vae", "u_stages": 2}, "`u_stages` is the srVAE's: the VAE has no u"),
        ({"latent_likelihood": "pyramids"}, "must be independent or pyramid, not 'pyramids'"),
        ({"u_stages": -1}, "`u_stages` must be from 0 to 16, not -1"),
        ({"pyramid_channels": 0}, "`pyramid_channels` must be from 1 to 65536, not 0"),
    ],
)
def test_what_does_not_suit_is_told_in_one_line(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told) as error:
        make_model(tiny(**({"latent_likelihood": "pyramid"} | changes)))
    assert "\n" not in str(error.value)


def test_a_y_that_u_cannot_be_made_of_is_refused() -> None:
    net = SRVAE(tiny(latent_likelihood="pyramid"))
    with pytest.raises(UserError, match="y of 12x8: its height and width must be multiples of 8"):
        net.super_resolve(torch.zeros(1, 3, 12, 8))
