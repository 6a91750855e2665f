"""From the train command's flags to a run's folder and settings, for new and resumed runs."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
from pathlib import Path
from typing import Any, cast

from srvae_pyro import __version__
from srvae_pyro.checked import Flag, hints_of, metadata_of
from srvae_pyro.config import (
    DATA_SETS,
    SHARDS,
    DataConfig,
    ModelName,
    Preset,
    RunConfig,
    TrainingConfig,
)
from srvae_pyro.data import check_shards
from srvae_pyro.data.run_data import can_have_moved
from srvae_pyro.errors import UserError, flag_of
from srvae_pyro.presets import PRESETS, preset, preset_data
from srvae_pyro.runs import CONFIG, RUNS, WEIGHTS, find_run, is_path, read_config
from srvae_pyro.system.files import check_output
from srvae_pyro.training.arguments import DECLARED, TrainArguments, given, setting_flags
from srvae_pyro.training.checkpoint import LAST, can_resume
from srvae_pyro.training.metrics import METRICS

# Settings of training that the VAE cannot have, and why.
SRVAES = {
    "kl_u_start": "the VAE has no u; its KL_z has --kl-start",
    "kl_u_warmup": "the VAE has no u; its KL_z has --kl-warmup",
    "y_updates": "the VAE has no y",
    "estimate_weight": "the VAE has no y",
}


def suiting(config: RunConfig, arguments: TrainArguments) -> RunConfig:
    """With pixels independent where the preset's likelihood, if none is given, needs another d."""
    suits = not config.model.is_consistent or config.model.d == "average2"
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
    if config.training.estimate_weight == 0 or config.model.has_point_estimate:
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


# What ends a run. Giving one lifts the others; all may be changed when it is resumed.
LIMITS = [f.setting for f in setting_flags() if f.spec.limit]


def fresh_config(arguments: TrainArguments) -> RunConfig:
    """The settings of a new run, before its data is known.

    Raises:
        UserError: they cannot be, or not together.
    """
    run: str = given(arguments)["training"].get("init", "")
    init = read_config(find_run(run)) if run else None
    name, kind = _names(arguments, init)
    model, training = preset(name, kind)
    whole = "image_size" in given(arguments)["data"]  # images, not crops
    data = DataConfig() if whole else preset_data(name)
    start = RunConfig(name, init.model if init else model, data, training, __version__)
    config = with_flags(start, arguments)
    if init:
        _refuse_other_networks(run, start, config)
    changed = with_settings(suiting(config, arguments), arguments.set)
    if kind == "vae":
        refuse_srvaes(arguments, training, changed.training)
    if init and changed.model != config.model:
        raise UserError("--init brings its run's networks: leave out --set model...")
    return without_estimate(changed, arguments)


def resumed_config(arguments: TrainArguments, folder: Path) -> RunConfig:
    """The settings of the run to go on with, its length or its images' place changed if asked.

    Raises:
        UserError: other settings are asked for than the run was trained with; names the first.
    """
    saved = read_config(folder)
    if arguments.preset not in (None, saved.preset):
        raise _trained_with_another("--preset", folder, saved.preset, arguments.preset)
    config = with_flags(saved, arguments)
    flags = {(flag.part, flag.setting): flag_of(flag.name) for flag in setting_flags()}
    for part, setting in _differences(saved, config):
        place = (part, setting) == ("data", "data")
        if not place or not can_have_moved(saved, config.data.data):
            raise _trained_with_another(
                flags[part, setting], folder, *_values(part, setting, saved, config)
            )
    changed = with_settings(config, arguments.set)
    for part, setting in _differences(config, changed):
        name = f"--set {part}.{setting}"
        raise _trained_with_another(name, folder, *_values(part, setting, config, changed))
    return changed


def with_flags(config: RunConfig, arguments: TrainArguments) -> RunConfig:
    """The config with the settings that flags are given for."""
    parts = given(arguments)
    if "data" in parts["data"]:
        parts["data"]["data"] = data_name(parts["data"]["data"])
    if not parts["training"].keys().isdisjoint(LIMITS):
        parts["training"] = dict.fromkeys(LIMITS) | parts["training"]
    changed = {
        part: dataclasses.replace(getattr(config, part), **values) for part, values in parts.items()
    }
    return dataclasses.replace(config, **changed)


def with_settings(config: RunConfig, settings: tuple[str, ...]) -> RunConfig:
    """The config with each ``part.name=value`` set, the value as in JSON.

    Raises:
        UserError: there is no such setting, or it cannot be that.
    """
    for setting in settings:
        values = config.to_dict()
        name, equals, text = setting.partition("=")
        *path, last = name.split(".")
        part: Any = values
        for key in path:
            part = part.get(key) if isinstance(part, dict) else None
        if not equals or path[:1] not in (["model"], ["training"]) or not isinstance(part, dict):
            raise UserError(
                f"--set {setting}: give a setting as config.json names it, such as "
                "model.p_x.growth=24 or training.anneal=0.5; those of the data have flags"
            )
        if path[:1] == ["model"] and last == "image_shape":
            raise UserError(
                f"--set {setting}: it follows from the images, --image-size, --channels"
            )
        if path == ["training"] and last in DECLARED:
            raise UserError(f"--set {setting}: say {flag_of(last)} {text}")
        try:
            part[last] = json.loads(text)
        except ValueError:
            part[last] = text  # a word
        try:
            config = RunConfig.from_dict(values)
        except UserError as error:
            raise UserError(f"--set {setting}: {error}") from None
    return config


