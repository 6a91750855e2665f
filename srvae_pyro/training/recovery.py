"""The last checkpoint, to resume from and to roll back to, and the best weights."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import torch

from srvae_pyro.errors import UserError
from srvae_pyro.inference.statistics import RunningMean
from srvae_pyro.runs import CONFIG, WEIGHTS, save_weights, validation_images, validation_nats
from srvae_pyro.system.console import print_line
from srvae_pyro.system.files import digest, write_whole
from srvae_pyro.system.parallel import ProcessGroup
from srvae_pyro.training.learner import Learner
from srvae_pyro.training.progress import Clock, Progress

LAST = "last.ckpt"
RETRY_AFTER = 60.0  # seconds after a checkpoint that could not be written
MAX_SKIPPED_IN_A_ROW = 10
MAX_ROLLBACKS = 3


def can_resume(folder: Path) -> bool:
    """Whether a run's folder has settings and a checkpoint."""
    return (folder / CONFIG).is_file() and (folder / LAST).is_file()


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state``, tensors and plain containers, whole or not at all."""
    content = {"digest": digest(state), "state": state}

    def write(partial: Path) -> None:
        try:
            torch.save(content, partial)
        except RuntimeError as error:  # what PyTorch's writer raises on a full disk
            raise OSError(str(error).strip().splitlines()[0]) from error

    write_whole(path, write)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU, without running code from it."""
    if not path.exists():
        raise UserError(f"{path}: no such file, so there is nothing to resume; leave out `resume`")
    damaged = f"{path} is damaged or not a checkpoint of this program"
    try:
        with warnings.catch_warnings(action="ignore"):  # about the pickle protocol
            content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes the reader raise almost anything
        reason = (str(error).strip().splitlines() or ["it is empty"])[0]
        raise UserError(f"{damaged}: {reason}") from None
    if not (isinstance(content, dict) and {"digest", "state"} <= set(content)):
        raise UserError(f"{damaged}: it holds something else")
    try:
        intact = content["digest"] == digest(content["state"])
    except (TypeError, RecursionError, RuntimeError):
        intact = False
    if not intact:
        raise UserError(f"{damaged}: its checksum does not match")
    state: dict[str, Any] = content["state"]
    return state


class Recovery:
    """Keeps ``last.ckpt`` of learner, progress and means, and restores these in place."""

    def __init__(
        self,
        folder: Path,
        learner: Learner,
        progress: Progress,
        means: RunningMean,
        clock: Clock,
        group: ProcessGroup,
        save_every: float,
    ) -> None:
        self.folder = folder
        self.learner, self.progress, self.means = learner, progress, means
        self.clock, self.group, self.save_every = clock, group, save_every
        self.resumed = False  # whether the run goes on from a checkpoint
        self.unsaved = ""  # why the last checkpoint could not be written

    def state(self) -> dict[str, Any]:
        """The state of all processes, which all take part."""
        means = {
            "sums": {name: total.cpu() for name, total in self.means.sums.items()},
            "counts": dict(self.means.counts),
        }
        return {
            **self.learner.state(),
            "progress": dict(vars(self.progress)),
            "ranks": self.group.gather({**self.learner.randomness.state(), **means}),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state`; another number of processes has new noise."""
        self.learner.restore(state)
        self.progress.restore(state["progress"])
        ranks, step = state["ranks"], self.progress.step
        if len(ranks) != self.group.size:
            self.means.sums, self.means.counts = {}, {}
            self.learner.randomness.seed(step)
            return
        ours, device = ranks[self.group.rank], self.group.device
        self.means.sums = {name: total.to(device) for name, total in ours["sums"].items()}
        self.means.counts = dict(ours["counts"])
        self.learner.randomness.restore(ours, step)

    def save(self) -> None:
        """Write ``last.ckpt``; after a failure, as of a full disk, again in a minute.

        Not while updates are skipped: the weights may be what is wrong.
        """
        if self.progress.skipped_in_a_row:
            return
        path, state = self.folder / LAST, self.state()
        if not self.group.main:
            return
        try:
            save_checkpoint(path, state)
        except OSError as error:
            self.unsaved = error.strerror or str(error)
            self.clock.save_in(RETRY_AFTER)
            print_line(
                f"cannot write {path} ({self.unsaved}): the earlier file is untouched; "
                "training continues and will try again"
            )
        else:
            self.unsaved = ""
            self.clock.save_in(self.save_every)

    def resume(self) -> None:
        """Go on from ``last.ckpt``; a UserError if it is missing, damaged or of another model."""
        path = self.folder / LAST
        self.group.barrier()  # rank 0 may still be writing it
        state = load_checkpoint(path)
        try:
            self.restore(state)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path} does not fit this run's settings: {reason}") from None
        self.resumed = True

    @property
    def needed(self) -> bool:
        """Whether too many updates in a row were skipped."""
        return self.progress.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW

    def roll_back(self) -> None:
        """Return to the last checkpoint with half the learning rate.

        From the second time on with the EMA weights and a fresh optimiser.
        """
        progress = self.progress
        kept = {
            "rollbacks": progress.rollbacks + 1,
            "rate_factor": progress.rate_factor / 2,
            "skipped": progress.skipped,
            "seconds": progress.seconds,
        }
        if progress.rollbacks >= MAX_ROLLBACKS:
            raise UserError(
                f"{MAX_SKIPPED_IN_A_ROW} updates in a row were not finite, and {MAX_ROLLBACKS} "
                "returns to the last checkpoint did not help: try a lower `lr` or "
                "`precision=fp32`; that checkpoint is untouched"
            )
        self.resume()
        vars(progress).update(kept)
        if progress.rollbacks > 1:
            self.learner.restart_from_average()
        print_line(
            f"{MAX_SKIPPED_IN_A_ROW} updates in a row were not finite: returning to "
            f"step {progress.step} with {progress.rate_factor:g} of the learning rate"
        )


class BestWeights:
    """Keeps the best EMA weights in ``model.safetensors``; only rank 0 writes."""

    def __init__(
        self, folder: Path, learner: Learner, progress: Progress, group: ProcessGroup
    ) -> None:
        self.path = folder / WEIGHTS
        self.learner, self.progress, self.group = learner, progress, group

    def offer(self, nats: float, images: int) -> None:
        """Write the EMA weights if none of the run had better validation nats an image.

        A score on more images than the best one's replaces it.
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
        """Write the EMA weights if none have been."""
        if self.group.main and not self.path.exists():
            self.write()

    def nats(self) -> float:
        """Validation nats an image of the best weights; infinite if there are none."""
        if not self.path.exists():
            return math.inf
        nats = validation_nats(self.path)
        return self.progress.best if nats is None else nats

    def write(self, nats: float | None = None, images: int | None = None) -> bool:
        """Write the EMA weights with their validation score; whether that worked."""
        try:
            save_weights(self.learner.averaged, self.path.parent, nats, images)
        except OSError as error:
            print_line(f"cannot write {self.path} ({error.strerror or error}): training continues")
            return False
        return True
