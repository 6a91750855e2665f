"""The flags of the command evaluate."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from srvae_pyro.checked import MOST_THREADS, Above, AtLeast
from srvae_pyro.config import Device, Precision
from srvae_pyro.errors import UserError, flag_of
from srvae_pyro.inference.sampling import Temperatures
from srvae_pyro.system.cli import NESTED, check_arguments, option

Pixels = Literal["sample", "mode"]
# Flags that make sense only beside one of those that request a measure.
FLAGS_OF = {
    ("fid_images", "fid_weights"): ("fid",),
    ("kid_images",): ("kid",),
    ("decode", "temperature", "image_temperature", "y_temperature"): ("fid", "kid"),
    ("factor", "calibration"): ("super_resolution",),
}


@dataclass
class EvaluateArguments:
    """Measure a trained model as the paper's Table 1 does.

    Measures the negative log-likelihood by importance sampling and the evidence lower bound with
    its terms; on request also FID and KID of generated images, KID in the features of a network
    that pip installs, the quality of super-resolution, and the size of a lossless code. Prints a
    table and appends each result, with what is needed to repeat it, to the run's evaluation.jsonl
    as soon as it is known.
    """

    EXAMPLE: ClassVar = "pretrained --data DIR"
    COMMON_FLAGS: ClassVar = (
        *("data", "split", "limit", "seed", "importance_samples", "elbo_only"),
        *("kid", "super_resolution", "compress", "device"),
    )

    run: str
    """a run's name under runs/, its folder, pretrained, or a Hub id"""
    data: Annotated[str | None, option("NAME|DIR", "what the run was trained on")] = None
    """data set or folder of images; or the new location of the run's own images"""
    data_root: Path = Path("data")
    """folder of the named data sets, to which they are downloaded"""
    split: Literal["train", "val", "test", "all"] = "test"
    """split to evaluate on"""
    limit: Annotated[int | None, AtLeast(1), option("N", "all")] = None
    """number of images, evenly spaced over the split, always the same ones"""
    seed: Annotated[int, AtLeast(0)] = 0
    """random seed; each image has its own noise, independent of the batch size"""

    importance_samples: Annotated[int, AtLeast(1)] = 500
    """importance samples per image, S; the time grows with it"""
    estimator: Literal["product", "paired"] = "product"
    """product: all S x S pairs of u and z, tighter at the same cost; paired: S pairs"""
    refine: Annotated[int, AtLeast(0)] = 0
    """gradient steps to refine each image's q, for a second estimate of the likelihood; try 50"""
    elbo_samples: Annotated[int, AtLeast(1)] = 1
    """samples per image for the evidence lower bound"""
    elbo_only: bool = False
    """skip importance sampling, which takes most of the time"""

    fid: bool = False
    """also FID and KID: 10,000 generated images against test, 50,000 against training images"""
    fid_weights: Annotated[Path | None, option("FILE", "torch-fidelity's cache, else download")] = (
        None
    )
    """weights of torch-fidelity's Inception network"""
    fid_images: Annotated[int | None, AtLeast(2), option("N", "10000 and 50000")] = None
    """fewer images for both: faster, but biased upwards and not comparable"""
    kid: bool = False
    """also KID of x and y in EfficientNet-Lite0 features, against the images of --split"""
    kid_images: Annotated[int | None, AtLeast(3), option("N", "5000, or a smaller --limit")] = None
    """number of images to generate for --kid"""
    decode: Annotated[Pixels | None, option("{sample,mode}", "sample; for --kid both")] = None
    """pixels of generated images: sample: draw each; mode: the likeliest component's mean"""
    temperatures: Annotated[Temperatures, NESTED] = field(default_factory=Temperatures)

    super_resolution: bool = False
    """also PSNR, SSIM, diversity and speed of super-resolution, with bicubic as baseline (srVAE)"""
    factor: Annotated[tuple[int, ...], AtLeast(2), option("N ...", "the model's own")] = ()
    """super-resolution factors: 2 4 measures both, x4 as two steps of x2"""
    calibration: bool = False
    """also how often the truth lies within the spread of 39 super-resolution samples"""

    compress: Annotated[int | None, AtLeast(1), option("N", "no")] = None
    """also compress N of the images by bits-back coding, PNG, WebP and JPEG XL; report the sizes"""

    measure: Annotated[tuple[str, ...], option("NAME [FIELD=VALUE ...]", "none")] = ()
    """additional measures that have no flag, such as your own, with their settings"""

    batch_size: Annotated[int, AtLeast(1)] = 100
    """images per batch, unless --memory-gb sets it"""
    memory_gb: Annotated[float, Above(0)] = 4.0
    """gigabytes of memory for importance sampling"""
    precision: Precision = "fp32"
    """precision of the networks; use fp32 for results to report"""
    device: Device = "auto"
    """device to compute on; auto: a GPU if there is one"""
    threads: Annotated[int, AtLeast(0, MOST_THREADS)] = 0
    """CPU threads; 0: one per core that other processes leave free, checked every second"""
    json: Annotated[Path | None, option("FILE", "only the run's evaluation.jsonl")] = None
    """also write the results to this file"""

    def check(self) -> None:
        check_arguments(self.temperatures)
        if self.refine and self.elbo_only:
            raise UserError("--refine needs importance sampling: leave out --elbo-only")
        values = {**vars(self), **vars(self.temperatures)}
        defaults = {**vars(EvaluateArguments("")), **vars(Temperatures())}
        for names, measures in FLAGS_OF.items():
            given = [flag_of(name) for name in names if values[name] != defaults[name]]
            if given and not any(values[measure] for measure in measures):
                of = " or ".join(map(flag_of, measures))
                raise UserError(f"{given[0]} needs {of}: give both, or neither")
        if self.json is not None and self.json.is_dir():
            raise UserError(f"--json {self.json} is a folder: name a file")
