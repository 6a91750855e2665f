"""Images/s of loading crops, and of training on them: ``python benchmarks/crops.py --data DIR``.

Images a second of one core's time, so that other work on the machine counts little: from memory,
and streamed without processes that read ahead, where each image is decoded once an epoch; then
of steps of training on crops of that size. The median of ``--repeats`` epochs, or steps.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from srvae_pyro.config import Preset, RunConfig
from srvae_pyro.data import ImageOptions, load_data
from srvae_pyro.data.streaming import StreamedCrops
from srvae_pyro.presets import PRESETS, preset
from srvae_pyro.system.device import start
from srvae_pyro.training.learner import Learner
from srvae_pyro.training.loop import Batches

CPU = torch.device("cpu")


def loading(data: str, crops: int, batch: int, repeats: int, stream: bool) -> tuple[float, float]:
    """Seconds until a data set is there, of all cores together, and images/s of its epochs."""
    begin = time.process_time()
    images = load_data(data, Path("data"), ImageOptions(crops=crops, stream=stream)).train
    seconds = time.process_time() - begin
    batches = Batches(images, batch, CPU, seed=0)
    speeds = []
    for epoch in range(repeats):
        if isinstance(images, StreamedCrops):
            images._held.clear()  # decode them again
        begin = time.process_time()
        count = sum(len(batch) for batch in batches.epoch(epoch))
        speeds.append(count / (time.process_time() - begin))
    return seconds, statistics.median(speeds)


def training(name: Preset, crops: int, batch: int, repeats: int) -> float:
    """Images/s of training steps."""
    model, settings = preset(name)
    precision = start(CPU, threads=1)
    values = RunConfig(name, model, training=settings).to_dict()
    values["model"]["image_shape"] = [3, crops, crops]
    values["data"]["crops"] = crops
    values["training"]["precision"] = precision
    learner = Learner(RunConfig.from_dict(values), batch)
    images = torch.randint(0, 256, (batch, 3, crops, crops), dtype=torch.uint8)
    learner.initialize(images)
    learner.distribute()
    seconds = []
    for _ in range(repeats + 1):
        begin = time.process_time()
        learner.step(images, rate=1e-5, kl_weights={}, images_seen=0, votes=list)
        seconds.append(time.process_time() - begin)
    return batch / statistics.median(seconds[1:])  # the first one warms up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="a folder of images")
    parser.add_argument("--crops", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--presets", nargs="*", choices=PRESETS, default=["quickstart", "small"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for crops in options.crops:
        print(f"{crops}x{crops}, batches of {options.batch_size}, one core")
        sizes = crops, options.batch_size, options.repeats
        for where, stream in (("memory", False), ("streamed", True)):
            seconds, speed = loading(options.data, *sizes, stream)
            print(f"  {where:22}{speed:10.0f} images/s, at the start {seconds:.1f} s", flush=True)
        for name in options.presets:
            print(f"  {f'training, {name}':22}{training(name, *sizes):10.1f} images/s", flush=True)


if __name__ == "__main__":
    main()
