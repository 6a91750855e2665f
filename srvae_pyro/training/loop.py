"""A run: updates, logging, validation and checkpoints, in order, and how long it will take."""

from __future__ import annotations

import math
import time
from contextlib import closing
from pathlib import Path

from torch import Tensor

from srvae_pyro.config import RunConfig, TrainingConfig
from srvae_pyro.data import DataSplits
from srvae_pyro.errors import UserError
from srvae_pyro.inference.statistics import RunningMean, bits_per_dim
from srvae_pyro.system.console import Bar, print_line
from srvae_pyro.system.parallel import ProcessGroup
from srvae_pyro.training.batches import Batches
from srvae_pyro.training.learner import Learner
from srvae_pyro.training.metrics import MetricsLog
from srvae_pyro.training.progress import Clock, Interrupt, Progress
from srvae_pyro.training.recovery import BestWeights, Recovery
from srvae_pyro.training.schedule import kl_weights, learning_rate
from srvae_pyro.training.validation import Validation

WARM_UP = 2  # updates left out: they compile, or take memory
MEASURED = 5.0  # seconds of training that the first estimate is of, at least
OFF, OFF_SECONDS = 1.5, 30.0  # so many times longer or shorter than told: it is told again


def about(seconds: float) -> str:
    """A time as people say it, such as ``about 5 minutes``."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * length:
            return f"about {round(seconds / length):,} {unit}"
    return f"about {max(5 * round(seconds / 5), 5)} seconds"


def run_length(settings: TrainingConfig, epoch_steps: int) -> int | None:
    """Updates of a run by its limits in steps and epochs; None if it has none of these.

    Args:
        settings: with the limits.
        epoch_steps: updates an epoch.
    """
    lengths = [] if settings.steps is None else [settings.steps]
    if settings.epochs is not None:
        lengths.append(settings.epochs * epoch_steps)
    return min(lengths, default=None)


def time_limit(settings: TrainingConfig, seconds: float) -> str:
    """What to tell of a limit in minutes before a run, ``seconds`` of which are done; else empty.

    Args:
        settings: with the limits.
        seconds: of training.
    """
    if settings.max_minutes is None:
        return ""
    most = "" if settings.steps is None and settings.epochs is None else "at most "
    done = f", {seconds / 60:.1f} of them done" if seconds > 0 else ""
    return f"{most}{settings.max_minutes:g} minutes of training{done}; validation comes on top"


class Pace:
    """Tells how long a run of so many updates takes, and again where that turns out to be wrong.

    Args:
        length: updates of the whole run; None: a limit in minutes alone ends it, nothing is told.
        settings: with the limits.
        step, seconds: where the run goes on.
    """

    def __init__(
        self, length: int | None, settings: TrainingConfig, step: int = 0, seconds: float = 0.0
    ) -> None:
        self.length, self.settings, self.first_step = length, settings, step
        self.updates, self.seconds = 0, 0.0  # but for the first ones
        self._first_updates, self._began, self._warm_at = 0, seconds, seconds
        self._told: tuple[float, float] | None = None  # when, and when the run would end

    @property
    def of_one(self) -> float:
        """Seconds of an update, about; 0 before the first."""
        if self.updates:
            return self.seconds / self.updates
        return (self._warm_at - self._began) / max(self._first_updates, 1)

    def add(self, seconds: float) -> None:
        """Note an update, after which training has taken so many seconds in all."""
        if self._first_updates < WARM_UP:
            self._first_updates += 1
            self._warm_at = seconds
        else:
            self.updates += 1
            self.seconds = seconds - self._warm_at

    def news(self, step: int, seconds: float, beside: float, now: float) -> str:
        """What there is to tell after an update; mostly nothing.

        Args:
            step: updates of the run.
            seconds: of training so far.
            beside: seconds of validation and the like that are still to come.
            now: of a clock that runs on in validation.
        """
        if self.length is None or not self.updates or self.seconds < MEASURED:
            return ""
        training = self.of_one * (self.length - step)
        minutes = self.settings.max_minutes
        if minutes is not None and training > 60 * minutes - seconds:
            return ""  # the time that was told before ends the run first
        end = now + training + beside
        if self._told is None:
            self._told = now, end
            return f"{self._what(self.length)}, {about(end - now)} here"
        began, told = self._told
        wrong = max(end - began, told - began) > OFF * min(end - began, told - began)
        if not wrong or abs(end - told) < OFF_SECONDS:
            return ""
        self._told = now, end
        return f"{'slower' if end > told else 'faster'} than told: {about(end - now)} more"

    def _what(self, length: int) -> str:
        """The run's length in words."""
        if self.first_step:
            return f"{length - self.first_step:,} of {length:,} updates to go"
        by_epochs = self.settings.epochs is not None and self.settings.steps is None
        return (f"{self.settings.epochs:,} epochs, " if by_epochs else "") + f"{length:,} updates"


LOG_EVERY = 50  # steps
WORTH_A_LINE = 5.0  # seconds that something takes that is told in a log
FORWARD = 0.5  # of an update's time for as many images: no gradient


