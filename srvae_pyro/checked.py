"""Dataclasses with bounds on their fields, annotated with meaning and flag as well::

lr: Annotated[float, Above(0, 1e9), Flag("RATE"), "highest learning rate"] = 2e-3
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from srvae_pyro.errors import UserError

T = TypeVar("T")
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
WORDS[NoneType] = "null"


@dataclass(frozen=True)
class Between:
    """A number from ``least`` to ``most``. No bounds admit NaN."""

    least: float
    most: float

    def broken_by(self, number: float) -> str | None:
        """The bound that ``number`` violates, in words, or None."""
        inside = self.least <= number <= self.most
        return None if inside else f"from {self.least} to {self.most}"


MOST_THREADS = 4096  # PyTorch ends the process with many more


@dataclass(frozen=True)
class AtLeast(Between):
    """A number of at least ``least``; ``most`` protects memory from hostile configs."""

    most: float = 2**63

    def broken_by(self, number: float) -> str | None:
        if number > self.most:
            return f"at most {self.most}"
        return None if number >= self.least else f"at least {self.least}"


@dataclass(frozen=True)
class Above(AtLeast):
    """A number above ``least``."""

    def broken_by(self, number: float) -> str | None:
        broken = super().broken_by(number)
        return broken if number > self.least else f"above {self.least}"


@dataclass(frozen=True)
class Flag:
    """How a setting's flag of the train command differs from its field."""

    metavar: str = ""  # by the field's type if empty
    name: str = ""  # with underscores; the field's if empty
    default: str = ""  # shown in the help; that of the presets if empty
    limit: bool = False  # whether it limits a run's length


@dataclass(frozen=True)
class Settings:
    """Settings that raise a UserError naming the field if a value makes no sense."""

    def __post_init__(self) -> None:
        check(self)


@cache
def hints_of(kind: Any) -> Mapping[str, Any]:
    """The annotations of a dataclass by its fields' names, bounds included."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def type_of(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def metadata_of(hint: Any) -> tuple[Any, ...]:
    """An annotation's bounds, flag and meaning."""
    return hint.__metadata__ if get_origin(hint) is Annotated else ()


def check(values: Any) -> None:
    """A UserError if a field of a dataclass violates its annotation."""
    hints = hints_of(type(values))  # type: ignore[arg-type]
    for name, hint in hints.items():
        value, kind = getattr(values, name), type_of(hint)
        wanted = None if _fits(value, kind) else _in_words(kind)
        numbers = [v for v in (value if isinstance(value, tuple) else (value,)) if _is_number(v)]
        for bounds in metadata_of(hint):
            if wanted is None and isinstance(bounds, Between):
                wanted = next(filter(None, map(bounds.broken_by, numbers)), None)
        if wanted is not None:
            shown = repr(value).removesuffix(".0")
            shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
            raise UserError(f"`{name}` must be {wanted}, not {shown}")


def build(kind: type[T], values: Mapping[str, Any]) -> T:
    """The dataclass from its ``asdict`` by way of JSON; a UserError if it does not fit."""
    hints = hints_of(kind)  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(hints)):
        close = get_close_matches(unknown[0], hints, n=1)
        hint = f"did you mean {close[0]}?" if close else "this version has no such setting"
        raise UserError(f"unknown setting {unknown[0]!r}; {hint}")
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and field.name not in values:
            raise UserError(f"the setting {field.name} is missing")
    return kind(**{name: _from_json(hints[name], value) for name, value in values.items()})


def _from_json(hint: Any, value: Any) -> Any:
    kind = type_of(hint)
    settings = [k for k in (kind, *get_args(kind)) if dataclasses.is_dataclass(k)]
    if settings and isinstance(value, dict):
        return build(settings[0], value)  # type: ignore[arg-type]
    return tuple(value) if isinstance(value, list) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fits(value: Any, kind: Any) -> bool:
    """Whether ``value`` is of the annotated type."""
    options, origin = get_args(kind), get_origin(kind)
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in options)
    if origin in (Union, UnionType):
        return any(_fits(value, type_of(option)) for option in options)
    if origin is tuple and isinstance(value, tuple):
        kinds = options[:1] * len(value) if options[-1] is ... else options
        return len(value) == len(kinds) and all(map(_fits, value, kinds))
    if kind in (int, float):
        return _is_number(value) and isinstance(value, int | kind)
    return kind is Any or isinstance(value, origin or kind)


def _in_words(kind: Any) -> str:
    options, origin = get_args(kind), get_origin(kind)
    if origin is Literal:
        return " or ".join(filter(None, (", ".join(map(str, options[:-1])), str(options[-1]))))
    if origin in (Union, UnionType):
        return " or ".join(_in_words(type_of(option)) for option in options)
    if origin is tuple:
        return f"a list of {len(options)} {_in_words(options[0]).removeprefix('a ')}s"
    return WORDS.get(kind, "an object of settings")
