"""What arithmetic costs in compression: ``python benchmarks/compression.py RUN --data DIR``.

Test images are written and read back in three ways: in float64 that has the same bits on every
machine, as ``compress`` does; in float64 as PyTorch's libraries compute it here; and in their
float32 (``--arithmetic fp32``). For each its bytes, the initial ones, and all without these, the
processor's seconds an image to write and to read in one thread, and whether a process with
older instructions (SSE4.2, without fused multiplications) writes the same bytes. ``python -m
srvae_pyro.evaluate RUN --compress N`` compares the code with the ELBO and with other codecs.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time

import torch
from reading import read_run, run_parser
from torch import Tensor

from srvae_pyro.compression.codec import Codec
from srvae_pyro.data.splits import evenly_spaced
from srvae_pyro.models import ImageModel
from srvae_pyro.system.device import tune_allocator

OLDER = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
}
WAYS = ("fp64", "fp64, of the libraries", "fp32, of the libraries")


def codec_of(model: ImageModel, way: str) -> Codec:
    """A codec that computes in one of the ways."""
    codec = Codec(model, arithmetic="fp32" if way.startswith("fp32") else "fp64")
    if way != "fp64":
        codec.mode = None
    return codec


def measured(model: ImageModel, images: Tensor, way: str, read: bool) -> dict[str, object]:
    """Bytes, seconds, and a hash of what was written."""
    codec = codec_of(model, way)
    began = time.process_time()
    chains = codec.encode(list(images))
    written = time.process_time()
    words = [chain.words for chain in chains]
    found: dict[str, object] = {
        "bytes": sum(chain.bytes for chain in chains),
        "start": sum(chain.start_bytes for chain in chains),
        "write": (written - began) / len(images),
        "digest": hashlib.sha256(b"".join(part.tobytes() for part in words)).hexdigest(),
    }
    if read:
        sizes = [(images.shape[-2], images.shape[-1])] * len(images)
        again = codec.decode(words, sizes)
        found["read"] = (time.process_time() - written) / len(images)
        assert torch.equal(torch.stack(again), images), "not what was written"
    return found


def main() -> None:
    parser = run_parser(__doc__, limit=20)
    parser.add_argument("--write-only", action="store_true", help="print JSON, for itself")
    options = parser.parse_args()
    tune_allocator()
    torch.set_num_threads(1)
    folder, model, test = read_run(options)
    images = evenly_spaced(test, options.limit)
    found = {way: measured(model, images, way, not options.write_only) for way in WAYS}
    if options.write_only:
        print(json.dumps(found))
        return
    words = [sys.executable, *sys.argv, "--write-only"]
    older = subprocess.run(words, env={**os.environ, **OLDER}, capture_output=True, check=True)
    others = json.loads(older.stdout.splitlines()[-1])
    print(f"{folder}, {len(images)} images of {images.shape[-2]}x{images.shape[-1]}")
    print("| arithmetic | bytes | without the start | s to write | to read | older instructions |")
    print("|---|---|---|---|---|---|")
    for way, values in found.items():
        count, start = int(str(values["bytes"])), int(str(values["start"]))
        same = "same" if values["digest"] == others[way]["digest"] else "other"
        cells = f"{count:,} | {count - start:,} | {values['write']:.3f} | {values['read']:.3f}"
        print(f"| {way} | {cells} | {same} bytes |")


if __name__ == "__main__":
    main()
