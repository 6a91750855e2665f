"""Parameters and operations of each preset, as a table: ``python benchmarks/presets.py``.

Operations are PyTorch's count (a multiplication and an addition are two) for one image forward and
backward, without merging convolutions, so that they are the published networks' own.
"""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from srvae_pyro.inference.elbo import TermsELBO
from srvae_pyro.models import ImageModel, make_model
from srvae_pyro.networks import DenseStep
from srvae_pyro.presets import PRESETS, preset


def gigaflops(model: ImageModel, images: int = 2) -> float:
    """Operations of a training step, GFLOP an image."""
    for module in model.modules():
        if isinstance(module, DenseStep):
            module.merge = False
    x = torch.rand(images, *model.config.image_shape).mul(255).round() / 255
    with FlopCounterMode(display=False) as counter:
        TermsELBO().differentiable_loss(model.model, model.guide, x).backward()
    return counter.get_total_flops() / images / 1e9


def main() -> None:
    print(f"{'preset':12}{'model':8}{'parameters':>14}{'GFLOP an image':>18}")
    for name in PRESETS:
        for kind in ("srvae", "vae"):
            model = make_model(preset(name, kind)[0])
            count = sum(p.numel() for p in model.parameters())
            print(f"{name:12}{kind:8}{count:14,}{gigaflops(model):18.2f}")


if __name__ == "__main__":
    main()
