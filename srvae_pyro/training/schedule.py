"""Schedules: the learning rate, the weights of the KLs, and the bound on the gradient's norm."""

from __future__ import annotations

import math

from srvae_pyro.config import TrainingConfig

__all__ = ["GradientClip", "kl_weights", "learning_rate"]


def learning_rate(config: TrainingConfig, step: int, progress: float) -> float:
    """The learning rate of ``step`` (from 0), with ``progress`` from 0 to 1 of the run done.

    A linear warm-up, the published decay by a factor a step, and where ``anneal`` is set a half
    cosine down to ``lr_min`` over the last part of the run.
    """
    rate = max(config.lr * config.lr_decay**step, min(config.lr, config.lr_min))
    if config.anneal > 0 and progress > 1 - config.anneal:
        phase = min((progress - (1 - config.anneal)) / config.anneal, 1.0)
        floor = min(config.lr_min, rate)
        rate = floor + (rate - floor) * 0.5 * (1 + math.cos(math.pi * phase))
    return rate * min(1.0, (step + 1) / max(config.warmup_steps, 1))


def kl_weights(config: TrainingConfig, progress: float) -> dict[str, float]:
    """The weights of KL_z and KL_u by site, with ``progress`` from 0 to 1 of the run done.

    From ``kl_start`` linearly to 1 over ``kl_warmup`` of the run; u's likewise.
    """
    return {
        "z": _risen(config.kl_start, config.kl_warmup, progress),
        "u": _risen(config.kl_u_start, config.kl_u_warmup, progress),
    }


def _risen(start: float, warmup: float, progress: float) -> float:
    """From ``start`` linearly to 1 while ``progress`` goes from 0 to ``warmup``."""
    return 1.0 if progress >= warmup else start + (1 - start) * progress / warmup


class GradientClip:
    """A bound on the gradient's norm: ``factor`` times the median of the last norms.

    Larger gradients are scaled down to it, but count in the median with their full norms: where
    gradients have grown for good the bound follows, so it cannot lock.

    Args:
        factor: times the median.
        window: how many norms are remembered.

    Raises:
        ValueError: the factor is not above 0, so that all gradients would become 0.
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
