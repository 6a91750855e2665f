"""Train an srVAE or VAE: ``python -m srvae_pyro.train --help``."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import tyro

from srvae_pyro.commands import option, run_command
from srvae_pyro.errors import UserError

if TYPE_CHECKING:
    from srvae_pyro.config import ModelConfig, RunConfig, TrainingConfig
    from srvae_pyro.presets import Preset

__all__ = ["TrainArguments", "main"]

LESS_MEMORY = (
    "give --accumulate 2 or more, --checkpoint-activations, a smaller --batch-size, or --stream "
    "for pictures that do not fit"
)


@dataclass
class TrainArguments:
    """Train a super-resolution VAE, or the one-level VAE, and write a run's folder.

    With no flags it is the paper's run: srVAE, CIFAR-10, preset paper. Ctrl-C saves and stops;
    --resume goes on from there.
    """

    preset: Annotated[
        Literal["paper", "small", "quickstart"] | None,
        option("{paper,small,quickstart}", "paper; with --init its run's"),
    ] = None
    """networks and training: days on a GPU, hours on a CPU, or minutes on a CPU"""
    model: Annotated[
        Literal["srvae", "vae"] | None, option("{srvae,vae}", "srvae; with --init its run's")
    ] = None
    """two levels, or the one-level baseline"""
    init: Annotated[str | None, option("RUN", "fresh weights")] = None
    """another run, a folder or a Hub id, whose weights and networks to start from; a preset then
    tells only how to train"""
    data: Annotated[str, tyro.conf.arg(metavar="NAME|DIR|wds:TARS")] = "cifar10"
    """cifar10, imagenet32 (PNGs), imagenet32-batches, photos (no network needed), a folder, or tar
    shards such as wds:pictures-{000..099}.tar, which are streamed"""
    data_root: Path = Path("data")
    """where the named data sets are, or are downloaded to"""
    run: Annotated[str | None, option("NAME", "MODEL-PRESET-DATA", "--run-name")] = None
    """name of the run under runs/, or a folder; --run-name under torchrun, which takes --run for
    its own"""
    resume: bool = False
    """go on from the run's last checkpoint, with its settings; its length can be changed, and then
    what is a share of it moves too: the learning rate's fall, KL_z's weight; --data says where its
    pictures are now, if they were moved"""

    epochs: Annotated[int | None, option("N", "the preset's")] = None
    """passes over the training pictures"""
    steps: Annotated[int | None, option("N", "no limit")] = None
    """updates"""
    max_minutes: Annotated[float | None, option("MINUTES", "the preset's")] = None
    """minutes of training; the first limit reached ends the run"""

    batch_size: Annotated[int | None, option("N", "the preset's")] = None
    """images an update"""
    lr: Annotated[float | None, option("RATE", "the preset's")] = None
    """highest learning rate of Adamax"""
    kl_start: Annotated[float | None, option("WEIGHT", "the preset's")] = None
    """weight of KL_z at the start, 0 to 1"""
    kl_warmup: Annotated[float | None, option("SHARE", "the preset's")] = None
    """share of the run, 0 to 1, over which that weight rises to 1"""
    free_nats: Annotated[float | None, option("NATS", "0")] = None
    """nats an image of the srVAE's KL_z that cost nothing"""
    save_minutes: float = 10.0
    """minutes between checkpoints within an epoch; each epoch's end has one too"""
    seed: int = 0
    """of the weights, the order of the pictures and all noise, but not of what is held out"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU if there is one"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """of the networks, not of log-probabilities; auto: bf16 where the device has it"""
    threads: Annotated[int | None, option("N", "one a core")] = None
    """CPU threads"""
    checkpoint_activations: bool = False
    """compute the insides of dense blocks again for the gradient: less memory, more time"""
    accumulate: int = 1
    """parts of each batch whose gradients are added up before the update: less memory"""
    compile: bool = False
    """compile the networks with torch.compile: minutes at the start; on a CPU it gains little"""
    keep_allocator: bool = False
    """leave glibc's memory allocator as it is (Linux, CPU): slower, but frees memory sooner"""

    image_size: Annotated[int | None, option("PIXELS", "32; for a folder its pictures'")] = None
    """height and width, for photos and folders"""
    channels: Literal[1, 3] = 3
    """3: RGB, 1: gray"""
    data_seed: int = 0
    """of the pictures held out for validation and test, and of photos' crops; runs to be compared
    should have the same"""
    limit: Annotated[int | None, option("N", "all")] = None
    """use only the first so many pictures of each split"""
    strict: bool = False
    """refuse a folder with files that are no pictures, rather than leave these out"""
    stream: bool = False
    """read a folder's training pictures when they are needed, as is done anyway where they would
    take more than half of the memory"""
    workers: Annotated[int | None, option("N", "half the cores, 8 at most")] = None
    """processes that read such pictures ahead, for each that trains; 0: none"""
    no_augment: bool = False
    """neither flip nor shift training pictures"""

    transform: Annotated[
        Literal["downscale2", "downscale4", "grayscale", "sketch"] | None,
        option("{downscale2,downscale4,grayscale,sketch}", "downscale2"),
    ] = None
    """y = d(x) of the srVAE"""
    prior: Annotated[
        Literal["realnvp", "mixture", "standard"] | None,
        option("{realnvp,mixture,standard}", "realnvp"),
    ] = None
    """prior of the lowest latent"""
    guide_z_sees_y: bool = False
    """q(z|x,y) instead of q(z|x)"""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PART.NAME=VALUE ...")] = ()
    """any other settings, named as in config.json: model.p_x.growth=24 training.anneal=0.5"""


