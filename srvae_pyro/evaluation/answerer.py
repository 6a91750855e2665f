"""Answers in 8 bits to pictures that are made small: a model's, and by interpolation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from srvae_pyro.errors import UserError
from srvae_pyro.inference.noise import ImageNoise
from srvae_pyro.models import SRVAE, ImageModel
from srvae_pyro.pixels import to_levels, to_unit
from srvae_pyro.upscaling.agreement import rounded
from srvae_pyro.upscaling.answers import Answering, answers
from srvae_pyro.upscaling.enlarging import downscaled, enlarging, passes_for

__all__ = ["INTERPOLATIONS", "METHODS", "Answerer", "factors_for", "interpolated"]

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
        model: a srVAE that enlarges.
        asked: powers of its factor, or none.
        size: height and width of the pictures x.

    Raises:
        UserError: the model does not enlarge, not by such a factor, or not to such pictures.
    """
    srvae = enlarging(model)
    factors = list(dict.fromkeys(asked)) or [srvae.guide.d.factor]
    for factor in factors:
        passes_for(srvae, factor)
        multiple = factor * srvae.lower_multiple
        if size[0] % multiple or size[1] % multiple:
            raise UserError(
                f"--factor {factor} takes pictures whose sides are multiples of {multiple}, and "
                f"these are {size[0]}x{size[1]}: leave it out"
            )
    return factors


class Answerer:
    """Answers a model's questions, at its own factor or at a power of it.

    At a power the answer is asked again, as often as need be, so that each step is the model's own.

    Args:
        model: the srVAE, which enlarges.
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
        """What gives answers: :data:`METHODS`, and the estimate of a model that makes one."""
        return (*METHODS, "estimate") if self.model.estimates else METHODS

    def small(self, x: Tensor) -> Tensor:
        """The questions y (B, c, h, w) of uint8 pictures (B, C, H, W)."""
        return downscaled(self.model, x, self.passes)

    def sample(self, y: Tensor, sample: int, indices: list[int]) -> Tensor:
        """An answer to each y, uint8 (B, c, h, w): uint8 (B, C, H, W).

        Args:
            y: the questions.
            sample: the answer's number.
            indices: the pictures' numbers, to which the noise is tied.
        """
        for number in range(self.passes):
            # The first pass has the noise that a single one has.
            later = (*b"pass", number) if number else ()
            noise = ImageNoise((self.seed, sample, *later), indices)
            y = _in_levels(answers(self.model, to_unit(y), noise=noise))
        return y

    def by_method(self, y: Tensor, samples: Tensor) -> dict[str, Tensor]:
        """Answers to y by what gave them: uint8 (K, B, C, H, W), K being 1 for most.

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
        if self.model.estimates:
            one_each["estimate"] = self._near(y, "estimate")
        return {"sample": samples} | {name: answer[None] for name, answer in one_each.items()}

    def _likeliest(self, y: Tensor) -> Tensor:
        for _ in range(self.passes):
            y = _in_levels(self._at_zero(y, decode="mode"))
        return y

    def _near(self, y: Tensor, decode: Answering) -> Tensor:
        for _ in range(self.passes):
            y = rounded(self._at_zero(y, decode=decode).cpu() * 255, self.model, y)
        return y

    def _at_zero(self, y: Tensor, **decode: Any) -> Tensor:
        noise = ImageNoise(self.seed, range(len(y)))  # not the global one, whatever it is times 0
        return answers(self.model, to_unit(y), temperature=0.0, noise=noise, **decode)


def interpolated(y: Tensor, factor: int, method: Image.Resampling) -> Tensor:
    """uint8 pictures (B, C, h, w) enlarged by Pillow in 8 bits: uint8 (B, C, H, W)."""
    size = (factor * y.shape[-1], factor * y.shape[-2])
    planes = [
        np.asarray(Image.fromarray(plane).resize(size, method)) for plane in y.flatten(0, 1).numpy()
    ]
    return torch.from_numpy(np.stack(planes)).unflatten(0, y.shape[:2])


def _in_levels(x: Tensor) -> Tensor:
    return to_levels(x).clamp(0, 255).to(torch.uint8).cpu()
