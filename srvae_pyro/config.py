"""What a model is made of, what it is trained on and how. All of it is saved with every run."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from srvae_pyro.errors import UserError

__all__ = [
    "DATA_SETS",
    "SHARDS",
    "DataConfig",
    "Dense",
    "ModelConfig",
    "RunConfig",
    "TrainingConfig",
]

DATA_SETS = ("cifar10", "imagenet32", "imagenet32-batches", "photos")
SHARDS = "wds:"  # how the name of pictures in tar shards begins

T = TypeVar("T")


# Least and most that a setting can be; far more than any use, and no harm from a strange file.
_RANGES: dict[tuple[str, str], tuple[float, float]] = {
    ("Dense", "growth"): (1, 4096),
    ("Dense", "steps"): (1, 256),
    ("Dense", "blocks"): (1, 64),
    ("ModelConfig", "image_shape"): (1, 65536),
    ("ModelConfig", "latent_channels"): (1, 4096),
    ("ModelConfig", "stages"): (0, 16),
    ("ModelConfig", "components"): (1, 1000),
    ("ModelConfig", "p_u_components"): (1, 100_000),
    ("ModelConfig", "p_x_z_channels"): (0, 65536),
    ("ModelConfig", "posterior_log_variance"): (-100, 100),
    ("DataConfig", "image_size"): (1, 65536),
    ("DataConfig", "channels"): (1, 3),
    ("DataConfig", "limit"): (1, 2**63),
    ("TrainingConfig", "batch_size"): (1, 2**31),
    ("TrainingConfig", "epochs"): (1, math.inf),
    ("TrainingConfig", "steps"): (1, math.inf),
    ("TrainingConfig", "max_minutes"): (1e-30, math.inf),
    ("TrainingConfig", "lr"): (1e-30, 1e9),
    ("TrainingConfig", "lr_decay"): (1e-30, 1),
    ("TrainingConfig", "eps"): (1e-30, 1),
    ("TrainingConfig", "clip_factor"): (1e-30, 1e30),
    ("TrainingConfig", "validation_images"): (1, 2**63),
    ("TrainingConfig", "betas"): (0, 1 - 1e-12),
    ("TrainingConfig", "anneal"): (0, 1),
    ("TrainingConfig", "kl_start"): (0, 1),
    ("TrainingConfig", "kl_warmup"): (0, 1),
}


def _in_range(kind: type, name: str, value: Any) -> bool:
    """Whether a number, or every number of a tuple, is finite and as large as makes sense."""
    least, most = _RANGES.get((kind.__name__, name), (0, 2**63))
    numbers = value if isinstance(value, tuple) else (value,)
    return all(
        math.isfinite(number) and least <= number <= most
        for number in numbers
        if isinstance(number, int | float)
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


@dataclass(frozen=True)
class Settings:
    """Settings that are refused where they make no sense, whoever gives them.

    Raises:
        UserError: a number is out of range; names it.
    """

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if not _in_range(type(self), item.name, value):
                raise UserError(f"{item.name} cannot be {_short(value)}")


@dataclass(frozen=True)
class Dense(Settings):
    """Growth, steps and blocks of a network of dense blocks."""

    growth: int  # channels each dense step adds, in the first block
    steps: int  # dense steps a block
    blocks: int = 1  # blocks at constant resolution (plain networks only)


@dataclass(frozen=True)
class ModelConfig(Settings):
    """The graphical model and its networks. The defaults are the published srVAE."""

    model: Literal["srvae", "vae"] = "srvae"
    image_shape: tuple[int, int, int] = (3, 32, 32)  # channels, height, width
    latent_channels: int = 16  # of u and of z
    stages: int = 2  # how often an image's resolution is halved towards z
    components: int = 10  # logistics in each likelihood
    d: Literal["downscale2", "downscale4", "grayscale", "sketch"] = "downscale2"
    guide_z_sees_y: bool = False  # q(z|x,y) instead of q(z|x), property B of the paper

    p_u: Literal["realnvp", "mixture", "standard"] = "realnvp"  # p(u); the VAE's p(z)
    p_u_network: Dense = Dense(64, 5)  # of each coupling
    p_u_components: int = 100  # of the mixture

    q_u: Dense = Dense(64, 3)  # q(u|y)
    p_y: Dense = Dense(128, 4)  # p(y|u)
    q_z: Dense = Dense(16, 4)  # q(z|x)
    p_z_from_y: Dense = Dense(32, 5)  # p(z|y,u), its branch of y
    p_z_from_u: Dense = Dense(64, 3, 3)  # p(z|y,u), its branch of u
    p_z: Dense = Dense(64, 3, 3)  # p(z|y,u), both joined
    p_x_from_z: Dense = Dense(64, 8)  # p(x|y,z), its branch of z; the VAE's p(x|z)
    p_x_z_channels: int = 0  # of that branch's output; 0: as many as the likelihood's parameters
    p_x: Dense = Dense(64, 5, 3)  # p(x|y,z), joined with y

    # What data-dependent initialisation aims at: standard deviations and means of outputs.
    init_scale: float = 0.01  # of hidden layers
    head_scale: float = 0.01  # of the heads of latents and of the flow
    likelihood_scale: float = 0.01  # of the likelihoods' parameters
    likelihood_start: Literal["published", "pictures"] = "published"  # their means
    posterior_scale: float = 0.0  # of the posteriors' means; 0: head_scale
    posterior_log_variance: float = 0.0  # the posteriors' mean log-variance

    def multiple(self, stages: int) -> int:
        """What the sides of an image are multiples of that is halved so often towards u."""
        return 2**stages * (2 if self.p_u == "realnvp" else 1)


@dataclass(frozen=True)
class DataConfig(Settings):
    """The pictures. ``info`` is what the loaded data says of itself."""

    data: str = "cifar10"
    image_size: int | None = None
    channels: int = 3
    seed: int = 0
    limit: int | None = None
    augment: bool = True
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingConfig(Settings):
    """The optimisation. The defaults are the published run's.

    But for the warm-up, the clipping and the averaged weights, which that run did not have.
    """

    epochs: int | None = 2000
    steps: int | None = None
    max_minutes: float | None = None
    batch_size: int = 32
    lr: float = 2e-3
    lr_decay: float = 0.999999  # factor on the learning rate, a step
    lr_min: float = 1e-4
    warmup_steps: int = 200  # the learning rate rises linearly over them
    anneal: float = 0.0  # last part of the run over which the rate falls to lr_min, a half cosine
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-7
    clip_factor: float = 10.0  # gradients above this times the running median norm are scaled
    ema_half_life: float = 50_000.0  # of the averaged weights, in images
    analytic_kl: bool = False  # KL of two normals in closed form
    kl_start: float = 1.0  # weight of KL_z at the start
    kl_warmup: float = 0.0  # part of the run over which that weight rises to 1
    free_nats: float = 0.0  # nats an image of KL_z that cost nothing, shared by its channels
    validation_images: int | None = None  # how many validate an epoch; all
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    init: str = ""  # the run whose weights it starts from; fresh ones


@dataclass(frozen=True)
class RunConfig:
    """All that a run's ``config.json`` holds."""

    preset: str = "paper"
    model: ModelConfig = ModelConfig()
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = TrainingConfig()
    version: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunConfig:
        """What :meth:`to_dict` gave ``values`` for.

        Raises:
            UserError: a setting is unknown or missing.
        """
        parts: dict[str, type] = {
            "model": ModelConfig,
            "data": DataConfig,
            "training": TrainingConfig,
        }
        if isinstance(model := values.get("model"), dict):
            values = {**values, "model": {_RENAMED.get(k, k): v for k, v in model.items()}}
        values = {k: _build(parts[k], v) if k in parts else v for k, v in values.items()}
        return _build(cls, values)


