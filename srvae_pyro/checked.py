"""Dataclasses whose fields say what they may be, checked wherever a value comes from.

A field is annotated with its type, its bounds and what it means, and with how its flag is shown::

    lr: Annotated[float, Above(0, 1e9), Flag("RATE"), "highest learning rate"] = 2e-3

:class:`Settings` checks its fields itself; the commands check their arguments after parsing.
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

__all__ = [
    "Above",
    "AtLeast",
    "Between",
    "Flag",
    "Settings",
    "build",
    "check",
    "hints_of",
    "metadata_of",
    "type_of",
]

T = TypeVar("T")


@dataclass(frozen=True)
class AtLeast:
    """A number of ``least`` or more; ``most`` keeps a hostile config from exhausting memory.

    An infinity is above ``most``, and a NaN within no bounds.
    """

    least: float
    most: float = 2**63

    def broken_by(self, number: float) -> str | None:
        """What ``number`` must be and is not; None if it is."""
        if number > self.most:
            return f"at most {self.most}"
        return None if number >= self.least else f"at least {self.least}"


@dataclass(frozen=True)
class Above(AtLeast):
    """A number above ``least``."""

    def broken_by(self, number: float) -> str | None:
        """What ``number`` must be and is not; None if it is."""
        if number > self.most:
            return f"at most {self.most}"
        return None if number > self.least else f"above {self.least}"


@dataclass(frozen=True)
class Between:
    """A number from ``least`` to ``most``."""

    least: float
    most: float

    def __str__(self) -> str:
        return f"from {self.least} to {self.most}"

    def broken_by(self, number: float) -> str | None:
        """What ``number`` must be and is not; None if it is."""
        return None if self.least <= number <= self.most else str(self)


@dataclass(frozen=True)
class Flag:
    """How the train command's flag of a setting differs from what its field says.

    Attributes:
        metavar: stands for the value in the help; by the field's type if empty.
        name: the flag's, with underscores; the field's if empty.
        default: what the help says happens without the flag; what the presets have if empty.
        limit: a limit of the run's length: giving one lifts the others, and it may be changed when
            a run is resumed.
    """

    metavar: str = ""
    name: str = ""
    default: str = ""
    limit: bool = False


@dataclass(frozen=True)
class Settings:
    """Settings that are refused where they make no sense, whoever gives them.

    Raises:
        UserError: a field's value is not what its annotation allows; names it.
    """

    def __post_init__(self) -> None:
        for name, hint in hints_of(type(self)).items():
            check(name, hint, getattr(self, name))


def hints_of(kind: Any) -> Mapping[str, Any]:
    """The annotations of a dataclass by its fields' names, bounds included."""
    return _hints_of(kind)


@cache
def _hints_of(kind: Any) -> Mapping[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def type_of(hint: Any) -> Any:
    """The type in an annotation."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def metadata_of(hint: Any) -> tuple[Any, ...]:
    """What an annotation says beyond the type: bounds, flag, meaning."""
    return hint.__metadata__ if get_origin(hint) is Annotated else ()


def check(name: str, hint: Any, value: Any) -> None:
    """Refuse a value that an annotation does not allow.

    Raises:
        UserError: says of ``name`` what it may be and what it was.
    """
    wanted = None if _fits(value, type_of(hint)) else _in_words(type_of(hint))
    for bound in metadata_of(hint):
        if wanted is None and isinstance(bound, AtLeast | Between):
            broken = (bound.broken_by(number) for number in _numbers(value))
            wanted = next(filter(None, broken), None)
    if wanted is not None:
        shown = repr(value).removesuffix(".0")
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        raise UserError(f"{name} must be {wanted}, not {shown}")


def build(kind: type[T], values: Mapping[str, Any]) -> T:
    """The dataclass from its :func:`dataclasses.asdict`, after a trip through JSON.

    Raises:
        UserError: a setting is unknown, missing, or cannot be what it is.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(fields)):
        close = get_close_matches(unknown[0], fields, n=1)
        hint = f"did you mean {close[0]}?" if close else "this version has none like it"
        raise UserError(f"unknown setting {unknown[0]!r}; {hint}")
    for name, field in fields.items():
        if name not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise UserError(f"the setting {name} is missing")
    hints = hints_of(kind)
    return kind(**{name: _from_json(hints[name], value) for name, value in values.items()})


def _from_json(hint: Any, value: Any) -> Any:
    kind = type_of(hint)
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return build(kind, value)  # type: ignore[arg-type]
    return tuple(value) if isinstance(value, list) else value


def _numbers(value: Any) -> list[int | float]:
    """The numbers that a value is or has."""
    values = value if isinstance(value, tuple) else (value,)
    return [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]


def _fits(value: Any, kind: Any) -> bool:
    """Whether ``value`` is of the annotated type."""
    options = get_args(kind)
    if get_origin(kind) is Literal:
        return any(type(value) is type(option) and value == option for option in options)
    if get_origin(kind) in (Union, UnionType):
        return any(_fits(value, type_of(option)) for option in options)
    if get_origin(kind) is tuple and options[-1] is not ...:
        return (
            isinstance(value, tuple)
            and len(value) == len(options)
            and all(map(_fits, value, options))
        )
    if kind is Any:
        return True
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    return isinstance(value, get_origin(kind) or kind)


def _in_words(kind: Any) -> str:
    """What a value of the annotated type is, for a message."""
    options = get_args(kind)
    if get_origin(kind) is Literal:
        return " or ".join(filter(None, (", ".join(map(str, options[:-1])), str(options[-1]))))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_in_words(type_of(option)) for option in options)
    if get_origin(kind) is tuple:
        return f"a list of {len(options)} {_in_words(options[0]).removeprefix('a ')}s"
    words = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        NoneType: "null",
    }
    return words.get(kind, "an object of settings")