IN_USE = "another process trains there; wait for it, stop it, or choose another name with --run"

# Settings that make a run what it is: not to be changed by --resume.
_IDENTITY = [
    *("preset", "model", "init", "transform", "prior", "guide_z_sees_y"),
    *("data", "data_seed", "image_size", "channels", "limit", "no_augment"),
    *("batch_size", "lr", "seed", "kl_start", "kl_warmup", "free_nats"),
]


_FIELDS = {"transform": "d", "prior": "p_u"}  # what flags of another name are about


def _setting(config: RunConfig, name: str) -> Any:
    """The setting that the flag ``name`` is about."""
    if name == "preset":
        return config.preset
    if name == "no_augment":
        return not config.data.augment
    if name == "data_seed":
        return config.data.seed
    name = _FIELDS.get(name, name)
    parts = (config.model, config.training, config.data)
    return next(getattr(part, name) for part in parts if hasattr(part, name))


def make_config(arguments: TrainArguments) -> RunConfig:
    """The run's settings from the command line, before the data is known."""
    from srvae_pyro import __version__
    from srvae_pyro.config import DataConfig, RunConfig

    init = init_config(arguments)
    chosen, kind = names_of(arguments, init)
    model, training = networks_and_training(arguments, init)
    if kind == "vae" and arguments.free_nats:
        raise UserError("--free-nats is the srVAE's: the VAE's KL_z has no closed form")
    if kind == "vae" and (arguments.transform or arguments.guide_z_sees_y):
        raise UserError("--transform and --guide-z-sees-y are the srVAE's: the VAE has no y")
    data = DataConfig(
        data=data_name(arguments.data),
        image_size=arguments.image_size,
        channels=arguments.channels,
        seed=arguments.data_seed,
        limit=arguments.limit,
        augment=not arguments.no_augment,
    )
    training = dataclasses.replace(training, seed=arguments.seed, **_length(arguments))
    for name in ("batch_size", "lr", "kl_start", "kl_warmup", "free_nats"):
        value = getattr(arguments, name)
        if value is None:
            continue
        flag = f"--{name.replace('_', '-')}"
        if name in ("batch_size", "lr") and not value > 0:
            raise UserError(f"{flag} must be above 0, not {value}")
        if not value >= 0 or (name.startswith("kl_") and value > 1):
            raise UserError(f"{flag} is a share from 0 to 1, or nats from 0 on, not {value}")
        training = dataclasses.replace(training, **{name: value})
    config = RunConfig(chosen, model, data, training, __version__)
    changed = with_settings(config, arguments.set)
    if init is not None and changed.model != config.model:
        raise UserError("--init brings its run's networks: leave out --set model...")
    return changed


