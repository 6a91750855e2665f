"""The best averaged weights of a run, which are what others load."""

from __future__ import annotations

import math
from pathlib import Path

from srvae_pyro.runs import WEIGHTS, save_weights, validation_images, validation_nats
from srvae_pyro.system.console import say
from srvae_pyro.system.parallel import Group
from srvae_pyro.training.learner import Learner
from srvae_pyro.training.progress import Progress

__all__ = ["BestWeights"]


class BestWeights:
    """Keeps the best averaged weights in ``model.safetensors``; only rank 0 writes.

    Args:
        folder: the run's folder.
        learner: has the averaged weights.
        progress: notes how good the best are.
        group: the processes that train together.
    """

    def __init__(self, folder: Path, learner: Learner, progress: Progress, group: Group) -> None:
        self.path = folder / WEIGHTS
        self.learner, self.progress, self.group = learner, progress, group

    def offer(self, nats: float, images: int) -> None:
        """Write the averaged weights if none of the run have been better.

        A score on more pictures than the best one's, as a run has them after its first updates, is
        another measure, and takes its place.

        Args:
            nats: of validation, an image; a finite one is better than one that is not.
            images: how many validated.
        """
        if not self.group.main:
            return
        best = self.nats()
        known = validation_images(self.path) or images  # None before a validation
        better = nats < best if images == known else images > known and math.isfinite(nats)
        if better or not math.isfinite(best):
            best = nats if self.write(nats, images) else best
        self.progress.best = best

    def ensure(self) -> None:
        """Write the averaged weights if none have been, as before the first validation."""
        if self.group.main and not self.path.exists():
            self.write()

    def nats(self) -> float:
        """Validation nats an image of the best weights; infinite if there are none.

        As their file has it: they may be of a later step than the checkpoint that a run resumed.
        """
        if not self.path.exists():
            return math.inf
        nats = validation_nats(self.path)
        return self.progress.best if nats is None else nats

    def write(self, nats: float | None = None, images: int | None = None) -> bool:
        """Write the averaged weights; whether that worked.

        Args:
            nats: of validation, an image, if there was one.
            images: how many validated.
        """
        try:
            save_weights(self.learner.averaged, self.path.parent, nats, images)
        except OSError as error:
            say(f"cannot write {self.path} ({error.strerror or error}): training goes on")
            return False
        return True
