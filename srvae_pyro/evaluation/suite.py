"""What one evaluation runs: the command ``evaluate`` from its arguments to its report."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from srvae_pyro import __version__
from srvae_pyro.data import DataSplits
from srvae_pyro.data.run_data import load_for, warn_if_trained_on
from srvae_pyro.drawing.sampling import sampling_of
from srvae_pyro.errors import UserError
from srvae_pyro.evaluation.arguments import EvaluateArguments, Pixels
from srvae_pyro.evaluation.elbo_terms import evaluate_elbo
from srvae_pyro.evaluation.features import FeatureExtractor
from srvae_pyro.evaluation.fid import drawer, fid_and_kid
from srvae_pyro.evaluation.fidelity import INCEPTION
from srvae_pyro.evaluation.kid import KID_KEY, Features, check_selection, evaluate_kid
from srvae_pyro.evaluation.likelihood import evaluate_likelihood
from srvae_pyro.evaluation.lite_features import LiteFeatures
from srvae_pyro.evaluation.measures import Measures
from srvae_pyro.evaluation.outputs import Outputs
from srvae_pyro.evaluation.report import print_measures
from srvae_pyro.evaluation.selection import Selection, select
from srvae_pyro.evaluation.super_resolution import evaluate_super_resolution
from srvae_pyro.models import ImageModel, load
from srvae_pyro.models.loading import weights_digest
from srvae_pyro.runs import find_run, read_config, results_folder
from srvae_pyro.system.device import start
from srvae_pyro.system.digest import digest
from srvae_pyro.system.parallel import Group, process_group

__all__ = ["evaluate"]

FID_IMAGES = {"test": 10_000, "train": 50_000}  # as in the paper, section 4.1
KID_IMAGES = 5_000


def evaluate(arguments: EvaluateArguments) -> int:
    """Evaluate as asked; the exit code."""
    with process_group(arguments.device) as group:
        return evaluate_in(group, arguments)


def evaluate_in(group: Group, arguments: EvaluateArguments) -> int:
    """One process of the group's part of an evaluation; the exit code."""
    folder = find_run(arguments.run)
    config = read_config(folder)
    start(group.device, arguments.precision)
    model = load(folder, group.device)
    outputs = None
    if group.main:
        outputs = Outputs.checked(results_folder(arguments.run, folder), arguments.json)
    if arguments.super_resolution and config.model.model != "srvae":
        raise UserError(f"{folder} is a VAE, which has no y: --super-resolution is the srVAE's")
    sampling_of(arguments, model)  # refuses what cannot be
    extractor = None
    if arguments.fid:
        with group.main_first():  # before anything that takes long
            extractor = FeatureExtractor(INCEPTION, arguments.fid_weights, group.device)
    features = LiteFeatures(group.device) if arguments.kid else None
    with group.main_first():
        data = load_for(config, arguments.data, arguments.data_root)
    if arguments.fid and not (len(data.train) and len(data.test)):
        raise UserError(f"{data.name} lacks train/ or test/, which --fid compares with both")
    selection = select(data, arguments.split, arguments.limit)
    if arguments.kid:
        check_selection(selection)
    if arguments.split != "train":  # which is asked for by its name
        warn_if_trained_on(folder, config, data, arguments.split)
    if group.main:
        of = f"{len(selection.images):,} of {selection.total:,} {data.unit}"
        print(f"{folder} on {data.name}, {arguments.split}, {of}")
    settings = _settings(arguments, folder, model, selection)
    measures, written = None, True
    try:
        for measures in measure(arguments, model, selection, extractor, features, group):
            if outputs:
                written = outputs.write(selection.key, settings, _to_json(measures, arguments))
    finally:  # also what there is when the rest fails or is stopped
        if group.main and measures:
            print_measures(measures, selection, config.data.data)
    return 0 if written else 2


