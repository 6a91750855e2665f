"""Super-resolution of images whose x is known, beside interpolation."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from srvae_pyro.errors import UserError
from srvae_pyro.evaluation.likelihood import gathered, sweep
from srvae_pyro.evaluation.measures import Measure, Result, Task, columns
from srvae_pyro.evaluation.sr_scores import (
    FEATURE_DISTANCE,
    RANKED,
    Calibration,
    Distance,
    Diversity,
    Ranks,
    Scores,
    calibration_figure,
    differences,
    feature_distance,
    image_scores,
    stacked_means,
)
from srvae_pyro.inference.decoding import ImageNoise
from srvae_pyro.models import SRVAE, ImageModel, super_resolves
from srvae_pyro.networks import cached_weights
from srvae_pyro.pixels import interpolated, to_levels, to_unit
from srvae_pyro.system.parallel import ProcessGroup
from srvae_pyro.upscaling.quality import psnr, shown_psnr
from srvae_pyro.upscaling.upscaler import (
    UpscaleDecoding,
    downscaled,
    passes_for,
    rounded,
    upscale_batch,
    upscaling_model,
)

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
METHODS = (*INTERPOLATIONS, "sample", "mean", "mode", "expectation")  # of all models


def factors_for(model: ImageModel, requested: Sequence[int], size: Sequence[int]) -> list[int]:
    """The factors to measure at: those that were requested, or the model's own."""
    srvae = upscaling_model(model)
    factors = list(dict.fromkeys(requested)) or [srvae.guide.d.factor]
    for factor in factors:
        passes_for(srvae, factor)
        multiple = factor * srvae.lower_multiple
        if size[0] % multiple or size[1] % multiple:
            raise UserError(
                f"factor {factor} needs images whose sides are multiples of {multiple}, and "
                f"these are {size[0]}x{size[1]}: leave it out"
            )
    return factors


class SuperResolver:
    """Upscales inputs by the model's factor or, in several passes, by a power of it."""

    def __init__(self, model: SRVAE, factor: int, seed: int) -> None:
        self.model, self.factor, self.seed = model, factor, seed
        self.passes = passes_for(model, factor)

    @property
    def methods(self) -> tuple[str, ...]:
        return (*METHODS, "estimate") if self.model.has_point_estimate else METHODS

    def small(self, x: Tensor) -> Tensor:
        """The inputs y (B, c, h, w) of uint8 images (B, C, H, W)."""
        return downscaled(self.model, x, self.passes)

    def sample(self, y: Tensor, sample: int, indices: list[int]) -> Tensor:
        """A sampled output for each y, uint8, with noise tied to ``indices`` and the ``sample``."""
        for number in range(self.passes):
            # The first pass has the noise that a single one has.
            later = (*b"pass", number) if number else ()
            noise = ImageNoise((self.seed, sample, *later), indices)
            y = _in_levels(upscale_batch(self.model, to_unit(y), noise=noise))
        return y

    def by_method(self, y: Tensor, samples: Tensor) -> dict[str, Tensor]:
        """Outputs for y by method, uint8 (K, B, C, H, W); ``samples`` are the model's."""
        one_each = {
            name: interpolated(y, self.factor, method) for name, method in INTERPOLATIONS.items()
        } | {
            "mean": rounded(samples.float().mean(dim=0), y, self.model, self.passes),
            "mode": self._likeliest(y),
            "expectation": self._near(y, "mean"),
        }
        if self.model.has_point_estimate:
            one_each["estimate"] = self._near(y, "estimate")
        return {"sample": samples} | {name: output[None] for name, output in one_each.items()}

    def _likeliest(self, y: Tensor) -> Tensor:
        for _ in range(self.passes):
            y = _in_levels(self._at_zero(y, decode="mode"))
        return y

    def _near(self, y: Tensor, decode: UpscaleDecoding) -> Tensor:
        for _ in range(self.passes):
            y = rounded(self._at_zero(y, decode=decode).cpu() * 255, y, self.model)
        return y

    def _at_zero(self, y: Tensor, **decode: Any) -> Tensor:
        noise = ImageNoise(self.seed, range(len(y)))  # not the global one, whatever it is times 0
        return upscale_batch(self.model, to_unit(y), temperature=0.0, noise=noise, **decode)


def _in_levels(x: Tensor) -> Tensor:
    return to_levels(x).clamp(0, 255).to(torch.uint8).cpu()


SAMPLES = 10  # as in NTIRE's diversity score


