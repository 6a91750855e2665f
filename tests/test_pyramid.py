"""The pyramid: probabilities, samples, order, noise; and as p(y|u) in the models."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from srvae_pyro.config import Dense, ModelConfig
from srvae_pyro.distributions import DiscretizedLogisticMixture, ImageDistribution, Pyramid
from srvae_pyro.distributions.pyramid import GROUPS
from srvae_pyro.errors import UserError
from srvae_pyro.inference.importance import estimate_log_likelihood
from srvae_pyro.inference.noise import TileNoise
from srvae_pyro.models import SRVAE, make_model
from srvae_pyro.models.pyramid import PyramidGivenLatent, nearest_four, relative_mixture
from srvae_pyro.pixels import to_levels, to_unit

MakeConfig = Callable[..., ModelConfig]
Pictures = Callable[..., Tensor]


class Coins(ImageDistribution):
    """Pixels 0 or 1, independent, by logits (..., 1, H, W)."""

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape[:-3], logits.shape[-3:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Coins":
        return Coins(self.logits.expand(*batch_shape, *self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return ((2 * value - 1) * self.logits).sigmoid().log().sum((-3, -2, -1))

    @property
    def noise_like(self) -> Tensor:
        return self.logits

    def draw(self, uniform: Tensor) -> Tensor:
        return (uniform < self.logits.sigmoid()).to(uniform)

    @property
    def mode(self) -> Tensor:
        return (self.logits > 0).to(self.logits)

    @property
    def mean(self) -> Tensor:
        return self.logits.sigmoid()

    def with_temperature(self, temperature: float) -> "Coins":
        return Coins(self.logits / temperature)


def coins(levels: int) -> Pyramid:
    """A pyramid over 1x1, or more, of coins that depend on all pixels before, each in its way."""

    def finer(coarser: Tensor, groups: Sequence[Tensor]) -> Coins:
        before = [image.roll(1, -1) + 0.5 * image for image in (coarser, *groups)]
        return Coins(sum((3.0 / (2 + i)) * x for i, x in enumerate(before)) - 1.0)

    return Pyramid(Coins(torch.full((1, 1, 1), 0.3)), [finer] * levels, validate_args=False)


def all_pictures(size: int) -> Tensor:
    bits = torch.arange(2 ** (size * size)).unsqueeze(-1) >> torch.arange(size * size)
    return (bits % 2).float().reshape(-1, 1, size, size)


def order_of(levels: int, size: int) -> Tensor:
    """When each pixel of a picture of ``size`` is drawn, 0 for the coarsest's."""
    order = torch.zeros(size, size, dtype=torch.long)
    stride = 2**levels
    for level in range(levels):
        for number, (row, column) in enumerate(GROUPS):
            half = stride // 2
            order[row * half :: stride, column * half :: stride] = 1 + 3 * level + number
        stride //= 2
    return order


def conditional(levels: int = 2, channels: int = 3, **changes: Any) -> PyramidGivenLatent:
    """A small p(y|u) of 2x2 at the coarsest, initialised on noise, whose factors differ."""
    torch.manual_seed(1)
    config = ModelConfig(
        latent_channels=4,
        components=3,
        pyramid=Dense(4, 1),
        pyramid_channels=5,
        likelihood_start="pictures",
        **changes,
    )
    return PyramidGivenLatent(config, channels, Dense(4, 1), levels)


# The distribution


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_probabilities_of_all_pictures_sum_to_one(levels: int) -> None:
    pyramid = coins(levels)
    assert pyramid.event_shape == (1, 2**levels, 2**levels)
    total = pyramid.log_prob(all_pictures(2**levels)).double().exp().sum()
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-5, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_fit_log_prob(temperature: float) -> None:
    pyramid = coins(1).with_temperature(temperature)
    chances = pyramid.log_prob(all_pictures(2)).double().exp()
    drawn = pyramid.sample((20_000,)).flatten(1)
    counts = torch.bincount((drawn @ 2.0 ** torch.arange(4)).long(), minlength=16)
    assert stats.chisquare(counts, chances / chances.sum() * 20_000).pvalue > 1e-3
    scores = pyramid.log_prob(drawn.reshape(-1, 1, 2, 2)).double()
    entropy = -(chances * chances.log()).sum()
    assert abs(scores.mean() + entropy) < 4 * scores.std() / 20_000**0.5


