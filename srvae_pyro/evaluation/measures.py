"""What a measure is, and what it gives: a line of a file and a table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from PIL import Image

from srvae_pyro.checked import check
from srvae_pyro.errors import UserError
from srvae_pyro.evaluation.arguments import EvaluateArguments
from srvae_pyro.evaluation.selection import Selection
from srvae_pyro.models import ImageModel
from srvae_pyro.system.parallel import ProcessGroup


class Result:
    """What a measure found."""

    def to_json(self) -> dict[str, Any]:
        """The numbers, for files."""
        raise NotImplementedError

    def table(self, others: Mapping[str, Any] | None = None) -> str:
        """The numbers as text; ``others`` are the results so far by their measures' names."""
        return ""

    def figures(self, title: str) -> dict[str, Image.Image]:
        """Figures by name; ``title`` says which images they are of."""
        return {}


@dataclass(frozen=True)
class Task:
    """What is measured, and by which processes."""

    model: ImageModel
    selection: Selection
    group: ProcessGroup

    @property
    def options(self) -> dict[str, Any]:
        """What all functions take that share images among the processes, as keyword arguments."""
        return {
            "indices": self.selection.indices,
            "photographs": self.selection.photographs,
            "progress": self.group.main,
            "group": self.group,
        }


@dataclass
class Measure:
    """Something to measure of a model: a dataclass whose fields are its settings.

    A field has the value of the command's flag of that name. A measure without a ``flag`` that
    requests it is requested by ``--measure NAME``; ``--measure NAME FIELD=VALUE`` sets fields that
    have no flag, the value as in JSON. A new one is a subclass in a file of its own, and an entry
    in ``MEASURES`` in ``command.py``.
    """

    name: ClassVar[str]
    flag: ClassVar[str] = ""

    @classmethod
    def is_requested(cls, arguments: EvaluateArguments) -> bool:
        """Whether to measure it."""
        if cls.flag:
            return bool(getattr(arguments, cls.flag))
        return cls.name in arguments.measure

    @classmethod
    def of(cls, arguments: EvaluateArguments) -> Self:
        """The measure with the settings in the command's arguments.

        Raises:
            UserError: ``measure`` sets a field to what it cannot be.
        """
        flags = {**vars(arguments), **vars(arguments.temperatures)}
        values = {f.name: flags[f.name] for f in fields(cls) if f.name in flags}
        for field, value in fields_set(arguments.measure, cls.name).items():
            if field in flags or field not in {f.name for f in fields(cls)}:
                raise UserError(f"measure: {cls.name} has no setting {field}")
            values[field] = value
        measure = cls(**values)
        check(measure)
        return measure

    @property
    def settings(self) -> dict[str, Any]:
        """The fields, for files."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: str(v) if isinstance(v, Path) else v for name, v in values.items()}

    def prepare(self, model: ImageModel, group: ProcessGroup) -> None:
        """Load what it needs, and refuse a model that it is not for, before images are read."""

    def check(self, task: Task) -> None:
        """Refuse images that it cannot be measured on, before anything is measured."""

    def run(self, task: Task) -> Iterator[Result]:
        """Measure, in every process of the group; the first, at least, yields the result.

        A measure of several parts yields all that it has after each of them.
        """
        raise NotImplementedError


def fields_set(words: tuple[str, ...], name: str) -> dict[str, Any]:
    """The fields that ``--measure`` sets behind a measure's name.

    Raises:
        UserError: a value is not JSON.
    """
    values: dict[str, Any] = {}
    of = ""
    for word in words:
        field, equals, text = word.partition("=")
        if not equals:
            of = word
        elif of == name:
            try:
                values[field] = json.loads(text)
            except ValueError:
                raise UserError(f"measure: {word} is not a value as in JSON") from None
    return values


def columns(rows: list[list[str]], left: int) -> str:
    """Cells in aligned columns: the first ``left`` flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
