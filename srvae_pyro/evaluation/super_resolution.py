"""Super-resolution of images whose x is known, beside interpolation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from srvae_pyro.errors import UserError
from srvae_pyro.evaluation.likelihood import gathered, sweep
from srvae_pyro.evaluation.sr_scores import (
    RANKED,
    Calibration,
    Distance,
    Diversity,
    Ranks,
    Scores,
    differences,
    image_scores,
    stacked_means,
)
from srvae_pyro.inference.decoding import ImageNoise
from srvae_pyro.models import SRVAE, ImageModel
from srvae_pyro.networks import cached_weights
from srvae_pyro.pixels import to_levels, to_unit
from srvae_pyro.system.parallel import ProcessGroup
from srvae_pyro.upscaling.quality import psnr
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


def factors_for(model: ImageModel, asked: Sequence[int], size: Sequence[int]) -> list[int]:
    """The factors to measure at: those that were asked for, or the model's own.

    Args:
        model: a srVAE that upscales.
        asked: powers of its factor, or none.
        size: height and width of the images x.

    Raises:
        UserError: the model does not upscale, not by such a factor, or not to such images.
    """
    srvae = upscaling_model(model)
    factors = list(dict.fromkeys(asked)) or [srvae.guide.d.factor]
    for factor in factors:
        passes_for(srvae, factor)
        multiple = factor * srvae.lower_multiple
        if size[0] % multiple or size[1] % multiple:
            raise UserError(
                f"--factor {factor} takes images whose sides are multiples of {multiple}, and "
                f"these are {size[0]}x{size[1]}: leave it out"
            )
    return factors


class SuperResolver:
    """Outputs a model's inputs, at its own factor or at a power of it.

    At a power the output is asked again, as often as need be, so that each step is the model's own.

    Args:
        model: the srVAE, which upscales.
        factor: a power of the model's.
        seed: of the noise.

    Raises:
        UserError: the factor is none.
    """

    def __init__(self, model: SRVAE, factor: int, seed: int) -> None:
        self.model, self.factor, self.seed = model, factor, seed
        self.passes = passes_for(model, factor)

    @property
    def methods(self) -> tuple[str, ...]:
        """What gives outputs: :data:`METHODS`, and the estimate of a model that makes one."""
        return (*METHODS, "estimate") if self.model.has_point_estimate else METHODS

    def small(self, x: Tensor) -> Tensor:
        """The inputs y (B, c, h, w) of uint8 images (B, C, H, W)."""
        return downscaled(self.model, x, self.passes)

    def sample(self, y: Tensor, sample: int, indices: list[int]) -> Tensor:
        """An output to each y, uint8 (B, c, h, w): uint8 (B, C, H, W).

        Args:
            y: the inputs.
            sample: the output's number.
            indices: the images' numbers, to which the noise is tied.
        """
        for number in range(self.passes):
            # The first pass has the noise that a single one has.
            later = (*b"pass", number) if number else ()
            noise = ImageNoise((self.seed, sample, *later), indices)
            y = _in_levels(upscale_batch(self.model, to_unit(y), noise=noise))
        return y

    def by_method(self, y: Tensor, samples: Tensor) -> dict[str, Tensor]:
        """Outputs to y by what gave them: uint8 (K, B, C, H, W), K being 1 for most.

        Args:
            y: uint8 (B, c, h, w).
            samples: of the model, uint8 (S, B, C, H, W).
        """
        one_each = {
            name: interpolated(y, self.factor, method) for name, method in INTERPOLATIONS.items()
        } | {
            "mean": rounded(samples.float().mean(dim=0), self.model, y, self.passes),
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
            y = rounded(self._at_zero(y, decode=decode).cpu() * 255, self.model, y)
        return y

    def _at_zero(self, y: Tensor, **decode: Any) -> Tensor:
        noise = ImageNoise(self.seed, range(len(y)))  # not the global one, whatever it is times 0
        return upscale_batch(self.model, to_unit(y), temperature=0.0, noise=noise, **decode)


def interpolated(y: Tensor, factor: int, method: Image.Resampling) -> Tensor:
    """uint8 images (B, C, h, w) upscaled by Pillow in 8 bits: uint8 (B, C, H, W)."""
    size = (factor * y.shape[-1], factor * y.shape[-2])
    planes = [
        np.asarray(Image.fromarray(plane).resize(size, method)) for plane in y.flatten(0, 1).numpy()
    ]
    return torch.from_numpy(np.stack(planes)).unflatten(0, y.shape[:2])


def _in_levels(x: Tensor) -> Tensor:
    return to_levels(x).clamp(0, 255).to(torch.uint8).cpu()


SAMPLES = 10  # of which NTIRE's diversity score is


@dataclass(frozen=True)
class SuperResolutionResult:
    """The quality of super-resolution on a set of images.

    Attributes:
        methods: scores by name: of Pillow's nearest, bilinear, bicubic and lanczos; of a
            ``sample``; of ``mean``, the mean of the samples; of ``mode`` and ``expectation``,
            decoded so at temperature 0; of ``estimate``, where the model makes one.
        diversity: of the samples.
        images: how many images.
        samples: outputs of the model for each, K.
        seed: of the noise.
        factor: how many times larger x is than y.
        passes: in how many steps of the model.
        megapixels_per_second: pixels of sampled outputs, in millions, in a second of one process,
            with their noise and their way to the CPU; without the first draw, if there are others.
        photographs: how many the images are cut from, where standard errors are over these.
        calibration: of 39 samples, if asked for.
    """

    methods: dict[str, Scores]
    diversity: Diversity
    images: int
    samples: int
    seed: int
    factor: int
    passes: int
    megapixels_per_second: float
    photographs: int | None = None
    calibration: Calibration | None = None

    def to_json(self) -> dict[str, dict[str, Any]]:
        """For files: the scores and, apart, the calibration, by name; of several steps with x4."""
        values = asdict(self)
        calibration = values.pop("calibration")
        suffix = "" if self.passes == 1 else f"_x{self.factor}"
        found = {f"super_resolution{suffix}": values}
        if calibration is not None:
            found[f"calibration{suffix}"] = {**calibration, "factor": self.factor}
        return found


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
) -> SuperResolutionResult:
    """The quality of super-resolution on uint8 images x (N, C, H, W), from y = d(x).

    All outputs are in 8 bits. Each number is the mean over the images, and over the samples
    where there are several, of one image's own number; in dB an exact image counts as 100
    (interpolation of a plain one is exact), so averages stay finite.

    Args:
        model: a srVAE whose y is a downscaled x.
        images: the images.
        samples: outputs of the model for each, K.
        factor: how many times larger x is than y, a power of the model's own; that if not given.
        calibrate: whether to rank the images among 39 samples, of which the first are those K.
        distance: of features, for the diversity score.
        photographs: the index of the photograph that each image is cut from, (N).
        seed: of the noise; each image has its own, whatever the batch.
        indices: the images' indices, to which their noise is tied; 0 and on if not given.
        batch_size: images at a time.
        progress: whether to show a bar.
        group: the processes that share the images, all of which get the result.

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
            drawn, own = drawing.draw(x, y, numbers)
            for name, outputs in resolver.by_method(y, drawn).items():
                each = [
                    image_scores(output, x, resolver.factor)
                    | {"lr_psnr": psnr(resolver.small(output), y)}
                    for output in outputs
                ]
                own |= {f"{name} {kind}": mean for kind, mean in stacked_means(each).items()}
            if samples > 1:
                own |= differences(drawn, x, distance)
            parts.append(own)
    values = gathered(parts, group)
    return SuperResolutionResult(
        {name: Scores.of(values, f"{name} ", photographs) for name in resolver.methods},
        Diversity.of(values, photographs),
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
    """Draws samples of an answerer, ranks the truth among them, and keeps the time.

    Args:
        answerer: whose.
        kept: how many are kept.
        ranked: among how many the truth is ranked; 0: it is not.
    """

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
        """Of one process; the first draw also finds memory and compiles kernels."""
        first = 1 if len(self.seconds) > 1 else 0
        pixels, seconds = sum(self.pixels[first:]), sum(self.seconds[first:])
        totals = group.sum(torch.tensor([pixels, seconds], dtype=torch.float64))
        return (totals[0] / totals[1]).item() / 1e6
