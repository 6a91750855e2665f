"""A run: steps, logging, validation and checkpoints, in order."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor

from srvae_pyro.config import RunConfig, TrainingConfig
from srvae_pyro.data import DataSplits
from srvae_pyro.data.splits import TrainingImages
from srvae_pyro.errors import UserError
from srvae_pyro.inference.statistics import RunningMean, bits_per_dim
from srvae_pyro.system.console import Bar, print_line
from srvae_pyro.system.parallel import ProcessGroup
from srvae_pyro.training.learner import Learner
from srvae_pyro.training.metrics import MetricsLog
from srvae_pyro.training.progress import Clock, Interrupt, Progress
from srvae_pyro.training.recovery import LAST, BestWeights, Recovery
from srvae_pyro.training.schedule import kl_weights, learning_rate
from srvae_pyro.training.validation import Validation

LOG_EVERY = 50  # steps
WARM_UP = 2  # steps that may compile the networks, or take memory first
MEASURED = 5.0  # seconds of training after these from which the run's length is estimated


def about(seconds: float) -> str:
    """A time in words, such as ``about 5 minutes``."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * length:
            return f"about {round(seconds / length):,} {unit}"
    return f"about {max(5 * round(seconds / 5), 5)} seconds"


def run_length(settings: TrainingConfig, epoch_steps: int) -> int | None:
    """Steps of a run by its limits in steps and epochs; None if it has none of these."""
    lengths = [] if settings.steps is None else [settings.steps]
    if settings.epochs is not None:
        lengths.append(settings.epochs * epoch_steps)
    return min(lengths, default=None)


def time_limit(settings: TrainingConfig, seconds: float) -> str:
    """A limit in minutes in words, for a run that has trained so long; empty without one."""
    if settings.max_minutes is None:
        return ""
    most = "" if settings.steps is None and settings.epochs is None else "at most "
    done = f", {seconds / 60:.1f} of them done" if seconds > 0 else ""
    return f"{most}{settings.max_minutes:g} minutes of training{done}; validation takes extra time"


class Batches:
    """Shuffled batches of uint8 images, in an order that depends on seed and epoch alone.

    Images that fit into a quarter of a GPU's free memory are kept there. A smaller last batch is
    left out; ``size`` processes share each batch.
    """

    def __init__(
        self,
        images: TrainingImages,
        batch_size: int,
        device: torch.device,
        seed: int,
        rank: int = 0,
        size: int = 1,
    ) -> None:
        self.images = images.on(device)
        self.batch_size = min(batch_size, len(images))
        self.device = device
        self.seed = seed
        self.rank, self.size = rank, size

    def __len__(self) -> int:
        return len(self.images) // self.batch_size

    def first(self, count: int) -> Tensor:
        """The first images of the first epoch, uint8 (count, C, H, W)."""
        return self.images.read(self.images.order(self.seed, 0)[:count])

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """This process's batches, uint8 (B, C, H, W) on the device, from batch ``start`` on."""
        order = self.images.order(self.seed, epoch)
        whole = (
            order[i * self.batch_size : (i + 1) * self.batch_size] for i in range(start, len(self))
        )
        shares = (indices[self.rank :: self.size] for indices in whole)
        yield from self.images.batches(shares, self.device)


