"""The train command's flags of settings, made from the settings' fields.

A field of :class:`~srvae_pyro.config.TrainingConfig` has a flag of its own name; one of the model
or the data has if it is annotated with a :class:`~srvae_pyro.checked.Flag`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import tyro

from srvae_pyro.checked import Between, Flag, hints_of, metadata_of, type_of
from srvae_pyro.config import DataConfig, ModelConfig, ModelName, TrainingConfig
from srvae_pyro.presets import PRESETS, preset
from srvae_pyro.system.cli import Group

__all__ = ["DECLARED", "RECORDED", "SettingFlag", "given", "setting_flags", "with_setting_flags"]

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
        return (*metadata_of(self.hint), RECORDED, Group(self.part))

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
