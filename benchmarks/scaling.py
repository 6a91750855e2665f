"""Images/s of 1 and 2 processes, one thread each: ``python benchmarks/scaling.py``.

Trains the preset ``small`` on crops of photographs under torchrun, all in one run of this script:
one process; two that share its batch; two with its batch each. Efficiency is images/s divided by
the processes' number times that of one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

STEPS = 51  # the first is not counted


def images_per_second(processes: int, batch: int, folder: Path, precision: str) -> float:
    """What a run's metrics say at its end."""
    run = folder / f"{processes}x{batch}"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={processes}", "-m", "srvae_pyro.train", "--preset", "small"]
    command += ["--data", "photos", "--batch-size", str(batch), "--steps", str(STEPS)]
    command += [
        "--threads",
        "1",
        "--precision",
        precision,
        "--device",
        "cpu",
        "--run-name",
        str(run),
    ]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    found: float = next(line for line in lines if line["step"] == 50)["images_per_second"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch-size", type=int, default=32, help="of one process")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--repeats", type=int, default=2, help="the fastest of which counts")
    options = parser.parse_args()
    cases = [(1, options.batch_size), (2, options.batch_size), (2, 2 * options.batch_size)]
    best = dict.fromkeys(cases, 0.0)
    with tempfile.TemporaryDirectory() as name:
        for repeat in range(options.repeats):
            for case in cases:
                folder = Path(name) / str(repeat)
                found = images_per_second(*case, folder, options.precision)
                best[case] = max(best[case], found)
    one = best[cases[0]]
    print(f"{'processes':>10}{'batch':>8}{'images/s':>10}{'efficiency':>12}")
    for (processes, batch), found in best.items():
        print(f"{processes:10}{batch:8}{found:10.1f}{found / processes / one:12.2f}")


if __name__ == "__main__":
    main()
