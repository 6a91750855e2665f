"""How long a run takes is told once it can be known, and again where it was told wrongly."""

import json
from pathlib import Path
from typing import Any

import pytest

from srvae_pyro import train
from srvae_pyro.config import TrainingConfig
from srvae_pyro.presets import preset
from srvae_pyro.training import loop
from srvae_pyro.training import loop as pace
from srvae_pyro.training.loop import Pace, about, run_length, time_limit
from srvae_pyro.training.settings import fresh_config
from tests.training.test_command import arguments, make_images, tiny


def settings(**limits: Any) -> TrainingConfig:
    return TrainingConfig(**{"epochs": None, **limits})


def told(
    pace: Pace, *updates: float, first: int = 0, beside: float = 0.0, before: float = 0.0
) -> list[str]:
    """What is told after updates that take so many seconds each."""
    texts, seconds = [], before
    for number, took in enumerate(updates, start=first + 1):
        seconds += took
        pace.add(seconds)
        texts.append(pace.news(number, seconds, beside, now=1000 + seconds))
    return texts


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
def test_times_are_told_in_words(seconds: float, words: str) -> None:
    assert about(seconds) == words


def test_a_run_is_as_long_as_its_first_limit_in_updates() -> None:
    assert run_length(settings(steps=1500), 250) == 1500
    assert run_length(settings(steps=1500, epochs=4), 250) == 1000
    assert run_length(settings(max_minutes=4.0), 250) is None


def test_the_first_updates_do_not_count() -> None:
    texts = told(Pace(1500, settings(steps=1500)), 90, 60, *[0.2] * 40, beside=20)
    assert texts[:26] == [""] * 26
    assert [text for text in texts if text] == ["1,500 updates, about 5 minutes here"]


def test_epochs_and_what_is_left_are_told() -> None:
    by_epochs = told(Pace(1500, settings(epochs=6)), 1, 1, 3, 3)
    assert by_epochs[-1] == "6 epochs, 1,500 updates, about 75 minutes here"
    resumed = told(Pace(1500, settings(steps=1500), 900), 1, 1, 3, 3, first=900, before=500)
    assert resumed[-1] == "600 of 1,500 updates to go, about 30 minutes here"


def test_what_was_far_off_is_told_again() -> None:
    one = Pace(1000, settings(steps=1000))
    texts = told(one, *[1.0] * 8, *[4.0] * 50)
    assert texts[6] == "1,000 updates, about 17 minutes here"
    again = [text for text in texts[7:] if text]
    assert again[0].startswith("slower than told: about ")
    assert len(again) < 5
    other = Pace(1000, settings(steps=1000))
    assert "faster than told: about 4 minutes more" in told(other, *[1.0] * 8, *[0.2] * 200)


def test_a_little_off_is_not_told_again() -> None:
    texts = told(Pace(1000, settings(steps=1000)), *[1.0] * 100, *[1.4] * 900)
    assert len([text for text in texts if text]) == 1
    short = told(Pace(20, settings(steps=20)), *[1.0] * 8, *[3.0] * 12)
    assert len([text for text in short if text]) == 1


def test_minutes_are_told_as_they_are() -> None:
    assert time_limit(settings(steps=5), 0) == ""
    limit = settings(max_minutes=4.0)
    assert time_limit(limit, 0) == "4 minutes of training; validation comes on top"
    assert ", 1.5 of them done;" in time_limit(limit, 90)
    assert time_limit(settings(max_minutes=4.0, steps=9), 0).startswith("at most 4 minutes")
    assert not any(told(Pace(None, limit), *[1.0] * 100))
    # Updates that the time does not suffice for are not told of.
    both = settings(max_minutes=4.0, steps=1000)
    assert not any(told(Pace(1000, both), *[1.0] * 100))
    assert any(told(Pace(1000, both), *[0.2] * 100))


def test_a_run_tells_its_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_images(tmp_path / "images")
    monkeypatch.setattr(pace, "MEASURED", 0.0)
    with tiny():
        assert train.main(arguments(tmp_path, steps=6)) == 0
        assert capsys.readouterr().out.count("6 updates, about ") == 1
        assert train.main(arguments(tmp_path, steps=12, resume=True)) == 0
        assert capsys.readouterr().out.count("6 of 12 updates to go, about ") == 1
        timed = arguments(tmp_path, steps=None, max_minutes=1e-4, run=str(tmp_path / "timed"))
        assert train.main(timed) == 0
    said = capsys.readouterr().out
    assert "0.0001 minutes of training; validation" in said
    assert "updates, about" not in said


def test_what_takes_long_is_told_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_images(tmp_path / "images")
    with tiny():
        train.main(arguments(tmp_path, run=str(tmp_path / "quick"), steps=1))
        said = capsys.readouterr().out
        assert "before the first update" in said
        assert "validating" not in said
        monkeypatch.setattr(loop, "WORTH_A_LINE", 0.0)
        train.main(arguments(tmp_path, run=str(tmp_path / "slow"), steps=1))
    lines = capsys.readouterr().out.splitlines()
    order = ["before the first update", "validating on 2 images", "on 2 test images", "test, 2"]
    places = [next(i for i, line in enumerate(lines) if text in line) for text in order]
    assert places == sorted(places)


def test_quickstart_is_the_same_run_on_every_machine() -> None:
    for model in ("srvae", "vae"):
        training = preset("quickstart", model)[1]  # type: ignore[arg-type]
        assert (training.epochs, training.max_minutes) == (None, None)
        assert training.steps is not None


def test_a_limit_that_is_given_replaces_the_presets(tmp_path: Path) -> None:
    for limit in ({"steps": 7}, {"epochs": 3}, {"max_minutes": 2.0}):
        given = arguments(tmp_path, preset="quickstart", **{"steps": None, **limit})
        training = fresh_config(given).training
        limits = {name: getattr(training, name) for name in ("steps", "epochs", "max_minutes")}
        assert {name: value for name, value in limits.items() if value is not None} == limit


def test_the_report_says_of_how_many_images_its_start_is(tmp_path: Path) -> None:
    make_images(tmp_path / "images")
    with tiny():
        train.main(arguments(tmp_path, steps=1))
    path = tmp_path / "runs" / "mine" / "evaluation.json"
    assert json.loads(path.read_text())["training"]["untrained_images"] == 2
