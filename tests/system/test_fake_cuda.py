"""What runs on a GPU, run without one: devices never mix, the CPU waits only where known."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._pytree import tree_leaves, tree_map

from srvae_pyro.config import DataConfig, RunConfig, TrainingConfig
from srvae_pyro.evaluation.likelihood import evaluate_elbo, evaluate_likelihood
from srvae_pyro.evaluation.super_resolution import evaluate_super_resolution
from srvae_pyro.inference.importance import estimate_log_likelihood
from srvae_pyro.inference.refinement import refine
from srvae_pyro.inference.statistics import RunningMean
from srvae_pyro.models import SRVAE, ImageModel
from srvae_pyro.models.restorer import InputKind, numbers_of
from srvae_pyro.system.device import to_device
from srvae_pyro.system.parallel import ProcessGroup
from srvae_pyro.training.learner import Learner
from srvae_pyro.upscaling.arguments import UpscaleOptions
from srvae_pyro.upscaling.upscaler import Upscaler
from tests.fake_cuda import CUDA, KINDS, MIXED, FakeCuda, config_of

GPU = ProcessGroup(device=CUDA)
READ_A_STEP = ("read", "learner.py:reduce")


@dataclass
class OnGpu:
    """A learner of a kind on the device that is not there, with some images, on the CPU."""

    name: str
    cuda: FakeCuda
    learner: Learner
    levels: Tensor

    @property
    def model(self) -> ImageModel:
        return self.learner.averaged

    @property
    def x(self) -> Tensor:
        return self.levels / 255

    def fresh(self) -> Learner:
        """Another learner of the kind."""
        kind = KINDS[self.name]
        config = RunConfig(
            preset="",
            model=config_of(self.name),
            data=DataConfig(data="", augment="shifts"),
            training=TrainingConfig(**kind.training),
        )
        learner = Learner(config, len(self.levels), GPU, kind.accumulate)
        # What PyTorch takes for parameters on CUDA, but not for fake ones.
        learner.optimizer.param_groups[0]["foreach"] = True
        return learner

    def step(self, learner: Learner) -> Any:
        return learner.step(
            to_device(self.levels, CUDA),
            rate=1e-3,
            kl_weights={"z": 0.5},
            images_seen=9,
            votes=list,
        )


@pytest.fixture(scope="module", params=["srvae", "groups", "vae"])
def on_gpu(request: pytest.FixtureRequest) -> OnGpu:
    """A learner of each kind, initialised with data."""
    levels = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    with FakeCuda() as cuda:
        here = OnGpu(request.param, cuda, None, levels)
        here.learner = here.fresh()
        cuda.waits.taken()  # of all parameters
        cuda.waits.output = 0  # no layer is initialised yet
        here.learner.initialize(levels)
        cuda.waits.output = 1
        # As often as there are layers, once in a run.
        assert {place for _, place in cuda.waits.taken()} <= {
            "learner.py:initialize",
            "layers.py:initialize",
            "restorer.py:initialize",
            "transforms.py:_triangle",
        }
    return here


@pytest.fixture
def here(on_gpu: OnGpu) -> Iterator[OnGpu]:
    """The same, within the device; afterwards nothing has mixed but scalars.

    And all convolutions have had their inputs in the layout that is fast.
    """
    with on_gpu.cuda as cuda:
        if isinstance(on_gpu.model, SRVAE):
            on_gpu.model.guide.d(to_device(on_gpu.x, CUDA))  # the weights of d, copied once a size
        cuda.waits.taken()
        yield on_gpu
        cuda.waits.output = 1
    assert set(cuda.waits.mixed) <= MIXED
    assert not cuda.waits.scattered


def devices(values: Any) -> set[str]:
    return {leaf.device.type for leaf in tree_leaves(values) if isinstance(leaf, Tensor)}


least_alone = pytest.mark.parametrize("on_gpu", ["least"], indirect=True)


# Training


def test_a_step(here: OnGpu) -> None:
    """With all that a step can have; the CPU waits once an update, and then for two numbers."""
    learner, waits = here.learner, here.cuda.waits
    learner.clip.norms = [1e-3]  # so that gradients are scaled down
    outcome = here.step(learner)
    assert waits.taken() == {READ_A_STEP: 1}
    assert not outcome.fault
    assert devices([outcome.loss, outcome.terms, outcome.norm]) == {"cuda"}
    parameters = list(learner.model.parameters())
    assert devices(parameters) == devices([p.grad for p in parameters]) == {"cuda"}
    assert devices(list(learner.averaged.parameters())) == {"cuda"}
    moments = list(learner.optimizer.state.values())
    # The counts of steps stay on the CPU, where reading them costs nothing.
    assert devices([m["exp_avg"] for m in moments] + [m["exp_inf"] for m in moments]) == {"cuda"}
    assert devices([m["step"] for m in moments]) == {"cpu"}

    means = RunningMean()
    means.add({**outcome.terms, "loss": outcome.loss, "norm": outcome.norm})
    assert waits.taken() == {}
    assert set(means.read()) == {*outcome.terms, "loss", "norm"}
    place = "statistics.py:read"
    assert waits.taken() == {("to device", place): 1, ("read", place): 1}


@least_alone
def test_a_step_that_is_not_finite(here: OnGpu) -> None:
    learner = here.learner
    before = [p._version for p in learner.model.parameters()]
    here.cuda.waits.output = float("nan")
    assert here.step(learner).fault == "gradient norm"
    assert [p._version for p in learner.model.parameters()] == before


@least_alone
def test_resuming(here: OnGpu) -> None:
    """From a state on the CPU, as it is read from a file; the generators' states are values."""
    here.step(here.learner)
    saved = tree_map(
        lambda leaf: leaf.cpu() if isinstance(leaf, Tensor) else leaf, here.learner.state()
    )
    assert set(here.learner.randomness.state()["random"]) == {"cpu", "cuda"}
    with unset_fake_temporarily():
        states = {"cpu": torch.get_rng_state(), "cuda": torch.zeros(16, dtype=torch.uint8)}
        random = {"augmentation": torch.Generator().get_state(), "random": states}
    again = here.fresh()
    here.cuda.states.clear()
    again.restore(saved)
    again.randomness.restore(random, step=3)
    assert [(state.device.type, device) for state, device in here.cuda.states] == [("cpu", CUDA)]
    assert devices(again.state()["model"]) == devices(again.state()["average"]) == {"cuda"}
    moments = again.optimizer.state.values()
    assert len(moments) == len(here.learner.optimizer.state) > 0
    assert devices([m["exp_avg"] for m in moments]) == {"cuda"}
    assert devices([m["step"] for m in moments]) == {"cpu"}
    assert not here.step(again).fault


