"""The flags of the command train: those of a run, and those made from the fields of settings.

A field of :class:`~srvae_pyro.config.TrainingConfig` has a flag of its own name; one of the model
or the data has if it is annotated with a :class:`~srvae_pyro.checked.Flag`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import tyro

from srvae_pyro.checked import Above, AtLeast, Between, Flag, hints_of, metadata_of, type_of
from srvae_pyro.config import (
    DataConfig,
    Device,
    ModelConfig,
    ModelName,
    Precision,
    Preset,
    TrainingConfig,
)
from srvae_pyro.presets import PRESETS, preset
from srvae_pyro.system.cli import HelpGroup, option

T = TypeVar("T")
PARTS = {"model": ModelConfig, "data": DataConfig, "training": TrainingConfig}  # of a RunConfig
RECORDED = Flag()  # marks an argument that is in config.json, so that --resume does not need it
DECLARED = {"precision", "threads"}  # which have flags in the arguments' class


@dataclass(frozen=True)
class SettingFlag:
    """The flag of one setting.

    Attributes:
        part: which part of the config the setting is in: model, data or training.
        setting: its name there.
        hint: its annotation there.
        spec: how its flag differs from that.
        defaults: what it can be without the flag, by preset.
    """

    part: str
    setting: str
    hint: Any
    spec: Flag
    defaults: tuple[Any, ...]

    @property
    def name(self) -> str:
        """The flag's name, with underscores."""
        return self.spec.name or self.setting

    @property
    def is_switch(self) -> bool:
        """Whether the flag takes no value: it turns round what is the same in all presets."""
        return type_of(self.hint) is bool and len(self.defaults) == 1

    def value(self, arguments: Any) -> Any:
        """What the setting is to be by the parsed flag; None if it was not given."""
        parsed = getattr(arguments, self.name)
        if self.is_switch:
            return not self.defaults[0] if parsed else None
        return parsed

    def argument(self) -> tuple[Any, Any]:
        """The annotation and the default of the flag in the dataclass of the arguments."""
        if self.is_switch:
            return Annotated[(bool, *self._marks())], False
        shown = tyro.conf.arg(metavar=self._metavar(), help_behavior_hint=self._behaviour())
        return Annotated[(type_of(self.hint) | None, *self._marks(), shown)], None

    def _marks(self) -> tuple[Any, ...]:
        return (*metadata_of(self.hint), RECORDED, HelpGroup(self.part))

    def _metavar(self) -> str:
        kind = type_of(self.hint)
        if self.spec.metavar:
            return self.spec.metavar
        if get_origin(kind) is Literal:
            return "{" + ",".join(map(str, get_args(kind))) + "}"
        if get_origin(kind) is tuple:
            return " ".join("X" * len(get_args(kind)))
        if kind is bool:
            return "{True,False}"
        return "N" if int in (kind, *get_args(kind)) else "X"

    def _behaviour(self) -> str:
        """What the help says after the flag's meaning: a narrow range, and the default."""
        bounds = [f"{mark}; " for mark in metadata_of(self.hint) if isinstance(mark, Between)]
        return f"({''.join(bounds)}default: {self.spec.default or self._default()})"

    def _default(self) -> str:
        if len(self.defaults) > 1:
            return "the preset's"
        values = self.defaults[0] if isinstance(self.defaults[0], tuple) else self.defaults
        return " ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)


@cache
def setting_flags() -> tuple[SettingFlag, ...]:
    """All flags of settings, in the order of the fields."""
    return tuple(_setting_flags())


def _setting_flags() -> Iterator[SettingFlag]:
    presets = [preset(name, model) for name in PRESETS for model in get_args(ModelName)]
    examples: dict[str, list[Any]] = {
        "model": [model for model, _ in presets],
        "data": [DataConfig()],
        "training": [training for _, training in presets],
    }
    for part, kind in PARTS.items():
        for setting, hint in hints_of(kind).items():
            specs = [mark for mark in metadata_of(hint) if isinstance(mark, Flag)]
            if setting in DECLARED or not (specs or part == "training"):
                continue
            defaults = dict.fromkeys(getattr(example, setting) for example in examples[part])
            yield SettingFlag(part, setting, hint, (specs or [Flag()])[0], tuple(defaults))


