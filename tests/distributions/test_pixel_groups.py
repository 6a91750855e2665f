"""Pixels of blocks group after group, consistent with y: the distribution, its networks."""

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from srvae_pyro.config import Dense, ModelConfig, Residual, RunConfig, TrainingConfig
from srvae_pyro.distributions import ConsistentGroups
from srvae_pyro.distributions.block_averages import PAIRS
from srvae_pyro.errors import UserError
from srvae_pyro.evaluation.super_resolution import evaluate_super_resolution
from srvae_pyro.inference.elbo import TermsELBO
from srvae_pyro.inference.importance import estimate_log_likelihood
from srvae_pyro.inference.importance_weights import condition_on_y
from srvae_pyro.models import SRVAE, make_model
from srvae_pyro.models.pixel_groups import GroupsGivenYZ
from srvae_pyro.models.transforms import make_transform
from srvae_pyro.networks import WeightNormConv2d, initializing
from srvae_pyro.pixels import to_unit
from srvae_pyro.training.learner import Learner, Objective
from srvae_pyro.upscaling.arguments import UpscaleOptions
from srvae_pyro.upscaling.upscaler import Upscaler, default_decoding, downscaled
from tests.builders import initialized, tiny
from tests.upscaling.test_command import smooth
from tests.upscaling.test_consistency import extremes

pytestmark = pytest.mark.usefixtures("two_strips")

d = make_transform("average2")


def conditional(
    channels: int = 3,
    scale: float = 1.0,
    shared: int = 0,
    estimate: bool = False,
    scaled: bool = False,
) -> GroupsGivenYZ:
    """A small p(x|y,z) with z of y's size, initialised; its parameters spread ``scale`` times."""
    torch.manual_seed(1)
    config = ModelConfig(
        latent_channels=4,
        components=3,
        stages=1,
        p_x_from_z=Dense(4, 1),
        groups=Residual(4, 1, shared, estimate, scaled),
        p_x_z_channels=2,
        likelihood_scale=0.3,
    )
    p_x = GroupsGivenYZ(config, d, channels, channels)
    x = to_unit(torch.stack([smooth(16, 16, channels, seed) for seed in range(4)]))
    with torch.no_grad(), initializing(p_x, 0.1):
        p_x(d(x), torch.randn(4, 4, 8, 8)).log_prob(x)
        for network in p_x.groups.networks:
            network[-1].gain.mul_(scale)
    return p_x


def smooth_images(count: int) -> Tensor:
    return to_unit(torch.stack([smooth(16, 16, 3, seed) for seed in range(count)]))


def every_y(channels: int) -> Tensor:
    """Images (C, 16, 16) of all levels."""
    y = torch.arange(256).repeat(channels, 1).view(channels, 16, 16)
    y[1:] = torch.randint(0, 256, y[1:].shape)
    return to_unit(y)


# The distribution


@pytest.mark.parametrize(("channels", "estimate"), [(1, False), (3, False), (3, True)])
def test_samples_are_consistent_with_every_y_at_every_temperature(
    channels: int, estimate: bool
) -> None:
    y, z = every_y(channels), torch.randn(4, 16, 16)
    for scale in (1.0, 300.0):
        p_x = conditional(channels, scale, int(estimate), estimate)
        for temperature in (0.05, 1.0, 20.0):
            likelihood = p_x(y, z)
            x = likelihood.with_temperature(temperature).sample((2,))
            assert torch.equal(d(x), y.expand(2, -1, -1, -1))
            log_prob = likelihood.log_prob(x)
            assert log_prob.isfinite().all()
            gradients = torch.autograd.grad(log_prob.sum(), list(p_x.groups.parameters()))
            assert all(gradient.isfinite().all() for gradient in gradients)
        assert torch.equal(d(likelihood.mode), y)
        levels = (255 * y).round()
        sums = 255 * PAIRS.split(likelihood.mean.double()).sum(-4)
        assert (sums > (4 * levels - 2).clamp_min(0) - 1e-3).all()
        assert (sums < (4 * levels + 1).clamp_max(1020) + 1e-3).all()
        rounded = PAIRS.project(255 * likelihood.mean, levels)
        assert torch.equal(d(to_unit(rounded)), y)


