"""The command ``evaluate`` from its arguments to its report: the measures, one after another."""

from __future__ import annotations

from pathlib import Path

from srvae_pyro.data.run_data import load_for, warn_if_trained_on
from srvae_pyro.errors import UserError
from srvae_pyro.evaluation.arguments import EvaluateArguments
from srvae_pyro.evaluation.coding import Coding
from srvae_pyro.evaluation.fid import Fid
from srvae_pyro.evaluation.kid import Kid
from srvae_pyro.evaluation.likelihood import Elbo, Likelihood, RefinedLikelihood
from srvae_pyro.evaluation.measures import Measure, Result, Task
from srvae_pyro.evaluation.record import Outputs, settings_of
from srvae_pyro.evaluation.report import print_results
from srvae_pyro.evaluation.selection import select
from srvae_pyro.evaluation.super_resolution import SuperResolution
from srvae_pyro.models import load
from srvae_pyro.runs import find_run, read_config, results_folder
from srvae_pyro.system.device import start
from srvae_pyro.system.parallel import ProcessGroup, process_group

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
        return evaluate_in(group, arguments)


def evaluate_in(group: ProcessGroup, arguments: EvaluateArguments) -> int:
    """One process's part of an evaluation; the exit code."""
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
            raise UserError(f"--measure {word}: no measure without flags is called so")
    return {kind.name: kind.of(arguments) for kind in kinds}