# Inference


def test_validation(here: OnGpu) -> None:
    """Waits at the end of all batches alone."""
    result = evaluate_elbo(here.model, here.levels, CUDA, batch_size=2, units=True)
    assert set(result.units) == ({"z"} if here.name == "vae" else {"u", "z"})
    waits = here.cuda.waits.taken()
    assert {place for _, place in waits} == {"parallel.py:joined", "likelihood.py:read"}
    assert waits["to host", "parallel.py:joined"] == len(result.terms) + 1


@least_alone
def test_evaluation(here: OnGpu) -> None:
    """With all that an evaluation can have: several samples, Pareto k, as much as fits at once.

    A refined q differs in the steps that make it, in which nothing waits.
    """
    evaluate_elbo(here.model, here.levels, CUDA, samples=2)
    evaluate_likelihood(here.model, here.levels, CUDA, 25)
    here.cuda.waits.taken()
    assert refine(here.model, to_device(here.x, CUDA), 2).improved.device.type == "cuda"
    assert here.cuda.waits.taken() == {}


@pytest.mark.parametrize("estimator", ["product", "paired"])
def test_likelihood(here: OnGpu, estimator: Any) -> None:
    x = to_device(here.x, CUDA)
    estimate = estimate_log_likelihood(here.model, x, 3, estimator=estimator, at_once=8)
    assert devices(vars(estimate)) == {"cpu"}
    assert here.cuda.waits.taken() == {("to host", "importance.py:<genexpr>"): 4}


