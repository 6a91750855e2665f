"""What evaluations share: the images of a split, what a measure is, and its result."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from PIL import Image
from torch import Tensor

from srvae_pyro.checked import check
from srvae_pyro.data import DATA_SETS, DataSplits
from srvae_pyro.data.splits import evenly_spaced_indices
from srvae_pyro.errors import UserError
from srvae_pyro.evaluation.arguments import EvaluateArguments
from srvae_pyro.models import ImageModel
from srvae_pyro.system.parallel import ProcessGroup

Split = Literal["train", "val", "test", "all"]


@dataclass(frozen=True)
class Selection:
    """The images that a model is evaluated on."""

    data: DataSplits
    split: Split
    images: Tensor  # uint8 (N, C, H, W)
    indices: Tensor  # of the images in the split, (N)
    total: int  # images of the split
    photographs: Tensor | None = None  # that each image is cut from, (N), if from a few

    @property
    def is_test_split(self) -> bool:
        return self.split == "test" and len(self.images) == len(self.data.test)


def select(data: DataSplits, split: Split, limit: int | None) -> Selection:
    """At most ``limit`` images of a split, evenly spaced."""
    images = _images_of(data, split)
    indices = evenly_spaced_indices(len(images), limit)
    photographs = _photographs_of(data, split)
    if photographs is not None:
        photographs = photographs[indices]
    return Selection(data, split, images[indices], indices, len(images), photographs)


def _images_of(data: DataSplits, split: Split) -> Tensor:
    if data.info.get("streamed") and split in ("train", "all"):
        raise UserError(f"{data.name} is too large for the split {split}: use val or test")
    if split == "all":
        return torch.cat([data.train.in_memory(), data.val, data.test])
    at_random = split in data.info.get("held_out_indices", {}) and data.name not in DATA_SETS
    if at_random and not data.info["own"]:
        raise UserError(
            f"{data.name} has no folder {split}/: use --split all to measure on all its images"
        )
    images: Tensor = data.train.in_memory() if split == "train" else getattr(data, split)
    if not len(images):
        raise UserError(f"{data.name} has no folder {split}/: choose another split")
    return images


def _photographs_of(data: DataSplits, split: Split) -> Tensor | None:
    splits = ("train", "val", "test") if split == "all" else (split,)
    known = [data.photographs[name] for name in splits if name in data.photographs]
    return torch.cat(known) if len(known) == len(splits) else None


class Result:
    """What a measure found."""

    def to_json(self) -> dict[str, Any]:
        raise NotImplementedError

    def table(self, others: Mapping[str, Any] | None = None) -> str:
        """The numbers as text; ``others`` are the results so far by their measures' names."""
        return ""

    def figures(self, title: str) -> dict[str, Image.Image]:
        return {}


@dataclass(frozen=True)
class Task:
    """What is measured, and by which processes."""

    model: ImageModel
    selection: Selection
    group: ProcessGroup

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of all functions that share images among the processes."""
        return {
            "indices": self.selection.indices,
            "photographs": self.selection.photographs,
            "progress": self.group.main,
            "group": self.group,
        }


@dataclass
class Measure:
    """Something to measure of a model: a dataclass whose fields are its settings.

    A field has the value of the flag of its name, else of ``--measure NAME FIELD=VALUE``. Add a
    subclass in a file of its own to ``MEASURES`` in ``command.py``.
    """

    name: ClassVar[str]
    flag: ClassVar[str] = ""

    @classmethod
    def is_requested(cls, arguments: EvaluateArguments) -> bool:
        if cls.flag:
            return bool(getattr(arguments, cls.flag))
        return cls.name in arguments.measure

    @classmethod
    def of(cls, arguments: EvaluateArguments) -> Self:
        """The measure with the settings in the command's arguments."""
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
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: str(v) if isinstance(v, Path) else v for name, v in values.items()}

    def prepare(self, model: ImageModel, group: ProcessGroup) -> None:
        """Load what it needs, and refuse a model that it is not for, before images are read."""

    def check(self, task: Task) -> None:
        """Refuse images that it cannot be measured on, before anything is measured."""

    def run(self, task: Task) -> Iterator[Result]:
        """Measure in every process; yields all results so far, in the main one at least."""
        raise NotImplementedError


def fields_set(words: tuple[str, ...], name: str) -> dict[str, Any]:
    """The fields that ``--measure`` sets behind a measure's name."""
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
    """Cells in columns: the first ``left`` flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
