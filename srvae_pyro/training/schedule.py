"""Schedules of the learning rate and the KL weights, gradient clipping, and EMA weights."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from srvae_pyro.config import TrainingConfig
from srvae_pyro.models import ImageModel


def learning_rate(config: TrainingConfig, step: int, progress: float) -> float:
    """The learning rate of ``step`` (from 0), with ``progress`` from 0 to 1 of the run done.

    A linear warm-up, decay by a factor a step, and over the last ``anneal`` of the run a half
    cosine down to ``lr_min``.
    """
    rate = max(config.lr * config.lr_decay**step, min(config.lr, config.lr_min))
    if config.anneal > 0 and progress > 1 - config.anneal:
        phase = min((progress - (1 - config.anneal)) / config.anneal, 1.0)
        floor = min(config.lr_min, rate)
        rate = floor + (rate - floor) * 0.5 * (1 + math.cos(math.pi * phase))
    return rate * min(1.0, (step + 1) / max(config.warmup_steps, 1))


def kl_weights(config: TrainingConfig, progress: float) -> dict[str, float]:
    """The weights of KL_z and KL_u by site, with ``progress`` from 0 to 1 of the run done."""
    return {
        "z": _risen(config.kl_start, config.kl_warmup, progress),
        "u": _risen(config.kl_u_start, config.kl_u_warmup, progress),
    }


def _risen(start: float, warmup: float, progress: float) -> float:
    """From ``start`` linearly to 1 while ``progress`` goes from 0 to ``warmup``."""
    return 1.0 if progress >= warmup else start + (1 - start) * progress / warmup


class GradientClip:
    """A bound on the gradient's norm: ``factor`` times the median of the last norms.

    Larger gradients are scaled down, but count with their full norms, so that the bound follows
    gradients that have grown for good.
    """

    def __init__(self, factor: float, window: int = 100) -> None:
        if not factor > 0:
            raise ValueError(f"the gradients' bound must be above 0 times the median, not {factor}")
        self.factor = factor
        self.window = window
        self.norms: list[float] = []

    def scale(self, norm: float) -> float:
        """The factor for a gradient of this finite norm, which is remembered."""
        recent = sorted(self.norms)
        bound = self.factor * recent[len(recent) // 2] if recent else math.inf
        self.norms = [*self.norms, norm][-self.window :]
        return min(1.0, bound / norm) if norm > 0 else 1.0


class ExponentialAverage:
    """An exponential moving average of a model's weights, over the images it has learnt from.

    The half-life in images is at most 5% of those seen (Karras et al., Elucidating the Design Space
    of Diffusion-Based Generative Models, 2022, arXiv:2206.00364, appendix F.2). ``module`` is a
    copy of the model that holds the average.
    """

    RAMP = 0.05

    def __init__(self, module: ImageModel, half_life: float) -> None:
        self.half_life = half_life
        self.module: ImageModel = copy.deepcopy(module).requires_grad_(False)
        self._average: list[Tensor] = list(self.module.parameters())
        self._source: list[Tensor] = list(module.parameters())

    def decay(self, images_seen: int, batch: int) -> float:
        """The weight of the old average in an update of ``batch`` images."""
        half_life = min(self.half_life, self.RAMP * images_seen)
        return 0.5 ** (batch / half_life) if half_life > 0 else 0.0

    @torch.no_grad()
    def update(self, images_seen: int, batch: int) -> None:
        """Include the weights after an update of ``batch`` images, ``images_seen`` in all."""
        weight = 1 - self.decay(images_seen, batch)
        torch._foreach_lerp_(self._average, self._source, weight)
