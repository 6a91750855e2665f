"""How to upscale, and the flags of the command upscale."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from srvae_pyro.checked import Above, AtLeast, Between
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
    """how many times larger: the model's own factor, its square or its cube; 1 restores, and 3 is
    possible too, by a run that has learnt from damaged inputs"""
    samples: Annotated[int, AtLeast(1)] = 1
    """how many different outputs for each, K"""
    decode: Annotated[
        UpscaleDecoding | None,
        option(
            "sample|mode|mean|estimate",
            "for one output estimate, or mean of a model that makes none; sample for several",
        ),
    ] = None
    """draw each pixel; the likeliest component's mean; the expectation; what the model estimates"""
    temperature: Annotated[
        float | None, AtLeast(0), option("T", "0 for one output that is not sampled, else 1")
    ] = None
    """factor on the standard deviations of the latents; an estimate has none"""
    image_temperature: Annotated[float, Above(0)] = 1.0
    """the same for the pixels that are sampled"""
    seed: Annotated[int, AtLeast(0)] = 0
    """of all noise: an image has the same outputs with the same seed"""
    tile: Annotated[int | None, AtLeast(0), option("PIXELS", "as --memory-gb allows")] = None
    """upscale in overlapping tiles of so many pixels of the photograph a side; 0: whole"""
    memory_gb: Annotated[float, Above(0)] = 4.0
    """gigabytes for networks, photograph, outputs and files; what needs more is done in tiles"""
    precision: Literal["auto", Precision] = "auto"
    """of the networks; auto: bf16 for the point estimate of inputs if the processor has it"""
    input: InputName = "auto"
    """what the files are: average, rounded averages of 2x2 pixels, with which outputs are exactly
    consistent; or reduced by bicubic, lanczos or bilinear; auto: noise and JPEG compression as file
    and pixels show them; unknown: nothing is assumed"""

    def check(self) -> None:
        """Refuse several outputs that would all be the same."""
        if self.decode == "estimate" and self.samples > 1:
            raise UserError("`decode=estimate` is one output: leave out `samples`, or `decode`")


@dataclass
class UpscaleArguments:
    """Upscale photographs: NAME-x2.png for each; with --samples also NAME-x2-mean.png and -std.png.

    The number in a name is the factor. With --samples K the plausible outputs are NAME-x2-01.png to
    K, and NAME-x2-std.png is a map of where they differ (the standard deviation; white is the
    largest, which is printed). The run is an srVAE whose y is a downscaled x. Of a folder all
    images in it and below are upscaled, into folders of the same names under --out; other files are
    named and left out. An image that fails does not stop the others: it is reported at the end,
    with exit code 2.

    LR-PSNR, printed for each output, measures consistency: the PSNR of the downscaled output
    against the photograph, or "exact" if every pixel is the same. It does not measure quality: a
    restored output departs from a damaged input.

    A run that has learnt from damaged inputs, such as pretrained-photo, restores by default. With
    --input average, and by other runs, an input is taken as exact: every output of a run with
    --likelihood groups downsamples exactly to it, their mean too, and repeats its noise and JPEG
    blocks.

    Transparency is upscaled by bicubic interpolation. A gray photograph's outputs are gray; EXIF,
    XMP, resolution, colour profile and gamma are kept, and a line names what is not.
    """

    COMMON_FLAGS: ClassVar = (
        *("out", "factor", "samples", "seed", "input", "memory_gb", "gif", "device", "threads"),
    )

    run: str
    """a run's name under runs/, its folder, pretrained-photo, or a Hub id"""
    images: Annotated[tuple[Path, ...], option("FILE_OR_FOLDER", "at least one")]
    """image files, and folders of them; of an animation the first image is taken"""
    out: Annotated[Path | None, option("DIR", "the run's figures/upscaled")] = None
    """folder for the outputs"""
    upscaling: Annotated[UpscaleOptions, NESTED] = field(default_factory=UpscaleOptions)
    gif: bool = False
    """also NAME-x2.gif, the samples as an animation"""
    device: Device = "auto"
    """auto takes a GPU if there is one"""
    threads: Annotated[int, AtLeast(0)] = 0
    """CPU threads; 0: as many as other processes leave cores for, checked each second"""

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
    The run must have learnt from damaged inputs. Needs pip install 'srvae-pyro[onnx]'.
    """

    run: str
    """a run's name under runs/, its folder, pretrained-photo, or a Hub id"""
    out: Annotated[Path | None, option("FILE", "RUN-xN.onnx here")] = None
    """the file to write"""
    factor: Annotated[int, Between(1, 4)] = 2
    """how many times larger outputs are; 1 restores"""
    input: InputName = "auto"
    """what the inputs are, as for upscale; auto: unknown"""
    half: bool = False
    """compute in float16: half the file; input and output stay float32"""

    def check(self) -> None:
        """Refuse a file that is a folder or an image."""
        if self.out is not None and (self.out.is_dir() or self.out.suffix.lower() in EXTENSIONS):
            raise UserError(f"`out` is the ONNX file to write, and {self.out} is something else")