def test_the_mean_is_near_the_mean_of_samples() -> None:
    with torch.no_grad():
        p_x = conditional(shared=1, estimate=True)
        likelihood = p_x(torch.full((3, 4, 4), 120 / 255), torch.randn(4, 4, 4))
        drawn = likelihood.sample((4000,))
    error = (likelihood.mean - drawn.mean(0)).abs() / drawn.std(0)
    assert error.mean() < 0.05
    assert error.max() < 0.3


def test_another_y_has_no_probability() -> None:
    p_x, y, z = conditional(), torch.stack([every_y(3)] * 2), torch.randn(2, 4, 16, 16)
    checked = p_x(y, z)
    x = checked.sample()
    x[1, 0, 3, 3] = 1 - x[1, 0, 3, 3]
    for distribution in (checked, checked.expand((3, 2)), checked.with_temperature(2.0)):
        with pytest.raises(ValueError, match="rounded averages y"):
            distribution.log_prob(x)
    free = ConsistentGroups(y, checked.group, validate_args=False)
    log_prob = free.log_prob(x)
    assert log_prob[0].isfinite()
    assert log_prob[1] == -math.inf
    gradients = torch.autograd.grad(log_prob[0], list(p_x.groups.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_any_batch_shape_scores_and_draws_as_one_by_one() -> None:
    p_x = conditional()
    y, z = to_unit(torch.randint(0, 256, (2, 3, 4, 4))), torch.randn(3, 2, 4, 4, 4)
    likelihood = p_x(y, z)
    assert (likelihood.batch_shape, likelihood.event_shape) == ((3, 2), (3, 8, 8))
    noise = torch.rand(likelihood.uniform_noise.shape)
    assert noise.shape == (3, 2, 6, 8, 8)
    x, scores = likelihood.icdf_sample(noise), likelihood.log_prob(likelihood.icdf_sample(noise))
    for s, i in itertools.product(range(3), range(2)):
        one = p_x(y[i], z[s, i])
        torch.testing.assert_close(one.log_prob(x[s, i]), scores[s, i])
        assert (one.icdf_sample(noise[s, i]) - x[s, i]).abs().mean() < 1e-3
    sizes = set()
    for network in (p_x.from_z, *p_x.groups.networks):
        network.register_forward_hook(lambda _m, inputs, _o: sizes.add(len(inputs[0])))
    p_x(y, z[0].expand(5, 2, 4, 4, 4)).log_prob(x[:1].expand(5, 2, 3, 8, 8))
    assert sizes == {2}, "what is repeated is computed once"


# Its networks


@pytest.mark.parametrize(
    ("channels", "shared", "estimate"), [(1, 0, False), (3, 0, False), (3, 2, False), (3, 2, True)]
)
def test_no_group_sees_its_own_pixels_or_later_ones(
    channels: int, shared: int, estimate: bool
) -> None:
    p_x = conditional(channels, shared=shared, estimate=estimate)
    seen: list[Tensor] = []
    for network in p_x.groups.networks:
        network.register_forward_hook(lambda _m, _i, out: seen.append(out))
    y = to_unit(torch.randint(40, 200, (2, channels, 4, 4))).requires_grad_()
    z = torch.randn(2, 4, 4, 4).requires_grad_()
    x = p_x(y, z).sample().requires_grad_()
    seen.clear()
    p_x(y, z).log_prob(x)
    places = PAIRS.places
    assert len(seen) == 4
    for number, parameters in enumerate(seen):
        loss = parameters.square().sum()
        slopes = torch.autograd.grad(loss, (x, y, z), retain_graph=True, allow_unused=True)
        of_x = torch.zeros_like(x) if slopes[0] is None else slopes[0]
        for place, (row, column) in enumerate(places):
            touched = of_x[..., row::2, column::2].abs().amax((0, 1)) > 0
            assert touched.all() if place < number else not touched.any()
        assert all((slope.abs().amax((0, 1)) > 0).all() for slope in slopes[1:])
    # Other blocks too: the last group's parameters at one corner follow a pixel of the next block.
    (slope,) = torch.autograd.grad(seen[3][..., 0, 0].square().sum(), x)
    assert slope[..., 2:4, 2:4].abs().max() > 0


def test_an_overridden_forward_is_used_for_several_outputs_too() -> None:
    class Mine(GroupsGivenYZ):
        def forward(self, y: Tensor, z: Tensor) -> ConsistentGroups:
            return super().forward(y, 0 * z)

    p_x = conditional()
    p_x.__class__ = Mine
    y, z = to_unit(torch.randint(0, 256, (2, 3, 4, 4))), torch.randn(2, 4, 4, 4)
    mode = condition_on_y(p_x, y)(z).mode
    assert torch.equal(mode, p_x(y, z).mode)
    assert not torch.equal(mode, p_x.bind(y)(z).mode)


def test_several_outputs_for_an_image_see_it_once() -> None:
    p_x = conditional(shared=2)
    sizes: list[int] = []
    p_x.groups.shared.register_forward_hook(lambda _m, inputs, _o: sizes.append(len(inputs[0])))
    y, z = to_unit(torch.randint(0, 256, (2, 3, 4, 4))), torch.randn(5, 2, 4, 4, 4)
    given = condition_on_y(p_x, y)
    scores = [given(one).log_prob(given(one).mode) for one in z]
    assert sizes == [2]
    again = [p_x(y, one).log_prob(p_x(y, one).mode) for one in z]
    torch.testing.assert_close(scores, again)


def test_an_estimate_has_y_as_its_average_and_moves_the_locations() -> None:
    p_x = conditional(shared=2, estimate=True)
    y, z = torch.stack([every_y(3)] * 2), torch.randn(2, 4, 16, 16)
    estimate = p_x.estimate(y)
    assert estimate.shape == (2, 3, 32, 32)
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(estimate, 2), y)
    likelihood = p_x(y, z)
    assert torch.equal(estimate, likelihood.estimate)
    assert torch.equal(estimate, likelihood.with_temperature(0.5).estimate)
    # An estimate that is moved takes the locations with it; and what the first pixel has less than
    # was estimated the other three have more.
    estimator = p_x.groups.estimator
    before = [likelihood.first.known, likelihood.group([y]).known]
    moved = torch.zeros(4, 3)
    moved[0], moved[1] = 4 / 255, -4 / 255  # the first two pixels of a block
    with torch.no_grad():
        estimator[-1].bias.add_(moved.flatten())
    again = p_x(y, z)
    after = [again.first.known, again.group([y]).known]
    for was, now, by in zip(before, after, (4, -4 + 4 / 3), strict=True):
        apart = now.left - was.left
        torch.testing.assert_close(apart, torch.full_like(apart, by), atol=1e-3, rtol=0)
    assert torch.equal(before[0].low, after[0].low)
    torch.testing.assert_close(after[0].expected, after[0].left)
    assert conditional(shared=2).estimate(y) is None


def test_an_estimate_learns_beside_the_elbo() -> None:
    x = smooth_images(4)
    size = Residual(4, 1, 1, estimate=True)
    model = initialized(x, d="average2", likelihood="groups", groups=size)
    terms = TermsELBO().terms(model.model, model.guide, x)
    p_x: Any = model.model.p_x
    by_hand = (255 * (x - p_x.estimate(d(x)))).abs().sum((1, 2, 3))
    torch.testing.assert_close(terms.errors["x"], by_hand)
    torch.manual_seed(0)
    plain, told = Objective(model, TermsELBO())(x)
    torch.manual_seed(0)
    weighted, told_too = Objective(model, TermsELBO(), estimate_weight=0.5)(x)
    torch.testing.assert_close(weighted, plain + 0.5 * by_hand.mean())
    torch.testing.assert_close(told_too["error_x"], by_hand / x[0].numel())
    assert told.keys() == told_too.keys()
    assert told["total"].mean().item() == pytest.approx(plain.item())


def test_estimates_that_cannot_be_are_refused() -> None:
    consistent = {"d": "average2", "likelihood": "groups"}
    with pytest.raises(UserError, match=r"set model\.groups\.shared too"):
        make_model(tiny(**consistent, groups=Residual(4, 1, 0, estimate=True)))
    training = TrainingConfig(estimate_weight=0.5)
    with pytest.raises(UserError, match="needs a model that estimates x"):
        Learner(RunConfig(model=tiny(**consistent), training=training), 4)
    made = make_model(tiny(**consistent))
    assert default_decoding(made) == "mean"
    with pytest.raises(UserError, match="has no point estimate"):
        Upscaler(made, UpscaleOptions(decode="estimate"))
    made = make_model(tiny(**consistent, groups=Residual(4, 1, 1, estimate=True)))
    assert default_decoding(made) == "estimate"
    with pytest.raises(UserError, match="`temperature` does not apply to a point estimate"):
        Upscaler(made, UpscaleOptions(decode="estimate", temperature=0.5))
    made.run_config = RunConfig(model=made.config)  # no weight: it has not been taught
    assert default_decoding(made) == "mean"
    made.model.p_x = nn.Identity()  # of one's own
    assert not made.has_point_estimate


@pytest.mark.parametrize("shared", [0, 1])
def test_autocast_reaches_every_network(shared: int) -> None:
    """Those too that are asked for while an image is scored; heads alone stay in float32."""
    size = Residual(4, 1, shared, estimate=bool(shared))
    config = tiny(d="average2", likelihood="groups", latent_likelihood="pyramid")
    model = make_model(replace(config, groups=size, pyramid=size))
    x = smooth_images(4)
    model.initialize(x)
    found: dict[str, tuple[bool, torch.dtype]] = {}
    for name, module in model.model.named_modules():
        if isinstance(module, WeightNormConv2d):
            module.register_forward_hook(
                lambda m, _i, out, name=name: found.update({name: (m.head, out.dtype)})
            )
    with torch.autocast("cpu", torch.bfloat16):
        loss = TermsELBO().differentiable_loss(model.model, model.guide, x)
    of_groups = {name: kind for name, kind in found.items() if "groups" in name or "levels" in name}
    assert len(of_groups) == 3 * (4 * 4 + 6 * shared)
    for name, (head, kind) in of_groups.items():
        assert kind == (torch.float32 if head else torch.bfloat16), name
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.model.parameters())


