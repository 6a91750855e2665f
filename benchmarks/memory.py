"""Memory that training takes: ``python benchmarks/memory.py --preset paper --batch-size 32 256``.

For each batch size, in gigabytes (1e9 bytes): what stays (weights, gradients, Adamax's two moments,
of which Muon needs one, EMA weights), what a step's activations take at their most, and both. The
activations are counted, tensor by tensor, in a forward and backward pass of two batches on this
machine's CPU, and grow in a straight line with the batch. A device's own needs come on top: on a
GPU CUDA's context and cuDNN's workspaces, on a CPU oneDNN's.
"""

from __future__ import annotations

import argparse

import torch

from srvae_pyro.inference.elbo import TermsELBO
from srvae_pyro.models import ImageModel, make_model
from srvae_pyro.networks import checkpoint_blocks
from srvae_pyro.presets import PRESETS, preset
from srvae_pyro.system.device import peak_bytes
from srvae_pyro.training.learner import Objective

STATES = 5  # numbers for each parameter: itself, gradient, two moments, average
SIZES = (16, 32)  # images of the batches that are measured


def activations(model: ImageModel, images: int, bf16: bool) -> int:
    """Bytes of the tensors of a step with so many images, at their most."""
    objective = Objective(model, TermsELBO())
    x = torch.rand(images, *model.config.image_shape).mul(255).round() / 255

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = objective(x)[0]
        loss.backward()

    step()  # the gradients are there already
    return peak_bytes(step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", choices=PRESETS, default="paper")
    parser.add_argument("--model", choices=("srvae", "vae"), default="srvae")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--image-size", type=int, default=32, help="pixels")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--checkpoint-activations", action="store_true", help="as train has it")
    options = parser.parse_args()
    config = preset(options.preset, options.model)[0]
    shape = (3, options.image_size, options.image_size)
    model = make_model(type(config)(**{**vars(config), "image_shape": shape}))
    if options.checkpoint_activations:
        checkpoint_blocks(model)
    # Smaller batches may take the most where weights are at work rather than activations.
    less, more = (activations(model, n, options.precision == "bf16") for n in SIZES)
    image = (more - less) / (SIZES[1] - SIZES[0])
    stays = STATES * 4 * sum(p.numel() for p in model.parameters())
    print(f"{options.preset} {options.model}, {options.image_size}x{options.image_size}, ", end="")
    print(f"{options.precision}: {image / 1e6:.1f} MB an image")
    print(f"{'batch':>8}{'stays (GB)':>14}{'activations (GB)':>20}{'together (GB)':>16}")
    for size in options.batch_size:
        step = less + (size - SIZES[0]) * image
        print(f"{size:8}{stays / 1e9:14.2f}{step / 1e9:20.2f}{(stays + step) / 1e9:16.2f}")


if __name__ == "__main__":
    main()
