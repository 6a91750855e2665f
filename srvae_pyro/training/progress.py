"""Progress of a run, its clock, and the signals that stop it after the current step."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from srvae_pyro.config import TrainingConfig
from srvae_pyro.system.console import print_line
from srvae_pyro.system.parallel import ProcessGroup


class Interrupt:
    """A context in which the first signal to end only makes it true.

    A second Ctrl-C or SIGTERM acts as usual. The other signals may be repeated, as terminals and
    batch systems do.
    """

    URGENT = (signal.SIGINT, signal.SIGTERM)
    # SIGUSR1 and 2 are Slurm's --signal and Grid Engine's; not every system has all of them.
    GENTLE = tuple(
        getattr(signal, name)
        for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
        if hasattr(signal, name)
    )

    def __init__(self) -> None:
        self.signal: int | None = None  # the first one's number
        self._previous: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self.signal is not None

    def __enter__(self) -> Interrupt:
        # Only the main thread may set handlers.
        if threading.current_thread() is threading.main_thread():
            for number in (*self.URGENT, *self.GENTLE):
                handler = signal.getsignal(number)
                # Leave what nohup ignores, and handlers not set from Python.
                if handler is None or (number in self.GENTLE and handler == signal.SIG_IGN):
                    continue
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore(*self._previous)

    def _restore(self, *numbers: int) -> None:
        for number in numbers:
            if number in self._previous:
                signal.signal(number, self._previous.pop(number))

    def _note(self, number: int, frame: FrameType | None) -> None:
        first = self.signal is None
        if first:
            self.signal = number
        if number in self.URGENT:
            self._restore(*self.URGENT)
        if first:
            again = "; repeat to stop immediately" if number in self.URGENT else ""
            print_line(f"stopping after this step{again}")


@dataclass
class Progress:
    """How far a run is; a checkpoint holds these fields by name."""

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    images: int = 0
    seconds: float = 0.0  # of training, without validation and pauses
    skipped: int = 0  # updates that were not finite
    skipped_in_a_row: int = 0
    rollbacks: int = 0  # returns to the last checkpoint after too many skipped in a row
    rate_factor: float = 1.0  # on the learning rate, halved by each rollback
    best: float = math.inf  # validation nats an image
    untrained: float = math.nan  # test bits/dim before the first step
    untrained_images: int = 0  # how many images that is of
    val: dict[str, float] = field(default_factory=dict)

    def restore(self, values: dict[str, Any]) -> None:
        """Take a checkpoint's values; a TypeError if one of them is not a field."""
        vars(self).update(vars(Progress(**values)))

    def fraction_done(self, settings: TrainingConfig, epoch_steps: int) -> float:
        """From 0 to 1, by whichever limit ends first: epochs, steps or minutes."""
        fractions = [0.0]
        if settings.epochs is not None:
            fractions.append(self.step / max(settings.epochs * epoch_steps, 1))
        if settings.steps is not None:
            fractions.append(self.step / max(settings.steps, 1))
        if settings.max_minutes is not None:
            fractions.append(self.seconds / 60 / settings.max_minutes)
        return min(max(fractions), 1.0)


class Clock:
    """The run's clock, and whether to stop or to save.

    Each step sums all processes' :meth:`votes` for :meth:`count`, so that all decide alike.
    """

    def __init__(self, progress: Progress, interrupt: Interrupt, group: ProcessGroup) -> None:
        self.progress = progress
        self.interrupt = interrupt
        self.group = group
        self.save_due = False  # whether the time between two checkpoints is over
        self._stop = False
        self._read_at = time.monotonic()
        self._save_at = math.inf

    def start(self) -> None:
        """Count from now on."""
        self._read_at = time.monotonic()

    def save_in(self, seconds: float) -> None:
        self._save_at = time.monotonic() + seconds

    def votes(self) -> list[float]:
        """A signal received, a checkpoint due, seconds since the last votes; times by rank 0's."""
        now = time.monotonic()
        seconds, self._read_at = now - self._read_at, now
        times = [float(now > self._save_at), seconds] if self.group.main else [0.0, 0.0]
        return [float(bool(self.interrupt)), *times]

    def count(self, votes: Sequence[float]) -> None:
        stop, due, seconds = votes
        self._stop, self.save_due = stop > 0, due > 0
        self.progress.seconds += seconds

    @property
    def stop(self) -> bool:
        """Whether a signal has reached any process; one alone need not wait for the votes."""
        return self._stop or (self.group.size == 1 and bool(self.interrupt))
