"""The flags of the commands generate and figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from srvae_pyro.checked import Above, AtLeast
from srvae_pyro.config import Device
from srvae_pyro.system.cli import check_folder, option

__all__ = ["FiguresArguments", "GenerateArguments"]


@dataclass
class GenerateArguments:
    """Draw new images from a trained model: single PNGs, and a grid of the first 64.

    The PNGs are in images/ of the folder --out, which holds nothing else; grid.png has each y
    beside its x, and generate.json tells what they were drawn with. Images that are there already
    by the same settings are not drawn again, so a call that was stopped goes on, and a larger
    --count adds to a smaller one. Those of an earlier call that are not asked for are moved to
    earlier/.
    """

    run: str
    """a run's name under runs/, its folder, pretrained, or a Hub id"""
    count: Annotated[int, AtLeast(1)] = 64
    """how many images"""
    decode: Literal["sample", "mode", "mean"] = "sample"
    """draw each pixel, take the likeliest component's mean, or the expectation"""
    temperature: Annotated[float, AtLeast(0)] = 1.0
    """factor on the standard deviations of the latents; below 1: more typical, less varied"""
    image_temperature: Annotated[float, Above(0)] = 1.0
    """the same for the pixels that are sampled"""
    y_temperature: Annotated[float | None, Above(0), option("X", "as --image-temperature")] = None
    """the same for the pixels of the srVAE's y"""
    seed: Annotated[int, AtLeast(0)] = 0
    """of all noise; image i of a seed is the same whatever the batch size"""
    out: Annotated[
        Path | None, option("DIR", "the run's figures/generated; ./generated for a Hub id")
    ] = None
    """folder for the images"""
    batch_size: Annotated[int, AtLeast(1)] = 64
    """images at a time"""
    scale: Annotated[int, AtLeast(1)] = 2
    """how many times larger images are in the grid; the single ones keep their size"""
    device: Device = "auto"
    """auto takes a GPU if there is one"""
    threads: Annotated[int, AtLeast(0)] = 0
    """CPU threads; 0: as many as other processes leave cores for, checked each second"""

    def check(self) -> None:
        """Refuse an ``--out`` that is an image's name."""
        check_folder(self.out)


@dataclass
class FiguresArguments:
    """Draw the paper's Figures 3 and 5 to 11 for a run, as labelled PNGs.

    Samples, reconstructions and interpolations; for the srVAE also super-resolution, generative
    reconstructions, and images made from u of one and z of another; with --compare two runs side
    by side.
    """

    run: str
    """a run's name under runs/, its folder, pretrained, or a Hub id"""
    compare: Annotated[str | None, option("RUN", "no other")] = None
    """another run, to be drawn beside the first"""
    data: Annotated[str | None, option("NAME|DIR", "what the run was trained on")] = None
    """a data set's name or a folder of images, whose test images are drawn"""
    data_root: Path = Path("data")
    """where the named data sets are, or are downloaded to"""
    count: Annotated[int, AtLeast(1)] = 10
    """images a row"""
    samples: Annotated[int, AtLeast(1)] = 3
    """outputs of super-resolution for each image"""
    decode: Literal["sample", "mode", "mean"] = "sample"
    """draw each pixel, take the likeliest component's mean, or the expectation"""
    temperature: Annotated[float, AtLeast(0)] = 1.0
    """factor on the standard deviations of the latents"""
    image_temperature: Annotated[float, Above(0)] = 1.0
    """the same for the pixels that are sampled"""
    y_temperature: Annotated[float | None, Above(0), option("X", "as --image-temperature")] = None
    """the same for the pixels of the srVAE's y"""
    seed: Annotated[int, AtLeast(0)] = 0
    """of all noise"""
    side: Annotated[int, AtLeast(1), option("PIXELS")] = 80
    """height of an image in a figure, about"""
    out: Annotated[Path | None, option("DIR", "the run's figures/")] = None
    """folder for the figures"""
    device: Device = "auto"
    """auto takes a GPU if there is one"""
    threads: Annotated[int, AtLeast(0)] = 0
    """CPU threads; 0: as many as other processes leave cores for, checked each second"""

    def check(self) -> None:
        """Refuse an ``--out`` that is an image's name."""
        check_folder(self.out)
