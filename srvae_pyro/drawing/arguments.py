"""The flags of the commands generate and figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from srvae_pyro.checked import AtLeast
from srvae_pyro.config import Device
from srvae_pyro.inference.sampling import Sampling
from srvae_pyro.system.cli import NESTED, check_arguments, check_folder, option


@dataclass
class GenerateArguments:
    """Draw new images from a trained model: single PNGs, and a grid of the first 64.

    The PNGs are in images/ of the folder --out, which holds nothing else; grid.png has each y
    beside its x, and generate.json has the settings. Images that are there already by the same
    settings are not drawn again, so a call that was stopped goes on, and a larger --count adds to a
    smaller one. A folder of other settings is refused unless --overwrite is given.
    """

    run: str
    """a run's name under runs/, its folder, pretrained, or a Hub id"""
    count: Annotated[int, AtLeast(1)] = 64
    """how many images"""
    sampling: Annotated[Sampling, NESTED] = field(default_factory=Sampling)
    out: Annotated[
        Path | None, option("DIR", "the run's figures/generated; ./generated for a Hub id")
    ] = None
    """folder for the images"""
    overwrite: bool = False
    """remove the images in that folder that are not asked for"""
    batch_size: Annotated[int, AtLeast(1)] = 64
    """images at a time"""
    scale: Annotated[int, AtLeast(1)] = 2
    """how many times larger images are in the grid; the single ones keep their size"""
    device: Device = "auto"
    """auto takes a GPU if there is one"""
    threads: Annotated[int, AtLeast(0)] = 0
    """CPU threads; 0: as many as other processes leave cores for, checked each second"""

    def check(self) -> None:
        check_folder(self.out)
        check_arguments(self.sampling)


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
    sampling: Annotated[Sampling, NESTED] = field(default_factory=Sampling)
    side: Annotated[int, AtLeast(1), option("PIXELS")] = 80
    """height of an image in a figure, about"""
    out: Annotated[Path | None, option("DIR", "the run's figures/")] = None
    """folder for the figures"""
    device: Device = "auto"
    """auto takes a GPU if there is one"""
    threads: Annotated[int, AtLeast(0)] = 0
    """CPU threads; 0: as many as other processes leave cores for, checked each second"""

    def check(self) -> None:
        check_folder(self.out)
        check_arguments(self.sampling)