@dataclass(frozen=True)
class FactorResult:
    methods: dict[str, Scores]  # by :data:`METHODS`
    diversity: Diversity
    images: int
    samples: int  # outputs of the model for each image
    seed: int
    factor: int
    passes: int  # of the model
    # Of sampled outputs, in one process, with their noise and their way to the CPU; without the
    # first draw, if there are others.
    megapixels_per_second: float
    photographs: int | None = None  # how many the images are cut from, if from a few
    calibration: Calibration | None = None  # of 39 samples

    def table(self) -> str:
        names = {
            "sample": "srVAE, one sample",
            "mean": f"srVAE, mean of {self.samples} samples",
            "mode": "srVAE, mode at temperature 0",
            "expectation": "srVAE, expectation at temperature 0",
            "estimate": "srVAE, its estimate",
        }
        heads = ["PSNR (dB)", "±", "SSIM", "PSNR, Y", "±", "SSIM, Y", "LR-PSNR (dB)"]
        rows = [[f"super-resolution x{self.factor}", *heads]]
        shown = ("psnr", "psnr_error", "ssim", "psnr_y", "psnr_y_error", "ssim_y")
        for method, scores in self.methods.items():
            cells = [_number(getattr(scores, name), 4 if "ssim" in name else 2) for name in shown]
            rows.append([names.get(method, method), *cells, shown_psnr(scores.lr_psnr, 2)])
        over = ""
        if self.methods["sample"].psnr_error is not None:
            images = f"{self.images:,} images"
            over = "; ± over " + (f"{self.photographs} photographs" if self.photographs else images)
        lines = [
            columns(rows, left=1),
            f"Y: luma without {self.factor} pixels at each border{over}",
            *_differences(self.diversity, self.samples),
            f"{_few(self.megapixels_per_second)} megapixels of samples per second and process",
        ]
        if self.calibration is not None:
            lines.append(_calibration_table(self.calibration, self.factor))
        return "\n".join(lines)


def _differences(diversity: Diversity, samples: int) -> list[str]:
    if diversity.std is None:
        return []
    lines = [
        f"standard deviation of the samples: {diversity.std:.1f} levels of 255 per pixel; "
        f"difference of two samples: {diversity.pairwise_rmse:.1f} (root mean square)"
    ]
    names = {
        "score_mse": "squared error over 16x16 pixels",
        "score_mse_pixels": "squared error of single pixels",
        "score_features": f"{FEATURE_DISTANCE} (not LPIPS)",
    }
    scores = []
    for key, name in names.items():
        score, error = getattr(diversity, key), getattr(diversity, f"{key}_error")
        if score is not None:
            plus_minus = "" if error is None else f" ± {error:.1f}"
            scores.append(f"{score:.1f}{plus_minus} by {name}")
    lines.append(f"NTIRE diversity of {samples} samples, %: {', '.join(scores)}")
    if diversity.score_features is None:
        lines.append(f"not by {FEATURE_DISTANCE}: pip install 'srvae-pyro[features]'")
    return lines


def _calibration_table(calibration: Calibration, factor: int) -> str:
    heads = [f"{level} %" for level in calibration.within]
    shares = [f"{100 * (share or 0):.1f} %" for share in calibration.within.values()]
    errors = [
        "-" if error is None else f"{100 * error:.1f} %"
        for error in calibration.within_error.values()
    ]
    rows = [
        [f"calibration x{factor}: interval of {calibration.samples} samples", *heads],
        ["the truth lies within", *shares],
        ["±", *errors],
    ]
    ends = (calibration.ranks[0], calibration.ranks[-1])
    below, above = (f"{100 * share:.1f} %" for share in ends)
    even = f"{100 / len(calibration.ranks):.1f} %"
    return (
        f"{columns(rows, left=1)}\n"
        f"below all samples {below}, above all {above}; calibrated: {even} each. "
        f"{100 * calibration.certain:.1f} % of the values are the same in all, and right"
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _few(value: float) -> str:
    """A positive number with two or three digits, never as a power of ten."""
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}" if value >= 0.01 else f"{value:.4f}"


@dataclass(frozen=True)
class SuperResolutionResult(Result):
    factors: list[FactorResult]

    def to_json(self) -> dict[str, Any]:
        return {f"x{result.factor}": asdict(result) for result in self.factors}

    def table(self, others: Mapping[str, Any] | None = None) -> str:
        return "\n".join(result.table() for result in self.factors)

    def figures(self, title: str) -> dict[str, Image.Image]:
        return {
            f"calibration-x{result.factor}": calibration_figure(
                result.calibration.ranks, f"{title}: super-resolution x{result.factor}"
            )
            for result in self.factors
            if result.calibration is not None
        }


