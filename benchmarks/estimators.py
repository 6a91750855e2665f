"""Both estimators of a run's likelihood at several sample sizes, as a table.

``python benchmarks/estimators.py RUN --data DIR --limit 200``
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyro
import torch

from srvae_pyro.data.run_data import load_for
from srvae_pyro.data.splits import evenly_spaced_indices
from srvae_pyro.evaluation.likelihood import evaluate_likelihood
from srvae_pyro.models import load
from srvae_pyro.runs import find_run, read_config
from srvae_pyro.system.device import choose_device, tune_allocator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--data", default=None, help="default: what the run was trained on")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--limit", type=int, default=200, help="test images")
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 10, 100, 500])
    parser.add_argument("--estimators", nargs="+", default=["paired", "product"])
    parser.add_argument("--precisions", nargs="+", default=["fp32"])
    arguments = parser.parse_args()
    device = choose_device()
    if device.type == "cpu":
        tune_allocator()
    pyro.enable_validation(False)
    folder = find_run(arguments.run)
    model = load(folder, device)
    data = load_for(read_config(folder), arguments.data, arguments.data_root)
    test, photographs = data.test, data.photographs.get("test")
    indices = evenly_spaced_indices(len(test), arguments.limit)
    print(f"{folder}, {len(indices)} test images, bits/dim ± standard error over the images")
    print(
        f"{'S':>5} {'estimator':10}{'precision':10}{'nll':>16}{'ELBO':>9}{'ESS':>8}{'k':>7}{'s':>8}"
    )
    for samples in arguments.samples:
        for estimator in arguments.estimators:
            for precision in arguments.precisions:
                result = evaluate_likelihood(
                    model,
                    test[indices],
                    device,
                    samples,
                    estimator=estimator,
                    indices=indices,
                    precision=precision,
                    photographs=None if photographs is None else photographs[indices],
                )
                k = torch.nan if result.pareto_k is None else result.pareto_k
                error = result.standard_error
                print(
                    f"{samples:5} {estimator:10}{precision:10}"
                    f"{result.bits_per_dim:9.4f} ± {torch.nan if error is None else error:.4f}"
                    f"{result.elbo_bits_per_dim:9.4f}{result.effective_samples:8.2f}"
                    f"{k:7.2f}{result.seconds:8.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
