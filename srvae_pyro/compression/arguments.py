"""The flags of the commands compress and decompress."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from srvae_pyro.checked import AtLeast
from srvae_pyro.config import Device
from srvae_pyro.errors import UserError
from srvae_pyro.formats import EXTENSIONS
from srvae_pyro.system.cli import check_folder, option


@dataclass
class CompressArguments:
    """Write images into one file by bits-back coding with a trained model, losslessly.

    The file is as small as the model's evidence lower bound says, plus the bits that the chain of
    images starts with and a few for each image. It holds the 8-bit pixels alone: images with
    transparency or 16 bits are refused, and EXIF, colour profiles and gamma are not kept. To read
    it takes the same model, and with fp32 mostly the same machine and version of PyTorch: it is for
    measurement and research, not for archives.
    """

    run: str
    """a run's name under runs/, its folder, pretrained-photo, or a Hub id"""
    images: Annotated[tuple[Path, ...], option("FILE_OR_FOLDER", "at least one")]
    """image files, or folders of them"""
    out: Annotated[Path | None, option("FILE", "must be given")] = None
    """the file to write; only one that compress wrote is replaced"""
    group: Annotated[int, AtLeast(1, 4096)] = 16
    """images that are coded together; more are faster and cost more bits to start with"""
    arithmetic: Literal["fp64", "fp32"] = "fp64"
    """of the networks: fp64 is the same on every machine, fp32 that of this one's libraries"""
    verify: bool = False
    """read the images back before the file is written; takes as long again"""
    device: Device = "auto"
    """auto takes a GPU if there is one"""

    def check(self) -> None:
        if not self.images:
            raise UserError("name at least one image file after the run")
        if self.out is None:
            raise UserError("name the file to write: --out FILE")
        if self.out.is_dir():
            raise UserError(f"--out {self.out} is a folder: name a file")
        if self.out.suffix.lower() in EXTENSIONS:
            raise UserError(f"--out {self.out} has an image's extension: name it otherwise")


@dataclass
class DecompressArguments:
    """Read the images back that compress has written into a file, as PNGs.

    All are decoded and compared with their checksums before any is written. Where the arithmetic
    here is not that which the file was made with, the images are the same or one line says that
    they cannot be read here.
    """

    file: Path
    """what compress wrote"""
    out: Annotated[Path | None, option("DIR", "must be given")] = None
    """folder for the images"""
    run: Annotated[str | None, option("RUN", "as the file says, under runs/")] = None
    """the run of the model that the file was made with"""
    preview: bool = False
    """every y alone, which takes the first part of the file (srVAE)"""
    device: Device = "auto"
    """auto takes a GPU if there is one"""

    def check(self) -> None:
        if self.out is None:
            raise UserError("name the folder for the images: --out DIR")
        check_folder(self.out)
