"""How long a run takes on this machine, told after its first updates."""

from __future__ import annotations

from srvae_pyro.config import TrainingConfig

__all__ = ["Pace", "about", "run_length", "time_limit"]

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
