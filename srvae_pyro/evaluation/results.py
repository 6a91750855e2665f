"""The results of an evaluation: what is recorded of a measure, and in which files."""

from __future__ import annotations

import json
import platform
import warnings
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from srvae_pyro import __version__
from srvae_pyro.errors import UserError
from srvae_pyro.evaluation.arguments import EvaluateArguments
from srvae_pyro.evaluation.coding import CodingResult
from srvae_pyro.evaluation.fid import Distances
from srvae_pyro.evaluation.kid import KID_KEY, KidResult
from srvae_pyro.evaluation.likelihood import ElboResult, LikelihoodResult
from srvae_pyro.evaluation.record import EVALUATION, record_measures
from srvae_pyro.evaluation.selection import Selection
from srvae_pyro.evaluation.super_resolution import SuperResolutionResult
from srvae_pyro.models import ImageModel
from srvae_pyro.models.base import weights_digest
from srvae_pyro.system.console import print_line, shown
from srvae_pyro.system.files import (
    check_output,
    check_place,
    digest,
    replaced,
    write_json,
    write_whole,
)
from srvae_pyro.system.hub import is_cached_copy


@dataclass
class Measures:
    """What has been measured of a model; None for what was not asked for, or not yet.

    Attributes:
        elbo: always the first.
        likelihood: by importance sampling.
        refined: the same after each image's q has been refined.
        distances: FID and KID by the split of the real images, ``test`` or ``train``.
        kid: in EfficientNet-Lite0's features.
        super_resolution: of a srVAE that upscales, by each factor.
        compression: bytes of the images by bits-back coding.
    """

    elbo: ElboResult
    likelihood: LikelihoodResult | None = None
    refined: LikelihoodResult | None = None
    distances: dict[str, Distances] = field(default_factory=dict)
    kid: KidResult | None = None
    super_resolution: list[SuperResolutionResult] = field(default_factory=list)
    compression: CodingResult | None = None


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


def _flags(arguments: EvaluateArguments, *names: str) -> str:
    """The arguments called so as flags, but for those that nothing was given for."""
    values = {name: getattr(arguments, name) for name in names}
    flags = [
        f"--{name.replace('_', '-')} {value}" for name, value in values.items() if value is not None
    ]
    return " ".join(flags)


def _drawing(arguments: EvaluateArguments) -> tuple[str, ...]:
    """The arguments that generated images depend on."""
    names = ("temperature", *["image_temperature"] * (arguments.image_temperature != 1))
    return ("decode", *names, "y_temperature")


def drawing_flags(arguments: EvaluateArguments) -> str:
    """How images are generated, as flags."""
    return _flags(arguments, *_drawing(arguments))


def measures_to_json(measures: Measures, arguments: EvaluateArguments) -> dict[str, Any]:
    """The measures by name, each with the flags that it was made with."""
    drawing = _drawing(arguments)
    decoded = replace(arguments, decode=arguments.decode or "sample")
    flags = {
        "elbo": _flags(arguments, "elbo_samples"),
        "likelihood": _flags(arguments, "importance_samples", "estimator"),
        "refined_likelihood": _flags(arguments, "importance_samples", "estimator", "refine"),
        "fid": _flags(decoded, *drawing, "fid_images", "fid_weights"),
        KID_KEY: _flags(arguments, *drawing, "kid_images"),
        "compression": _flags(arguments, "compress"),
    }
    values: dict[str, dict[str, Any]] = {
        "elbo": {**measures.elbo.to_json(), "samples": arguments.elbo_samples}
    }
    if measures.likelihood:
        values["likelihood"] = measures.likelihood.to_json()
    if measures.refined:
        values["refined_likelihood"] = measures.refined.to_json()
    if measures.distances:
        names = ("decode", "temperature", "image_temperature", "y_temperature")
        drawn_with = {name: getattr(decoded, name) for name in names}
        by_split = {split: asdict(distances) for split, distances in measures.distances.items()}
        values["fid"] = {**drawn_with, **by_split}
    if measures.kid:
        values[KID_KEY] = measures.kid.to_json()
    for upscaled in measures.super_resolution:
        values |= upscaled.to_json()
    if measures.compression:
        values["compression"] = measures.compression.to_json()
    return {name: {**value, "flags": flags.get(name, "")} for name, value in values.items()}


def settings_of(
    arguments: EvaluateArguments, folder: Path, model: ImageModel, selection: Selection
) -> dict[str, Any]:
    """What is needed to repeat an evaluation, and to know its weights and images again."""
    count, total = len(selection.images), selection.total
    limited = count < total
    return {
        "run": str(folder),
        "flags": _flags(arguments, *["limit"] * limited, "seed", "precision"),
        "weights": weights_digest(model),
        "data": selection.data.info,
        "split": selection.split,
        "images": count,
        "indices": selection.indices.tolist() if limited else f"0 to {total - 1}",
        "checksum": digest(selection.images),
        "seed": arguments.seed,
        "precision": arguments.precision,
        "versions": {
            "srvae_pyro": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
