"""Does it pay to tell p(y|u) an image's class? A command with such an srVAE.

For example, from the weights of a run that has none, whose images are in folders of classes::

    python benchmarks/classes.py DIR train --preset small --data DIR --init RUN --run classes ...
    python benchmarks/classes.py DIR evaluate classes --elbo-only --kid --decode sample

An embedding of the class, of u's shape, is added to u where p(y|u) sees it; it starts at 0. An
image's class is found by its pixels; generated images have random ones. The class is observed, so
bits/dim are of x given it. Such a run is only read by this script.
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

from srvae_pyro import SRVAE
from srvae_pyro.config import ModelConfig
from srvae_pyro.data.image_files import find_images, read_image
from srvae_pyro.models import base
from srvae_pyro.models.shapes import sizes_of
from srvae_pyro.models.srvae import SRVAEGuide
from srvae_pyro.pixels import to_levels

CLASSES: dict[bytes, int] = {}  # by the digest of an image's pixels
NAMES: list[str] = []


def digest(levels: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(levels).tobytes(), digest_size=8).digest()


def learn_classes(folder: Path) -> None:
    """Fill CLASSES and NAMES with the images of a folder and their mirror images."""
    paths = find_images(folder)
    NAMES[:] = sorted({path.parent.name for path in paths})
    for path in paths:
        levels = levels_of(read_image(path, 3)).numpy()
        for image in (levels, levels[..., ::-1]):
            CLASSES[digest(image)] = NAMES.index(path.parent.name)


class GivenClass(nn.Module):
    """p(y|u, class) from p(y|u): of the last images that the guide saw, or of random classes."""

    def __init__(self, p_y: nn.Module, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.p_y, self.shape = p_y, shape
        self.embedding = nn.Embedding(len(NAMES), math.prod(shape))
        nn.init.zeros_(self.embedding.weight)
        self.classes: Tensor | None = None

    def see(self, x: Tensor) -> None:
        levels = to_levels(x.detach()).to(torch.uint8).cpu().flatten(0, -4).numpy()
        found = [CLASSES[digest(image)] for image in levels]
        self.classes = torch.tensor(found, device=x.device).view(x.shape[:-3])

    def forward(self, u: Tensor) -> dist.TorchDistribution:
        classes, self.classes = self.classes, None
        if classes is None:
            classes = torch.randint(len(NAMES), u.shape[:-3], device=u.device)
        y: dist.TorchDistribution = self.p_y(u + self.embedding(classes).unflatten(-1, self.shape))
        return y


class SeeingGuide(nn.Module):
    """A guide that shows ``p_y`` the images."""

    def __init__(self, guide: SRVAEGuide, p_y: GivenClass) -> None:
        super().__init__()
        self.d, self.q_u, self.q_z = guide.d, guide.q_u, guide.q_z
        self.program, self.show = guide.forward, p_y.see

    def forward(self, x: Tensor, *rest: object, **more: object) -> None:
        self.show(x)
        self.program(x, *rest, **more)  # type: ignore[arg-type]


class Conditional(SRVAE):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        p_y = GivenClass(self.model.p_y, sizes_of(config).lower_latent)
        self.model.p_y = p_y
        self.guide = SeeingGuide(self.guide, p_y)  # type: ignore[assignment]


def load_weights(model: SRVAE, run: str | Path) -> None:
    """Of a run without classes too: its p(y|u) is a part of this one's."""
    state = base.read_weights(base.find_run(run) / base.WEIGHTS)
    inner = {k.replace("model.p_y.", "model.p_y.p_y.", 1): v for k, v in state.items()}
    known = state if "model.p_y.embedding.weight" in state else inner
    model.load_state_dict(model.state_dict() | known)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="images in folders of classes")
    parser.add_argument("command", choices=("train", "evaluate", "generate"))
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the command's own")
    options = parser.parse_args()
    learn_classes(options.folder)
    base.MODELS["srvae"] = Conditional
    base.load_weights = load_weights  # type: ignore[assignment]
    sys.argv = [f"{options.command}.py", *options.arguments]
    runpy.run_module(f"srvae_pyro.{options.command}", run_name="__main__")


if __name__ == "__main__":
    main()
