"""Draw new pictures from a trained model: ``python -m srvae_pyro.generate --help``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from srvae_pyro.checked import AtLeast
from srvae_pyro.commands import check_folder, option, run_command
from srvae_pyro.config import Device

__all__ = ["GenerateArguments", "main"]


@dataclass
class GenerateArguments:
    """Draw new pictures from a trained model: single PNGs, and a grid of the first 64.

    The PNGs are in pictures/ of the folder --out, which holds nothing else; grid.png has each y
    beside its x, and generate.json tells what they were drawn with. Pictures that are there already
    by the same settings are not drawn again, so a call that was stopped goes on, and a larger
    --count adds to a smaller one. Those of an earlier call that are not asked for are moved to
    earlier/.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """a run's name under runs/, its folder, or a Hub id"""
    count: Annotated[int, AtLeast(1)] = 64
    """how many pictures"""
    decode: Literal["sample", "mode", "mean"] = "sample"
    """draw each pixel, take the likeliest component's mean, or the expectation"""
    temperature: float = 1.0
    """factor on the standard deviations of the latents; below 1: more typical, less varied"""
    image_temperature: float = 1.0
    """the same for the pixels that are sampled"""
    seed: Annotated[int, AtLeast(0)] = 0
    """of all noise; picture i of a seed is the same whatever the batch size"""
    out: Annotated[
        Path | None, option("DIR", "the run's figures/generated; ./generated for a Hub id")
    ] = None
    """folder for the pictures"""
    batch_size: Annotated[int, AtLeast(1)] = 64
    """pictures at a time"""
    scale: Annotated[int, AtLeast(1)] = 2
    """pixels a pixel in the grid; the single pictures keep their size"""
    device: Device = "auto"
    """auto takes a GPU if there is one"""


def main(arguments: GenerateArguments) -> int:
    """Generate as asked; the exit code."""
    check_folder(arguments.out)
    from srvae_pyro.drawing.generation import generate

    return generate(arguments)


if __name__ == "__main__":
    run_command(GenerateArguments, main, "generate", "give a smaller --batch-size")
