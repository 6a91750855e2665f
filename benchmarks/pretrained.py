"""Export a run for publication: ``python benchmarks/pretrained.py RUN --data DIR``.

Weights in half precision and settings without the paths of this machine, to ``runs/pretrained``;
then the ELBO of validation images by both, image by image with the same noise, since rounding
must not change the likelihood.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from srvae_pyro.config import DataConfig
from srvae_pyro.data.run_data import load_for
from srvae_pyro.data.splits import evenly_spaced
from srvae_pyro.evaluation.likelihood import evaluate_elbo
from srvae_pyro.models import load
from srvae_pyro.models.base import save_pretrained
from srvae_pyro.runs import WEIGHTS, find_run
from srvae_pyro.system.device import tune_allocator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--data", default=None, help="default: what the run was trained on")
    parser.add_argument("--limit", type=int, default=500, help="validation images to compare on")
    parser.add_argument("--out", type=Path, default=Path("runs/pretrained"))
    options = parser.parse_args()
    tune_allocator()
    model = load(find_run(options.run))
    config = model.run_config
    assert config is not None, "a run has settings"
    val = evenly_spaced(load_for(config, options.data, Path("data")).val, options.limit)
    known = config.data
    data = DataConfig(
        Path(known.data).name,
        augment=known.augment,
        crops=known.crops,
        eval_crops=known.eval_crops,
        info={name: known.info[name] for name in ("counts", "crops") if name in known.info},
    )
    given = load(find_run(options.run))
    given.run_config = replace(config, data=data)
    save_pretrained(given.half(), options.out)
    size = (options.out / WEIGHTS).stat().st_size
    print(f"{options.out / WEIGHTS}: {size / 1e6:.2f} MB")
    for name, each in (("single precision", model), ("half precision", load(options.out))):
        elbo = evaluate_elbo(each, val, torch.device("cpu"))
        print(f"{name}: {elbo.bits_per_dim:.4f} bits/dim on {len(val)} validation images")


if __name__ == "__main__":
    main()
