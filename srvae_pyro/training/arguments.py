"""The flags of the command train: those of a run, and those made from the fields of settings.

A field of :class:`~srvae_pyro.config.TrainingConfig` has a flag of its own name; one of the model
or the data has if it is annotated with a :class:`~srvae_pyro.checked.Flag`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from srvae_pyro.checked import (
    MOST_THREADS,
    Above,
    AtLeast,
    Between,
    Flag,
    hints_of,
    metadata_of,
    type_of,
)
from srvae_pyro.config import (
    DataConfig,
    Device,
    ModelConfig,
    Precision,
    Preset,
    TrainingConfig,
)
from srvae_pyro.presets import all_presets
from srvae_pyro.system.cli import option

T = TypeVar("T")
PARTS = {"model": ModelConfig, "data": DataConfig, "training": TrainingConfig}  # of a RunConfig
# Their flags are in TrainOptions, with auto, the run's own, as a further value.
DECLARED = {"precision", "threads"}


@dataclass(frozen=True)
class SettingFlag:
    """The flag of a field in a part of the config."""

    part: str  # model, data or training
    setting: str  # the field's name
    hint: Any  # the field's annotation
    spec: Flag
    defaults: tuple[Any, ...]  # what the setting is without the flag, by preset

    @property
    def name(self) -> str:
        return self.spec.name or self.setting

    @property
    def is_switch(self) -> bool:
        """Whether the flag takes no value: it inverts the default of all presets."""
        return type_of(self.hint) is bool and len(self.defaults) == 1

    def argument(self) -> tuple[Any, Any]:
        """The annotation and default of the arguments' field."""
        kind, marks = type_of(self.hint), metadata_of(self.hint)
        text = " ".join(mark for mark in marks if isinstance(mark, str))
        text += "".join(f", {m.least} to {m.most}" for m in marks if type(m) is Between)
        if self.is_switch:
            return Annotated[bool, option(group=self.part, help=text)], False
        default = self.spec.default or self._default()
        shown = option(self.spec.metavar, default, group=self.part, help=text)
        kind = Literal[True, False] if kind is bool else kind  # to be given as a word
        return Annotated[(kind | None, *marks, shown)], None

    def _default(self) -> str:
        if len(self.defaults) > 1:
            return "the preset's"
        values = self.defaults[0] if isinstance(self.defaults[0], tuple) else self.defaults
        return " ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)


@cache
def setting_flags() -> tuple[SettingFlag, ...]:
    """All flags of settings, in the order of the fields."""
    flags = []
    presets = all_presets()
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
            flags.append(SettingFlag(part, setting, hint, (specs or [Flag()])[0], tuple(defaults)))
    return tuple(flags)


def with_setting_flags(kind: type[T]) -> type[T]:
    """Put a field for each setting's flag first in a class that is to be a dataclass."""
    hints = {}
    for flag in setting_flags():
        hints[flag.name], default = flag.argument()
        setattr(kind, flag.name, default)
    kind.__annotations__ = hints | kind.__annotations__
    return kind


@dataclass(kw_only=True)
class TrainOptions:
    """How to train, beside the settings that ``config.json`` holds."""

    resume: Annotated[bool, option(group="training")] = False
    """resume the run from its last checkpoint; a new length rescales the schedules"""
    save_minutes: Annotated[float, Above(0, math.inf), option(group="training")] = 10.0
    """minutes between checkpoints within an epoch; another is written at its end"""

    device: Annotated[Device, option(group="machine")] = "auto"
    """device to compute on; auto: a GPU if there is one"""
    precision: Annotated[Literal["auto", Precision], option(group="machine")] = "auto"
    """precision of the networks, not of log-probabilities; auto: bf16 if the device has it"""
    threads: Annotated[
        int | None,
        AtLeast(0, MOST_THREADS),
        option("N", "0; with --resume the run's", group="machine"),
    ] = None
    """CPU threads; 0: one per core that other processes leave free, checked every second. Only a
    fixed number lets a run be repeated or resumed bit for bit"""
    accumulate: Annotated[int, AtLeast(1), option(group="machine")] = 1
    """number of parts to split each batch into, accumulating their gradients; less memory"""
    checkpoint_activations: Annotated[bool, option(group="machine")] = False
    """gradient checkpointing: recompute the activations of dense blocks for the gradient; less
    memory, more time"""
    compile: Annotated[bool, option(group="machine")] = False
    """compile the networks with torch.compile: takes minutes at the start, gains little on a CPU"""
    keep_allocator: Annotated[bool, option(group="machine")] = False
    """keep glibc's default allocator settings (Linux, CPU): slower, but frees memory sooner"""

    data_root: Annotated[Path, option(group="data")] = Path("data")
    """folder of the named data sets, to which they are downloaded"""
    strict: Annotated[bool, option(group="data")] = False
    """stop at images that cannot be read or are smaller than a crop, instead of leaving them out"""
    stream: Annotated[bool, option(group="data")] = False
    """read training images from disk as needed; automatic if they would take more than half of the
    memory"""
    workers: Annotated[
        int | None, AtLeast(0), option("N", "half the cores, at most 8", group="data")
    ] = None
    """processes that prefetch streamed images, per training process; 0: none"""


@dataclass(kw_only=True)
@with_setting_flags
class TrainArguments(TrainOptions):
    """Train a super-resolution VAE, or the one-level VAE, and write a run's folder.

    Without flags it trains the paper's model: srVAE, CIFAR-10, preset paper. Ctrl-C saves and
    stops; --resume continues from there.
    """

    COMMON_FLAGS: ClassVar = (
        *("preset", "run", "resume", "data", "crops", "device", "model"),
        *("steps", "max_minutes", "batch_size", "init"),
    )

    preset: Annotated[Preset | None, option("NAME", "paper; with --init its run's")] = None
    """networks and training; paper takes days on a GPU, the others minutes or hours on a CPU"""
    run: Annotated[str | None, option("NAME", "MODEL-PRESET-DATA", alias="--run-name")] = None
    """name of the run under runs/, or its folder if it has a slash; --run-name under torchrun"""
    set: Annotated[tuple[str, ...], option("PART.NAME=VALUE", "none")] = ()
    """settings of the model or the training by their names in config.json, with or without a flag:
    model.p_x.growth=24 training.anneal=0.5"""

    def options(self) -> TrainOptions:
        return TrainOptions(**{f.name: getattr(self, f.name) for f in fields(TrainOptions)})

    def settings(self) -> SettingsGiven:
        """The settings that flags were given for."""
        parts: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
        for flag in setting_flags():
            value = getattr(self, flag.name)
            if flag.is_switch:
                value = not flag.defaults[0] if value else None
            if value is not None:
                parts[flag.part][flag.setting] = value
        return SettingsGiven(self.preset, self.set, **parts)


@dataclass(frozen=True)
class SettingsGiven:
    """The preset, and the settings that were given beside it, by their names in the config."""

    preset: Preset | None
    set: tuple[str, ...]  # PART.NAME=VALUE
    model: dict[str, Any]
    data: dict[str, Any]
    training: dict[str, Any]
