"""A command with an srVAE that has no z, no u, or neither.

For example::

    python benchmarks/without_latents.py z train --preset small --data DIR --run no-z --steps 1500
    python benchmarks/without_latents.py z evaluate no-z --elbo-only --kid

Without a latent its networks are gone and what decodes it sees zeros. Its place in the programs is
kept, with the same narrow normal as prior and posterior, so that its KL is 0 and all commands work.
Such a run is only read by this script.
"""

from __future__ import annotations

import argparse
import runpy
import sys

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from srvae_pyro import SRVAE
from srvae_pyro.config import ModelConfig
from srvae_pyro.models.base import MODELS
from srvae_pyro.models.pixel_groups import GroupsGivenYZ, PyramidGivenLatent
from srvae_pyro.models.shapes import sizes_of

SCALE = 1e-3  # standard deviation of a latent that says nothing


class Empty(nn.Module):
    """Prior and posterior of a latent that says nothing, given an image or the latent's size."""

    def __init__(self, shape: tuple[int, int, int], stages: int = 0) -> None:
        super().__init__()
        self.shape, self.stages = shape, stages
        self.register_buffer("anchor", torch.zeros(()), persistent=False)

    def forward(
        self, given: Tensor | tuple[int, int] | None = None, *_: Tensor
    ) -> dist.TorchDistribution:
        height, width = self.shape[1:]
        batch: tuple[int, ...] = ()
        if isinstance(given, Tensor):
            batch, (height, width) = given.shape[:-3], given.shape[-2:]
            height, width = height >> self.stages, width >> self.stages
        elif given is not None:
            height, width = given
        shape = (*batch, self.shape[0], height, width)
        return dist.Normal(self.anchor, SCALE).expand(shape).to_event(3)


class Zeros(nn.Module):
    """(B, in, h, w) to zeros (B, out, factor h, factor w)."""

    def __init__(self, out_channels: int, factor: int = 1) -> None:
        super().__init__()
        self.out_channels, self.factor = out_channels, factor

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        return x.new_zeros(len(x), self.out_channels, height * self.factor, width * self.factor)


def without(latents: str) -> type[SRVAE]:
    """An srVAE without these of its latents, "z", "u" or "zu"."""

    class Without(SRVAE):
        def __init__(self, config: ModelConfig) -> None:
            super().__init__(config)
            sizes = sizes_of(config)
            p_x, p_y = self.model.p_x, self.model.p_y
            assert isinstance(p_x, GroupsGivenYZ)
            assert isinstance(p_y, PyramidGivenLatent)
            if "z" in latents:
                detail = p_x.from_z[-1].direction.shape[0]
                p_x.from_z = Zeros(detail, 2**sizes.lower_stages)
                self.model.p_z = Empty(sizes.latent, sizes.lower_stages)
                self.guide.q_z = Empty(sizes.latent, config.stages)
            if "u" in latents:
                p_y.trunk = Zeros(p_y.trunk.out_channels)
                self.model.p_u = Empty(sizes.lower_latent)
                self.guide.q_u = Empty(sizes.lower_latent, sizes.u_stages)

    return Without


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("latents", choices=("z", "u", "zu"), help="what is left out")
    parser.add_argument("command", choices=("train", "evaluate", "generate"))
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the command's own")
    options = parser.parse_args()
    MODELS["srvae"] = without(options.latents)
    sys.argv = [f"{options.command}.py", *options.arguments]
    runpy.run_module(f"srvae_pyro.{options.command}", run_name="__main__")


if __name__ == "__main__":
    main()
