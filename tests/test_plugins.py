"""Parts written here alone go through all commands, or are refused by one line that says why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal, get_args

import pyro
import pyro.distributions as dist
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from srvae_pyro import checked, compress, config, decompress, evaluate, generate, presets, train
from srvae_pyro import upscale as upscaling
from srvae_pyro.config import ModelConfig, TrainingConfig
from srvae_pyro.distributions import ImageDistribution
from srvae_pyro.errors import UserError
from srvae_pyro.inference.decoding import Decode, ImageNoise
from srvae_pyro.inference.elbo import TermsELBO
from srvae_pyro.inference.importance import estimate_log_likelihood
from srvae_pyro.inference.refinement import refine
from srvae_pyro.models import base
from srvae_pyro.models.base import ImageModel, Levels, images_plate, make_prior
from srvae_pyro.models.conditionals import (
    ImageEncoder,
    ImageGivenLatent,
    XGivenYZ,
    ZGivenYU,
    over_images,
)
from srvae_pyro.models.pixel_groups import X_GIVEN_YZ
from srvae_pyro.models.transforms import TRANSFORMS, Downscale, Transform, make_transform
from srvae_pyro.pixels import to_levels, to_unit
from srvae_pyro.training import arguments as training_arguments
from tests.builders import make_images, refused, tiny
from tests.distributions import test_image_distributions as suite
from tests.training.test_command import arguments
from tests.training.test_command import make_images as write_images


class Corner(Downscale):
    """y is every second pixel of every second row."""

    def __init__(self) -> None:
        super().__init__(2)
        self.name = "corner"

    def of_levels(self, levels: Tensor) -> Tensor:
        return levels[..., ::2, ::2]


class Categorical(ImageDistribution):
    """Independent pixels, each level with a probability of its own: logits (..., 256, C, H, W)."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits if logits.dtype == torch.float64 else logits.float()
        super().__init__(logits.shape[:-4], logits.shape[-3:])

    def expand(self, batch_shape: Any, _instance: Any = None) -> Categorical:
        return Categorical(self.logits.expand(*batch_shape, *self.logits.shape[-4:]))

    def _log_prob(self, value: Tensor) -> Tensor:
        levels = to_levels(value).long().unsqueeze(-4)
        log_p, levels = torch.broadcast_tensors(self.logits.log_softmax(-4), levels)
        return log_p.gather(-4, levels[..., :1, :, :, :]).squeeze(-4).sum((-3, -2, -1))

    @property
    def uniform_noise(self) -> Tensor:
        return self.logits.new_empty(()).expand(*self.batch_shape, *self.event_shape)

    def icdf_sample(self, uniform: Tensor) -> Tensor:
        below = self.logits.softmax(-4).cumsum(-4)[..., :-1, :, :, :]
        return to_unit((uniform.unsqueeze(-4) >= below).sum(-4), self.logits.dtype)

    @property
    def mode(self) -> Tensor:
        return to_unit(self.logits.argmax(-4), self.logits.dtype)

    @property
    def mean(self) -> Tensor:
        levels = to_unit(torch.arange(256), self.logits.dtype).view(256, 1, 1, 1)
        return (self.logits.softmax(-4) * levels).sum(-4)

    def with_temperature(self, temperature: float) -> Categorical:
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, not {temperature}")
        return Categorical(self.logits / temperature)


class CategoricalGivenYZ(nn.Module):
    """p(x|y,z), a convolution of y brought to x's size."""

    def __init__(self, config: ModelConfig, d: Transform, channels: int, lower: int) -> None:
        super().__init__()
        self.d, self.channels = d, channels
        self.convolution = nn.Conv2d(lower, 256 * channels, 3, padding=1)

    def forward(self, y: Tensor, z: Tensor) -> Categorical:
        lifted = self.d.lift(y, [self.d.factor * side for side in y.shape[-2:]])
        logits = over_images(self.convolution, lifted)
        logits = logits.expand(*z.shape[:-3], *logits.shape[-3:])
        return Categorical(logits.unflatten(-3, (256, self.channels)))


