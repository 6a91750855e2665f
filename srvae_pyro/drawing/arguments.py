"""The flags of the commands generate and figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from srvae_pyro.checked import MOST_THREADS, AtLeast
from srvae_pyro.config import Device
from srvae_pyro.inference.sampling import Sampling
from srvae_pyro.system.cli import NESTED, check_arguments, check_folder, option


@dataclass
class GenerateArguments:
    """Draw new images from a trained model: single PNGs, and a grid of the first 64.

    The PNGs are in the folder images/ of --out, which holds nothing else; grid.png shows each y
    beside its x, and generate.json has the settings. Images that were drawn with the same settings
    are kept, so an interrupted call can be continued, and a larger --count adds to a smaller one. A
    folder with images of other settings is refused unless --overwrite is given.
    """

    EXAMPLE: ClassVar = "pretrained"

    run: str
    """a run's name under runs/, its folder, pretrained, or a Hub id"""
    count: Annotated[int, AtLeast(1)] = 64
    """number of images"""
    sampling: Annotated[Sampling, NESTED] = field(default_factory=Sampling)
    out: Annotated[
        Path | None, option("DIR", "the run's figures/generated; ./generated for a Hub id")
    ] = None
    """folder for the images"""
    overwrite: bool = False
    """remove images in that folder that are not part of this call"""
    batch_size: Annotated[int, AtLeast(1)] = 64
    """images at a time"""
    scale: Annotated[int, AtLeast(1)] = 2
    """factor by which the grid enlarges images; the single ones keep their size"""
    device: Device = "auto"
    """device to compute on; auto: a GPU if there is one"""
    threads: Annotated[int, AtLeast(0, MOST_THREADS)] = 0
    """CPU threads; 0: one per core that other processes leave free, checked every second"""

    def check(self) -> None:
        check_folder(self.out)
        check_arguments(self.sampling)


@dataclass
class FiguresArguments:
    """Draw the paper's Figures 3 and 5 to 11 for a run, as labelled PNGs.

    They show samples, reconstructions and interpolations; for an srVAE also super-resolution,
    generative reconstructions, and images made from the u of one image and the z of another. With
    --compare they show two runs side by side.
    """

    EXAMPLE: ClassVar = "pretrained --data DIR"

    run: str
    """a run's name under runs/, its folder, pretrained, or a Hub id"""
    compare: Annotated[str | None, option("RUN", "no other")] = None
    """another run to draw beside the first"""
    data: Annotated[str | None, option("NAME|DIR", "what the run was trained on")] = None
    """data set or folder of images whose test images are drawn"""
    data_root: Path = Path("data")
    """folder of the named data sets, to which they are downloaded"""
    count: Annotated[int, AtLeast(1)] = 10
    """images per row"""
    samples: Annotated[int, AtLeast(1)] = 3
    """super-resolution outputs per image"""
    sampling: Annotated[Sampling, NESTED] = field(default_factory=Sampling)
    side: Annotated[int, AtLeast(1), option("PIXELS")] = 80
    """approximate height of an image in a figure"""
    out: Annotated[Path | None, option("DIR", "the run's figures/")] = None
    """folder for the figures"""
    device: Device = "auto"
    """device to compute on; auto: a GPU if there is one"""
    threads: Annotated[int, AtLeast(0, MOST_THREADS)] = 0
    """CPU threads; 0: one per core that other processes leave free, checked every second"""

    def check(self) -> None:
        check_folder(self.out)
        check_arguments(self.sampling)
