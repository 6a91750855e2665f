"""In how many generated images d(x) is y: ``python benchmarks/consistency.py RUN --count 10000``.

With the likelihood ``groups`` in all, sampled or by mode, at any temperature.
"""

from __future__ import annotations

import argparse

import torch

from srvae_pyro.models import SRVAE, load
from srvae_pyro.runs import find_run
from srvae_pyro.system.device import choose_device, start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="a run of the srVAE")
    parser.add_argument("--count", type=int, default=10_000, help="images, each way")
    parser.add_argument("--threads", type=int, help="CPU threads")
    arguments = parser.parse_args()
    device = choose_device()
    start(device, threads=arguments.threads)
    model = load(find_run(arguments.run), device)
    assert isinstance(model, SRVAE), "the VAE has no y"
    for decode, temperature in (("sample", 1.0), ("mode", 1.0), ("sample", 2.0)):
        project_to_consistent = values = 0
        for first in range(0, arguments.count, 500):
            count = min(500, arguments.count - first)
            sites = model.generate(
                count, first=first, seed=0, decode=decode, image_temperature=temperature
            )
            same = model.guide.d(sites["x"]) == sites["y"]
            project_to_consistent += int(same.flatten(1).all(dim=1).sum())
            values += int((~same).sum())
        print(
            f"{decode}, image temperature {temperature:g}: d(x) = y in every value of "
            f"{project_to_consistent:,} of {arguments.count:,} images, {values:,} values differ"
        )


if __name__ == "__main__":
    with torch.no_grad():
        main()
