"""The flags of the commands compress and decompress."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from srvae_pyro.checked import AtLeast
from srvae_pyro.config import Device
from srvae_pyro.errors import UserError
from srvae_pyro.formats import EXTENSIONS
from srvae_pyro.system.cli import check_folder, option


@dataclass
class CompressArguments:
    """Write images into one file by bits-back coding with a trained model, losslessly.

    The size of the file is that of the model's negative evidence lower bound, plus the initial bits
    of each chain and a few bits for each image. It holds only the 8-bit pixels: images with
    transparency or 16 bits are refused, and EXIF, colour profiles and gamma are not kept. Reading
    it needs the same model and, with fp32, usually the same machine and version of PyTorch: it is
    for measurement and research, not for archives.
    """

    EXAMPLE: ClassVar = "pretrained-photo PHOTO.png --out FILE"

    run: str
    """a run's name under runs/, its folder, pretrained-photo, or a Hub id"""
    images: Annotated[tuple[Path, ...], option("FILE_OR_FOLDER", "at least one")]
    """image files and folders of images"""
    out: Annotated[Path | None, option("FILE", "must be given")] = None
    """file to write; an existing one is replaced only if compress wrote it"""
    group: Annotated[int, AtLeast(1, 4096)] = 16
    """images coded together; more are faster and cost more initial bits"""
    arithmetic: Literal["fp64", "fp32"] = "fp64"
    """arithmetic of the networks: fp64: the same on every machine; fp32: that of its libraries"""
    verify: bool = False
    """decode the images before the file is written; doubles the time"""
    device: Device = "auto"
    """device to compute on; auto: a GPU if there is one"""

    def check(self) -> None:
        if not self.images:
            raise UserError("name at least one image file after the model")
        if self.out is None:
            raise UserError("name the file to write: --out FILE")
        if self.out.is_dir():
            raise UserError(f"--out {self.out} is a folder: name a file")
        if self.out.suffix.lower() in EXTENSIONS:
            raise UserError(f"--out {self.out} has the extension of an image: choose another")


@dataclass
class DecompressArguments:
    """Decode the images in a file that compress wrote, to PNGs.

    All are decoded and compared with their checksums before any is written. If the arithmetic of
    this machine differs from where the file was made, the images are either the same or refused
    with an error.
    """

    file: Path
    """file that compress wrote"""
    out: Annotated[Path | None, option("DIR", "must be given")] = None
    """folder for the images"""
    run: Annotated[str | None, option("RUN", "named in the file")] = None
    """run of the model that the file was made with"""
    preview: bool = False
    """decode only each y, from the first part of the file (srVAE)"""
    device: Device = "auto"
    """device to compute on; auto: a GPU if there is one"""

    def check(self) -> None:
        if self.out is None:
            raise UserError("name the folder for the images: --out DIR")
        check_folder(self.out)