def test_generating(here: OnGpu) -> None:
    """Draws from the device's own generator, or for a seed from the CPU's: nothing waits."""
    waits = here.cuda.waits
    for sampling in ({"seed": 1, "temperature": 0.5, "image_temperature": 0.5}, {}):
        if here.name == "groups" and not sampling:
            continue  # takes the longest, and what draws is the same
        before = waits.to_device
        assert devices(here.model.generate(2, **sampling)) == {"cuda"}
        assert waits.taken() == {}
        assert (waits.to_device > before) == ("seed" in sampling)


def test_other_operations(here: OnGpu) -> None:
    """Each asks whether its images are in [0, 1]; nothing else waits."""
    model, x = here.model, to_device(here.x[:1], CUDA)
    calls: list[Callable[[], Any]] = []
    if isinstance(model, SRVAE):
        y = model.guide.d(x)
        calls += [lambda: model.super_resolve(y, 2, decode="mode", seed=1)]
    if here.name == "srvae":
        calls += [
            lambda: model.generative_reconstruct(x),
            lambda: model.recombine(x, x, decode="mean"),
        ]
    if here.name != "groups":  # takes the longest, and its networks are done
        calls += [lambda: model.reconstruct(x, seed=1), lambda: model.interpolate(x, x, 2, seed=1)]
    for call in calls:
        assert devices(call()) == {"cuda"}
    assert {place for _, place in here.cuda.waits.taken()} == {"operations.py:check_images"}


@pytest.mark.parametrize("on_gpu", ["restorer"], indirect=True)
def test_damaged_inputs(here: OnGpu) -> None:
    """As in a step that trains on them, and restored."""
    model, o = here.model, to_device(here.x[:1, :, :8, :8], CUDA)
    kinds = to_device(numbers_of([InputKind(noise=5.0)], 2), CUDA)
    here.cuda.waits.taken()
    estimate, p_y = model.restorer.both(o, kinds, 2)
    assert devices([estimate, p_y.log_prob(o)]) == {"cuda"}
    assert here.cuda.waits.taken() == {}
    assert devices(model.restore(o, InputKind(noise=5.0), decode="mode", seed=1)) == {"cuda"}
    assert {place for _, place in here.cuda.waits.taken()} == {"operations.py:check_images"}


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_upscaling(here: OnGpu) -> None:
    """A tile is waited for once, when it is brought to the CPU; an expectation more often."""
    if not isinstance(here.model, SRVAE):
        pytest.skip("a VAE does not upscale")
    multiple = here.model.lower_multiple
    side = 8 * multiple
    with unset_fake_temporarily():
        image = torch.zeros(3, side, side + multiple, dtype=torch.uint8)
    for tile, decode in ((0, "mode"), (side, "sample")):
        out = Upscaler(here.model, UpscaleOptions(decode=decode, tile=tile, temperature=1.0))(image)
        assert out.device.type == "cpu"
        assert out.shape == (3, 2 * side, 2 * (side + multiple))
        assert here.cuda.waits.taken() == {("to host", "upscaler.py:_tile"): 2 if tile else 1}
    Upscaler(here.model, UpscaleOptions(decode="mean", tile=0))(image)
    places = {place for _, place in here.cuda.waits.taken()}
    quadrature = {"truncated.py:expectation", "truncated.py:<listcomp>"}
    assert places == {"upscaler.py:_tile"} | (quadrature if here.name == "groups" else set())


def test_super_resolution(here: OnGpu) -> None:
    """The expectation of answers that are consistent with y asks which need quadrature."""
    if here.name != "groups":
        pytest.skip("of the two the one with more that could mix")
    evaluate_super_resolution(here.model, here.levels[:1], samples=2)
    assert {place for _, place in here.cuda.waits.taken()} == {
        "super_resolution.py:_in_levels",
        "super_resolution.py:_near",
        "truncated.py:expectation",
        "truncated.py:<listcomp>",
    }
