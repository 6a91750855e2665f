"""From the settings on train's command line to a run's config and folder."""

from __future__ import annotations

import json
import os
import re
import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from srvae_pyro import __version__
from srvae_pyro.config import (
    DATA_SETS,
    SHARDS,
    ModelConfig,
    ModelName,
    RunConfig,
    TrainingConfig,
)
from srvae_pyro.data import check_shards
from srvae_pyro.data.run_data import can_have_moved
from srvae_pyro.errors import UserError, flag_of
from srvae_pyro.models.pixel_groups import is_consistent
from srvae_pyro.models.transforms import make_transform, names_of
from srvae_pyro.presets import PRESETS, RESTORER, damaged_inputs, preset, preset_data
from srvae_pyro.runs import CONFIG, RUNS, WEIGHTS, find_run, is_path, read_config
from srvae_pyro.system.files import check_output, expanded
from srvae_pyro.training.arguments import (
    DECLARED,
    PARTS,
    SettingsGiven,
    TrainOptions,
    setting_flags,
)
from srvae_pyro.training.metrics import METRICS
from srvae_pyro.training.recovery import LAST, can_resume

# Settings of training that the VAE cannot have, and why.
SRVAES = {
    "kl_u_start": "the VAE has no u; for its KL_z use `kl_start`",
    "kl_u_warmup": "the VAE has no u; for its KL_z use `kl_warmup`",
    "estimate_weight": "the VAE has no y",
}
# A run's length: giving one lifts the others; all may change when it is resumed.
LIMITS = [flag.setting for flag in setting_flags() if flag.spec.limit]
RECORDED = {"resume", "precision", "threads", "stream"}  # a run's config.json has these


def fresh_config(given: SettingsGiven) -> RunConfig:
    """The settings of a new run, before its data is known."""
    run: str = given.training.get("init", "")
    init = read_config(find_run(run)) if run else None
    usual: Any = init.preset if init and init.preset in PRESETS else "paper"
    name = given.preset or usual
    kind: ModelName = given.model.get("model") or (init.model.model if init else "srvae")
    model, training = preset(name, kind)
    data = preset_data(name)
    if given.training.get("inputs") == "damaged":
        training, data = damaged_inputs(training, data)
    if "image_size" in given.data:
        data = replace(data, crops=None)  # whole images
    start = RunConfig(name, init.model if init else model, data, training, __version__)
    config = _with_flags(start, given)
    if init:
        _refuse_other_networks(run, start, config)
    changed = _with_settings(_with_suitable_likelihood(config, given), given.set)
    if kind == "vae":
        _refuse_srvaes(given, training, changed.training)
    own = replace(changed.model, restorer=config.model.restorer)  # the rest is `init`'s
    if init and own != config.model:
        raise UserError("`init` uses its run's networks: leave out `set=model...`")
    return _without_estimate(_with_restorer(changed), given)


def resumed_config(given: SettingsGiven, folder: Path) -> RunConfig:
    """The settings of the run to resume: only its length and its images' place may change."""
    saved = read_config(folder)
    if given.preset not in (None, saved.preset):
        raise _trained_with_another("`preset`", folder, saved.preset, given.preset)
    config = _with_flags(saved, given)
    for part, setting, was, now in _differences(saved, config):
        place = (part, setting) == ("data", "data")
        if not place or not can_have_moved(saved, config.data.data):
            raise _trained_with_another(_quoted(part, setting), folder, was, now)
    changed = _with_settings(config, given.set)
    for part, setting, was, now in _differences(config, changed):
        raise _trained_with_another(f"`set={part}.{setting}`", folder, was, now)
    return changed


def of_averages(model: ModelConfig) -> bool:
    """Whether y is made of rounded block averages, which some likelihoods need."""
    return make_transform(model.d).block is not None


