"""Memory and time of upscaling a large photograph: ``python benchmarks/large_photograph.py``.

By the command ``upscale`` and an untrained model of a preset, or by a run. The photograph is
scikit-image's image of the astronaut Eileen Collins (NASA, in the public domain), stretched to
the size. Prints the most memory that the command's process had at once (its peak resident set),
how long it took, and what it said.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image
from skimage import data

from srvae_pyro.models import make_model
from srvae_pyro.models.base import save_pretrained
from srvae_pyro.pixels import to_unit
from srvae_pyro.presets import PRESETS, preset


def untrained(name: str, folder: Path) -> None:
    """The folder of an srVAE of a preset, initialised on crops of the photograph."""
    model = make_model(preset(name)[0])  # type: ignore[arg-type]
    side = model.config.image_shape[-1]
    image = torch.from_numpy(data.astronaut()).permute(2, 0, 1)
    crops = image.unfold(1, side, side).unfold(2, side, side).flatten(1, 2).transpose(0, 1)
    model.initialize(to_unit(crops[::4]))
    save_pretrained(model, folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--run", help="default: an untrained model")
    parser.add_argument("--preset", choices=PRESETS, default="quickstart", help="of that")
    parser.add_argument("--size", type=int, nargs=2, default=(4096, 3072), help="width, height")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    options, further = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.run is None:
            untrained(options.preset, folder / "run")
        photograph = Image.fromarray(data.astronaut()).resize(
            options.size, Image.Resampling.BICUBIC
        )
        photograph.save(folder / "photograph.png")
        command = [sys.executable, "-m", "srvae_pyro.upscale", options.run or str(folder / "run")]
        command += [str(folder / "photograph.png"), "--out", str(folder / "out"), *further]
        began = time.monotonic()
        environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
        subprocess.run(command, check=True, env=environment)
        seconds = time.monotonic() - began
    # In kilobytes on Linux; of the one process that was waited for.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    print(f"peak memory {peak:.2f} GB, {seconds:.0f} s, {options.threads} threads")


if __name__ == "__main__":
    main()
