"""PyTorch beside onnxruntime, on one thread: ``python benchmarks/exported.py [RUN]``.

Processor seconds a megapixel of output of the point estimate, from 384x256 pixels by 2, medians of
several turns. onnxruntime runs what ``export`` writes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch
from reading import restoring

from srvae_pyro.models import InputKind
from srvae_pyro.system.device import autocast, choose_precision, tune_allocator
from srvae_pyro.upscaling.point_estimate import export_onnx

SIZE = (256, 384)
FACTOR = 2


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", nargs="?", default="pretrained-photo")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    tune_allocator()
    torch.set_num_threads(1)
    _, restorer = restoring(options.run)
    threads = onnxruntime.SessionOptions()
    threads.intra_op_num_threads = threads.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        export_onnx(restorer.estimate.folded(InputKind(), FACTOR), file)
        session = onnxruntime.InferenceSession(file, threads, providers=["CPUExecutionProvider"])
    estimate = restorer.estimate.folded(InputKind(), FACTOR)
    image = torch.rand(1, estimate.network.channels, *SIZE)
    inner = image.contiguous(memory_format=torch.channels_last)

    def in_bf16() -> None:
        with autocast("bf16", torch.device("cpu")):
            estimate(inner)

    ways: dict[str, Callable[[], object]] = {
        "PyTorch, float32": lambda: estimate(inner),
        "onnxruntime, float32": lambda: session.run(None, {"input": image.numpy()}),
    }
    if choose_precision("auto", torch.device("cpu")) == "bf16":
        ways["PyTorch, bfloat16"] = in_bf16
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(options.turns):
        for name, way in ways.items():
            began = time.process_time()
            way()
            seconds[name].append(time.process_time() - began)
    megapixels = SIZE[0] * SIZE[1] * FACTOR**2 / 1e6
    print(f"{torch.backends.cpu.get_cpu_capability()}, seconds of one thread a megapixel")
    for name, taken in seconds.items():
        print(f"{name}: {statistics.median(taken) / megapixels:.2f}")


if __name__ == "__main__":
    main()
