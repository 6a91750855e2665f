"""What is validated is in proportion to what is trained, and no more than it takes."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from srvae_pyro.evaluation.likelihood import ElboResult
from srvae_pyro.models import ImageModel
from srvae_pyro.runs import validation_images, validation_nats
from srvae_pyro.training import command as session
from srvae_pyro.training import validation
from srvae_pyro.training.loop import Trainer
from tests.training.test_training import make_trainer, score, some_images, tiny_config


def trainer_of(folder: Path, test: int = 3, val: int = 3, **training: Any) -> Any:
    """A trainer with so many test and validation images, each of one level."""
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 256, (max(test, val), 1, 1, 1), generator=generator)
    images = levels.to(torch.uint8).expand(-1, 3, 16, 16)
    data = replace(some_images(), test=images[:test], val=images[:val])
    return Trainer(tiny_config(**training), data, folder, quiet=True)


def test_the_start_is_scored_on_few_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    score(monkeypatch, 9.0, 8.0, 7.0, math.nan)
    assert trainer_of(tmp_path, test=1).validation.untrained() == (9.0, 1)
    asked = trainer_of(tmp_path, test=900, validation_images=50)
    assert asked.validation.untrained() == (8.0, 50)
    many = trainer_of(tmp_path, test=900).validation
    assert many.untrained(to_learn=320) == (7.0, 40)  # a run of ten steps
    bits, count = many.untrained()
    assert math.isnan(bits)
    assert count == validation.UNTRAINED_IMAGES


def test_a_short_run_is_scored_on_few_images_and_a_long_one_on_all(tmp_path: Path) -> None:
    count = trainer_of(tmp_path, test=900, val=800).validation.count
    assert count("test", 0) == count("test", 64) == 16
    assert count("test", 800) == 100
    assert (count("test", 8000), count("val", 8000)) == (900, 800)
    few = trainer_of(tmp_path, test=9, val=800, validation_images=200).validation.count
    assert (few("test", 0), few("val", 0), few("val", 10**6)) == (9, 16, 200)


def test_images_are_drawn_of_few_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def draw(model: ImageModel, x: Tensor) -> dict[str, Tensor]:
        drawn.append(len(x))
        return {}

    monkeypatch.setattr(validation, "progress_figures", draw)
    trainer = trainer_of(tmp_path, val=40)
    for learnt in (0, 640, 10_000):
        trainer.validation.draw(None, 1, learnt, finished=True)
    assert drawn == [4, 6, 16]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_validates_in_its_own_precision_and_reports_in_float32(
    precision: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate, precisions = validation.evaluate_elbo, []

    def noted(*args: Any, **options: Any) -> ElboResult:
        precisions.append(options["precision"])
        return evaluate(*args, **options)

    autocast: list[bool] = []

    def draw(model: ImageModel, x: Tensor) -> dict[str, Tensor]:
        autocast.append(torch.is_autocast_enabled("cpu"))
        return {}

    monkeypatch.setattr(validation, "evaluate_elbo", noted)
    monkeypatch.setattr(validation, "progress_figures", draw)
    trainer = make_trainer(tmp_path, tiny_config(precision=precision, steps=2))
    trainer.run()
    session.write_json(tmp_path / "config.json", trainer.config.to_dict())
    session.report(trainer)
    assert precisions == [precision, precision, "fp32"]
    assert autocast == [precision == "bf16"]


def test_a_score_on_more_images_takes_the_place_of_one_on_fewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(tmp_path)
    trainer.learner.initialize(trainer.batches.first(4))
    path = tmp_path / "model.safetensors"
    offers = [(5.0, 16), (7.0, 16), (9.0, 40), (6.0, 16), (math.nan, 80), (8.0, 40)]
    trainer.best.offer(math.nan, 16)  # beaten by any finite score
    kept = []
    for nats, images in offers:
        trainer.best.offer(nats, images)
        kept.append((validation_nats(path), validation_images(path)))
        assert trainer.progress.best == kept[-1][0]
    assert kept == [(5.0, 16), (5.0, 16), (9.0, 40), (9.0, 40), (9.0, 40), (8.0, 40)]