class ThreeLevelsModel(nn.Module):
    """t, w of a quarter of the size; u, y of half of it; z, x."""

    levels: ClassVar[Levels] = (("t", "w"), ("u", "y"), ("z", "x"))

    def __init__(self, **conditionals: nn.Module) -> None:
        super().__init__()
        for name, conditional in conditionals.items():
            setattr(self, name, conditional)

    def forward(self, x: Tensor | None = None, count: int = 1, size: Any = None) -> Any:
        with images_plate(x, count):
            t = pyro.sample("t", self.p_t(size))
            w = pyro.sample("w", self.p_w(t))
            u = pyro.sample("u", self.p_u(w, t))
            y = pyro.sample("y", self.p_y(w, u))
            z = pyro.sample("z", self.p_z(y, u))
            return pyro.sample("x", self.p_x(y, z), obs=x)


class ThreeLevelsGuide(ThreeLevelsModel):
    def forward(self, x: Tensor, count: int = 1, size: Any = None) -> None:
        with images_plate(x):
            y = pyro.sample("y", dist.Delta(self.d(x), event_dim=3))
            w = pyro.sample("w", dist.Delta(self.d(y), event_dim=3))
            for site, image in {"t": w, "u": y, "z": x}.items():
                pyro.sample(site, getattr(self, f"q_{site}")(image))


class ThreeLevels(ImageModel):
    """A third level: the table of levels, two programs and a reconstruction are all it takes."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.multiple = 16
        d, below = make_transform("downscale2"), replace(config, stages=1)
        latent = (config.latent_channels, *(side // 4 for side in config.image_shape[1:]))
        self.model = ThreeLevelsModel(
            p_t=make_prior(config, latent),
            p_w=ImageGivenLatent(below, 3, below.p_y, 0),
            p_u=ZGivenYU(below, 3, 0),
            p_y=XGivenYZ(below, d, 3, 3),
            p_z=ZGivenYU(config, 3, 1),
            p_x=XGivenYZ(config, d, 3, 3),
        )
        self.guide = ThreeLevelsGuide(
            d=d,
            q_t=ImageEncoder(below, 3, below.q_u, 0),
            q_u=ImageEncoder(below, 3, below.q_z, 1),
            q_z=ImageEncoder(config, 3, config.q_z, 2),
        )

    def reconstruct(self, x: Tensor, **sampling: Any) -> dict[str, Tensor]:
        def program(x: Tensor) -> None:
            with images_plate(x):
                z = pyro.sample("z", self.guide.q_z(x))
                pyro.sample("x", self.model.p_x(self.guide.d(x), z))

        return self.draw(program, x, **sampling)


def name(patch: pytest.MonkeyPatch, kind: str, value: str) -> None:
    """Add to the names in ``srvae_pyro/config.py``, as docs/extend.md says to do by hand."""
    known = get_args(getattr(config, kind))
    patch.setattr(config, kind, Literal[(*known, value)])
    forget(checked), forget(training_arguments)


def forget(module: ModuleType) -> None:
    for function in vars(module).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()


@pytest.fixture
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A run of one of the plug-ins, trained by a preset that is a plug-in itself."""
    plugin = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TRANSFORMS, "corner", Corner)
        patch.setitem(X_GIVEN_YZ, "categorical", CategoricalGivenYZ)
        patch.setitem(base.MODELS, "threelevels", ThreeLevels)
        name(patch, "TransformName", "corner")
        name(patch, "LikelihoodName", "categorical")
        name(patch, "ModelName", "threelevels")
        name(patch, "Preset", "mine")
        kind, changes = {
            "transform": ("srvae", {"d": "corner"}),
            "likelihood": ("srvae", {"likelihood": "categorical"}),
            "level": ("threelevels", {}),
        }[plugin]
        model = tiny(model=kind, p_u="standard", **changes)
        training = TrainingConfig(epochs=None, batch_size=4)
        patch.setitem(presets._MODELS, ("mine", kind), model)
        patch.setitem(presets._TRAINING, ("mine", kind), training)
        write_images(tmp_path / "images")
        chosen: dict[str, Any] = {"preset": "mine", "model": kind, "steps": 2}
        assert train.main(arguments(tmp_path, **chosen)) == 0
        with refused("`preset` mine has no settings for `model` vae"):
            train.main(arguments(tmp_path, **chosen | {"model": "vae", "run": "other"}))
        yield plugin, tmp_path / "runs" / "mine"
    forget(checked), forget(training_arguments)
    pyro.enable_validation(True)