def another_likelihood(config: RunConfig) -> str:
    """A line if the transform forced another likelihood than the preset's; else empty."""
    if config.preset not in PRESETS or config.training.init or of_averages(config.model):
        return ""
    usual = preset(config.preset, config.model.model)[0].likelihood
    averages = names_of(lambda d: d.block is not None)
    if usual == config.model.likelihood or config.model.likelihood != "independent":
        return ""
    return f"p(x|y,z) of independent pixels: likelihood {usual} needs --transform {averages}"


def _with_restorer(config: RunConfig) -> RunConfig:
    """With networks for damaged inputs if they are asked for."""
    if config.training.inputs == "average":
        return config
    if not config.training.init:
        raise UserError(
            "`inputs=damaged` trains further networks of an srVAE: name its run with `init`, such "
            "as `init=pretrained-photo`"
        )
    if config.model.model != "srvae" or not of_averages(config.model):
        raise UserError("`inputs=damaged` needs an srVAE with `transform=average2`")
    return replace(config, model=replace(config.model, restorer=config.model.restorer or RESTORER))


def _with_suitable_likelihood(config: RunConfig, given: SettingsGiven) -> RunConfig:
    """With independent pixels if the preset's likelihood needs another transform."""
    suits = not is_consistent(config.model) or of_averages(config.model)
    if suits or "likelihood" in given.model:
        return config
    return replace(config, model=replace(config.model, likelihood="independent"))


def _without_estimate(config: RunConfig, given: SettingsGiven) -> RunConfig:
    """Without the preset's weight of a point estimate if the model makes none."""
    if config.training.estimate_weight == 0 or config.model.has_point_estimate:
        return config
    by_set = any(text.startswith("training.estimate_weight=") for text in given.set)
    if by_set or "estimate_weight" in given.training:
        raise UserError(
            "`estimate_weight` needs a model that estimates x, such as those of `preset=photo`: "
            "leave it out"
        )
    return replace(config, training=replace(config.training, estimate_weight=0.0))


def _refuse_srvaes(given: SettingsGiven, usual: TrainingConfig, training: TrainingConfig) -> None:
    """Refuse settings that only the srVAE has."""
    for setting, reason in SRVAES.items():
        if getattr(training, setting) != getattr(usual, setting):
            raise UserError(f"`{setting}` needs an srVAE: {reason}")
    if not given.model.keys().isdisjoint(("d", "likelihood", "guide_z_sees_y")):
        raise UserError(
            "`transform`, `likelihood` and `guide_z_sees_y` need an srVAE: the VAE has no y"
        )


def _with_flags(config: RunConfig, given: SettingsGiven) -> RunConfig:
    data, training = given.data, given.training
    if "data" in data:
        data = data | {"data": data_name(data["data"])}
    if not training.keys().isdisjoint(LIMITS):
        training = dict.fromkeys(LIMITS) | training
    return replace(
        config,
        model=replace(config.model, **given.model),
        data=replace(config.data, **data),
        training=replace(config.training, **training),
    )


def _with_settings(config: RunConfig, settings: tuple[str, ...]) -> RunConfig:
    """The config with each ``part.name=value`` set, the value as in JSON."""
    for setting in settings:
        values = config.to_dict()
        name, equals, text = setting.partition("=")
        *path, last = name.split(".")
        part: Any = values
        for key in path:
            part = part.get(key) if isinstance(part, dict) else None
        if not equals or path[:1] not in (["model"], ["training"]) or not isinstance(part, dict):
            raise UserError(
                f"`set={setting}`: give a setting as config.json names it, such as "
                "model.p_x.growth=24 or training.anneal=0.5; those of the data have flags"
            )
        if path[:1] == ["model"] and last == "image_shape":
            raise UserError(
                f"`set={setting}`: it follows from the images, `image_size` and `channels`"
            )
        if path == ["training"] and last in DECLARED:
            raise UserError(f"`set={setting}`: use `{last}={text}`")
        try:
            part[last] = json.loads(text)
        except ValueError:
            part[last] = text  # a word
        try:
            config = RunConfig.from_dict(values)
        except UserError as error:
            raise UserError(f"`set={setting}`: {error}") from None
    return config