# What settings of the model were called before.
_RENAMED = {
    "transform": "d",
    "prior": "p_u",
    "prior_network": "p_u_network",
    "prior_components": "p_u_components",
}


def _build(kind: type[T], values: dict[str, Any]) -> T:
    """The dataclass from its :func:`dataclasses.asdict`, after a trip through JSON."""
    if not isinstance(values, dict):
        raise UserError(f"config.json: {kind.__name__} is not an object of settings")
    names = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(names))
    if unknown:
        close = get_close_matches(unknown[0], names, n=1)
        hint = f"did you mean {close[0]}?" if close else "written by another version?"
        raise UserError(f"config.json: unknown setting {unknown[0]!r}; {hint}")
    built = {}
    hints = get_type_hints(kind)
    for name, value in values.items():
        if isinstance(value, list):
            value = tuple(value)
        elif hints[name] is Dense:
            value = _build(Dense, value)
        if not _fits(value, hints[name]):
            raise UserError(f"config.json: {name} cannot be {_short(value)}")
        built[name] = value
    try:
        return kind(**built)
    except (TypeError, UserError) as error:
        raise UserError(f"config.json: {error}") from None


def _fits(value: Any, hint: Any) -> bool:
    """Whether ``value`` is of the annotated type."""
    arguments = get_args(hint)
    if get_origin(hint) is Literal:
        return value in arguments
    if isinstance(hint, UnionType):
        return any(_fits(value, option) for option in arguments)
    if get_origin(hint) is tuple:
        return (
            isinstance(value, tuple)
            and len(value) == len(arguments)
            and all(_fits(v, h) for v, h in zip(value, arguments, strict=True))
        )
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, get_origin(hint) or hint)
