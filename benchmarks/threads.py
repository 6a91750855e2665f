"""One CPU thread, all, or automatic, beside busy processes: ``python benchmarks/threads.py``.

Work as the commands do it, on a machine on which nothing else runs: updates of the preset
quickstart, and by a run images generated, an image upscaled, and likelihoods. Alone, beside one
and beside two processes that compute without end, for some seconds by each number of threads, in
turns. A table of units a second, and the automatic choice's share of the better of the two others.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace

import torch

from srvae_pyro.config import DataConfig, RunConfig
from srvae_pyro.inference.importance import estimate_log_likelihood
from srvae_pyro.models import load
from srvae_pyro.presets import preset
from srvae_pyro.system.device import DECIDED, THREADS, start
from srvae_pyro.system.environment import OTHERS
from srvae_pyro.training.learner import Learner
from srvae_pyro.upscaling.arguments import UpscaleOptions
from srvae_pyro.upscaling.upscaler import Upscaler, upscaling_model

BUSY = "while True: pass"


def works(run: str) -> dict[str, Callable[[], object]]:
    """What is measured, by the command that does it: each call one unit."""
    precision = start(torch.device("cpu"), threads=1)
    model_config, training = preset("quickstart", "srvae")
    config = RunConfig(
        "quickstart",
        replace(model_config, image_shape=(3, 32, 32)),
        DataConfig(),
        replace(training, precision=precision),
    )
    learner = Learner(config, training.batch_size)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (training.batch_size, 3, 32, 32), generator=generator)
    images = images.to(torch.uint8)
    learner.initialize(images)
    model = load(run)
    upscaler = Upscaler(upscaling_model(model), UpscaleOptions(decode="mean"))
    photograph = torch.randint(0, 256, (3, 64, 64), generator=generator).to(torch.uint8)
    x = model.generate(1, seed=0)["x"]

    def update() -> None:
        weights = {"z": 1.0, "u": 1.0}
        learner.step(images, rate=1e-3, kl_weights=weights, images_seen=0, votes=list)

    return {
        "train": update,
        "generate": lambda: model.generate(16, seed=0),
        "upscale": lambda: upscaler(photograph),
        "evaluate": lambda: estimate_log_likelihood(model, x, samples=64),
    }


@contextmanager
def beside(count: int) -> Iterator[None]:
    """Within it so many other processes compute."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        time.sleep(1.5)  # so that it is seen
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def rate(work: Callable[[], object], seconds: float) -> tuple[int, float]:
    """How often it was done, at least once, and in how many seconds."""
    began, done = time.monotonic(), 0
    while time.monotonic() - began < seconds or not done:
        work()
        done += 1
    return done, time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--run", default="runs/pretrained", help="a run of an srVAE that upscales")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each turn")
    parser.add_argument("--turns", type=int, default=3, help="of each number of threads")
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], help="processes beside")
    options = parser.parse_args()
    if decided := [name for name in DECIDED if name in os.environ]:
        parser.error(f"{decided[0]} is set, which decides on the number of threads: unset it")
    OTHERS.look()
    every = torch.get_num_threads()
    units = works(options.run)
    for work in units.values():
        work()
    columns: dict[str, Callable[[], None]] = {
        "one thread": lambda: THREADS.fix(1),
        f"all {every}": lambda: THREADS.fix(every),
        "automatic": lambda: (THREADS.fix(every), THREADS.follow())[1],
    }
    table = sys.stdout
    print(f"| | busy processes | {' | '.join(columns)} | of the better |", file=table)
    print("|---|---|---|---|---|---|", file=table)
    for busy in options.busy:
        with beside(busy), redirect_stdout(sys.stderr):
            for name, work in units.items():
                spent = {column: [0, 0.0] for column in columns}
                for _ in range(options.turns):
                    for column, choose in columns.items():
                        choose()
                        done, seconds = rate(work, options.seconds)
                        spent[column][0] += done
                        spent[column][1] += seconds
                one, both, chosen = (done / seconds for done, seconds in spent.values())
                values = f"{one:.2f} | {both:.2f} | {chosen:.2f} | {chosen / max(one, both):.2f}"
                print(f"| {name} | {busy} | {values} |", file=table, flush=True)


if __name__ == "__main__":
    main()
