"""The models as Pyro programs: sites, shapes, initialisation, and Pyro's own tools on them."""

import copy
import pickle
import re
import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Importance, Predictive, Trace_ELBO
from pyro.poutine import Trace
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from srvae_pyro.errors import UserError
from srvae_pyro.models import SRVAE, VAE, ImageModel, make_model
from srvae_pyro.models.transforms import make_transform
from srvae_pyro.networks import WeightNormalized
from tests.builders import make_images, one_line, tiny

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "z sees y": {"guide_z_sees_y": True},
    "downscale4": {"d": "downscale4"},
    "downscale4, z sees y": {"d": "downscale4", "guide_z_sees_y": True},
    "grayscale": {"d": "grayscale"},
    "grayscale, z sees y": {"d": "grayscale", "guide_z_sees_y": True},
    "sketch": {"d": "sketch"},
    "average2": {"d": "average2"},
    "groups": {"d": "average2", "likelihood": "groups"},
    "groups, z sees y": {"d": "average2", "likelihood": "groups", "guide_z_sees_y": True},
    "groups, one channel": {"d": "average2", "likelihood": "groups", "image_shape": (1, 16, 16)},
    "groups, one stage": {"d": "average2", "likelihood": "groups", "stages": 1},
    "mixture": {"p_u": "mixture"},
    "standard": {"p_u": "standard"},
    "one channel": {"image_shape": (1, 16, 16)},
    "sketch of one channel": {"image_shape": (1, 16, 16), "d": "sketch"},
    "wide": {"image_shape": (3, 16, 32)},
    "tall, z sees y": {"image_shape": (3, 24, 8), "guide_z_sees_y": True},
    "one stage": {"stages": 1, "image_shape": (3, 8, 8)},
    "narrow branch of z": {"p_x_z_channels": 5},
    "plausible images": {"likelihood_start": "images", "posterior_log_variance": -2.0},
    "pyramid": {"latent_likelihood": "pyramid"},
    "pyramid, grayscale": {"latent_likelihood": "pyramid", "d": "grayscale"},
    "pyramid, mixture": {"latent_likelihood": "pyramid", "p_u": "mixture"},
    "pyramid, one channel": {"latent_likelihood": "pyramid", "image_shape": (1, 16, 16)},
    "pyramid, u as large as z": {"latent_likelihood": "pyramid", "u_stages": 1},
    "pyramid, u larger than z": {"latent_likelihood": "pyramid", "u_stages": 1, "stages": 3},
    "u smaller than z": {"u_stages": 3, "p_u": "standard"},
    "vae": {"model": "vae"},
    "vae, pyramid": {"model": "vae", "latent_likelihood": "pyramid"},
    "vae, mixture": {"model": "vae", "p_u": "mixture"},
    "vae, standard": {"model": "vae", "p_u": "standard"},
    "vae, one channel": {"model": "vae", "image_shape": (1, 16, 16)},
    "vae, wide": {"model": "vae", "image_shape": (3, 16, 32)},
    "vae, three stages": {"model": "vae", "stages": 3},
}
BOTH = ["default", "vae"]


def traces(m: ImageModel, x: Tensor) -> tuple[Trace, Trace]:
    guide = poutine.trace(m.guide).get_trace(x)
    model = poutine.trace(poutine.replay(m.model, trace=guide)).get_trace(x)
    for trace in (guide, model):
        trace.compute_log_prob()
    return model, guide


def sites(trace: Trace) -> set[str]:
    return {*trace.stochastic_nodes, *trace.observation_nodes} - {"images"}


def loss_of(m: ImageModel, x: Tensor) -> Tensor:
    """With the same noise each time."""
    pyro.set_rng_seed(3)
    return Trace_ELBO()(m.model, m.guide)(x)


def train_one_step(m: ImageModel, x: Tensor) -> None:
    optimizer = torch.optim.Adamax(m.parameters(), lr=0.01)
    loss_of(m, x).backward()
    optimizer.step()


# The programs


