"""What a run's averaged weights are worth: scored and drawn as training goes on."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch

from srvae_pyro.config import TrainingConfig
from srvae_pyro.data import DataSplits
from srvae_pyro.data.subset import evenly_spaced
from srvae_pyro.drawing.grids import save_picture
from srvae_pyro.drawing.progress import progress_pictures
from srvae_pyro.evaluation.elbo_terms import evaluate_elbo
from srvae_pyro.models import ImageModel
from srvae_pyro.parallel import Group
from srvae_pyro.pixels import to_unit
from srvae_pyro.streams import torch_seed
from srvae_pyro.talk import say
from srvae_pyro.training.learner import Learner
from srvae_pyro.training.metrics import MetricsLog

__all__ = ["Validation", "score"]

DRAW_EVERY = 60.0  # seconds, at least, but for the end of the run
UNTRAINED_IMAGES = 1000  # test images that the untrained model is scored on, at most


def score(
    model: ImageModel, data: DataSplits, split: str, count: int | None, group: Group = Group()
) -> dict[str, Any]:
    """The ELBO's terms on a split's images, see :func:`evaluate_elbo`.

    Args:
        model: the model.
        data: the pictures.
        split: val or test.
        count: images, evenly spaced; None: all.
        group: the processes that share them.
    """
    images, photographs = getattr(data, split), data.photographs.get(split)
    if photographs is not None:
        photographs = evenly_spaced(photographs, count)
    images = evenly_spaced(images, count)
    result = evaluate_elbo(model, images, model.device, group=group, photographs=photographs)
    return result.to_json()


class Validation:
    """Scores and draws what the averaged weights can do.

    Args:
        learner: has the weights.
        data: the pictures.
        settings: how many validate, and the seed.
        folder: the run's folder.
        group: the processes that train together.
    """

    def __init__(
        self,
        learner: Learner,
        data: DataSplits,
        settings: TrainingConfig,
        folder: Path,
        group: Group,
    ) -> None:
        self.learner, self.data, self.settings = learner, data, settings
        self.folder, self.group = folder, group
        self._drawn_at = -math.inf

    def untrained(self) -> float:
        """Bits/dim of the weights on test images, in this process alone."""
        count = min(self.settings.validation_images or UNTRAINED_IMAGES, UNTRAINED_IMAGES)
        bits: float = score(self.learner.averaged, self.data, "test", count)["bits_per_dim"]
        return bits

    def score(self) -> dict[str, Any]:
        """The ELBO's terms on validation images, by all processes if there is one for each."""
        count = self.settings.validation_images
        images = min(len(self.data.val), count or len(self.data.val))
        group = self.group if images >= self.group.size else Group()
        self.group.broadcast(self.learner.averaged)
        return score(self.learner.averaged, self.data, "val", count, group)

    def draw(self, log: MetricsLog, step: int, finished: bool) -> None:
        """Write pictures, at most once a minute but for the end of the run; rank 0."""
        now = time.monotonic()
        if not self.group.main or not (finished or now - self._drawn_at > DRAW_EVERY):
            return
        self._drawn_at = now
        device = self.group.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(torch_seed(self.settings.seed, *b"pictures"))
            images = to_unit(evenly_spaced(self.data.val, 16))
            pictures = progress_pictures(self.learner.averaged, images)
        for name, picture in pictures.items():
            path = self.folder / "figures" / f"{name}-{step:07d}.png"
            try:
                save_picture(picture, path)
            except OSError as error:
                say(f"cannot write {path} ({error.strerror}): training goes on")
            log.picture(name, step, picture)
