"""Quality of super-resolution against pictures whose x is known, beside interpolation."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from srvae_pyro.evaluation.answerer import INTERPOLATIONS, Answerer, interpolated
from srvae_pyro.evaluation.calibration import RANKED, Calibration, Ranks
from srvae_pyro.evaluation.diversity import Distance, Diversity, differences
from srvae_pyro.evaluation.scores import Scores, picture_scores, stacked_means
from srvae_pyro.evaluation.sweep import gathered, sweep
from srvae_pyro.models import ImageModel
from srvae_pyro.networks import cached_weights
from srvae_pyro.system.parallel import Group
from srvae_pyro.upscaling.enlarging import enlarging
from srvae_pyro.upscaling.quality import psnr

__all__ = [
    "INTERPOLATIONS",
    "SAMPLES",
    "Diversity",
    "Scores",
    "SuperResolutionResult",
    "evaluate_super_resolution",
    "interpolated",
]

SAMPLES = 10  # of which NTIRE's diversity score is


@dataclass(frozen=True)
class SuperResolutionResult:
    """The quality of super-resolution on a set of pictures.

    Attributes:
        methods: scores by name: of Pillow's nearest, bilinear, bicubic and lanczos; of a
            ``sample``; of ``mean``, the mean of the samples; of ``mode`` and ``expectation``,
            decoded so at temperature 0; of ``estimate``, where the model makes one.
        diversity: of the samples.
        images: how many pictures.
        samples: answers of the model for each, K.
        seed: of the noise.
        factor: how many times larger x is than y.
        passes: in how many steps of the model.
        megapixels_per_second: pixels of sampled answers, in millions, in a second of one process,
            with their noise and their way to the CPU; without the first draw, if there are others.
        photographs: how many the pictures are cut from, where standard errors are over these.
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
        factor: how many times larger x is than y, a power of the model's own; that if not given.
        calibrate: whether to rank the pictures among 39 samples, of which the first are those K.
        distance: of features, for the diversity score.
        photographs: the index of the photograph that each picture is cut from, (N).
        seed: of the noise; each picture has its own, whatever the batch.
        indices: the pictures' indices, to which their noise is tied; 0 and on if not given.
        batch_size: pictures at a time.
        progress: whether to show a bar.
        group: the processes that share the pictures, all of which get the result.

    Raises:
        UserError: the model does not enlarge, or not by that factor.
        ValueError: no pictures, samples or batch size.
    """
    srvae = enlarging(model)
    if not len(images) or batch_size < 1 or samples < 1:
        raise ValueError("pictures, samples and batch_size must be at least 1")
    answerer = Answerer(srvae, factor or srvae.guide.d.factor, seed)
    drawing = _Drawing(answerer, samples, RANKED if calibrate else 0)
    parts = []
    with sweep(images, indices, batch_size=batch_size, group=group, progress=progress) as batches:
        for batch, numbers in batches:
            x = batch.cpu()
            y = answerer.small(x)
            drawn, own = drawing.draw(x, y, numbers)
            for name, pictures in answerer.by_method(y, drawn).items():
                each = [
                    picture_scores(picture, x, answerer.factor)
                    | {"lr_psnr": psnr(answerer.small(picture), y)}
                    for picture in pictures
                ]
                own |= {f"{name} {kind}": mean for kind, mean in stacked_means(each).items()}
            if samples > 1:
                own |= differences(drawn, x, distance)
            parts.append(own)
    values = gathered(parts, group)
    return SuperResolutionResult(
        {name: Scores.of(values, f"{name} ", photographs) for name in answerer.methods},
        Diversity.of(values, photographs),
        len(images),
        samples,
        seed,
        answerer.factor,
        answerer.passes,
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

    def __init__(self, answerer: Answerer, kept: int, ranked: int) -> None:
        self.answerer, self.kept, self.ranked = answerer, kept, ranked
        self.seconds: list[float] = []
        self.pixels: list[int] = []

    def draw(self, x: Tensor, y: Tensor, indices: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
        """Samples for y, uint8 (S, B, C, H, W), and the shares of the ranks of x among them."""
        ranks, kept = Ranks(x, indices, self.answerer.seed), []
        for sample in range(max(self.kept, self.ranked)):
            began = time.perf_counter()
            drawn = self.answerer.sample(y, sample, indices)
            self.seconds.append(time.perf_counter() - began)
            self.pixels.append(drawn[:, 0].numel())
            if sample < self.kept:
                kept.append(drawn)
            if sample < self.ranked:
                ranks.add(drawn)
        return torch.stack(kept), ranks.shares() if self.ranked else {}

    def megapixels_per_second(self, group: Group) -> float:
        """Of one process; the first draw also finds memory and compiles kernels."""
        first = 1 if len(self.seconds) > 1 else 0
        pixels, seconds = sum(self.pixels[first:]), sum(self.seconds[first:])
        totals = group.sum(torch.tensor([pixels, seconds], dtype=torch.float64))
        return (totals[0] / totals[1]).item() / 1e6