def measure(
    arguments: EvaluateArguments,
    model: ImageModel,
    selection: Selection,
    extractor: FeatureExtractor | None,
    features: Features | None,
    group: Group,
) -> Iterator[Measures]:
    """All that has been measured so far, after each measure that is asked for.

    Args:
        arguments: the command's.
        model: the model.
        selection: the images that the likelihood and super-resolution are measured on.
        extractor: for FID and KID; None if they are not asked for.
        features: for KID in other features, likewise.
        group: the processes that share the work.
    """
    images = selection.images
    common: Any = {
        "seed": arguments.seed,
        "indices": selection.indices,
        "progress": group.main,
        "group": group,
    }
    clustered: Any = {"precision": arguments.precision, "photographs": selection.photographs}
    measures = Measures(
        evaluate_elbo(
            model,
            images,
            group.device,
            samples=arguments.elbo_samples,
            batch_size=arguments.batch_size,
            units=True,
            **common,
            **clustered,
        )
    )
    yield measures
    if not arguments.elbo_only:
        likelihood = partial(
            evaluate_likelihood,
            model,
            images,
            group.device,
            arguments.importance_samples,
            estimator=arguments.estimator,
            memory_gb=arguments.memory_gb,
            **common,
            **clustered,
        )
        measures.likelihood = likelihood()
        yield measures
        if arguments.refine:
            measures.refined = likelihood(refine=arguments.refine)
            yield measures
    if extractor is not None:
        yield from _measure_fid(arguments, model, selection.data, extractor, group, measures)
    if features is not None:
        yield from _measure_kid(arguments, model, selection, features, group, measures)
    if arguments.super_resolution:
        measures.super_resolution = evaluate_super_resolution(
            model, images, batch_size=arguments.batch_size, **common
        )
        yield measures


def _measure_fid(
    arguments: EvaluateArguments,
    model: ImageModel,
    data: DataSplits,
    extractor: FeatureExtractor,
    group: Group,
    measures: Measures,
) -> Iterator[Measures]:
    """FID and KID added against the test pictures, then against all others."""
    draw = drawer(model, **sampling_of(arguments, model))
    for split, count in FID_IMAGES.items():
        distances = fid_and_kid(
            draw,
            _real_images(data, split, group),
            extractor,
            samples=arguments.fid_images or count,
            cache_key=f"{Path(data.name).name}-{split}",
            batch_size=arguments.batch_size,
            progress=group.main,
            group=group,
        )
        if distances is not None:
            measures.distances[split] = distances
        yield measures


def _measure_kid(
    arguments: EvaluateArguments,
    model: ImageModel,
    selection: Selection,
    features: Features,
    group: Group,
    measures: Measures,
) -> Iterator[Measures]:
    """KID in EfficientNet-Lite0's features added, more and more of it."""
    decodings = (arguments.decode,) if arguments.decode else get_args(Pixels)
    samplings = {name: sampling_of(replace(arguments, decode=name), model) for name in decodings}
    for measures.kid in evaluate_kid(
        model,
        selection,
        features,
        samplings,
        samples=arguments.kid_images or min(KID_IMAGES, arguments.limit or KID_IMAGES),
        batch_size=arguments.batch_size,
        progress=group.main,
        group=group,
    ):
        yield measures


def _real_images(data: DataSplits, split: str, group: Group) -> Tensor:
    """The pictures to compare generated ones with."""
    if split == "test" or not group.main:  # the other processes only generate
        return data.test
    # The paper's training pictures are all that are not test pictures.
    return torch.cat([data.train.in_memory(FID_IMAGES["train"]), data.val])


def _flags(arguments: EvaluateArguments, *names: str) -> str:
    """The arguments called so as flags, but for those that nothing was given for."""
    values = {name: getattr(arguments, name) for name in names}
    flags = [
        f"--{name.replace('_', '-')} {value}" for name, value in values.items() if value is not None
    ]
    return " ".join(flags)


def _to_json(measures: Measures, arguments: EvaluateArguments) -> dict[str, Any]:
    """The measures by name, each with the flags that it was made with."""
    drawing = ("temperature", *["image_temperature"] * (arguments.image_temperature != 1))
    drawing = ("decode", *drawing, "y_temperature")
    decoded = replace(arguments, decode=arguments.decode or "sample")
    flags = {
        "elbo": _flags(arguments, "elbo_samples"),
        "likelihood": _flags(arguments, "importance_samples", "estimator"),
        "refined_likelihood": _flags(arguments, "importance_samples", "estimator", "refine"),
        "fid": _flags(decoded, *drawing, "fid_images", "fid_weights"),
        KID_KEY: _flags(arguments, *drawing, "kid_images"),
        "super_resolution": "",
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
    if measures.super_resolution:
        values["super_resolution"] = asdict(measures.super_resolution)
    return {name: {**value, "flags": flags[name]} for name, value in values.items()}


def _settings(
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