@pytest.mark.parametrize("shared", [0, 1])
def test_scaled_pixels_and_smaller_weights_give_the_same(shared: int) -> None:
    plain = conditional(shared=shared, estimate=bool(shared))
    scaled = conditional(shared=shared, estimate=bool(shared), scaled=True)
    scaled.load_state_dict(plain.state_dict())
    y_scale, difference_scale = scaled.groups.scales
    assert min(y_scale, difference_scale) > 1
    with torch.no_grad():
        if scaled.groups.shared is not None:
            scaled.groups.shared[0].gain.div_(y_scale)  # it sees only y
        for before, network in enumerate(scaled.groups.networks):
            weight = network[0].weight.clone()
            pixels = weight[:, weight.shape[1] - 3 * (1 + before) :]  # y first
            pixels[:, :3] /= y_scale
            pixels[:, 3:] /= difference_scale
            network[0].direction.copy_(weight)
            network[0].gain.copy_(weight.flatten(1).norm(dim=1).view_as(network[0].gain))
    x, z = smooth_images(3), torch.randn(3, 4, 8, 8)
    torch.testing.assert_close(scaled(d(x), z).log_prob(x), plain(d(x), z).log_prob(x))


# In the models


@pytest.fixture(
    params=[Residual(4, 1), Residual(4, 1, 2, scaled=True), Residual(4, 1, 2, estimate=True)]
)
def model(request: pytest.FixtureRequest) -> SRVAE:
    groups = request.param
    settings = {"d": "average2", "likelihood": "groups", "likelihood_scale": 0.5}
    return initialized(smooth_images(8), **settings, groups=groups).eval()


