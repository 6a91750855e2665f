"""The command ``evaluate``: its measures, one after another, and its report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from srvae_pyro.data.run_data import load_for, warn_if_trained_on
from srvae_pyro.errors import UserError
from srvae_pyro.evaluation.arguments import EvaluateArguments
from srvae_pyro.evaluation.coding import Coding
from srvae_pyro.evaluation.fid import Fid, FidResult
from srvae_pyro.evaluation.kid import Kid
from srvae_pyro.evaluation.likelihood import (
    Elbo,
    ElboResult,
    Likelihood,
    LikelihoodResult,
    RefinedLikelihood,
    over_photographs,
)
from srvae_pyro.evaluation.measures import (
    Measure,
    Result,
    Selection,
    Task,
    columns,
    select,
)
from srvae_pyro.evaluation.record import Outputs, settings_of
from srvae_pyro.evaluation.super_resolution import SuperResolution
from srvae_pyro.models import load
from srvae_pyro.runs import find_run, read_config, results_folder
from srvae_pyro.system.device import start
from srvae_pyro.system.parallel import process_group

# In the order in which they run and are printed.
MEASURES: list[type[Measure]] = [
    Elbo,
    Likelihood,
    RefinedLikelihood,
    Fid,
    Kid,
    SuperResolution,
    Coding,
]


def evaluate(arguments: EvaluateArguments) -> int:
    with process_group(arguments.device) as group:
        folder = find_run(arguments.run)
        config = read_config(folder)
        measures = requested_measures(arguments)
        start(group.device, arguments.precision, threads=arguments.threads)
        model = load(folder, group.device)
        outputs = None
        if group.main:
            outputs = Outputs.checked(results_folder(arguments.run, folder), arguments.json)
        for measure in measures.values():
            measure.prepare(model, group)
        with group.main_first():
            data = load_for(config, arguments.data, arguments.data_root)
        selection = select(data, arguments.split, arguments.limit)
        task = Task(model, selection, group)
        for measure in measures.values():
            measure.check(task)
        if arguments.split != "train":  # which is requested by its name
            warn_if_trained_on(folder, config, data, arguments.split)
        of = f"{len(selection.images):,} of {selection.total:,} {data.unit}"
        if group.main:
            print(f"{folder} on {data.name}, {arguments.split}, {of}")
        title = f"{Path(data.name).name}, {arguments.split}, {len(selection.images):,} {data.unit}"
        common = {"seed": arguments.seed, "precision": arguments.precision}
        settings = settings_of(folder, model, selection, **common)
        results: dict[str, Result] = {}
        written = True
        try:
            for name, measure in measures.items():
                for result in measure.run(task):
                    if outputs:
                        results[name] = result
                        written = outputs.write(measures, results, settings)
                        written &= outputs.draw(result, title)
        finally:  # also the results so far when the rest fails or is stopped
            if group.main:
                print_results(results, selection, config.data.data)
        return 0 if written else 2


def requested_measures(arguments: EvaluateArguments) -> dict[str, Measure]:
    """The requested measures, by name, with their settings."""
    kinds = [kind for kind in MEASURES if kind.is_requested(arguments)]
    for position, word in enumerate(arguments.measure):
        if "=" in word and not position:
            raise UserError(f"--measure {word}: name the measure first")
        if "=" not in word and word not in {kind.name for kind in kinds}:
            raise UserError(f"--measure {word}: there is no such measure without flags")
    return {kind.name: kind.of(arguments) for kind in kinds}


BATCHES = "imagenet32-batches"
HEADS = ["data set", "model", "nll (bits/dim)", "RE_x", "RE_y", "KL_z", "KL_u", "FID (train)"]
# Table 1 of the paper by data set and by what the model was trained on. Its ImageNet32 is another
# downsampling than that of van den Oord et al. (its Table 2): the pickled batches.
PUBLISHED = {
    ("cifar10", "cifar10"): [
        ["cifar10", "VAE, paper", "3.510", "5540", "-", "1966", "-", "41.36 (37.25)"],
        ["cifar10", "srVAE, paper", "3.650", "5107", "1241", "619", "819", "34.71 (29.95)"],
    ],
    (BATCHES, "cifar10"): [
        [BATCHES, "VAE, paper", "3.800", "6386", "-", "1707", "-", "51.82 (N/A)"],
        [BATCHES, "srVAE, paper", "4.000", "5907", "1257", "597", "805", "45.37 (N/A)"],
    ],
}


def print_results(results: Mapping[str, Result], selection: Selection, trained_on: str) -> None:
    """Print Table 1, with published rows of the same data, and each result's own table."""
    elbo, likelihood, fid = (results.get(name) for name in ("elbo", "likelihood", "fid"))
    if isinstance(elbo, ElboResult):
        assert likelihood is None or isinstance(likelihood, LikelihoodResult)
        assert fid is None or isinstance(fid, FidResult)
        name = selection.data.name
        published = PUBLISHED.get((name, trained_on), []) if selection.is_test_split else []
        rows = [HEADS, _row(Path(name).name, elbo, likelihood, fid), *published]
        print(columns(rows if published or fid else [row[:-1] for row in rows], left=2))
        source = "the negative ELBO"
        if likelihood is not None:
            source = f"importance sampling, {likelihood.samples} samples, {likelihood.estimator}, "
            source += f"{likelihood.seconds:.0f} s"
        over = over_photographs(likelihood or elbo)
        print(f"nll: {source}{f', ±{over}' if over else ''}; the terms in nats per image")
    for result in results.values():
        if text := result.table(results):
            print(text)


def _row(
    data: str, elbo: ElboResult, likelihood: LikelihoodResult | None, fid: FidResult | None
) -> list[str]:
    nll = likelihood or elbo
    error = "" if nll.standard_error is None else f" ± {nll.standard_error:.3f}"
    cells = [data, "srVAE" if "re_y" in elbo.terms else "VAE", f"{nll.bits_per_dim:.3f}{error}"]
    for name in ("re_x", "re_y", "kl_z", "kl_u"):
        cells.append(f"{elbo.terms[name]:.0f}" if name in elbo.terms else "-")
    distances = fid.distances if fid else {}
    test, train = (
        f"{distances[split].fid:.2f}" if split in distances else "N/A"
        for split in ("test", "train")
    )
    return [*cells, f"{test} ({train})"]
