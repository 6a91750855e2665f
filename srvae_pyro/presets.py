"""The presets: sizes of the same family of models, with how to train them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

from srvae_pyro.config import (
    DataConfig,
    Dense,
    ModelConfig,
    ModelName,
    Preset,
    Residual,
    TrainingConfig,
)
from srvae_pyro.errors import UserError

PRESETS: tuple[Preset, ...] = get_args(Preset)

# Initialisation that learns faster than the published one in the first hours.
_QUICK_START: dict[str, Any] = {
    "init_scale": 0.1,
    "head_scale": 0.1,
    "likelihood_scale": 0.1,
    "likelihood_start": "images",
    "posterior_scale": 1.0,
    "posterior_log_variance": -3.0,
}

# The srVAE whose x is consistent with its y, and whose y is drawn from coarse to fine.
_CONSISTENT: dict[str, Any] = {"d": "average2", "latent_likelihood": "pyramid"}

_MODELS: dict[tuple[Preset, ModelName], ModelConfig] = {
    ("paper", "srvae"): ModelConfig(),
    ("paper", "vae"): ModelConfig(model="vae", q_z=Dense(16, 8), p_x_from_z=Dense(128, 6)),
    ("small", "srvae"): ModelConfig(
        q_u=Dense(10, 2),
        p_y=Dense(32, 2),
        pyramid=Residual(48, 2, scaled=True),
        pyramid_channels=32,
        q_z=Dense(8, 2),
        p_z_from_y=Dense(8, 2),
        p_z_from_u=Dense(16, 2, 1),
        p_z=Dense(16, 2, 1),
        p_x_from_z=Dense(24, 2),
        p_x_z_channels=12,
        p_x=Dense(16, 2, 2),
        groups=Residual(48, 2, scaled=True),
        p_u_network=Dense(10, 2),
        likelihood="groups",
        u_stages=3,
        **_CONSISTENT,
        **_QUICK_START,
    ),
    ("small", "vae"): ModelConfig(
        model="vae",
        q_z=Dense(10, 2),
        p_x_from_z=Dense(62, 3),
        pyramid=Residual(48, 2, scaled=True),
        pyramid_channels=32,
        p_u_network=Dense(33, 2),
        **_QUICK_START,
    ),
    ("quickstart", "srvae"): ModelConfig(
        q_u=Dense(8, 2),
        p_y=Dense(24, 2),
        pyramid=Residual(24, 1, scaled=True),
        pyramid_channels=16,
        q_z=Dense(4, 2),
        p_z_from_y=Dense(8, 1),
        p_z_from_u=Dense(8, 1, 1),
        p_z=Dense(8, 2, 1),
        p_x_from_z=Dense(16, 2),
        p_x_z_channels=8,
        p_x=Dense(12, 2, 1),
        groups=Residual(24, 1, shared=1, estimate=True, scaled=True),
        p_u_network=Dense(8, 2),
        components=5,
        likelihood="groups",
        **_CONSISTENT,
        **_QUICK_START,
    ),
    ("quickstart", "vae"): ModelConfig(
        model="vae",
        q_z=Dense(4, 2),
        p_x_from_z=Dense(24, 2),
        pyramid=Residual(24, 1, scaled=True),
        pyramid_channels=16,
        p_u_network=Dense(8, 2),
        components=5,
        **_QUICK_START,
    ),
}


def _local(growth: int, steps: int) -> Dense:
    """Without attention, so that tiles of a photograph give the same as the whole."""
    return Dense(growth, steps, attention=False)


_MODELS |= {
    ("photo", "srvae"): ModelConfig(
        image_shape=(3, 64, 64),
        q_u=_local(8, 2),
        p_y=_local(32, 2),
        pyramid=Residual(40, 1, scaled=True),
        pyramid_channels=24,
        q_z=_local(4, 2),
        p_z_from_y=_local(8, 2),
        p_z_from_u=_local(16, 2),
        p_z=_local(16, 2),
        p_x_from_z=_local(16, 2),
        p_x_z_channels=6,
        groups=Residual(64, 1, shared=12, estimate=True, scaled=True),
        p_u_network=_local(6, 2),
        likelihood="groups",
        u_stages=3,
        **_CONSISTENT,
        **_QUICK_START,
    ),
    ("photo", "vae"): ModelConfig(
        model="vae",
        image_shape=(3, 64, 64),
        q_z=_local(10, 2),
        p_x_from_z=_local(59, 3),
        pyramid=Residual(40, 1, scaled=True),
        pyramid_channels=24,
        p_u_network=_local(30, 2),
        **_QUICK_START,
    ),
}

_SMALL = TrainingConfig(
    epochs=None,
    max_minutes=120.0,
    optimizer="muon",
    lr=6e-3,
    anneal=0.4,
    lr_min=2e-5,
    analytic_kl=True,
    kl_start=0.02,
    kl_warmup=0.8,
    validation_images=2000,
)
_MINUTES = TrainingConfig(
    epochs=None,
    steps=500,  # not minutes: the result does not depend on the machine's speed
    optimizer="muon",
    lr=8e-3,
    warmup_steps=50,
    anneal=0.4,
    lr_min=2e-5,
    analytic_kl=True,
    kl_start=0.02,
    kl_warmup=0.5,
    validation_images=256,
)

_TRAINING: dict[tuple[Preset, ModelName], TrainingConfig] = {
    ("paper", "srvae"): TrainingConfig(),
    ("paper", "vae"): TrainingConfig(),
    ("small", "srvae"): replace(_SMALL, kl_warmup=0.4, kl_u_start=0.02, kl_u_warmup=0.5),
    ("small", "vae"): _SMALL,
    ("quickstart", "srvae"): replace(
        _MINUTES, kl_warmup=0.8, kl_u_start=0.02, kl_u_warmup=0.6, estimate_weight=0.25
    ),
    ("quickstart", "vae"): _MINUTES,
    ("photo", "srvae"): replace(
        _SMALL,
        batch_size=8,
        kl_warmup=0.4,
        kl_u_start=0.02,
        kl_u_warmup=0.4,
        estimate_weight=0.25,
        validation_images=1000,
    ),
    ("photo", "vae"): replace(_SMALL, batch_size=8, validation_images=1000),
}


def preset(name: Preset, model: ModelName = "srvae") -> tuple[ModelConfig, TrainingConfig]:
    """The model and training settings of a preset.

    ``paper`` is the published model, ``small`` takes hours on a CPU, ``quickstart`` minutes;
    ``photo`` is ``small`` for photographs at their own resolution.

    Raises:
        UserError: the preset has no such model.
    """
    if (name, model) not in _MODELS:
        raise UserError(f"`preset` {name} has no settings for `model` {model}")
    return _MODELS[name, model], _TRAINING[name, model]


def all_presets() -> list[tuple[ModelConfig, TrainingConfig]]:
    """The settings of every preset for every model that it has."""
    return [preset(name, model) for name, model in _MODELS]


# 0.83 million parameters; on a CPU it takes a second a megapixel
RESTORER = Residual(48, 16, scaled=True)


def damaged_inputs(training: TrainingConfig, data: DataConfig) -> tuple[TrainingConfig, DataConfig]:
    """A preset's settings as they suit ``--inputs damaged``, with larger crops."""
    changed = replace(
        training,
        batch_size=4,
        optimizer="muon",
        lr=2e-3,
        lr_min=1e-5,
        anneal=0.3,
        betas=(0.9, 0.99),
        eps=1e-8,
        clip_factor=10.0,
        ema_half_life=10_000.0,
        estimate_weight=0.0,
        validation_images=64,
    )
    return changed, replace(data, crops=160)


def preset_data(name: Preset) -> DataConfig:
    """How a preset takes its images: ``photo`` crops of its size, ``paper`` as published.

    Shifts move the grid of images that have been JPEGs.
    """
    if name == "paper":
        return DataConfig()
    return DataConfig(augment="flips", crops=64 if name == "photo" else None)