def _refuse_other_networks(run: str, init: RunConfig, config: RunConfig) -> None:
    """Refuse flags for other networks than those of ``init``."""
    channels = init.model.image_shape[0]
    if config.data.channels != channels:
        raise UserError(
            f"`init={run}` has `channels={channels}`, not {config.data.channels}: add "
            f"`channels={channels}`"
        )
    for part, setting, was, now in _differences(init, config):
        if part == "model":
            raise UserError(
                f"`init={run}` has {_quoted(part, setting)} {was}, not {now}: leave out one of "
                "the two"
            )


def _differences(one: RunConfig, other: RunConfig) -> list[tuple[str, str, Any, Any]]:
    """Part, name and both values of each setting that differs, but for limits."""
    return [
        (part, name, was, now)
        for part in PARTS
        for name, was in vars(getattr(one, part)).items()
        if name not in LIMITS and was != (now := getattr(getattr(other, part), name))
    ]


def _quoted(part: str, setting: str) -> str:
    """The name of a setting's flag, for a message."""
    names = {(flag.part, flag.setting): flag.name for flag in setting_flags()}
    return f"`{names[part, setting]}`"


def _trained_with_another(setting: str, folder: Path, before: Any, asked: Any) -> UserError:
    values = "" if isinstance(before, bool) else f" ({before}, not {asked})"
    return UserError(
        f"{folder} was trained with another {setting}{values}: leave it out to resume, or choose "
        "another `run`"
    )


def data_name(data: str) -> str:
    """A data set's name, or a folder's absolute path: a run may be resumed elsewhere."""
    if data.startswith(SHARDS):
        check_shards(data)
        return f"{SHARDS}{expanded(data.removeprefix(SHARDS)).absolute()}"
    folder = expanded(data)
    named = not data or data in DATA_SETS or not folder.is_dir()
    return data if named else str(folder.resolve())


def run_name(config: RunConfig) -> str:
    """The default name of a run."""
    data = re.sub(r"\{.*|\.tar$", "", Path(config.data.data).name).rstrip("-_.") or "data"
    return f"{config.model.model}-{config.preset}-{data}"


def folder_of(name: str) -> Path:
    """The folder of the run of a name or a path."""
    if not name:
        raise UserError("`run` needs a name, or the path of a folder")
    return Path(name) if is_path(name) else RUNS / name


def check_folder(folder: Path, resume: bool) -> None:
    """Refuse a folder without a run to resume, or with one to be overwritten, but for settings."""
    weights = (folder / WEIGHTS).exists()
    if resume and not can_resume(folder):
        what = "weights, but no checkpoint" if weights else "no run"
        where = ", under another `run`" if weights else ""
        raise UserError(f"{folder}: {what} to resume; leave out `resume` to start one{where}")
    if not resume:
        if weights or (folder / LAST).exists():
            raise UserError(
                f"{folder} already holds a run: add `resume` to continue it, or choose another "
                "name with `run`"
            )
        _check_others(folder)
    check_output(folder, "--run DIR")


def _check_others(folder: Path) -> None:
    """Refuse a folder with another program's files of the same names."""
    there = [name for name in (CONFIG, METRICS) if os.path.lexists(folder / name)]
    try:
        if there:
            read_config(folder)
    except UserError:
        raise UserError(
            f"{folder / there[0]} does not belong to a run of this program: choose another `run`"
        ) from None


def resume_command(name: str, options: TrainOptions) -> str:
    """The command that resumes a run, with the options that its settings do not record."""
    words = ["python", "-m", "srvae_pyro.train", "--run", name, "--resume"]
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name not in RECORDED and value != field.default:
            words += [flag_of(field.name), *([] if value is True else [str(value)])]
    return shlex.join(words)