class Trainer:
    """Trains the model of a run's config and keeps the run's folder.

    Args:
        config: the run's.
        data: the images.
        folder: the run's folder; nothing is written before :meth:`run`.
        group: the processes that train together.
        accumulate: parts of a batch whose gradients are summed before the update.
        save_minutes: between checkpoints within an epoch; each epoch's end has one too.
        quiet: whether to show no progress bar.

    Raises:
        UserError: too few images, or batches that cannot be shared.
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
        self.pace = Pace(run_length(settings, len(self.batches)), settings)
        self._logged = 0, 0.0  # images and seconds when metrics were last written
        self._validated_in = 0.0  # seconds, the last time

    def fraction_done(self) -> float:
        """From 0 to 1, by whichever of epochs, steps and minutes ends first."""
        return self.progress.fraction_done(self.settings, len(self.batches))

    def run(self) -> Progress:
        """Train to the end, or to a signal; the run's folder is complete either way.

        Raises:
            UserError: nothing can be written, or updates are not finite time and again.
        """
        if not self.recovery.resumed:
            self.begin()
        self.learner.distribute()
        self.clock.save_in(self.recovery.save_every)
        self._logged = self.progress.images, self.progress.seconds
        length = self.pace.length
        self.pace = Pace(length, self.settings, self.progress.step, self.progress.seconds)
        log = MetricsLog(self.folder, self.progress.step, enabled=self.group.main)
        with closing(log) as self.log, self.interrupt, self.make_bar() as self.bar:
            while self.fraction_done() < 1 and not self.clock.stop:
                self.run_epoch()
            if self.fraction_done() >= 1 and self.progress.step_in_epoch:
                self.validate()  # the run ends within an epoch
            self.recovery.save()
            self.best.ensure()  # stopped before the first validation
        if self.recovery.unsaved:
            raise UserError(
                f"the end of the run could not be saved ({self.recovery.unsaved}): make room, then "
                "--resume goes on from the last checkpoint that was"
            )
        return self.progress

    def begin(self) -> None:
        """The first weights, how good they are, and the first checkpoint."""
        if self.group.main:  # the other processes take over its weights
            print_line("setting up the weights and scoring them before the first update")
            self.learner.initialize(self.batches.first(max(self.settings.batch_size, 2)))
            length = self.pace.length
            to_learn = None if length is None else length * self.batches.batch_size
            untrained, images = self.validation.untrained(to_learn)
            self.progress.untrained, self.progress.untrained_images = untrained, images
        self.learner.randomness.seed_noise(step=0)
        self.recovery.save()
        if self.recovery.unsaved:
            raise UserError(f"{self.folder} cannot be written to: {self.recovery.unsaved}")

    def run_epoch(self) -> None:
        """The rest of an epoch, or as much of it as the run's limits and signals leave."""
        progress = self.progress
        self.clock.start()
        for images in self.batches.epoch(progress.epoch, progress.step_in_epoch):
            self.update(images)
            if self.recovery.needed:
                self.roll_back()
                return
            self.tell_pace()
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

    def update(self, images: Tensor) -> None:
        """Learn from this process's part of a batch, uint8 (B, C, H, W) on the device."""
        progress, done = self.progress, self.fraction_done()
        outcome = self.learner.step(
            images,
            rate=learning_rate(self.settings, progress.step, done) * progress.rate_factor,
            kl_weights=kl_weights(self.settings, done),
            images_seen=progress.images,
            votes=self.clock.votes,
        )
        self.clock.count(outcome.votes)
        if outcome.skipped:
            progress.skipped += 1
            progress.skipped_in_a_row += 1
            print_line(
                f"step {progress.step}: not finite at {outcome.fault}; update skipped "
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
        values["lr"] = self.learner.optimizer.param_groups[0]["lr"]
        values["images_per_second"] = speed
        values["epoch"] = progress.epoch
        values["seconds"] = progress.seconds
        values["skipped"] = progress.skipped
        self.log.write("train", progress.step, values)

    def validate(self) -> None:
        """Score the EMA weights, keep them if they are the best, and draw."""
        progress, finished = self.progress, self.fraction_done() >= 1
        began, images = time.monotonic(), self.validation.count("val", progress.images)
        self.bar.set_postfix_str("validating")
        if self.bar.plain and self.takes_long(images + self.validation.drawn(progress.images)):
            print_line(f"validating on {images:,} images")
        progress.val = self.validation.score(progress.images)
        self.log.write("val", progress.step, {**progress.val, "epoch": progress.epoch})
        self.best.offer(progress.val["nats"], images)
        self.validation.draw(self.log, progress.step, progress.images, finished)
        self._validated_in = time.monotonic() - began

    def tell_pace(self) -> None:
        """Say how long the run takes, once that can be told or if it was told wrongly."""
        progress = self.progress
        self.pace.add(progress.seconds)
        now, beside = time.monotonic(), self.seconds_beside()
        if text := self.pace.news(progress.step, progress.seconds, beside, now):
            print_line(text)

    def seconds_beside(self) -> float:
        """Seconds of validation still to come, the report counted as one more, about."""
        progress, length, epoch = self.progress, self.pace.length or 0, len(self.batches)
        times = max(math.ceil(length / epoch) - progress.step // epoch, 0) + 1
        learnt = progress.images + (length - progress.step) * self.batches.batch_size
        images = self.validation.count("val", learnt) + self.validation.drawn(learnt)
        return times * (self._validated_in or self.seconds_for(images))

    def seconds_for(self, images: int) -> float:
        """How long scoring so many images takes, about."""
        return FORWARD * images / self.batches.batch_size * self.pace.of_one

    def takes_long(self, images: int) -> bool:
        """Whether scoring so many images takes so long that a line should tell of it."""
        return self.seconds_for(images) > WORTH_A_LINE

    def make_bar(self) -> Bar:
        """A progress bar over the run, in thousandths of it; in a log a line now and then."""
        return Bar(
            total=1000,
            initial=1000 * self.fraction_done(),
            disable=self.quiet,
            mininterval=1.0,
            miniters=0,
            bar_format="{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
            log_format="{percentage:.1f}%, {elapsed}<{remaining}{postfix}",
        )