def test_each_pixel_follows_its_own_noise_and_those_before() -> None:
    pyramid, order = coins(2), order_of(2, 4)
    assert pyramid.noise_like.shape == (1, 4, 4)
    noise = torch.rand(400, 1, 4, 4)
    y = pyramid.draw(noise)
    for row, column in itertools.product(range(4), range(4)):
        other = noise.clone()
        other[..., row, column] = torch.rand(400, 1)
        changed = (pyramid.draw(other) != y).any(0)[0]
        assert changed[row, column]
        changed[row, column] = False
        assert not changed[order <= order[row, column]].any()


def test_mode_and_mean_go_from_coarse_to_fine() -> None:
    pyramid = coins(1)
    # By hand: logits 0.3; 3/2 * 1.5 * y - 1 and so on, in the order of GROUPS.
    first = torch.tensor(0.3).sigmoid()
    second = (2.25 * first - 1).sigmoid()
    third = (2.25 * first + 1.5 * second - 1).sigmoid()
    fourth = (2.25 * first + 1.5 * second + 1.125 * third - 1).sigmoid()
    expected = torch.stack([first, third, fourth, second]).reshape(1, 2, 2)
    torch.testing.assert_close(pyramid.mean, expected)
    assert torch.equal(pyramid.mode, torch.ones(1, 2, 2))


def test_expanded_it_is_the_same_distribution() -> None:
    p_y = conditional()
    plain, y = p_y(torch.randn(1, 4, 2, 2)), to_unit(torch.randint(0, 256, (5, 3, 8, 8)))
    larger = plain.expand((5,))
    assert (larger.batch_shape, larger.event_shape) == ((5,), (3, 8, 8))
    assert larger.noise_like.shape == (5, 4, 8, 8)
    torch.testing.assert_close(larger.log_prob(y), plain.log_prob(y))
    assert larger.log_prob(y[0]).shape == larger.mode.shape[:1] == larger.mean.shape[:1] == (5,)
    assert larger.sample((2,)).shape == (2, 5, 3, 8, 8)


def test_a_picture_off_the_grid_or_of_another_size_is_refused() -> None:
    pyramid = conditional()(torch.randn(2, 4, 2, 2))
    with pytest.raises(ValueError, match="support"):
        pyramid.log_prob(torch.full((2, 3, 8, 8), 0.3333))
    with pytest.raises(ValueError, match="shape"):
        pyramid.log_prob(torch.zeros(2, 3, 8, 4))


# Its networks


def test_the_levels_of_the_last_pixel_sum_to_what_comes_before() -> None:
    """The joint of 2x2 pixels, summed over one pixel's 256 levels, has lost that factor."""
    likelihood = conditional(1, channels=1)(torch.randn(4, 1, 1))
    levels = to_unit(torch.arange(256)).reshape(256, 1, 1, 1)
    for y in to_unit(torch.tensor([[[[0, 255], [128, 1]]], [[[90, 91], [92, 254]]]])):
        parts = [y[..., :1, :1], *(y[..., i : i + 1, j : j + 1] for i, j in GROUPS)]
        before = likelihood.coarsest.log_prob(parts[0])
        for number in range(3):
            factor = likelihood.finer[0](parts[0], parts[1 : 1 + number])
            total = factor.log_prob(levels).double().exp().sum()
            assert abs(total - 1) < 1e-5
            if number < 2:
                before = before + factor.log_prob(parts[1 + number])
        pictures = y.repeat(256, 1, 1, 1)
        pictures[..., 1:, :1] = levels
        joint = likelihood.log_prob(pictures).double().logsumexp(0)
        torch.testing.assert_close(joint.float(), before, atol=1e-5, rtol=1e-5)


def test_sampled_pixels_fit_their_conditionals() -> None:
    """By the probability integral transform, with the rest of a level spread evenly."""
    count = 4000
    with torch.no_grad():
        likelihood = conditional(1, channels=1, likelihood_scale=0.5)(torch.randn(4, 1, 1))
        y = likelihood.sample((count,))
        levels = to_unit(torch.arange(256)).reshape(256, 1, 1, 1, 1)
        parts = [y[..., :1, :1], *(y[..., i : i + 1, j : j + 1] for i, j in GROUPS)]
        for number, part in enumerate(parts):
            before = parts[:number]
            factor = likelihood.finer[0](before[0], before[1:]) if number else likelihood.coarsest
            mass = factor.log_prob(levels).double().exp().expand(256, count)
            level = to_levels(part).long().reshape(1, count)
            below = mass.cumsum(0).gather(0, level) - mass.gather(0, level)
            spread = below + torch.rand(1, count) * mass.gather(0, level)
            counts = torch.histc(spread.float(), 20, 0, 1)
            assert stats.chisquare(counts.double()).pvalue > 1e-3


