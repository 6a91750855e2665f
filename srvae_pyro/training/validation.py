"""Validation of a run's EMA weights: their score, and images drawn from them."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from srvae_pyro.config import Precision, TrainingConfig
from srvae_pyro.data import DataSplits
from srvae_pyro.data.splits import evenly_spaced
from srvae_pyro.drawing.grids import progress_figures, save_image
from srvae_pyro.evaluation.likelihood import evaluate_elbo
from srvae_pyro.models import ImageModel
from srvae_pyro.pixels import to_unit
from srvae_pyro.system.console import print_line
from srvae_pyro.system.device import seeded
from srvae_pyro.system.parallel import ProcessGroup
from srvae_pyro.training.learner import Learner
from srvae_pyro.training.metrics import MetricsLog
from srvae_pyro.training.restoration import restoration_figure, restoration_scores, restorer_of

DRAW_EVERY = 60.0  # seconds, at least, but for the end of the run
DRAWN, LEAST_DRAWN = 16, 4  # validation images that figures are drawn of
IMAGES_OF_ONE = 12  # images drawn of each, about, by progress_figures
UNTRAINED_IMAGES = 256  # test images that the untrained model is scored on, at most
LEAST_IMAGES = 16  # images that any score is of, if there are so many
SCORED_AT_ONCE = 100  # images, at most
LEARNT_FOR_ONE = 8  # images learnt from for each that is scored: a fraction of the run's time


def score(
    model: ImageModel,
    data: DataSplits,
    split: str,
    count: int | None,
    group: ProcessGroup = ProcessGroup(),
    precision: Precision = "fp32",
    batch_size: int = SCORED_AT_ONCE,
) -> dict[str, Any]:
    """The ELBO's terms on ``count`` evenly spaced images of a split, all if None."""
    images, photographs = getattr(data, split), data.photographs.get(split)
    if photographs is not None:
        photographs = evenly_spaced(photographs, count)
    images = evenly_spaced(images, count)
    result = evaluate_elbo(
        model,
        images,
        model.device,
        batch_size=batch_size,
        precision=precision,
        group=group,
        photographs=photographs,
    )
    return result.to_json()


class Validation:
    """Scores the EMA weights, and draws from them."""

    def __init__(
        self,
        learner: Learner,
        data: DataSplits,
        settings: TrainingConfig,
        folder: Path,
        group: ProcessGroup,
    ) -> None:
        self.learner, self.data, self.settings = learner, data, settings
        self.folder, self.group = folder, group
        # Scoring an image takes about a fifth of the memory that learning from it takes.
        learnt_at_once = learner.batch_size // (group.size * learner.accumulate)
        self.batch_size = min(SCORED_AT_ONCE, 4 * learnt_at_once)
        self._drawn_at = -math.inf

    def untrained(self, to_learn: int | None = None) -> tuple[float, int]:
        """Bits/dim of the weights on test images, and of how many, in this process alone.

        ``to_learn`` is how many images the run will learn from, if known.
        """
        count = min(self.count("test", to_learn), UNTRAINED_IMAGES)
        return self._score("test", count, ProcessGroup())["bits_per_dim"], count

    def count(self, split: str, learnt: int | None) -> int:
        """How many of a split's images to score after learning from so many; None: all allowed."""
        there = len(getattr(self.data, split))
        most = min(there, self.settings.validation_images or there)
        return most if learnt is None else min(most, max(LEAST_IMAGES, learnt // LEARNT_FOR_ONE))

    def score(self, learnt: int) -> dict[str, Any]:
        """The ELBO's terms on validation images, by all processes if there are enough images."""
        count = self.count("val", learnt)
        group = self.group if count >= self.group.size else ProcessGroup()
        self.group.broadcast(self.learner.averaged)
        return self._score("val", count, group)

    def _score(self, split: str, count: int, group: ProcessGroup) -> dict[str, Any]:
        model, precision = self.learner.averaged, self.settings.precision
        if self.settings.inputs == "damaged":
            images = evenly_spaced(getattr(self.data, split), count)
            return restoration_scores(restorer_of(model), images, precision=precision, group=group)
        return score(model, self.data, split, count, group, precision, self.batch_size)

    def _figures(self, x: Tensor) -> dict[str, Tensor]:
        if self.settings.inputs == "damaged":
            return {"restored": restoration_figure(restorer_of(self.learner.averaged), x)}
        return progress_figures(self.learner.averaged, x)

    def draw(self, log: MetricsLog, step: int, learnt: int, finished: bool) -> None:
        """Write images, at most once a minute but for the end of the run; rank 0."""
        now = time.monotonic()
        if not self.group.main or not (finished or now - self._drawn_at > DRAW_EVERY):
            return
        self._drawn_at = now
        with seeded(self.settings.seed, *b"pictures"):
            # At most as much work as scoring.
            count = min(DRAWN, max(LEAST_DRAWN, learnt // (IMAGES_OF_ONE * LEARNT_FOR_ONE)))
            images = to_unit(evenly_spaced(self.data.val, count))
            with self.learner.autocast():
                figures = self._figures(images)
        for name, figure in figures.items():
            path = self.folder / "figures" / f"{name}-{step:07d}.png"
            try:
                save_image(figure, path)
            except OSError as error:
                print_line(f"cannot write {path} ({error.strerror}): training continues")
            log.image(name, step, figure)
