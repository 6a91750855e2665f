"""What an evaluation records: its measures with their flags, and what is needed to repeat it."""

from __future__ import annotations

import platform
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from srvae_pyro import __version__
from srvae_pyro.evaluation.arguments import EvaluateArguments
from srvae_pyro.evaluation.kid import KID_KEY
from srvae_pyro.evaluation.measures import Measures
from srvae_pyro.evaluation.selection import Selection
from srvae_pyro.models import ImageModel
from srvae_pyro.models.loading import weights_digest
from srvae_pyro.system.digest import digest

__all__ = ["drawing_flags", "measures_to_json", "settings_of"]


def _flags(arguments: EvaluateArguments, *names: str) -> str:
    """The arguments called so as flags, but for those that nothing was given for."""
    values = {name: getattr(arguments, name) for name in names}
    flags = [
        f"--{name.replace('_', '-')} {value}" for name, value in values.items() if value is not None
    ]
    return " ".join(flags)


def _drawing(arguments: EvaluateArguments) -> tuple[str, ...]:
    """The arguments that generated pictures depend on."""
    names = ("temperature", *["image_temperature"] * (arguments.image_temperature != 1))
    return ("decode", *names, "y_temperature")


def drawing_flags(arguments: EvaluateArguments) -> str:
    """How pictures are generated, as flags."""
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
    for enlarged in measures.super_resolution:
        values |= enlarged.to_json()
    if measures.compression:
        values["compression"] = measures.compression.to_json()
    return {name: {**value, "flags": flags.get(name, "")} for name, value in values.items()}


def settings_of(
    arguments: EvaluateArguments, folder: Path, model: ImageModel, selection: Selection
) -> dict[str, Any]:
    """What is needed to repeat an evaluation, and to know its weights and pictures again."""
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
        "pictures": digest(selection.images),
        "seed": arguments.seed,
        "precision": arguments.precision,
        "versions": {
            "srvae_pyro": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
