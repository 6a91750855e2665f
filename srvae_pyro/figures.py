"""The paper's figures for any run: ``python -m srvae_pyro.figures --help``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from srvae_pyro.checked import AtLeast
from srvae_pyro.commands import check_folder, option, run_command
from srvae_pyro.config import Device

__all__ = ["FiguresArguments", "main"]


@dataclass
class FiguresArguments:
    """Draw the paper's Figures 3 and 5 to 11 for a run, as labelled PNGs.

    Samples, reconstructions and interpolations; for the srVAE also super-resolution, generative
    reconstructions, and pictures made from u of one and z of another; with --compare two runs side
    by side.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """a run's name under runs/, its folder, or a Hub id"""
    compare: Annotated[str | None, option("RUN", "no other")] = None
    """another run, to be drawn beside the first"""
    data: Annotated[str | None, option("NAME|DIR", "what the run was trained on")] = None
    """a data set's name or a folder of pictures, whose test pictures are drawn"""
    data_root: Path = Path("data")
    """where the named data sets are, or are downloaded to"""
    count: Annotated[int, AtLeast(1)] = 10
    """pictures a row"""
    samples: Annotated[int, AtLeast(1)] = 3
    """answers of super-resolution for each picture"""
    decode: Literal["sample", "mode", "mean"] = "sample"
    """draw each pixel, take the likeliest component's mean, or the expectation"""
    temperature: float = 1.0
    """factor on the standard deviations of the latents"""
    seed: Annotated[int, AtLeast(0)] = 0
    """of all noise"""
    side: Annotated[int, AtLeast(1), tyro.conf.arg(metavar="PIXELS")] = 80
    """height of a picture in a figure, about"""
    out: Annotated[Path | None, option("DIR", "the run's figures/")] = None
    """folder for the figures"""
    device: Device = "auto"
    """auto takes a GPU if there is one"""


def main(arguments: FiguresArguments) -> int:
    """Draw as asked; the exit code."""
    check_folder(arguments.out)
    from srvae_pyro.drawing.figures import draw_figures

    return draw_figures(arguments)


if __name__ == "__main__":
    run_command(FiguresArguments, main, "figures", "give a smaller --count or --samples")