@pytest.mark.parametrize("channels", [1, 3])
def test_no_factor_sees_its_own_pixels_or_later_ones(channels: int) -> None:
    p_y, order = conditional(2, channels), order_of(2, 8)
    seen: list[Tensor] = []
    for networks in p_y.groups:
        for network in networks:
            network.register_forward_hook(lambda _m, _i, out: seen.append(out))
    y = to_unit(torch.randint(0, 256, (2, channels, 8, 8))).requires_grad_()
    p_y(torch.randn(2, 4, 2, 2)).log_prob(y)
    assert len(seen) == 6
    for number, parameters in enumerate(seen, start=1):
        (slope,) = torch.autograd.grad(parameters.square().sum(), y, retain_graph=True)
        touched = slope.abs().amax((0, 1)) > 0
        assert not touched[order >= number].any()
        # Of the level's image and of the groups before, every pixel.
        assert touched[order < number].all()


def test_any_batch_shape_scores_as_one_by_one() -> None:
    p_y = conditional()
    u, y = torch.randn(3, 2, 4, 2, 2), to_unit(torch.randint(0, 256, (2, 3, 8, 8)))
    scores = p_y(u).log_prob(y)
    assert scores.shape == (3, 2)
    for s, i in itertools.product(range(3), range(2)):
        torch.testing.assert_close(p_y(u[s, i]).log_prob(y[i]), scores[s, i])
    noise = torch.rand(3, 2, 4, 8, 8)
    drawn = p_y(u).draw(noise)
    assert torch.equal(to_unit(to_levels(drawn)), drawn)
    assert (p_y(u[1, 1]).draw(noise[1, 1]) - drawn[1, 1]).abs().mean() < 1e-3


def test_what_is_repeated_is_computed_once() -> None:
    p_y, sizes = conditional(), set()
    for network in (p_y.trunk, p_y.coarsest, *p_y.lifts, *itertools.chain(*p_y.groups)):
        network.register_forward_hook(lambda _m, inputs, _o: sizes.add(len(inputs[0])))
    u, y = torch.randn(2, 4, 2, 2), to_unit(torch.randint(0, 256, (2, 3, 8, 8)))
    p_y(u.expand(5, 2, 4, 2, 2)).log_prob(y.expand(5, 2, 3, 8, 8))
    assert sizes == {2}
    sizes.clear()
    p_y(torch.randn(5, 2, 4, 2, 2)).log_prob(y)
    assert sizes == {10}


def test_bfloat16_reaches_neither_pixels_nor_probabilities() -> None:
    p_y = conditional()
    first: list[Tensor] = []
    p_y.groups[1][2][0].register_forward_hook(lambda _m, inputs, _o: first.extend(inputs))
    y = to_unit(torch.randint(0, 256, (2, 3, 8, 8)))
    with torch.autocast("cpu", torch.bfloat16):
        scores = p_y(torch.randn(2, 4, 2, 2)).log_prob(y)
    assert scores.dtype == torch.float32
    assert torch.equal(first[0][:, -9:-6], y[..., ::2, ::2])
    scores.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in p_y.parameters())


def test_the_mean_is_near_the_mean_of_samples() -> None:
    with torch.no_grad():
        likelihood = conditional(1)(torch.randn(4, 2, 2))
        drawn = likelihood.sample((4000,))
        spread = drawn.std(0)
        assert ((likelihood.mean - drawn.mean(0)).abs() < 0.15 * spread).all()
        cold = likelihood.with_temperature(1e-4).sample((50,))
        assert ((cold - likelihood.mode).abs() < 0.02).all()


def test_on_a_ramp_the_nearest_four_are_the_pixel_itself() -> None:
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    ramp = (2 * rows + 3 * columns).reshape(1, 16, 16)
    groups = [ramp[..., i::2, j::2] for i, j in GROUPS]
    for number, group in enumerate(groups):
        guess = nearest_four(ramp[..., ::2, ::2], groups[:number])
        assert torch.equal(guess[..., 1:-1, 1:-1], group[..., 1:-1, 1:-1])


