"""How long a run takes, by its limits and by the clock."""

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from srvae_pyro.config import TrainingConfig
from srvae_pyro.presets import preset
from srvae_pyro.system.parallel import ProcessGroup
from srvae_pyro.training import loop
from srvae_pyro.training.loop import about, run_length, time_limit
from srvae_pyro.training.progress import Clock, Interrupt, Progress
from tests.training.test_training import make_trainer, tiny_config


def settings(**limits: Any) -> TrainingConfig:
    return TrainingConfig(**{"epochs": None, **limits})


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.1, "about 5 seconds"),
        (44, "about 45 seconds"),
        (91, "about 2 minutes"),
        (290, "about 5 minutes"),
        (5400, "about 2 hours"),
        (36 * 3600, "about 2 days"),
        (3e8, "about 3,472 days"),
    ],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert about(seconds) == words


def test_a_run_is_as_long_as_its_first_limit_in_updates() -> None:
    assert run_length(settings(steps=1500), 250) == 1500
    assert run_length(settings(steps=1500, epochs=4), 250) == 1000
    assert run_length(settings(max_minutes=4.0), 250) is None


def test_minutes_in_words() -> None:
    assert time_limit(settings(steps=5), 0) == ""
    limit = settings(max_minutes=4.0)
    assert time_limit(limit, 0) == "4 minutes of training; validation takes extra time"
    assert ", 1.5 of them done;" in time_limit(limit, 90)
    assert time_limit(settings(max_minutes=4.0, steps=9), 0).startswith("at most 4 minutes")


@pytest.mark.parametrize(
    ("first", "changes", "shown"),
    [
        (0, {"steps": 1500}, "1,500 steps, about 50 minutes plus validation"),
        (0, {"epochs": 300}, "1,500 steps, about 50 minutes plus validation"),
        (900, {"steps": 1500}, "595 of 1,500 steps, about 20 minutes plus validation"),
        (0, {"max_minutes": 4.0}, None),
        (0, {"steps": 1500, "max_minutes": 4.0}, None),  # that ends the run before
    ],
)
def test_the_length_is_shown_once_and_the_first_steps_do_not_count(
    first: int,
    changes: dict[str, Any],
    shown: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(loop, "print_line", lines.append)
    trainer = make_trainer(tmp_path, tiny_config(**{"steps": None, **changes}))
    trainer._first_step = first
    for step, seconds in enumerate([90, 60, *[2.0] * 9], first + 1):
        trainer.progress.step = step
        trainer.progress.seconds += seconds
        trainer.show_length()
    assert lines == ([] if shown is None else [shown])


def test_quickstart_is_the_same_run_on_every_machine() -> None:
    for model in ("srvae", "vae"):
        training = preset("quickstart", model)[1]
        assert (training.epochs, training.max_minutes) == (None, None)


def test_fraction_done_is_that_of_the_first_limit_reached(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, tiny_config(epochs=4, steps=100, max_minutes=10.0))
    assert trainer.fraction_done() == 0
    trainer.progress.step = 10
    assert trainer.fraction_done() == 0.5  # of 4 epochs of 5 steps
    trainer.progress.seconds = 9 * 60
    assert trainer.fraction_done() == pytest.approx(0.9)
    trainer.progress.seconds = 1e9
    assert trainer.fraction_done() == 1


def test_processes_decide_alike_by_the_first_ones_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    interrupts = Interrupt(), Interrupt()
    clocks = [
        Clock(Progress(), interrupt, ProcessGroup(rank, 2))
        for rank, interrupt in enumerate(interrupts)
    ]
    clocks[0].save_in(2.5)
    decisions = []
    for moment in (102.0, 103.0, 104.0):
        now = moment
        interrupts[1].signal = signal.SIGTERM if moment == 104 else None
        sums = [sum(votes) for votes in zip(*(clock.votes() for clock in clocks), strict=True)]
        for clock in clocks:
            clock.count(sums)
        decisions.append([(c.save_due, c.stop, c.progress.seconds) for c in clocks])
    expected = (False, False, 2.0), (True, False, 3.0), (True, True, 4.0)
    assert decisions == [[decision] * 2 for decision in expected]