class Trainer:
    """Trains the model of a run's config and keeps the run's folder.

    A checkpoint is written every ``save_minutes`` and at each epoch's end.
    """

    log: MetricsLog  # while it runs
    bar: Bar

    def __init__(
        self,
        config: RunConfig,
        data: DataSplits,
        folder: Path,
        group: ProcessGroup = ProcessGroup(),
        *,
        accumulate: int = 1,
        save_minutes: float = 10.0,
        quiet: bool = False,
    ) -> None:
        if len(data.train) < 2:
            raise UserError("training needs at least 2 images: there is 1")
        settings = config.training
        self.config, self.settings = config, settings
        self.data, self.folder, self.group, self.quiet = data, folder, group, quiet
        self.batches = Batches(
            data.train, settings.batch_size, group.device, settings.seed, group.rank, group.size
        )
        self.learner = Learner(config, self.batches.batch_size, group, accumulate)
        self.progress, self.means, self.interrupt = Progress(), RunningMean(), Interrupt()
        self.clock = Clock(self.progress, self.interrupt, group)
        self.recovery = Recovery(
            folder, self.learner, self.progress, self.means, self.clock, group, 60 * save_minutes
        )
        self.best = BestWeights(folder, self.learner, self.progress, group)
        self.validation = Validation(self.learner, data, settings, folder, group)
        self.length = run_length(settings, len(self.batches))
        self._logged = 0, 0.0  # images and seconds when metrics were last written
        self._first_step, self._length_shown = 0, False
        self._timed_from = 0, 0.0  # step and seconds

    def fraction_done(self) -> float:
        return self.progress.fraction_done(self.settings, len(self.batches))

    def run(self) -> Progress:
        """Train to the end, or to a signal; the run's folder is complete either way."""
        if not self.recovery.resumed:
            self.begin()
        self.learner.distribute()
        self.clock.save_in(self.recovery.save_every)
        self._logged = self.progress.images, self.progress.seconds
        self._first_step = self.progress.step
        log = MetricsLog(self.folder, self.progress.step, enabled=self.group.main)
        with closing(log) as self.log, self.interrupt, self.make_bar() as self.bar:
            while self.fraction_done() < 1 and not self.clock.stop:
                self.run_epoch()
            if self.fraction_done() >= 1 and self.progress.step_in_epoch:
                self.validate()  # the run ends within an epoch
            self.recovery.save()
            if self.progress.skipped_in_a_row:
                print_line(
                    "the last update was not finite and has been skipped, so the end of the run is "
                    f"not saved: {self.folder / LAST} is of an earlier step"
                )
            self.best.ensure()  # stopped before the first validation
        if self.recovery.unsaved:
            raise UserError(
                f"the end of the run could not be saved ({self.recovery.unsaved}): free some "
                "space, then `resume` from the last checkpoint"
            )
        return self.progress

    def begin(self) -> None:
        """Set up the weights, score them, and write the first checkpoint."""
        if self.group.main:  # the other processes take over its weights
            print_line("setting up the weights and scoring them before the first step")
            count = min(self.settings.batch_size, self.validation.batch_size)
            self.learner.initialize(self.batches.first(max(count, 2)))
            to_learn = None if self.length is None else self.length * self.batches.batch_size
            untrained, images = self.validation.untrained(to_learn)
            self.progress.untrained, self.progress.untrained_images = untrained, images
        self.learner.randomness.seed_noise(step=0)
        self.recovery.save()
        if self.recovery.unsaved:
            raise UserError(f"{self.folder} cannot be written to: {self.recovery.unsaved}")

    def run_epoch(self) -> None:
        """The rest of an epoch, unless a limit or a signal ends it."""
        progress = self.progress
        self.clock.start()
        for images in self.batches.epoch(progress.epoch, progress.step_in_epoch):
            self.step(images)
            if self.recovery.needed:
                self.roll_back()
                return
            self.show_length()
            if progress.step % LOG_EVERY == 0 or progress.step == 1:
                self.log_training()
            self.bar.n = 1000 * self.fraction_done()
            self.bar.update(0)
            if self.fraction_done() >= 1 or self.clock.stop:
                break
            if self.clock.save_due:
                self.recovery.save()
        if progress.step_in_epoch >= len(self.batches):
            progress.epoch += 1
            progress.step_in_epoch = 0
            self.validate()
            self.recovery.save()

    def step(self, images: Tensor) -> None:
        """Learn from this process's part of a batch."""
        progress, done = self.progress, self.fraction_done()
        outcome = self.learner.step(
            images,
            rate=learning_rate(self.settings, progress.step, done) * progress.rate_factor,
            kl_weights=kl_weights(self.settings, done),
            images_seen=progress.images,
            votes=self.clock.votes,
        )
        self.clock.count(outcome.votes)
        if outcome.fault:
            progress.skipped += 1
            progress.skipped_in_a_row += 1
            print_line(
                f"step {progress.step}: {outcome.fault} is not finite; update skipped "
                f"({progress.skipped} so far)"
            )
        else:
            progress.skipped_in_a_row = 0
            terms = dict(outcome.terms)
            bits = terms.pop("total") * bits_per_dim(1.0, self.data.shape)
            means = {"loss": outcome.loss, **terms, "bits_per_dim": bits}
            self.means.add({**means, "gradient_norm": outcome.norm})
        progress.step += 1
        progress.step_in_epoch += 1
        progress.images += self.batches.batch_size

    def roll_back(self) -> None:
        """Return to the last checkpoint, and forget what was logged since."""
        self.recovery.roll_back()
        self._logged = self.progress.images, self.progress.seconds
        self.log.rewind(self.progress.step)

    def log_training(self) -> None:
        """Write the means since the last time, over all processes."""
        progress = self.progress
        images, seconds = self._logged
        self._logged = progress.images, progress.seconds
        speed = (progress.images - images) / max(progress.seconds - seconds, 1e-9)
        values = self.means.read(self.group.sum)
        postfix = {
            "epoch": progress.epoch,
            "bits/dim": f"{values.get('bits_per_dim', math.nan):.3f}",
        }
        if progress.val:
            postfix["val"] = f"{progress.val['bits_per_dim']:.3f}"
        self.bar.set_postfix({**postfix, "images/s": f"{speed:.0f}"}, refresh=False)
        values |= {"lr": self.learner.optimizer.param_groups[0]["lr"], "images_per_second": speed}
        values |= {name: getattr(progress, name) for name in ("epoch", "seconds", "skipped")}
        self.log.write("train", progress.step, values)

    def validate(self) -> None:
        """Score the EMA weights, keep them if they are the best, and draw."""
        progress, finished = self.progress, self.fraction_done() >= 1
        images = self.validation.count("val", progress.images)
        self.bar.set_postfix_str("validating")
        progress.val = self.validation.score(progress.images)
        self.log.write("val", progress.step, {**progress.val, "epoch": progress.epoch})
        self.best.offer(progress.val.get("loss", progress.val["nats"]), images)
        self.validation.draw(self.log, progress.step, progress.images, finished)

    def show_length(self) -> None:
        """Print once how long the run will take, after a few seconds of training."""
        step, seconds = self.progress.step, self.progress.seconds
        if self.length is None or self._length_shown:
            return
        if step <= self._first_step + WARM_UP:
            self._timed_from = step, seconds
        steps, took = step - self._timed_from[0], seconds - self._timed_from[1]
        if steps < 1 or took < MEASURED:
            return
        self._length_shown = True
        rest = (self.length - step) * took / steps
        minutes = self.settings.max_minutes
        if minutes is None or seconds + rest < 60 * minutes:  # else that ends the run first
            first = f"{self.length - step:,} of " if self._first_step else ""
            print_line(f"{first}{self.length:,} steps, {about(rest)} plus validation")

    def make_bar(self) -> Bar:
        """A progress bar in thousandths of the run."""
        return Bar(
            total=1000,
            initial=1000 * self.fraction_done(),
            disable=self.quiet,
            mininterval=1.0,
            miniters=0,
            bar_format="{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
            log_format="{percentage:.1f}%, {elapsed}<{remaining}{postfix}",
        )
