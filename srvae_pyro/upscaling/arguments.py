"""How to upscale, and the flags of the command upscale."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from srvae_pyro.checked import MOST_THREADS, Above, AtLeast, Between
from srvae_pyro.config import Device, Precision
from srvae_pyro.errors import UserError
from srvae_pyro.formats import EXTENSIONS
from srvae_pyro.inference.sampling import Decoding
from srvae_pyro.system.cli import NESTED, check_arguments, check_folder, option

UpscaleDecoding = Literal[Decoding, "estimate"]
InputName = Literal["auto", "average", "bicubic", "lanczos", "bilinear", "unknown"]


@dataclass(frozen=True)
class UpscaleOptions:
    """How photographs are upscaled."""

    factor: Annotated[int | None, option("N", "the model's")] = None
    """upscaling factor: the model's own, its square or its cube; also 1 (restore only) and 3 for
    runs trained on damaged inputs"""
    samples: Annotated[int, AtLeast(1)] = 1
    """number of different outputs for each image, K"""
    decode: Annotated[
        UpscaleDecoding | None,
        option(
            "sample|mode|mean|estimate",
            "one output: estimate, or mean if the model has none; several: sample",
        ),
    ] = None
    """sample: draw each pixel; mode: the likeliest component's mean; mean: the expectation;
    estimate: the model's point estimate"""
    temperature: Annotated[
        float | None, AtLeast(0), option("T", "0 for a single output that is not sampled, else 1")
    ] = None
    """factor that scales the deviations of the latents; not used by estimate"""
    image_temperature: Annotated[float, Above(0)] = 1.0
    """the same for sampled pixels"""
    seed: Annotated[int, AtLeast(0)] = 0
    """random seed; the same seed gives the same outputs"""
    tile: Annotated[int | None, AtLeast(0), option("PIXELS", "as --memory-gb allows")] = None
    """side of the overlapping tiles, in pixels of the photograph; 0: no tiles"""
    memory_gb: Annotated[float, Above(0)] = 4.0
    """memory limit in gigabytes; larger images are upscaled in tiles"""
    precision: Literal["auto", Precision] = "auto"
    """precision of the networks; auto: bf16 for the point estimate if the processor has it"""
    input: InputName = "auto"
    """how the files were downscaled; average: exact averages of 2x2 pixels, which outputs keep;
    bicubic, lanczos, bilinear: by this filter; auto: detect noise and compression from the file and
    its pixels (runs trained only on averages assume average); unknown: assume nothing"""

    def check(self) -> None:
        """Refuse several outputs that would all be the same."""
        if self.decode == "estimate" and self.samples > 1:
            raise UserError("`decode=estimate` has one output: leave out `samples` or `decode`")


@dataclass
class UpscaleArguments:
    """Upscale photographs: NAME-x2.png for each; with --samples also NAME-x2-mean.png and -std.png.

    The number in a name is the factor. With --samples K the plausible outputs are NAME-x2-01.png to
    K, and NAME-x2-std.png is a map of where they differ (the standard deviation; white is the
    largest, which is printed). The run must be an srVAE whose y is a downscaled x. All images in a
    folder and its subfolders are upscaled, into folders of the same names under --out; other files
    are listed and left out. An image that fails does not stop the others: its error is listed at
    the end, and the exit code is 2.

    A run that was trained on damaged inputs, such as pretrained-photo, restores by default. With
    --input average, and with other runs, an input is taken as exact. Every output of a run with
    --likelihood groups, and their mean, then downsamples exactly to it and keeps its noise and JPEG
    blocks. For such inputs LR-PSNR is printed, which measures consistency, not quality: the PSNR of
    the downscaled output against the photograph, or "exact" if every pixel is the same.

    Transparency is upscaled by bicubic interpolation. Outputs of a gray photograph are gray. EXIF,
    XMP, resolution, colour profile and gamma are kept; what cannot be kept is reported.
    """

    EXAMPLE: ClassVar = "pretrained-photo PHOTO.jpg"
    COMMON_FLAGS: ClassVar = (
        *("out", "factor", "samples", "seed", "input", "memory_gb", "gif", "device", "threads"),
    )

    run: str
    """a run's name under runs/, its folder, pretrained-photo, or a Hub id"""
    images: Annotated[tuple[Path, ...], option("FILE_OR_FOLDER", "at least one")]
    """image files and folders of images; of an animation only the first image is upscaled"""
    out: Annotated[Path | None, option("DIR", "the run's figures/upscaled")] = None
    """folder for the outputs"""
    upscaling: Annotated[UpscaleOptions, NESTED] = field(default_factory=UpscaleOptions)
    gif: bool = False
    """also write NAME-x2.gif, an animation of the samples"""
    device: Device = "auto"
    """device to compute on; auto: a GPU if there is one"""
    threads: Annotated[int, AtLeast(0, MOST_THREADS)] = 0
    """CPU threads; 0: one per core that other processes leave free, checked every second"""

    def check(self) -> None:
        """Refuse what makes no sense whatever the model."""
        if not self.images:
            raise UserError("name at least one image file or folder after the run")
        check_folder(self.out)
        check_arguments(self.upscaling)
        if self.gif and self.upscaling.samples < 2:
            raise UserError("--gif animates several outputs: give --samples 2 or more")


@dataclass
class ExportArguments:
    """Write a run's point estimate as an ONNX file for other programs.

    Input and output are NCHW, float32, RGB in [0, 1], of any batch and size, as programs that
    upscale images expect. The file is checked against PyTorch by onnxruntime before it is written.
    The run must have been trained on damaged inputs. Needs pip install 'srvae-pyro[onnx]'.
    """

    EXAMPLE: ClassVar = "pretrained-photo"

    run: str
    """a run's name under runs/, its folder, pretrained-photo, or a Hub id"""
    out: Annotated[Path | None, option("FILE", "RUN-xN.onnx here")] = None
    """the file to write"""
    factor: Annotated[int, Between(1, 4)] = 2
    """upscaling factor; 1 only restores"""
    input: InputName = "auto"
    """how the inputs were downscaled, as for upscale; auto: unknown"""
    half: bool = False
    """compute in float16, which halves the file; input and output stay float32"""

    def check(self) -> None:
        """Refuse a file that is a folder or an image."""
        if self.out is not None and (self.out.is_dir() or self.out.suffix.lower() in EXTENSIONS):
            raise UserError(
                f"`out` is the ONNX file to write, but {self.out} is a folder or an image"
            )