@dataclass
class SuperResolution(Measure):
    name: ClassVar[str] = "super_resolution"
    flag: ClassVar[str] = "super_resolution"
    factor: tuple[int, ...]
    calibration: bool
    seed: int
    batch_size: int

    def prepare(self, model: ImageModel, group: ProcessGroup) -> None:
        if not super_resolves(model):
            raise UserError("super_resolution needs an srVAE: a VAE has no y")
        self.distance = feature_distance(group.device)

    def check(self, task: Task) -> None:
        self.factors = factors_for(task.model, self.factor, task.selection.images.shape[-2:])

    def run(self, task: Task) -> Iterator[SuperResolutionResult]:
        results: list[FactorResult] = []
        for factor in self.factors:
            result = evaluate_super_resolution(
                task.model,
                task.selection.images,
                factor=factor,
                calibrate=self.calibration,
                distance=self.distance,
                seed=self.seed,
                batch_size=self.batch_size,
                **task.options,
            )
            results.append(result)
            yield SuperResolutionResult(list(results))


@torch.no_grad()
@cached_weights()
def evaluate_super_resolution(
    model: ImageModel,
    images: Tensor,
    *,
    samples: int = SAMPLES,
    factor: int | None = None,
    calibrate: bool = False,
    distance: Distance | None = None,
    photographs: Tensor | None = None,
    seed: int = 0,
    indices: Tensor | None = None,
    batch_size: int = 100,
    progress: bool = False,
    group: ProcessGroup = ProcessGroup(),
) -> FactorResult:
    """The quality of super-resolution on uint8 images x (N, C, H, W), from y = d(x).

    Means over the images, and the samples, of one image's own number in 8 bits; an exact one counts
    as 100 dB. ``calibrate`` ranks the images among 39 samples; ``distance`` is of features, for
    diversity. Noise is tied to the ``indices``. Every process gets the result.

    Raises:
        UserError: the model does not upscale, or not by that factor.
        ValueError: no images, samples or batch size.
    """
    srvae = upscaling_model(model)
    if not len(images) or batch_size < 1 or samples < 1:
        raise ValueError("images, samples and batch_size must be at least 1")
    resolver = SuperResolver(srvae, factor or srvae.guide.d.factor, seed)
    drawing = _Drawing(resolver, samples, RANKED if calibrate else 0)
    parts = []
    with sweep(images, indices, batch_size=batch_size, group=group, progress=progress) as batches:
        for batch, numbers in batches:
            x = batch.cpu()
            y = resolver.small(x)
            drawn, scores = drawing.draw(x, y, numbers)
            for name, outputs in resolver.by_method(y, drawn).items():
                each = [
                    image_scores(output, x, resolver.factor)
                    | {"lr_psnr": psnr(resolver.small(output), y)}
                    for output in outputs
                ]
                scores |= {f"{name} {kind}": mean for kind, mean in stacked_means(each).items()}
            if samples > 1:
                scores |= differences(drawn, x, distance)
            parts.append(scores)
    values = gathered(parts, group)
    return FactorResult(
        {name: Scores.of(values, f"{name} ", photographs) for name in resolver.methods},
        Diversity.of(values, photographs=photographs),
        len(images),
        samples,
        seed,
        resolver.factor,
        resolver.passes,
        drawing.megapixels_per_second(group),
        None if photographs is None else len(photographs.unique()),
        Calibration.of(values, seed, photographs) if calibrate else None,
    )


class _Drawing:
    """Draws samples, keeps the first, ranks the truth among them, takes the time."""

    def __init__(self, resolver: SuperResolver, kept: int, ranked: int) -> None:
        self.resolver, self.kept, self.ranked = resolver, kept, ranked
        self.seconds: list[float] = []
        self.pixels: list[int] = []

    def draw(self, x: Tensor, y: Tensor, indices: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
        """Samples for y, uint8 (S, B, C, H, W), and the shares of the ranks of x among them."""
        ranks, kept = Ranks(x, indices, self.resolver.seed), []
        for sample in range(max(self.kept, self.ranked)):
            began = time.perf_counter()
            drawn = self.resolver.sample(y, sample, indices)
            self.seconds.append(time.perf_counter() - began)
            self.pixels.append(drawn[:, 0].numel())
            if sample < self.kept:
                kept.append(drawn)
            if sample < self.ranked:
                ranks.add(drawn)
        return torch.stack(kept), ranks.shares() if self.ranked else {}

    def megapixels_per_second(self, group: ProcessGroup) -> float:
        """One process's speed; the first draw also finds memory and compiles kernels."""
        first = 1 if len(self.seconds) > 1 else 0
        pixels, seconds = sum(self.pixels[first:]), sum(self.seconds[first:])
        totals = group.sum(torch.tensor([pixels, seconds], dtype=torch.float64))
        return (totals[0] / totals[1]).item() / 1e6