@pytest.mark.parametrize("run", ["transform", "likelihood", "level"], indirect=True)
def test_every_command(run: tuple[str, Path], tmp_path: Path) -> None:
    plugin, folder = run
    small = tmp_path / "images" / "00.png"

    new = tmp_path / "new"
    assert generate.main(generate.GenerateArguments(str(folder), count=2, out=new)) == 0
    assert len(list(new.rglob("0000*.png"))) >= 2

    measured: dict[str, Any] = {"limit": 2, "importance_samples": 2}
    assert evaluate.main(evaluate.EvaluateArguments(str(folder), **measured)) == 0

    out = tmp_path / "larger"
    asked = upscaling.UpscaleArguments(str(folder), (small,), out=out, device="cpu")
    if plugin == "level":
        with refused("ThreeLevels has no super_resolution"):
            upscaling.main(asked)
    else:
        assert upscaling.main(asked) == 0
        assert [Image.open(path).size for path in out.glob("*.png")] == [(32, 32)]

    archive = tmp_path / "images.srvae"
    coded = compress.CompressArguments(str(folder), (small,), out=archive, device="cpu")
    if plugin == "transform":
        assert compress.main(coded) == 0
        back = decompress.DecompressArguments(archive, tmp_path / "back", str(folder))
        assert decompress.main(back) == 0
        (image,) = (tmp_path / "back").glob("*.png")
        assert Image.open(image).tobytes() == Image.open(small).tobytes()
    else:
        kind = {"likelihood": "likelihood Categorical", "level": "ThreeLevels"}[plugin]
        with refused(f"compress cannot code (the|a) {kind}"):
            compress.main(coded)
    assert not archive.exists() or plugin == "transform"


def test_three_levels_are_weighed_as_their_elbo() -> None:
    """One sample's weight is the ELBO by the same noise, with the encoder's q and a refined one."""
    net, x = ThreeLevels(tiny(p_u="standard")), make_images(3)
    net.initialize(x)
    terms = TermsELBO().terms(net.model, net.guide, x)
    assert {*terms.named()} == {"re_x", "re_y", "re_w", "kl_z", "kl_u", "kl_t"}
    terms.total.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    for guide in (None, refine(net, x, steps=2)):
        with Decode(noise=ImageNoise(5, range(3))), torch.no_grad():
            elbo = -TermsELBO().terms(net.model, guide or net.guide, x).total
        found = estimate_log_likelihood(net, x, samples=1, seed=5, guide=guide).log_likelihood
        torch.testing.assert_close(found, elbo.double(), rtol=1e-5, atol=1e-2)


def test_a_likelihood_joins_the_common_suite() -> None:
    logits = lambda parameters: Categorical(parameters.unsqueeze(-3))  # noqa: E731
    case = suite.Case(logits, 256, suite.LEVELS)
    suite.test_probabilities_sum_to_one(case, 1.0)
    suite.test_samples_fit_log_prob(case, 0.4)
    suite.test_what_is_drawn_is_in_the_support(case)
    suite.test_the_mean_is_near_the_expectation(case)
    suite.test_temperature(case)
    suite.test_expanded_it_is_the_same_distribution(case)
    suite.test_first_and_second_derivatives(case)


def test_a_likelihood_of_ones_own_is_not_taken_for_consistent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(X_GIVEN_YZ, "independent", CategoricalGivenYZ)
    assert not base.MODELS["srvae"](tiny()).is_consistent
    monkeypatch.setattr(CategoricalGivenYZ, "is_consistent", True, raising=False)
    with pytest.raises(UserError, match="needs `transform=average2`"):
        base.MODELS["srvae"](tiny())