def _names(arguments: TrainArguments, init: RunConfig | None) -> tuple[Preset, ModelName]:
    """The preset and the kind of model, given or those of the run to start from."""
    name, kind = arguments.preset, given(arguments)["model"].get("model")
    if init is not None:
        known = init.preset in PRESETS
        name = name or (cast("Preset", init.preset) if known else None)
        kind = kind or init.model.model
    return name or "paper", kind or "srvae"


def _refuse_other_networks(run: str, init: RunConfig, config: RunConfig) -> None:
    """Refuse flags that ask for other networks than the run's whose weights are to be the start.

    Raises:
        UserError: one does.
    """
    channels = init.model.image_shape[0]
    if config.data.channels != channels:
        raise UserError(
            f"--init {run} is of --channels {channels}, not {config.data.channels}: say "
            f"--channels {channels} too"
        )
    flags = {flag.setting: flag_of(flag.name) for flag in setting_flags() if flag.part == "model"}
    for _, setting in _differences(init, config, parts=("model",)):
        was, now = getattr(init.model, setting), getattr(config.model, setting)
        raise UserError(
            f"--init {run} is of {flags[setting]} {was}, not {now}: leave out one of the two"
        )


def _differences(
    one: RunConfig, other: RunConfig, parts: tuple[str, ...] = ("model", "data", "training")
) -> list[tuple[str, str]]:
    """Part and name of each setting that differs, but for limits of the run's length."""
    return [
        (part, field.name)
        for part in parts
        for field in dataclasses.fields(getattr(one, part))
        if field.name not in LIMITS
        and getattr(getattr(one, part), field.name) != getattr(getattr(other, part), field.name)
    ]


def _values(part: str, setting: str, *configs: RunConfig) -> list[Any]:
    return [getattr(getattr(config, part), setting) for config in configs]


def _trained_with_another(setting: str, folder: Path, before: Any, asked: Any) -> UserError:
    values = "" if isinstance(before, bool) else f" ({before}, not {asked})"
    return UserError(
        f"{folder} was trained with another {setting}{values}: leave it out to resume, or choose "
        "another --run"
    )


def data_name(data: str) -> str:
    """A data set's name as it is, a folder's path made absolute: a run may be resumed elsewhere."""
    if data.startswith(SHARDS):
        check_shards(data)
        return f"{SHARDS}{Path(data.removeprefix(SHARDS)).expanduser().absolute()}"
    folder = Path(data).expanduser()
    return data if data in DATA_SETS or not folder.is_dir() else str(folder.resolve())


def folder_of(arguments: TrainArguments) -> Path:
    """Where the run is or will be."""
    name = arguments.run
    if name is None:
        config = fresh_config(arguments)
        data = re.sub(r"\{.*|\.tar$", "", Path(config.data.data).name).rstrip("-_.") or "data"
        name = f"{config.model.model}-{config.preset}-{data}"
    if not name:
        raise UserError("--run needs a name, or the path of a folder")
    return Path(name) if is_path(name) else RUNS / name


def run_folder(arguments: TrainArguments) -> Path:
    """Where the run is or will be.

    Raises:
        UserError: the folder holds a run already, or to resume there is none; or it cannot be
            written, or has files of another program.
    """
    folder = folder_of(arguments)
    # A run that died before its first checkpoint left settings only, and is started anew.
    if arguments.resume:
        if not can_resume(folder):
            what = "weights, but no checkpoint" if (folder / WEIGHTS).exists() else "no run"
            raise UserError(
                f"{folder}: {what} to resume; leave out --resume to start one"
                + (", under another --run" if (folder / WEIGHTS).exists() else "")
            )
    elif (folder / LAST).exists() or (folder / WEIGHTS).exists():
        raise UserError(
            f"{folder} holds a run already: add --resume to go on with it, or choose another "
            "name with --run"
        )
    else:
        _check_others(folder)
    check_output(folder, "--run DIR")
    return folder


def _check_others(folder: Path) -> None:
    """Refuse a folder with files that are called as a run's are and are another program's.

    Raises:
        UserError: it is such a folder.
    """
    there = [name for name in (CONFIG, METRICS) if os.path.lexists(folder / name)]
    try:
        if there:
            read_config(folder)
    except UserError:
        raise UserError(
            f"{folder / there[0]} is not of a run of this program: choose another --run"
        ) from None


def resume_command(arguments: TrainArguments) -> str:
    """What to type to go on with a run, all that its settings do not have included."""
    words = ["python", "-m", "srvae_pyro.train"]
    words += ["--run", arguments.run or folder_of(arguments).name, "--resume"]
    hints = hints_of(type(arguments))
    for field in dataclasses.fields(arguments):
        value = getattr(arguments, field.name)
        recorded = any(isinstance(mark, Flag) for mark in metadata_of(hints[field.name]))
        if not recorded and field.name not in ("run", "resume") and value != field.default:
            words.append(flag_of(field.name))
            words += [] if value is True else [str(value)]
    return shlex.join(words)