def names_of(
    arguments: TrainArguments, init: RunConfig | None
) -> tuple[Preset, Literal["srvae", "vae"]]:
    """The preset and the kind of model, given or those of the run to start from."""
    from srvae_pyro.presets import PRESETS

    name, kind = arguments.preset, arguments.model
    if init is not None:
        known = init.preset in PRESETS
        name = name or (cast("Preset", init.preset) if known else None)
        kind = kind or init.model.model
    return name or "paper", kind or "srvae"


def networks_and_training(
    arguments: TrainArguments, init: RunConfig | None
) -> tuple[ModelConfig, TrainingConfig]:
    """The networks and how to train them, before what the flags say of the latter.

    Raises:
        UserError: the flags ask for other networks than those of the run to start from.
    """
    from srvae_pyro.presets import preset

    model, training = preset(*names_of(arguments, init))
    wanted = {n: getattr(arguments, n) for n in ("model", "transform", "prior")}
    wanted["guide_z_sees_y"] = arguments.guide_z_sees_y or None
    wanted = {key: value for key, value in wanted.items() if value is not None}
    if init is None:
        changed = {_FIELDS.get(name, name): value for name, value in wanted.items()}
        return dataclasses.replace(model, **changed), training
    model = init.model
    if arguments.channels != model.image_shape[0]:
        raise UserError(
            f"--init {arguments.init} is of --channels {model.image_shape[0]}, not "
            f"{arguments.channels}: say --channels {model.image_shape[0]} too"
        )
    for setting, value in wanted.items():
        own = getattr(model, _FIELDS.get(setting, setting))
        if own != value:
            raise UserError(
                f"--init {arguments.init} is of --{setting.replace('_', '-')} {own}, not {value}: "
                "leave out one of the two"
            )
    return model, dataclasses.replace(training, init=arguments.init or "")


def init_config(arguments: TrainArguments) -> RunConfig | None:
    """The settings of the run that ``--init`` names; None if it names none."""
    from srvae_pyro.runs import find_run, read_config

    return None if arguments.init is None else read_config(find_run(arguments.init))


def with_settings(config: RunConfig, settings: tuple[str, ...]) -> RunConfig:
    """The config with each ``part.name=value`` set, the value as in JSON.

    Raises:
        UserError: there is no such setting, or it cannot be that.
    """
    from srvae_pyro.config import RunConfig

    values = config.to_dict()
    for setting in settings:
        name, equals, text = setting.partition("=")
        *path, last = name.split(".")
        part: Any = values
        for key in path:
            part = part.get(key) if isinstance(part, dict) else None
        if not equals or path[:1] not in (["model"], ["training"]) or not isinstance(part, dict):
            raise UserError(
                f"--set {setting}: give a setting as config.json names it, such as "
                "model.p_x.growth=24 or training.anneal=0.5"
            )
        try:
            part[last] = json.loads(text)
        except ValueError:
            part[last] = text  # a word
    return RunConfig.from_dict(values)


def data_name(data: str) -> str:
    """A data set's name as it is, a folder's path made absolute: a run may be resumed elsewhere."""
    from srvae_pyro.data import DATA_SETS, check_shards

    if data.startswith("wds:"):
        check_shards(data)
        return f"wds:{Path(data[4:]).expanduser().absolute()}"
    folder = Path(data).expanduser()
    return data if data in DATA_SETS or not folder.is_dir() else str(folder.resolve())