def test_operations_are_consistent(model: SRVAE) -> None:
    x = smooth_images(3)
    assert model.is_consistent
    for decode in ("sample", "mode"):
        settings: Any = {"decode": decode, "seed": 1}
        drawn = model.generate(3, image_temperature=0.5, **settings)
        assert torch.equal(d(drawn["x"]), drawn["y"])
        assert torch.equal(
            model.generate(2, first=1, **settings)["x"], model.generate(3, **settings)["x"][1:]
        )
        assert torch.equal(d(model.reconstruct(x, **settings)["x"]), d(x))
        outputs = model.super_resolve(d(x), samples=2, **settings)["x"]
        assert torch.equal(d(outputs), d(x).expand(2, -1, -1, -1, -1))
        between = model.interpolate(x[:1], x[1:2], 3, **settings)
        assert torch.equal(d(between["x"]), between["y"])
        other = model.recombine(x[:2], x[1:], **settings)
        assert torch.equal(d(other["x"]), other["y"])


@pytest.mark.parametrize("decode", ["sample", "mode", "mean", "estimate"])
def test_upscaled_images_are_consistent_whole_and_in_tiles(model: SRVAE, decode: Any) -> None:
    if decode == "estimate" and not model.has_point_estimate:
        pytest.skip("the model makes none")
    image = extremes(45, 51)
    for tile, precision in ((0, "fp32"), (32, "fp32"), (32, "bf16")):
        options = UpscaleOptions(
            decode=decode,
            temperature=0.0 if decode == "estimate" else 1.0,
            image_temperature=5.0,
            tile=tile,
            precision=precision,
        )
        assert torch.equal(downscaled(model, Upscaler(model, options)(image)), image)


