"""The training loop: updates, validation, checkpoints and pictures of one run."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from srvae_pyro.config import RunConfig
from srvae_pyro.data import DataSplits, augment
from srvae_pyro.errors import UserError
from srvae_pyro.evaluation.elbo import TermsELBO
from srvae_pyro.evaluation.pictures import progress_pictures, save_picture
from srvae_pyro.evaluation.terms import RunningMean, bits_per_dim, evaluate_elbo, spread
from srvae_pyro.models import ImageModel, make_model
from srvae_pyro.models.loading import WEIGHTS, save_weights, validation_nats
from srvae_pyro.parallel import Group
from srvae_pyro.pixels import to_unit
from srvae_pyro.streams import torch_seed
from srvae_pyro.talk import Bar
from srvae_pyro.training.batches import Batches
from srvae_pyro.training.checkpoint import (
    LAST,
    check_optimizer,
    load_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from srvae_pyro.training.ema import ExponentialAverage
from srvae_pyro.training.interrupt import Interrupt
from srvae_pyro.training.messages import say
from srvae_pyro.training.metrics import MetricsLog
from srvae_pyro.training.objective import Objective
from srvae_pyro.training.schedule import GradientClip, kl_weight, learning_rate

__all__ = ["Progress", "Trainer"]

LOG_EVERY = 50  # steps
SHOW_EVERY = 60.0  # seconds, pictures at most so often
UNTRAINED_IMAGES = 1000  # test pictures that the untrained model is scored on, at most
RETRY_AFTER = 60.0  # seconds after a checkpoint that could not be written
MAX_SKIPPED_IN_A_ROW = 10
MAX_ROLLBACKS = 3


@dataclass
class Progress:
    """How far a run is; saved with it."""

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    images: int = 0
    seconds: float = 0.0  # of training, pauses left out
    skipped: int = 0  # updates left out because something was not finite
    skipped_in_a_row: int = 0
    rollbacks: int = 0  # returns to the last checkpoint because that went on
    rate_factor: float = 1.0  # on the learning rate, halved by each
    best: float = math.inf  # validation nats an image
    untrained: float = math.nan  # test bits/dim before the first update
    val: dict[str, float] = field(default_factory=dict)


class Trainer:
    """Trains the model of a run's config on pictures and keeps the run's folder.

    Args:
        config: the run's.
        data: the pictures.
        folder: the run's folder.
        device: where to train.
        quiet: no progress bar.
        save_minutes: between checkpoints within an epoch; each epoch's end has one too.
        group: the processes that train together.
        accumulate: parts of a batch whose gradients are added up before the update.

    Raises:
        UserError: too few pictures, or batches that cannot be shared.
    """

    def __init__(
        self,
        config: RunConfig,
        data: DataSplits,
        folder: Path,
        device: torch.device,
        quiet: bool = False,
        save_minutes: float = 10.0,
        group: Group | None = None,
        accumulate: int = 1,
    ) -> None:
        self.group = group or Group(device=device)
        self.accumulate = accumulate
        if len(data.train) < 2:
            raise UserError("training needs at least 2 pictures: there is 1")
        self.config = config
        self.settings = config.training
        self.data = data
        self.folder = folder
        self.device = device
        self.quiet = quiet
        self.save_every = 60 * save_minutes
        self.stopped_by: int | None = None  # a signal
        self.resumed = False
        self.unsaved = ""  # why the last checkpoint could not be written
        self.progress = Progress()
        torch.manual_seed(torch_seed(self.settings.seed, *b"weights"))
        self.model: ImageModel = make_model(config.model).to(device)
        self.optimizer = torch.optim.Adamax(
            self.model.parameters(),
            lr=self.settings.lr,
            betas=self.settings.betas,
            eps=self.settings.eps,
        )
        self.elbo = TermsELBO(
            analytic_kl=self.settings.analytic_kl, detailed_kl=self.settings.free_nats > 0
        )
        self.clip = GradientClip(self.settings.clip_factor)
        self.objective = Objective(self.model, self.elbo, self.settings.free_nats, self.group.mean)
        self.parallel: nn.Module = self.objective
        self.augmentation = torch.Generator().manual_seed(self.seed_of("augmentation"))
        self.batches = Batches(
            data.train,
            self.settings.batch_size,
            device,
            self.settings.seed,
            self.group.rank,
            self.group.size,
        )
        if accumulate > 1 and self.settings.free_nats > 0:
            raise UserError(
                "free nats are of a batch as a whole, which --accumulate takes in parts: "
                "leave out one of the two"
            )
        if self.batches.batch_size % (self.group.size * accumulate):
            raise UserError(
                f"a batch of {self.batches.batch_size} pictures cannot be shared evenly by "
                f"{self.group.size} processes in {accumulate} parts: choose another number of "
                "them, or another --batch-size"
            )
        self.average = ExponentialAverage(self.model, self.settings.ema_half_life)
        self.means = RunningMean()
        self.interrupt = Interrupt()
        self._stop = self._save_due = False  # as all processes agreed
        self._clock = time.monotonic()
        self._save_at = math.inf
        self._logged = (0, 0.0)  # images and seconds when metrics were last written
        self._shown_at = -math.inf

    def seed_of(self, what: str) -> int:
        """A seed of this process at this step, for the generator of what is random."""
        numbers = self.settings.seed, self.group.rank, self.progress.step
        return torch_seed(*numbers, *what.encode())

    # What a checkpoint holds.

    def state(self) -> dict[str, Any]:
        """Everything needed to go on as if nothing had happened; all processes take part."""
        ranks = self.group.gather(
            {
                "augmentation": self.augmentation.get_state(),
                "random": random_state(self.device),
                "sums": {name: total.cpu() for name, total in self.means.sums.items()},
                "counts": dict(self.means.counts),
            }
        )
        return {
            "model": self.model.state_dict(),
            "average": self.average.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": dict(vars(self.progress)),
            "norms": self.clip.norms,
            "ranks": ranks,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        check_optimizer(state["optimizer"], self.optimizer)
        self.model.load_state_dict(state["model"])
        self.average.module.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        self.clip.norms = [float(norm) for norm in state["norms"]]
        ranks = state["ranks"]
        if len(ranks) == self.group.size:
            mine = ranks[self.group.rank]
            self.augmentation.set_state(mine["augmentation"])
            self.means.sums = {name: sums.to(self.device) for name, sums in mine["sums"].items()}
            self.means.counts = dict(mine["counts"])
            torch.manual_seed(self.seed_of("noise"))  # of a GPU, if it ran on CPUs
            restore_random_state(mine["random"], self.device)
        else:  # another number of processes: other noise, so not the same to the bit
            self.means = RunningMean()
            self.augmentation.manual_seed(self.seed_of("augmentation"))
            torch.manual_seed(self.seed_of("noise"))

    def resume(self) -> None:
        """Go on from the run's ``last.ckpt``.

        Raises:
            UserError: it is missing, damaged or of another model.
        """
        path = self.folder / LAST
        self.group.wait()  # for what the first process may still be writing
        state = load_checkpoint(path)
        try:
            self.restore(state)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path} does not suit this run's settings: {reason}") from None
        self.resumed = True

    def save(self) -> None:
        """Write ``last.ckpt``; what a full disk does not take is tried again after a minute.

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
            self._save_at = time.monotonic() + RETRY_AFTER
            say(
                f"cannot write {path} ({self.unsaved}): what was there is untouched, training goes "
                "on and tries again"
            )
        else:
            self.unsaved = ""
            self._save_at = time.monotonic() + self.save_every

    def best(self) -> float:
        """Validation nats an image of ``model.safetensors``; infinite if there is none.

        They stand in the file: it may be of a step after the checkpoint that the run returned to.
        """
        path = self.folder / WEIGHTS
        if not path.exists():
            return math.inf
        nats = validation_nats(path)
        return self.progress.best if nats is None else nats

    def save_best(self, nats: float | None = None) -> bool:
        """Write the averaged weights to ``model.safetensors``; whether that worked.

        Args:
            nats: an image, of validation, if they have been validated.
        """
        try:
            save_weights(self.average.module, self.folder, nats)
        except OSError as error:
            reason = error.strerror or str(error)
            say(f"cannot write {self.folder / WEIGHTS} ({reason}): training goes on")
            return False
        return True

    def roll_back(self) -> None:
        """Return to the last checkpoint with half the learning rate.

        From the second time on with the averaged weights and a fresh optimiser: the checkpoint
        itself may lead to where it went wrong.

        Raises:
            UserError: that has been tried often enough.
        """
        rollbacks, skipped = self.progress.rollbacks + 1, self.progress.skipped
        if rollbacks > MAX_ROLLBACKS:
            raise UserError(
                f"{MAX_SKIPPED_IN_A_ROW} updates in a row were not finite, and {MAX_ROLLBACKS} "
                "returns to the last checkpoint did not help: try a lower --lr or --precision "
                "fp32; that checkpoint is untouched"
            )
        factor, seconds = self.progress.rate_factor / 2, self.progress.seconds
        self.resume()
        if rollbacks > 1:
            self.model.load_state_dict(self.average.module.state_dict())
            self.optimizer.state.clear()
        self.progress.rollbacks, self.progress.skipped = rollbacks, skipped
        self.progress.rate_factor, self.progress.seconds = factor, seconds
        self._logged = (self.progress.images, seconds)
        self.say(
            f"{MAX_SKIPPED_IN_A_ROW} updates in a row were not finite: back to step "
            f"{self.progress.step} with {factor:g} of the learning rate"
        )

    # One update.

    def autocast(self) -> torch.autocast:
        """Networks in the run's precision; log-probabilities stay in float32 by themselves."""
        enabled = self.settings.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def initialize(self) -> None:
        """Data-dependent initialisation on the first batch, of two pictures at least.

        Of what is not yet initialised. The first process's is what all start from.
        """
        count = max(self.settings.batch_size, 2)
        self.model.initialize(to_unit(self.batches.first(count).to(self.device)))
        self.average = ExponentialAverage(self.model, self.settings.ema_half_life)

    def update(self, images: Tensor) -> None:
        """Learn from a batch of uint8 images on the device."""
        progress, settings = self.progress, self.settings
        if self.config.data.augment:
            images = augment(images, self.augmentation)
        done = self.fraction_done()
        rate = learning_rate(settings, progress.step, done) * progress.rate_factor
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        weight = kl_weight(settings, done)
        self.optimizer.zero_grad(set_to_none=True)
        loss, terms = self.backward(to_unit(images), weight)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        total_norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        norm, value = self.agree(total_norm, loss)
        if math.isfinite(norm) and math.isfinite(value):
            progress.skipped_in_a_row = 0
            scale = self.clip.scale(norm)
            if scale < 1:
                torch._foreach_mul_(gradients, scale)
            self.optimizer.step()
            count = self.batches.batch_size
            if self.group.main:
                self.average.update(progress.images + count, count)
            total = terms.pop("total")
            self.means.add(
                {
                    "loss": loss,
                    **terms,
                    "bits_per_dim": total * bits_per_dim(1.0, self.data.shape),
                    "gradient_norm": total_norm,
                }
            )
        else:
            terms.pop("total")
            self.skip(terms)
        progress.step += 1
        progress.images += self.batches.batch_size

    def backward(self, x: Tensor, weight: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Gradients of the batch ``x`` in parts; its loss and its terms, an entry an image."""
        losses, found = [], []
        parts = x.chunk(self.accumulate)
        for part in parts:
            last = part is parts[-1]
            hold = self.group.size > 1 and not last  # gradients are exchanged with the last part
            with self.parallel.no_sync() if hold else nullcontext():  # type: ignore[operator]
                with self.autocast():
                    loss, terms = self.parallel(part, weight)
                share = len(part) / len(x)
                (loss * share).backward()
            losses.append(loss.detach() * share)
            found.append({name: term.detach() for name, term in terms.items()})
        return torch.stack(losses).sum(), {n: torch.cat([t[n] for t in found]) for n in found[0]}

    def agree(self, norm: Tensor, loss: Tensor) -> tuple[float, float]:
        """The gradient's norm and the batch's loss, which all processes know then.

        The step's one synchronisation: whether to take it at all, and how far. With several
        processes also whether one was asked to stop, and the first's clock.
        """
        if self.group.size == 1:
            first, second = torch.stack([norm, loss]).tolist()
            return first, second
        now = time.monotonic()
        spent = self.progress.seconds + now - self._clock
        mine = [float(bool(self.interrupt)), float(now > self._save_at), spent]
        mine = mine if self.group.main else [mine[0], 0.0, 0.0]
        flags = torch.tensor(mine, dtype=torch.float64, device=self.device)
        shared = self.group.sum(torch.cat([loss.double()[None], flags]))
        first, value, stop, due, seconds = torch.cat([norm.double()[None], shared]).tolist()
        self._stop, self._save_due, self._clock = stop > 0, due > 0, now
        self.progress.seconds = seconds
        return first, value / self.group.size

    def stopping(self) -> bool:
        """Whether a signal has asked to stop, as all processes see it."""
        return self._stop if self.group.size > 1 else bool(self.interrupt)

    def say(self, text: str) -> None:
        """Print a line, once for all processes."""
        if self.group.main:
            say(text)

    def skip(self, terms: dict[str, Tensor]) -> None:
        """Count an update left out, and say what was not finite."""
        self.progress.skipped += 1
        self.progress.skipped_in_a_row += 1
        culprits = [name for name, term in terms.items() if not bool(term.isfinite().all())]
        if culprits:
            where = f"site {', '.join(name.split('_', 1)[1] for name in culprits)}"
        else:
            named = self.model.named_parameters()
            bad = (n for n, p in named if p.grad is not None and not bool(p.grad.isfinite().all()))
            where = f"gradient of {next(bad, 'all together')}"
        message = f"step {self.progress.step}: not finite at {where}; update skipped"
        self.say(f"{message} ({self.progress.skipped} so far)")

    # How long.

    def fraction_done(self) -> float:
        """From 0 to 1, by whichever of epochs, steps and minutes ends first."""
        settings, progress = self.settings, self.progress
        fractions = [0.0]
        if settings.epochs is not None:
            fractions.append(progress.step / max(settings.epochs * len(self.batches), 1))
        if settings.steps is not None:
            fractions.append(progress.step / max(settings.steps, 1))
        if settings.max_minutes is not None:
            fractions.append(progress.seconds / 60 / settings.max_minutes)
        return min(max(fractions), 1.0)

    def run(self) -> Progress:
        """Train to the end, or to a signal; the run's folder is complete either way.

        Raises:
            UserError: nothing can be written, or updates are not finite time and again.
        """
        if not self.resumed:
            self.begin()
        self.parallel = self.group.wrap(self.objective)
        log = MetricsLog(self.folder, self.progress.step) if self.group.main else None
        self._save_at = time.monotonic() + self.save_every
        self._logged = (self.progress.images, self.progress.seconds)
        with self.interrupt, self.bar() as bar:
            while self.fraction_done() < 1 and not self.stopping():
                self.run_epoch(log, bar)
            if self.fraction_done() >= 1 and self.progress.step_in_epoch:
                self.finish_epoch(log, bar)  # the run ends within an epoch
            else:
                self.save()
            # Stopped before the first validation?
            if self.group.main and not (self.folder / WEIGHTS).exists():
                self.save_best()
            self.stopped_by = self.interrupt.signal
        if log:
            log.close()
        if self.unsaved:
            raise UserError(
                f"the end of the run could not be saved ({self.unsaved}): make room, then "
                "--resume goes on from the last checkpoint that was"
            )
        return self.progress

    def begin(self) -> None:
        """The first weights, how good they are, and the first checkpoint."""
        if self.group.main:
            self.initialize()
            images = spread(self.data.test, min(len(self.test_images()), UNTRAINED_IMAGES))
            untrained = self.evaluate(self.average.module, images)
            self.progress.untrained = untrained["bits_per_dim"]
        torch.manual_seed(self.seed_of("noise"))  # each process's own
        self.save()
        if self.unsaved:
            raise UserError(f"{self.folder} cannot be written to: {self.unsaved}")

    def run_epoch(self, log: MetricsLog | None, bar: Bar) -> None:
        """The rest of an epoch, or as much of it as the run's limits and signals leave."""
        progress = self.progress
        self._clock = time.monotonic()
        for batch in self.batches.epoch(progress.epoch, progress.step_in_epoch):
            self.update(batch)
            progress.step_in_epoch += 1
            if self.group.size == 1:
                now = time.monotonic()
                progress.seconds += now - self._clock
                self._clock, self._save_due = now, now > self._save_at
            if progress.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
                self.roll_back()
                if log:
                    log.rewind(self.progress.step)
                return
            if progress.step % LOG_EVERY == 0 or progress.step == 1:
                self.log_training(log, bar)
            self.show(bar)
            if self.fraction_done() >= 1 or self.stopping():
                break
            if self._save_due:
                self.save()
        if progress.step_in_epoch >= len(self.batches):
            progress.epoch += 1
            progress.step_in_epoch = 0
            self.finish_epoch(log, bar)

    def bar(self) -> Bar:
        """A progress bar over the run, in thousandths of it; in a log a line now and then."""
        return Bar(
            total=1000,
            initial=1000 * self.fraction_done(),
            disable=self.quiet or not self.group.main,
            mininterval=1.0,
            miniters=0,
            bar_format="{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
            log_format="{percentage:.1f}%, {elapsed}<{remaining}{postfix}",
        )

    def show(self, bar: Bar) -> None:
        bar.n = 1000 * self.fraction_done()
        bar.update(0)

    # Reports.

    def log_training(self, log: MetricsLog | None, bar: Bar) -> None:
        """Write the means since the last time, over all processes."""
        progress = self.progress
        images, seconds = self._logged
        self._logged = (progress.images, progress.seconds)
        images_per_second = (progress.images - images) / max(progress.seconds - seconds, 1e-9)
        values = self.means.read(self.group.sum)
        if log is None:
            return
        values["lr"] = self.optimizer.param_groups[0]["lr"]
        values["images_per_second"] = images_per_second
        values["epoch"] = progress.epoch
        values["seconds"] = progress.seconds
        values["skipped"] = progress.skipped
        log.write("train", progress.step, values)
        postfix = {
            "epoch": progress.epoch,
            "bits/dim": f"{values.get('bits_per_dim', math.nan):.3f}",
        }
        if progress.val:
            postfix["val"] = f"{progress.val['bits_per_dim']:.3f}"
        postfix["images/s"] = f"{images_per_second:.0f}"
        bar.set_postfix(postfix, refresh=False)

    def test_images(self) -> Tensor:
        """The test pictures that a run is reported on, as many as validate it."""
        return spread(self.data.test, self.settings.validation_images)

    def cut_from(self, split: str) -> dict[str, Any]:
        """The ``photographs`` that the pictures which a run is scored on are cut from, if any."""
        if split not in self.data.photographs:
            return {}
        numbers = self.data.photographs[split]
        return {"photographs": spread(numbers, self.settings.validation_images)}

    def evaluate(
        self,
        model: ImageModel,
        images: Tensor,
        group: Group | None = None,
        photographs: Tensor | None = None,
    ) -> dict[str, Any]:
        """The ELBO's terms of ``model`` on uint8 images, mean nats an image, and bits/dim."""
        return evaluate_elbo(model, images, self.device, group=group, photographs=photographs)

    def finish_epoch(self, log: MetricsLog | None, bar: Bar) -> None:
        """Validate, draw pictures, and save the last and perhaps the best weights."""
        self.validate(log, bar)
        self.save()

    def validate(self, log: MetricsLog | None, bar: Bar) -> None:
        """Score and draw what the averaged weights can do; keep them if they are the best.

        All processes score, if there is a picture for each; the first does the rest.
        """
        progress = self.progress
        bar.set_postfix_str("validating")
        images = spread(self.data.val, self.settings.validation_images)
        self.group.follow(self.average.module)
        shared = self.group if len(images) >= self.group.size else None
        photographs = self.cut_from("val")
        progress.val = self.evaluate(self.average.module, images, shared, **photographs)
        if log is None:
            return
        log.write("val", progress.step, {**progress.val, "epoch": progress.epoch})
        nats = progress.val["nats"]
        best = self.best()
        if (nats < best or not math.isfinite(best)) and self.save_best(nats):
            best = nats
        progress.best = best
        if self.fraction_done() >= 1 or time.monotonic() - self._shown_at > SHOW_EVERY:
            self.draw(log)

    def draw(self, log: MetricsLog) -> None:
        """Write what the averaged weights can do as pictures."""
        self._shown_at = time.monotonic()
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(torch_seed(self.settings.seed, *b"pictures"))
            pictures = progress_pictures(self.average.module, to_unit(spread(self.data.val, 16)))
        step = self.progress.step
        for name, picture in pictures.items():
            path = self.folder / "figures" / f"{name}-{step:07d}.png"
            try:
                save_picture(picture, path)
            except OSError as error:
                say(f"cannot write {path} ({error.strerror}): training goes on")
            log.picture(name, step, picture)