def _length(arguments: TrainArguments) -> dict[str, Any]:
    """Limits of the run that the user set; setting one lifts the preset's others."""
    names = ("epochs", "steps", "max_minutes")
    limits = {name: getattr(arguments, name) for name in names}
    for name, value in limits.items():
        if value is not None and not value > 0:
            raise UserError(f"--{name.replace('_', '-')} must be above 0, not {value}")
    return limits if any(value is not None for value in limits.values()) else {}


def resumed_config(arguments: TrainArguments, folder: Path) -> RunConfig:
    """The settings of the run to go on with, its length changed if so asked."""
    from srvae_pyro.data.run_data import can_have_moved
    from srvae_pyro.runs import read_config

    config = read_config(folder)
    defaults = TrainArguments()
    given = [n for n in _IDENTITY if getattr(arguments, n) != getattr(defaults, n)]
    wanted = make_config(arguments)
    if "data" in given and can_have_moved(config, wanted.data.data):
        config = dataclasses.replace(
            config, data=dataclasses.replace(config.data, data=wanted.data.data)
        )
    for name in given:
        same = _setting(wanted, name) == _setting(config, name)
        if not same:
            raise UserError(
                f"{folder} was trained with another --{name.replace('_', '-')}: leave it out to "
                "resume, or choose another --run"
            )
    if with_settings(config, arguments.set) != config:
        raise UserError(
            f"{folder} was trained with other settings than --set has: leave it out to resume, or "
            "choose another --run"
        )
    return dataclasses.replace(
        config, training=dataclasses.replace(config.training, **_length(arguments))
    )


def folder_of(arguments: TrainArguments) -> Path:
    """Where the run is or will be."""
    from srvae_pyro.runs import RUNS

    name = arguments.run
    if name is None:
        data = Path(data_name(arguments.data)).name
        data = re.sub(r"\{.*|\.tar$", "", data).rstrip("-_.") or "data"
        preset, kind = names_of(arguments, init_config(arguments))
        name = f"{kind}-{preset}-{data}"
    path = Path(name)
    return path if path.is_absolute() or len(path.parts) > 1 else RUNS / path


def run_folder(arguments: TrainArguments) -> Path:
    """Where the run is or will be.

    Raises:
        UserError: the folder holds a run already, or to resume there is none.
    """
    from srvae_pyro.runs import WEIGHTS
    from srvae_pyro.training.checkpoint import LAST, can_resume

    folder = folder_of(arguments)
    # A run that died before its first checkpoint left settings only, and is started anew.
    if arguments.resume:
        if not can_resume(folder):
            raise UserError(f"{folder}: no run to resume; leave out --resume to start one")
    elif (folder / LAST).exists() or (folder / WEIGHTS).exists():
        raise UserError(
            f"{folder} holds a run already: add --resume to go on with it, or choose another "
            "name with --run"
        )
    return folder


def main(arguments: TrainArguments) -> int:
    """Train as asked; the exit code."""
    from srvae_pyro.training.session import run

    return run(arguments)


# Flags that a run's settings have, so that a resumed one does not need them.
_RECORDED = {
    *_IDENTITY,
    "set",
    "epochs",
    "steps",
    "max_minutes",
    "stream",
    "precision",
}


def resume_command(arguments: TrainArguments) -> str:
    """What to type to go on with a run, all that its settings do not have included."""
    words = ["python", "-m", "srvae_pyro.train"]
    words += ["--run", arguments.run or folder_of(arguments).name, "--resume"]
    for field in dataclasses.fields(arguments):
        value = getattr(arguments, field.name)
        known = field.name in {*_RECORDED, "run", "resume"} or value == field.default
        if not known:
            words.append(f"--{field.name.replace('_', '-')}")
            words += [] if value is True else [str(value)]
    return shlex.join(words)


if __name__ == "__main__":
    run_command(TrainArguments, main, "train", LESS_MEMORY)
