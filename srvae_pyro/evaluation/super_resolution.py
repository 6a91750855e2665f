"""Quality of super-resolution against pictures whose x is known, beside interpolation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from srvae_pyro.evaluation.sweep import sweep
from srvae_pyro.inference.means import RunningMean
from srvae_pyro.inference.noise import ImageNoise
from srvae_pyro.models import SRVAE, ImageModel
from srvae_pyro.networks import cached_weights
from srvae_pyro.pixels import to_levels, to_unit
from srvae_pyro.system.parallel import Group
from srvae_pyro.upscaling.agreement import rounded
from srvae_pyro.upscaling.answers import answers
from srvae_pyro.upscaling.enlarging import downscaled, enlarging
from srvae_pyro.upscaling.quality import WINDOW, psnr, ssim

__all__ = [
    "INTERPOLATIONS",
    "Diversity",
    "Scores",
    "SuperResolutionResult",
    "evaluate_super_resolution",
    "interpolated",
]

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
METHODS = (*INTERPOLATIONS, "sample", "mean", "mode", "expectation")


@dataclass(frozen=True)
class Scores:
    """How near answers are to the pictures, on average.

    Attributes:
        psnr: dB.
        ssim: None for pictures under 11 pixels a side.
        lr_psnr: dB, of d of the answer against y.
    """

    psnr: float
    ssim: float | None
    lr_psnr: float


@dataclass(frozen=True)
class Diversity:
    """How samples differ, in levels of 255; None for one sample.

    Attributes:
        std: the standard deviation over the samples, averaged over pixels and colours.
        pairwise_rmse: the root mean squared difference of two samples, averaged over pairs and
            pictures.
    """

    std: float | None
    pairwise_rmse: float | None


@dataclass(frozen=True)
class SuperResolutionResult:
    """The quality of super-resolution on a set of pictures.

    Attributes:
        methods: scores by name: of Pillow's nearest, bilinear, bicubic and lanczos; of a
            ``sample``; of ``mean``, the mean of the samples; of ``mode`` and ``expectation``,
            decoded so at temperature 0.
        diversity: of the samples.
        images: how many pictures.
        samples: answers of the model for each, K.
        seed: of the noise.
        factor: how many times larger x is than y.
    """

    methods: dict[str, Scores]
    diversity: Diversity
    images: int
    samples: int
    seed: int
    factor: int


@torch.no_grad()
@cached_weights()
def evaluate_super_resolution(
    model: ImageModel,
    images: Tensor,
    *,
    samples: int = 8,
    seed: int = 0,
    indices: Tensor | None = None,
    batch_size: int = 100,
    progress: bool = False,
    group: Group = Group(),
) -> SuperResolutionResult:
    """The quality of super-resolution on uint8 pictures x (N, C, H, W), from y = d(x).

    All answers are in 8 bits. Each number is the mean over the pictures, and over the samples
    where there are several, of one picture's own number; in dB an exact picture counts as 100
    (interpolation of a plain one is exact), so averages stay finite.

    Args:
        model: a srVAE whose y is a downscaled x.
        images: the pictures.
        samples: answers of the model for each, K.
        seed: of the noise; each picture has its own, whatever the batch.
        indices: the pictures' indices, to which their noise is tied; 0 and on if not given.
        batch_size: pictures times samples at a time.
        progress: whether to show a bar.
        group: the processes that share the pictures, all of which get the result.

    Raises:
        UserError: the model does not enlarge.
        ValueError: no pictures, samples or batch size.
    """
    srvae = enlarging(model)
    if not len(images) or batch_size < 1 or samples < 1:
        raise ValueError("pictures, samples and batch_size must be at least 1")
    means = RunningMean()
    step = max(batch_size // samples, 1)
    with sweep(images, indices, batch_size=step, group=group, progress=progress) as batches:
        for batch, batch_indices in batches:
            x = batch.cpu()
            y = downscaled(srvae, x)
            drawn = _samples(srvae, y, samples, seed, batch_indices)
            for name, pictures in _answers_by_method(srvae, y, drawn).items():
                for picture in pictures:
                    scores = _scores(picture, x)
                    scores["lr_psnr"] = psnr(downscaled(srvae, picture), y)
                    means.add({f"{name} {kind}": score for kind, score in scores.items()})
            if samples > 1:
                means.add(_diversity(drawn.float()))
    values = means.read(group.sum)
    return SuperResolutionResult(
        {
            name: Scores(
                values[f"{name} psnr"], values.get(f"{name} ssim"), values[f"{name} lr_psnr"]
            )
            for name in METHODS
        },
        Diversity(values.get("std"), values.get("pairwise_rmse")),
        len(images),
        samples,
        seed,
        srvae.guide.d.factor,
    )


def _samples(model: SRVAE, y: Tensor, samples: int, seed: int, indices: list[int]) -> Tensor:
    """Answers of the model to y (B, c, h, w), uint8 (S, B, C, H, W)."""
    noises = [ImageNoise((seed, sample), indices) for sample in range(samples)]
    return torch.stack([_in_levels(answers(model, to_unit(y), noise=noise)) for noise in noises])


def _answers_by_method(model: SRVAE, y: Tensor, samples: Tensor) -> dict[str, Tensor]:
    """Answers to y (B, c, h, w) by what gave them: uint8 (K, B, C, H, W), K being 1 for most."""
    factor, unit = model.guide.d.factor, to_unit(y)
    expectation = answers(model, unit, decode="mean", temperature=0.0)
    one_each = {
        name: interpolated(y, factor, method) for name, method in INTERPOLATIONS.items()
    } | {
        "mean": rounded(samples.float().mean(dim=0), model, y),
        "mode": _in_levels(answers(model, unit, decode="mode", temperature=0.0)),
        "expectation": rounded(expectation.cpu() * 255, model, y),
    }
    return {"sample": samples} | {name: answer[None] for name, answer in one_each.items()}


def interpolated(y: Tensor, factor: int, method: Image.Resampling) -> Tensor:
    """uint8 pictures (B, C, h, w) enlarged by Pillow in 8 bits: uint8 (B, C, H, W)."""
    size = (factor * y.shape[-1], factor * y.shape[-2])
    planes = [
        np.asarray(Image.fromarray(plane).resize(size, method)) for plane in y.flatten(0, 1).numpy()
    ]
    return torch.from_numpy(np.stack(planes)).unflatten(0, y.shape[:2])


def _in_levels(x: Tensor) -> Tensor:
    return to_levels(x).clamp(0, 255).to(torch.uint8).cpu()


def _scores(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """PSNR and, of pictures that are large enough, SSIM of uint8 (B, C, H, W): (B) each."""
    scores = {"psnr": psnr(a, b)}
    if min(a.shape[-2:]) >= WINDOW:
        scores["ssim"] = ssim(a, b)
    return scores


def _diversity(samples: Tensor) -> dict[str, Tensor]:
    """How samples (S, B, C, H, W) in levels differ, for each picture (B)."""
    pairs = torch.combinations(torch.arange(len(samples)))
    rmse = [(samples[i] - samples[j]).square().mean(dim=(1, 2, 3)).sqrt() for i, j in pairs]
    return {
        "std": samples.std(dim=0).mean(dim=(1, 2, 3)),
        "pairwise_rmse": torch.stack(rmse).mean(dim=0),
    }