@pytest.mark.parametrize("option", OPTIONS)
def test_pyro_finds_both_programs_valid(option: str) -> None:
    config = tiny(**OPTIONS[option])
    m = make_model(config)
    x = make_images(3, config.image_shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        m.initialize(x)
        loss = Trace_ELBO(max_plate_nesting=1).differentiable_loss(m.model, m.guide, x)
        loss.backward()
    assert loss.isfinite()
    for name, parameter in m.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("option", OPTIONS)
def test_sites_and_their_shapes(option: str) -> None:
    config = tiny(**OPTIONS[option])
    m = make_model(config)
    x = make_images(3, config.image_shape)
    model, guide = traces(m, x)
    channels, height, width = config.image_shape
    small = 2**config.stages
    latent = (config.latent_channels, height // small, width // small)
    events: dict[str, tuple[int, ...]] = {"x": config.image_shape, "z": latent}
    if config.model == "srvae":
        factor = {"downscale2": 2, "average2": 2, "downscale4": 4}.get(config.d)
        lower = (channels, height // factor, width // factor) if factor else (1, height, width)
        events |= {"y": lower, "u": latent}
        if config.u_stages is not None:
            small = 2**config.u_stages
            events["u"] = (config.latent_channels, lower[1] // small, lower[2] // small)
        elif config.latent_likelihood == "pyramid":
            events["u"] = (latent[0], latent[1] // 2, latent[2] // 2)
    assert sites(model) == set(events)
    assert sites(guide) == set(events) - {"x"}
    assert model.observation_nodes == ["x"]
    for trace in (model, guide):
        for name in sites(trace):
            node = trace.nodes[name]
            assert node["fn"].event_shape == events[name]
            assert node["fn"].batch_shape == node["log_prob"].shape == (3,)
            assert node["value"].shape == (3, *events[name])
            assert node["log_prob"].dtype == torch.float32
        table = trace.format_shapes()
        assert all(re.search(rf"^\s*{name} (dist|value)", table, re.M) for name in sites(trace))


@pytest.mark.parametrize("transform", ["downscale2", "downscale4", "grayscale", "sketch"])
def test_guide_holds_y_as_a_delta_at_its_transform(transform: str) -> None:
    m, x = SRVAE(tiny(d=transform)), make_images()
    model, guide = traces(m, x)
    y = guide.nodes["y"]
    assert isinstance(y["fn"], dist.Delta)
    assert torch.equal(y["value"], make_transform(transform)(x))
    assert y["log_prob"].eq(0).all()
    assert model.nodes["y"]["value"] is y["value"]


def test_guide_z_sees_y_only_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The posterior of z changes with another d, whose y it sees, or it does not."""
    x = make_images(2)
    other_y = make_transform("downscale2")(make_images(2, seed=1))
    for sees in (False, True):
        m = SRVAE(tiny(guide_z_sees_y=sees))
        loc = m.guide.q_z(x).base_dist.loc
        monkeypatch.setattr(m.guide.d, "forward", lambda x: other_y)
        assert torch.equal(m.guide.q_z(x).base_dist.loc, loc) != sees


def test_conditioned_on_y_the_model_super_resolves() -> None:
    m = SRVAE(tiny())
    m.initialize(make_images(4))
    u = torch.randn(2, 4, 4, 4)
    z = []
    for seed in (0, 1):
        y = make_images(2, (3, 8, 8), seed=seed)
        trace = poutine.trace(poutine.condition(m.model, {"y": y, "u": u})).get_trace(count=2)
        assert torch.equal(trace.nodes["y"]["value"], y)
        assert trace.nodes["y"]["is_observed"]
        assert trace.nodes["x"]["value"].shape == (2, 3, 16, 16)
        assert not trace.nodes["x"]["is_observed"]
        z.append(trace.nodes["z"]["fn"].base_dist)
    assert not torch.equal(z[0].loc, z[1].loc)
    assert not torch.equal(z[0].scale, z[1].scale)
    trace = poutine.trace(poutine.condition(m.model, {"y": y})).get_trace(count=2)
    assert not torch.equal(trace.nodes["u"]["value"], u)
    assert torch.equal(trace.nodes["y"]["value"], y)


# Sizes


@pytest.mark.parametrize(
    "changes",
    [
        {"image_shape": (3, 18, 16)},
        {"image_shape": (3, 16, 20)},
        {"image_shape": (3, 4, 4)},
        {"image_shape": (3, 28, 28), "d": "grayscale"},
        {"image_shape": (3, 100, 100), "stages": 3},
        {"image_shape": (3, 30, 30), "p_u": "standard"},
        {"image_shape": (3, 28, 28), "model": "vae"},
        {"image_shape": (1, 7, 7), "model": "vae", "p_u": "mixture"},
    ],
)
def test_unsuitable_size_is_refused_with_sizes_that_suit(changes: dict[str, Any]) -> None:
    config = tiny(**changes)
    channels, height, width = config.image_shape
    with pytest.raises(UserError, match=f"{height}x{width}") as caught:
        make_model(config)
    message = one_line(caught)
    suggested = [int(number) for number in re.findall(r"\d+", message.split("such as")[1])]
    assert suggested
    for size in suggested:
        m = make_model(tiny(**(changes | {"image_shape": (channels, size, size)})))
        assert m.model(count=2).shape == (2, channels, size, size)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_shape": (2, 16, 16)}, "1 or 3 channels, not 2"),
        ({"image_shape": (1, 16, 16), "d": "grayscale"}, "3 channels"),
        ({"d": "downscale4", "stages": 1}, "at least 2 stages"),
        ({"d": "downscale3"}, "downscale2"),
        ({"likelihood": "groups"}, "`likelihood=groups` needs `transform=average2`, not downscal"),
        ({"likelihood": "groups", "d": "average2", "model": "vae"}, "the VAE has no y"),
    ],
)
def test_unsuitable_options_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_model(tiny(**changes))


# Initialisation


@pytest.mark.parametrize("option", ["default", "grayscale, z sees y", "vae", "vae, standard"])
def test_initialize_reaches_every_layer_once(option: str) -> None:
    config = tiny(**OPTIONS[option])
    m = make_model(config)
    assert not m.initialized
    with poutine.trace() as outside:
        m.initialize(make_images(4))
    assert m.initialized
    assert not outside.trace.nodes, "initialising shows no sites to a program around it"
    before = copy.deepcopy(m.state_dict())
    m.initialize(make_images(4, seed=1))
    assert all(torch.equal(before[k], v) for k, v in m.state_dict().items())
    loaded = make_model(config)
    loaded.load_state_dict(before)
    assert loaded.initialized
    loaded.initialize(make_images(4, seed=1))
    x = make_images(2)
    assert torch.equal(loss_of(loaded, x), loss_of(m, x))


def test_initialize_refuses_one_image() -> None:
    m = SRVAE(tiny())
    with pytest.raises(ValueError, match="at least 2 images"):
        m.initialize(make_images(1))
    assert not any(
        layer.initialized for layer in m.modules() if isinstance(layer, WeightNormalized)
    )


def test_initialize_completes_a_partly_initialized_model() -> None:
    m = SRVAE(tiny())
    m.initialize(make_images(4))
    head = m.guide.q_z.encoder[-1]
    kept = copy.deepcopy(m.model.state_dict())
    head.initialized.fill_(False)
    with torch.no_grad():
        head.gain.fill_(5.0)
    assert not m.initialized
    m.initialize(make_images(4))
    assert m.initialized
    assert head.gain.abs().max() < 5
    assert all(torch.equal(kept[k], v) for k, v in m.model.state_dict().items())


def test_initial_posteriors_and_likelihoods_follow_the_config() -> None:
    scales = {"likelihood_scale": 0.05, "posterior_scale": 0.5, "head_scale": 0.02}
    starts = {"likelihood_start": "images", "posterior_log_variance": -3.0}
    m, x = SRVAE(tiny(components=5, **scales, **starts)), make_images(8)
    with torch.no_grad():
        m.initialize(x)
        mean, log_variance = m.guide.q_z.parameters_of(x).chunk(2, dim=1)
    for values, average, deviation in ((mean, 0.0, 0.5), (log_variance, -3.0, 0.02)):
        std, centre = torch.std_mean(values, dim=(0, 2, 3))
        torch.testing.assert_close(std, torch.full((4,), deviation), rtol=1e-3, atol=0)
        torch.testing.assert_close(centre, torch.full((4,), average), rtol=0, atol=1e-3)
    pyro.set_rng_seed(0)
    with torch.no_grad():
        likelihood = traces(m, x)[0].nodes["x"]["fn"]
    spread = torch.linspace(0.1, 0.9, 5)[:, None].expand(5, 3)
    for values, expected in (
        (likelihood.means.mean(dim=(0, 3, 4)), spread),
        (likelihood.log_scales.mean(dim=(0, 3, 4)), torch.full((5, 3), -2.0)),
        (likelihood.logits.mean(dim=(0, 2, 3)), torch.zeros(5)),
    ):
        torch.testing.assert_close(values, expected, rtol=0, atol=0.03)


# Pyro's and PyTorch's own tools


@pytest.mark.parametrize("option", BOTH)
def test_elbo_is_a_module_with_all_parameters(option: str) -> None:
    m = make_model(tiny(**OPTIONS[option]))
    elbo = Trace_ELBO()(m.model, m.guide)
    assert {id(p) for p in elbo.parameters()} == {id(p) for p in m.parameters()}
    assert not pyro.get_param_store()
    elbo(make_images()).backward()
    assert all(p.grad is not None for p in m.parameters())


@pytest.mark.parametrize("option", BOTH)
def test_stock_svi_learns(option: str) -> None:
    x = (make_images(4) > 0.5) * 128 / 255  # two levels only, so that there is much to learn
    start = {"likelihood_start": "images", "likelihood_scale": 0.02, "head_scale": 0.02}
    m = make_model(tiny(**start, **OPTIONS[option]))
    m.initialize(x)
    before = [p.detach().clone() for p in m.parameters()]
    svi = SVI(*m.programs(), pyro.optim.Adam({"lr": 3e-3}), Trace_ELBO())
    first = svi.evaluate_loss(x)
    for _ in range(20):
        svi.step(x)
    assert svi.evaluate_loss(x) < 0.93 * first
    # ... and it is the model itself that has learnt.
    assert loss_of(m, x).item() < 0.93 * first
    fixed = sum(torch.equal(p, old) for p, old in zip(m.parameters(), before, strict=True))
    gains = sum(name.endswith("scale.direction") for name, _ in m.named_parameters())
    assert fixed == gains


def test_stock_svi_trains_a_second_model_of_the_process() -> None:
    x = make_images(4)
    for _ in range(2):
        m = VAE(tiny(model="vae", p_u="standard"))
        before = [p.detach().clone() for p in m.parameters()]
        svi = SVI(*m.programs(), pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        svi.step(x)
        assert not any(torch.equal(p, old) for p, old in zip(m.parameters(), before, strict=True))


@pytest.mark.parametrize("option", BOTH)
def test_importance_sampling_and_predictive(option: str) -> None:
    m, x = make_model(tiny(**OPTIONS[option])), make_images(2)
    with torch.no_grad():
        posterior = Importance(m.model, m.guide, num_samples=3).run(x)
        assert len(posterior.log_weights) == 3
        assert all(weight.isfinite() for weight in posterior.log_weights)
        for parallel in (False, True):
            predictive = Predictive(m.model, num_samples=3, parallel=parallel)
            samples = predictive(None, 2)
            assert samples["x"].shape == (3, 2, 3, 16, 16)
            assert samples["z"].shape == (3, 2, 4, 4, 4)
        reconstruct = Predictive(m.model, guide=m.guide, num_samples=3)
        assert reconstruct(x)["x"].shape[-4:] == x.shape


EDGES = {
    "default": {("u", "y"), ("u", "z"), ("y", "z"), ("y", "x"), ("z", "x")},
    "vae": {("z", "x")},
}


@pytest.mark.parametrize("option", BOTH)
def test_render_model_draws_model_and_guide(option: str) -> None:
    m, x = make_model(tiny(**OPTIONS[option])), make_images(2)
    model = pyro.render_model(m.model, model_args=(x,)).source
    names = {name for edge in EDGES[option] for name in edge}
    assert set(re.findall(r"^\s*(\w+) \[.*shape=", model, re.M)) - {"x"} == names - {"x"}
    assert re.search(r"^\s*x \[.*fillcolor=gray", model, re.M)
    assert set(re.findall(r"(\w+) -> (\w+)", model)) == EDGES[option]
    assert "label=images" in model
    guide = pyro.render_model(m.guide, model_args=(x,), render_deterministic=True).source
    assert set(re.findall(r"(\w+) -> (\w+)", guide)) == ({("y", "u")} if option != "vae" else set())
    assert re.search(r"^\s*z \[", guide, re.M)


@pytest.mark.parametrize("way", ["deepcopy", "average", "pickle"])
@pytest.mark.parametrize("option", ["z sees y", "mixture", "vae"])
def test_copies_after_a_training_step(option: str, way: str) -> None:
    m, x = make_model(tiny(**OPTIONS[option])), make_images()
    m.initialize(x)
    train_one_step(m, x)
    other: ImageModel
    if way == "deepcopy":
        other = copy.deepcopy(m)
    elif way == "average":
        average = AveragedModel(m)
        average.update_parameters(m)
        other = average.module
    else:
        other = pickle.loads(pickle.dumps(m))
    loss = loss_of(m, x)
    assert torch.equal(loss_of(other, x), loss)
    assert other.initialized
    assert other.config == m.config
    train_one_step(m, x)
    assert torch.equal(loss_of(other, x), loss), "the copy is of its own"
    assert loss_of(m, x) != loss


def test_bfloat16_does_not_round_y() -> None:
    likelihood = SRVAE(tiny()).model.p_x
    seen: list[Tensor] = []
    likelihood.joint[0].register_forward_hook(lambda _m, inputs, out: seen.extend((*inputs, out)))
    y, z = make_images(2, (3, 8, 8)), torch.randn(2, 4, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        likelihood.parameters_of(y, z)
    lifted = likelihood.d.lift(y, (16, 16))
    assert not torch.equal(lifted, lifted.bfloat16().float())
    assert torch.equal(seen[0][:, :3], lifted)
    assert seen[1].dtype == torch.float32
