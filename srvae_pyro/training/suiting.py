"""Settings that go together: a preset's that do not suit the rest, and which no model can have."""

from __future__ import annotations

import dataclasses

from srvae_pyro.config import RunConfig, TrainingConfig
from srvae_pyro.errors import UserError
from srvae_pyro.presets import PRESETS, preset
from srvae_pyro.system.cli import flag_of
from srvae_pyro.training.arguments import TrainArguments
from srvae_pyro.training.flags import given

__all__ = ["another_likelihood", "refuse_srvaes", "suiting", "without_estimate"]

# Settings of training that the VAE cannot have, and why.
SRVAES = {
    "kl_u_start": "the VAE has no u; its KL_z has --kl-start",
    "kl_u_warmup": "the VAE has no u; its KL_z has --kl-warmup",
    "y_updates": "the VAE has no y",
    "estimate_weight": "the VAE has no y",
}


def suiting(config: RunConfig, arguments: TrainArguments) -> RunConfig:
    """With pixels independent where the preset's likelihood, if none is given, needs another d."""
    suits = not config.model.agrees or config.model.d == "average2"
    if suits or "likelihood" in given(arguments)["model"]:
        return config
    model = dataclasses.replace(config.model, likelihood="independent")
    return dataclasses.replace(config, model=model)


def another_likelihood(config: RunConfig) -> str:
    """What to tell of a run whose likelihood is not its preset's for the sake of its transform."""
    if config.preset not in PRESETS or config.training.init or config.model.d == "average2":
        return ""
    usual = preset(config.preset, config.model.model)[0].likelihood
    told = f"p(x|y,z) of independent pixels: likelihood {usual} needs --transform average2"
    return told if usual != config.model.likelihood == "independent" else ""


def without_estimate(config: RunConfig, arguments: TrainArguments) -> RunConfig:
    """With no weight of an estimate, if the preset has one and the model makes no estimate.

    Raises:
        UserError: a weight is asked for, and the model makes none.
    """
    if config.training.estimate_weight == 0 or config.model.estimates:
        return config
    asked = "estimate_weight" in given(arguments)["training"]
    if asked or any(text.startswith("training.estimate_weight=") for text in arguments.set):
        raise UserError(
            "--estimate-weight is of an estimate of x, which this model does not make: leave it "
            "out; models of --preset photo make one"
        )
    training = dataclasses.replace(config.training, estimate_weight=0.0)
    return dataclasses.replace(config, training=training)


def refuse_srvaes(
    arguments: TrainArguments, usual: TrainingConfig, training: TrainingConfig
) -> None:
    """Refuse settings that only the srVAE has, where they are not the preset's for both.

    Raises:
        UserError: one is given.
    """
    for setting, reason in SRVAES.items():
        if getattr(training, setting) != getattr(usual, setting):
            raise UserError(f"{flag_of(setting)} is the srVAE's: {reason}")
    if not given(arguments)["model"].keys().isdisjoint(("d", "likelihood", "guide_z_sees_y")):
        raise UserError(
            "--transform, --likelihood and --guide-z-sees-y are the srVAE's: the VAE has no y"
        )
