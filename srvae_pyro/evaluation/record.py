"""A run's ``evaluation.jsonl``: a line for each result, none of which is ever removed."""

from __future__ import annotations

import json
import platform
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from srvae_pyro import __version__
from srvae_pyro.errors import UserError
from srvae_pyro.evaluation.measures import Measure, Result, Selection
from srvae_pyro.models import ImageModel
from srvae_pyro.models.base import weights_digest
from srvae_pyro.system.console import print_line, shown
from srvae_pyro.system.files import (
    append_whole,
    check_output,
    check_place,
    digest,
    holding,
    replaced,
    write_json,
    write_whole,
)
from srvae_pyro.system.hub import is_cached_copy

EVALUATION = "evaluation.jsonl"


def record(
    folder: Path, measure: str, result: dict[str, Any], settings: dict[str, Any] | None = None
) -> None:
    """Append a line to the folder's ``evaluation.jsonl``: the measure, its settings, its result."""
    line = json.dumps({"measure": measure, **(settings or {}), "result": result}) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    # Two evaluations may end at the same time.
    with holding(folder, wait=True):
        append_whole(folder / EVALUATION, line)


def newest_results(folder: Path) -> dict[str, dict[str, Any]]:
    """The newest undamaged line of each measure in ``evaluation.jsonl``, by its name."""
    newest = {}
    path = folder / EVALUATION
    for line in path.read_text("utf-8", "replace").splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
            newest[entry["measure"]] = entry
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    return newest


def settings_of(
    folder: Path, model: ImageModel, selection: Selection, **flags: Any
) -> dict[str, Any]:
    """What is needed to repeat an evaluation, and to recognise its weights and images."""
    count, total = len(selection.images), selection.total
    return {
        "run": str(folder),
        "weights": weights_digest(model),
        "data": selection.data.info,
        "split": selection.split,
        "images": count,
        "indices": selection.indices.tolist() if count < total else f"0 to {total - 1}",
        "checksum": digest(selection.images),
        **flags,
        "versions": {
            "srvae_pyro": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


@dataclass
class Outputs:
    run: Path | None  # the run's folder; None if nothing can be written there
    json: Path | None  # another file, if requested
    pending: list[tuple[Any, ...]] = field(default_factory=list)  # lines not written yet

    @classmethod
    def checked(cls, run: Path, json: Path | None) -> Outputs:
        """The outputs that can be written; a warning before the work if the run's cannot."""
        if json is not None:
            if json.resolve() == (run / EVALUATION).resolve():
                raise UserError(
                    f"--json {json} is the run's own record, which is always written: leave it out"
                )
            check_output(json, "--json FILE", _is_result)
            if earlier := replaced(json):
                print_line(f"the results go to {shown(json)}{earlier}")
        try:
            if not is_cached_copy(run):
                check_place(run / EVALUATION)
                return cls(run, json)
            reason = f"{run} is a copy from the Hub"
        except OSError as error:
            reason = f"{run} cannot be written to ({error.strerror or error})"
        kept = "not recorded there" if json else "printed only; --json FILE keeps them"
        warnings.warn(f"{reason}: the results are {kept}", stacklevel=1)
        return cls(None, json)

    def write(
        self, measures: dict[str, Measure], results: dict[str, Result], settings: dict[str, Any]
    ) -> bool:
        """Append the newest result and write all to ``json``; whether that succeeded."""
        values = {name: result.to_json() for name, result in results.items()}
        flags = {name: measures[name].settings for name in results}
        name = list(results)[-1]
        written = True
        if self.run is not None:
            line = (self.run, name, values[name], {**settings, "flags": flags[name]})
            self.pending.append(line)
            while self.pending and (written := try_write(self.run, record, *self.pending[0])):
                del self.pending[0]
        if self.json is not None:
            all_values = {name: {**values[name], "flags": flags[name]} for name in values}
            written &= try_write(self.json, write_json, self.json, settings | all_values)
        return written

    def draw(self, result: Result, title: str) -> bool:
        """Write a result's figures into the run's ``figures/``; whether that succeeded."""
        if self.run is None:
            return True
        paths = {
            self.run / "figures" / f"{name}.png": figure
            for name, figure in result.figures(title).items()
        }
        return all(
            [try_write(path, write_whole, path, image.save) for path, image in paths.items()]
        )


def try_write(path: Path, write: Callable[..., None], *values: Any) -> bool:
    """Whether ``write(*values)`` succeeded; a warning names ``path`` if not, as on a full disk."""
    try:
        write(*values)
    except OSError as error:
        reason = error.strerror or error
        warnings.warn(f"{path} cannot be written: {reason}", stacklevel=1)
        return False
    return True


def _is_result(path: Path) -> bool:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and {"run", "weights", "versions"} <= values.keys()