def test_upscaling_computes_in_the_precision_asked_for(model: SRVAE) -> None:
    kinds: set[torch.dtype] = set()
    first = model.model.p_x.groups.networks[1][0]
    first.register_forward_hook(lambda _m, _i, out: kinds.add(out.dtype))
    image = smooth(48, 48)
    outputs = {}
    for precision, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        kinds.clear()
        options = UpscaleOptions(decode="mean", tile=32, precision=precision)
        outputs[precision] = Upscaler(model, options)(image).int()
        assert kinds == {kind}
        assert not torch.is_autocast_enabled("cpu")
    assert 0 < (outputs["fp32"] - outputs["bf16"]).abs().float().mean() < 1


def test_evaluation(model: SRVAE) -> None:
    images = torch.stack([smooth(16, 16, 3, seed) for seed in range(3)])
    result = evaluate_super_resolution(model, images, samples=2)
    found = result.methods
    assert ("estimate" in found) is model.has_point_estimate
    own = {"sample", "mean", "mode", "expectation", "estimate"} & found.keys()
    assert all(found[name].lr_psnr == 100 for name in own)
    assert found["bicubic"].lr_psnr < 100
    rows = [line for line in result.table().splitlines() if "srVAE" in line]
    assert len(rows) == len(own)
    assert all(row.endswith("exact") for row in rows)
    x = to_unit(images)
    for estimator in ("paired", "product"):
        many, again = (
            estimate_log_likelihood(model, x, 6, estimator=estimator, at_once=at_once)
            for at_once in (4, 100)
        )
        assert (many.log_likelihood >= many.elbo).all()
        torch.testing.assert_close(many.log_likelihood, again.log_likelihood, rtol=1e-5, atol=1e-2)