def test_locations_are_relative_to_the_reference() -> None:
    """Moving reference and value together changes nothing away from the ends of the range."""
    parameters = torch.randn(2, 30, 4, 4)
    parameters[:, 3:12] *= 0.05
    parameters[:, 12:21] = -4.0
    x, step = torch.randint(100, 150, (2, 3, 4, 4)), torch.tensor([10, -5, 20])[:, None, None]
    here = relative_mixture(parameters, to_unit(x + 3)).log_prob(to_unit(x))
    there = relative_mixture(parameters, to_unit(x + step + 3)).log_prob(to_unit(x + step))
    torch.testing.assert_close(here, there, atol=1e-3, rtol=1e-5)
    plain = DiscretizedLogisticMixture.from_channels(parameters)
    zero = relative_mixture(parameters, torch.zeros(3, 4, 4))
    assert torch.equal(zero.log_prob(to_unit(x)), plain.log_prob(to_unit(x)))


# In the models


def test_u_has_a_size_of_its_own(tiny: MakeConfig, pictures: Pictures) -> None:
    net = SRVAE(tiny(latent_likelihood="pyramid"))
    net.initialize(pictures(4))
    sites = net.generate(3, seed=0)
    assert sites["u"].shape == (3, 4, 2, 2)
    assert sites["z"].shape == (3, 4, 4, 4)
    again = net.generate(2, first=1, seed=0, batch_size=1)
    torch.testing.assert_close(again["u"], sites["u"][1:])
    assert (again["y"] - sites["y"][1:]).abs().mean() < 1e-2
    assert net.model(count=2, size=(2, 4)).shape == (2, 3, 16, 32)
    between = net.interpolate(pictures(2, (3, 16, 32)), pictures(2, (3, 16, 32), seed=1), 3, seed=0)
    assert between["x"].shape == (3, 2, 3, 16, 32)
    assert between["u"].shape == (3, 2, 4, 2, 4)
    for decode in ("mode", "mean"):
        rebuilt = net.generative_reconstruct(pictures(2), decode=decode)
        assert rebuilt["y"].shape == (2, 3, 8, 8)
        assert torch.equal(to_unit(to_levels(rebuilt["y"])), rebuilt["y"])


@pytest.mark.parametrize(
    ("model", "estimator"), [("srvae", "product"), ("srvae", "paired"), ("vae", "paired")]
)
def test_importance_sampling(
    model: Any, estimator: Any, tiny: MakeConfig, pictures: Pictures
) -> None:
    net, x = make_model(tiny(model=model, latent_likelihood="pyramid")), pictures(3)
    net.initialize(pictures(4))
    estimates = [
        estimate_log_likelihood(net, x, 3, estimator=estimator, at_once=at_once).log_likelihood
        for at_once in (1, 64)
    ]
    assert estimates[0].isfinite().all()
    torch.testing.assert_close(*estimates, atol=1e-2, rtol=1e-5)


def test_a_tile_of_the_noise_makes_that_tile_of_the_picture() -> None:
    def finer(coarser: Tensor, groups: Sequence[Tensor]) -> Coins:
        return Coins(2 * sum(groups, coarser) - 1.5)

    def drawn(top: int, height: int) -> Tensor:
        pyramid = Pyramid(Coins(torch.zeros(1, height // 4, 16)), [finer, finer])
        return pyramid.draw(TileNoise((0,), top, 0, height).uniform("y", pyramid.noise_like))

    assert torch.equal(drawn(0, 128)[:, 36:100], drawn(36, 64))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"u_stages": 3}, "images of 16x16 do not suit 4 halvings .* multiples of 32"),
        ({"image_shape": (3, 24, 24)}, "images of 24x24 do not suit 3 halvings .* multiples of 16"),
        ({"model": "vae", "u_stages": 2}, "--u-stages is the srVAE's: the VAE has no u"),
        ({"latent_likelihood": "pyramids"}, "must be independent or pyramid, not 'pyramids'"),
        ({"u_stages": -1}, "u_stages must be from 0 to 16, not -1"),
        ({"pyramid_channels": 0}, "pyramid_channels must be from 1 to 65536, not 0"),
    ],
)
def test_what_does_not_suit_is_told_in_one_line(
    changes: dict[str, Any], told: str, tiny: MakeConfig
) -> None:
    with pytest.raises(UserError, match=told) as error:
        make_model(tiny(**({"latent_likelihood": "pyramid"} | changes)))
    assert "\n" not in str(error.value)


def test_a_y_that_u_cannot_be_made_of_is_refused(tiny: MakeConfig) -> None:
    net = SRVAE(tiny(latent_likelihood="pyramid"))
    with pytest.raises(UserError, match="y of 12x8: its height and width must be multiples of 8"):
        net.super_resolve(torch.zeros(1, 3, 12, 8))
