"""What one evaluation runs: the command ``evaluate`` from its arguments to its report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from srvae_pyro.data import DataSplits
from srvae_pyro.data.run_data import load_for, warn_if_trained_on
from srvae_pyro.data.splits import evenly_spaced_indices
from srvae_pyro.drawing.generate import sampling_of
from srvae_pyro.drawing.grids import calibration_figure
from srvae_pyro.errors import UserError
from srvae_pyro.evaluation.arguments import EvaluateArguments, Pixels
from srvae_pyro.evaluation.coding import evaluate_coding
from srvae_pyro.evaluation.fid import INCEPTION, FeatureExtractor, drawer, fid_and_kid
from srvae_pyro.evaluation.kid import Features, LiteFeatures, check_selection, evaluate_kid
from srvae_pyro.evaluation.likelihood import evaluate_elbo, evaluate_likelihood
from srvae_pyro.evaluation.report import print_measures
from srvae_pyro.evaluation.results import (
    Measures,
    Outputs,
    drawing_flags,
    measures_to_json,
    settings_of,
)
from srvae_pyro.evaluation.selection import Selection, select
from srvae_pyro.evaluation.sr_scores import Distance, feature_distance
from srvae_pyro.evaluation.super_resolution import evaluate_super_resolution, factors_for
from srvae_pyro.models import ImageModel, load
from srvae_pyro.runs import find_run, read_config, results_folder
from srvae_pyro.system.device import start
from srvae_pyro.system.parallel import ProcessGroup, process_group

FID_IMAGES = {"test": 10_000, "train": 50_000}  # as in the paper, section 4.1
KID_IMAGES = 5_000


def evaluate(arguments: EvaluateArguments) -> int:
    """Evaluate as asked; the exit code."""
    with process_group(arguments.device) as group:
        return evaluate_in(group, arguments)


def evaluate_in(group: ProcessGroup, arguments: EvaluateArguments) -> int:
    """One process of the group's part of an evaluation; the exit code."""
    folder = find_run(arguments.run)
    config = read_config(folder)
    start(group.device, arguments.precision, threads=arguments.threads)
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
    distance = feature_distance(group.device) if arguments.super_resolution else None
    with group.main_first():
        data = load_for(config, arguments.data, arguments.data_root)
    if arguments.fid and not (len(data.train) and len(data.test)):
        raise UserError(f"{data.name} lacks train/ or test/, which --fid compares with both")
    selection = select(data, arguments.split, arguments.limit)
    if arguments.kid:
        check_selection(selection)
    if arguments.super_resolution:
        factors_for(model, arguments.factor, selection.images.shape[-2:])
    if arguments.split != "train":  # which is asked for by its name
        warn_if_trained_on(folder, config, data, arguments.split)
    if group.main:
        of = f"{len(selection.images):,} of {selection.total:,} {data.unit}"
        print(f"{folder} on {data.name}, {arguments.split}, {of}")
    settings = settings_of(arguments, folder, model, selection)
    measures, written = None, True
    try:
        judges = (extractor, features, distance)
        for measures in measure(arguments, model, selection, *judges, group):
            if outputs:
                values = measures_to_json(measures, arguments)
                written = outputs.write(selection.key, settings, values)
                written &= _draw_calibration(outputs, measures, selection)
    finally:  # also what there is when the rest fails or is stopped
        if group.main and measures:
            print_measures(measures, selection, config.data.data, drawing_flags(arguments))
    return 0 if written else 2


def measure(
    arguments: EvaluateArguments,
    model: ImageModel,
    selection: Selection,
    extractor: FeatureExtractor | None,
    features: Features | None,
    distance: Distance | None,
    group: ProcessGroup,
) -> Iterator[Measures]:
    """All that has been measured so far, after each measure that is asked for.

    Args:
        arguments: the command's.
        model: the model.
        selection: the images that the likelihood and super-resolution are measured on.
        extractor: for FID and KID; None if they are not asked for.
        features: for KID in other features, likewise.
        distance: of features, for the diversity of super-resolution; None where there is none.
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
        for factor in factors_for(model, arguments.factor, images.shape[-2:]):
            found = evaluate_super_resolution(
                model,
                images,
                factor=factor,
                calibrate=arguments.calibration,
                distance=distance,
                photographs=selection.photographs,
                batch_size=arguments.batch_size,
                **common,
            )
            measures.super_resolution.append(found)
            yield measures
    if arguments.compress is not None and group.main:
        some = evenly_spaced_indices(len(images), arguments.compress)
        measures.compression = evaluate_coding(
            model, images[some], selection.indices[some], seed=arguments.seed, progress=True
        )
        yield measures


def _measure_fid(
    arguments: EvaluateArguments,
    model: ImageModel,
    data: DataSplits,
    extractor: FeatureExtractor,
    group: ProcessGroup,
    measures: Measures,
) -> Iterator[Measures]:
    """FID and KID added against the test images, then against all others."""
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
    group: ProcessGroup,
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


def _real_images(data: DataSplits, split: str, group: ProcessGroup) -> Tensor:
    """The images to compare generated ones with."""
    if split == "test" or not group.main:  # the other processes only generate
        return data.test
    # The paper's training images are all that are not test images.
    return torch.cat([data.train.in_memory(FID_IMAGES["train"]), data.val])


def _draw_calibration(outputs: Outputs, measures: Measures, selection: Selection) -> bool:
    """A figure for each factor whose samples have been ranked; whether they could be written."""
    written = True
    for found in measures.super_resolution:
        if found.calibration is not None:
            of = f"{Path(selection.data.name).name}, {selection.split}, {found.images:,}"
            title = f"{of} {selection.data.unit}: super-resolution x{found.factor}"
            figure = calibration_figure(found.calibration.ranks, title)
            written &= outputs.draw(f"calibration-x{found.factor}", figure)
    return written