def with_setting_flags(kind: type[T]) -> type[T]:
    """Give a class of arguments, not yet a dataclass, one for each setting's flag, first."""
    hints = {}
    for flag in setting_flags():
        hints[flag.name], default = flag.argument()
        setattr(kind, flag.name, default)
    kind.__annotations__ = hints | kind.__annotations__
    return kind


def given(arguments: Any) -> dict[str, dict[str, Any]]:
    """The settings that flags were given for, by part and name."""
    parts: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
    for flag in setting_flags():
        if (value := flag.value(arguments)) is not None:
            parts[flag.part][flag.setting] = value
    return parts


DATA, MACHINE = HelpGroup("data"), HelpGroup("machine")


@dataclass
@with_setting_flags
class TrainArguments:
    """Train a super-resolution VAE, or the one-level VAE, and write a run's folder.

    With no flags it is the paper's run: srVAE, CIFAR-10, preset paper. Ctrl-C saves and stops;
    --resume goes on from there.
    """

    preset: Annotated[
        Preset | None,
        RECORDED,
        option("{paper,small,quickstart,photo}", "paper; with --init its run's"),
        "networks and training: days on a GPU, hours on a CPU, or minutes on a CPU; photo is small "
        "for photographs, learnt from crops of 64x64",
    ] = None
    run: Annotated[
        str | None,
        option("NAME", "MODEL-PRESET-DATA", "--run-name"),
        "name of the run under runs/, or with a slash the path of its folder; --run-name under "
        "torchrun, which takes --run for its own",
    ] = None
    resume: Annotated[
        bool,
        "go on from the run's last checkpoint, with its settings; the length may change, and "
        "schedules that are shares of it rescale with it; --data says where the images are now, "
        "if they were moved",
    ] = False
    save_minutes: Annotated[
        float,
        Above(0, math.inf),
        "minutes between checkpoints within an epoch; each epoch's end has one too",
    ] = 10.0
    set: Annotated[
        tuple[str, ...],
        RECORDED,
        tyro.conf.arg(metavar="PART.NAME=VALUE ...", help_behavior_hint="(default: none)"),
        "any settings, named as in config.json: model.p_x.growth=24 training.anneal=0.5",
    ] = ()

    device: Annotated[Device, MACHINE, "auto takes a GPU if there is one"] = "auto"
    precision: Annotated[
        Literal["auto", Precision],
        MACHINE,
        RECORDED,
        "of the networks, not of log-probabilities; auto: bf16 where the device has it",
    ] = "auto"
    threads: Annotated[
        int | None,
        MACHINE,
        AtLeast(0),
        RECORDED,
        option("N", "0; with --resume the run's"),
        "CPU threads; 0: as many as other processes leave cores for, checked each second. A "
        "run repeats, and resumes, to the bit only with a fixed number",
    ] = None
    accumulate: Annotated[
        int,
        MACHINE,
        AtLeast(1),
        "parts of each batch whose gradients are added up before the update: less memory",
    ] = 1
    checkpoint_activations: Annotated[
        bool,
        MACHINE,
        "compute the insides of dense blocks again for the gradient: less memory, more time",
    ] = False
    compile: Annotated[
        bool,
        MACHINE,
        "compile the networks with torch.compile: minutes at the start; on a CPU it gains little",
    ] = False
    keep_allocator: Annotated[
        bool,
        MACHINE,
        "leave glibc's memory allocator as it is (Linux, CPU): slower, but frees memory sooner",
    ] = False

    data_root: Annotated[Path, DATA, "where the named data sets are, or are downloaded to"] = Path(
        "data"
    )
    strict: Annotated[
        bool, DATA, "refuse a folder with files that are no images, rather than leave these out"
    ] = False
    stream: Annotated[
        bool,
        DATA,
        RECORDED,
        "read a folder's training images when they are needed, as is done anyway where they "
        "would take more than half of the memory",
    ] = False
    workers: Annotated[
        int | None,
        DATA,
        AtLeast(0),
        option("N", "half the cores, 8 at most"),
        "processes that read such images ahead, for each that trains; 0: none",
    ] = None
