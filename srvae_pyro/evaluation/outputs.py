"""The files that an evaluation's results are written to."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from srvae_pyro.errors import UserError
from srvae_pyro.evaluation.record import EVALUATION, record_measures
from srvae_pyro.system.console import say, shown
from srvae_pyro.system.files import check_output, check_place, replaced, write_json, write_whole
from srvae_pyro.system.hub import is_cached_copy

__all__ = ["Outputs"]


@dataclass(frozen=True)
class Outputs:
    """Where results are written to.

    Attributes:
        run: the run's folder, whose ``evaluation.json`` they go to; None where that cannot be.
        json: another file, if asked for.
    """

    run: Path | None
    json: Path | None

    @classmethod
    def checked(cls, run: Path, json: Path | None) -> Outputs:
        """Those that can be written; a warning says before the work if the run's cannot.

        Raises:
            UserError: the file that was asked for cannot be written, or holds something else.
        """
        if json is not None:
            if json.resolve() == (run / EVALUATION).resolve():
                raise UserError(
                    f"--json {json} is written anyway, in a form of its own: leave it out"
                )
            check_output(json, "--json FILE", _is_result)
            if earlier := replaced(json):
                say(f"the results go to {shown(json)}{earlier}")
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

    def write(self, key: str, settings: dict[str, Any], measures: dict[str, Any]) -> bool:
        """Write all that has been measured so far; whether that could be done.

        A disk that is full now may have room when the next result is there.

        Args:
            key: data set and split.
            settings: what is needed to repeat the evaluation.
            measures: the numbers by what they are of.
        """
        written = True
        try:
            if self.run is not None:
                record_measures(self.run, key, settings, measures)
        except OSError as error:
            written = False
            warnings.warn(
                f"{self.run} cannot be written to: {error.strerror or error}", stacklevel=1
            )
        try:
            if self.json is not None:
                write_json(self.json, settings | measures)
        except OSError as error:
            written = False
            reason = error.strerror or error
            warnings.warn(f"{self.json} cannot be written: {reason}", stacklevel=1)
        return written

    def draw(self, name: str, figure: Image.Image) -> bool:
        """Write a figure as PNG into the run's ``figures/``, if it can be; whether it could."""
        if self.run is None:
            return True
        path = self.run / "figures" / f"{name}.png"
        try:
            write_whole(path, figure.save)
        except OSError as error:
            warnings.warn(f"{path} cannot be written: {error.strerror or error}", stacklevel=1)
            return False
        return True


def _is_result(path: Path) -> bool:
    """Whether a file holds results that :meth:`Outputs.write` wrote."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and {"run", "weights", "versions"} <= values.keys()
