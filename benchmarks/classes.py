"""Does it pay to give p(y|u) an image's class? A command with such a level of y.

The level of y is a one-level VAE on images of half the size::

    python benchmarks/classes.py DIR train --preset small --model vae --image-size 16 ... --run RUN
    python benchmarks/classes.py DIR evaluate RUN --elbo-only --kid --decode sample

An embedding of the class, of the latent's shape, is added to the latent where p(x|z) sees it; it
starts at 0. An image's class is found by its pixels; generated images have random classes. The
class is observed, so bits/dim are of x given it. Such a run is only read by this script.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import runpy
import sys
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import torch
from reading import levels_of
from torch import Tensor, nn

from srvae_pyro.config import ModelConfig
from srvae_pyro.data.image_files import find_images, read_image
from srvae_pyro.models import VAE
from srvae_pyro.models.base import MODELS
from srvae_pyro.models.shapes import sizes_of
from srvae_pyro.models.vae import VAEGuide
from srvae_pyro.pixels import to_levels

CLASSES: dict[bytes, int] = {}  # by the digest of an image's pixels
NAMES: list[str] = []


def digest(levels: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(levels).tobytes(), digest_size=8).digest()


def learn_classes(folder: Path, side: int) -> None:
    """Fill CLASSES and NAMES with the images of a folder and their mirror images."""
    paths = find_images(folder)
    NAMES[:] = sorted({path.parent.name for path in paths})
    for path in paths:
        levels = levels_of(read_image(path, 3, side)).numpy()
        for image in (levels, levels[..., ::-1]):
            CLASSES[digest(image)] = NAMES.index(path.parent.name)


class GivenClass(nn.Module):
    """p(x|z, class) from p(x|z): of the last images that the guide saw, or of random classes."""

    def __init__(self, p_x: nn.Module, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.p_x, self.shape = p_x, shape
        self.embedding = nn.Embedding(len(NAMES), math.prod(shape))
        nn.init.zeros_(self.embedding.weight)
        self.classes: Tensor | None = None

    def see(self, x: Tensor) -> None:
        levels = to_levels(x.detach()).to(torch.uint8).cpu().flatten(0, -4).numpy()
        found = [CLASSES[digest(image)] for image in levels]
        self.classes = torch.tensor(found, device=x.device).view(x.shape[:-3])

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        classes, self.classes = self.classes, None
        if classes is None:
            classes = torch.randint(len(NAMES), z.shape[:-3], device=z.device)
        x: dist.TorchDistribution = self.p_x(z + self.embedding(classes).unflatten(-1, self.shape))
        return x


class SeeingGuide(VAEGuide):
    """A guide that shows the images to ``p_x``."""

    def __init__(self, q_z: nn.Module, p_x: GivenClass) -> None:
        super().__init__(q_z)
        self.show = p_x.see

    def forward(self, x: Tensor, count: int = 1, size: tuple[int, int] | None = None) -> None:
        self.show(x)
        super().forward(x, count, size)


class Conditional(VAE):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.model.p_x = GivenClass(self.model.p_x, sizes_of(config).latent)
        self.guide = SeeingGuide(self.guide.q_z, self.model.p_x)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="images in folders of classes")
    parser.add_argument("command", choices=("train", "evaluate", "generate"))
    parser.add_argument("--side", type=int, default=16, help="of the model's images")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the command's own")
    options = parser.parse_args()
    learn_classes(options.folder, options.side)
    MODELS["vae"] = Conditional
    sys.argv = [f"{options.command}.py", *options.arguments]
    runpy.run_module(f"srvae_pyro.{options.command}", run_name="__main__")


if __name__ == "__main__":
    main()
