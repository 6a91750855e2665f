"""Validation: on how many images, by which weights, and which weights are kept."""

import copy
import math
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from srvae_pyro.data.splits import evenly_spaced
from srvae_pyro.drawing.grids import progress_figures
from srvae_pyro.evaluation.likelihood import ElboResult, histogram_nats
from srvae_pyro.models import ImageModel
from srvae_pyro.runs import validation_images, validation_nats
from srvae_pyro.training import command as session
from srvae_pyro.training import validation
from srvae_pyro.training.loop import Trainer
from srvae_pyro.training.metrics import MetricsLog
from tests.training.test_command import lines_of
from tests.training.test_training import (
    EPOCH,
    assert_same,
    begin,
    best_of,
    make_trainer,
    some_images,
    tiny_config,
    weights_of,
)

pytestmark = pytest.mark.usefixtures("as_in_a_run")


def trainer_of(folder: Path, test: int = 3, val: int = 3, **training: Any) -> Any:
    """A trainer with so many test and validation images, each of one level."""
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 256, (max(test, val), 1, 1, 1), generator=generator)
    images = levels.to(torch.uint8).expand(-1, 3, 16, 16)
    data = replace(some_images(), test=images[:test], val=images[:val])
    return Trainer(tiny_config(**training), data, folder, quiet=True)


def end_epoch(trainer: Trainer) -> None:
    """Validates and saves as at the end of an epoch."""
    with closing(MetricsLog(trainer.folder, 0)) as trainer.log, trainer.make_bar() as trainer.bar:
        trainer.validate()
        trainer.recovery.save()


def score(monkeypatch: pytest.MonkeyPatch, *scores: float) -> list[dict[str, Tensor]]:
    """Lets the models that are scored next have the scores; their weights, as they are scored."""
    scored: list[dict[str, Tensor]] = []

    def next_score(model: ImageModel, *args: Any, **kwargs: Any) -> ElboResult:
        scored.append(weights_of(model))
        nats = scores[len(scored) - 1]
        return ElboResult({}, nats, nats, standard_error=None)

    monkeypatch.setattr(validation, "evaluate_elbo", next_score)
    return scored


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


def test_scoring_takes_no_more_memory_than_learning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate, sizes = validation.evaluate_elbo, []

    def noted(*args: Any, **options: Any) -> ElboResult:
        sizes.append(options["batch_size"])
        return evaluate(*args, **options)

    monkeypatch.setattr(validation, "evaluate_elbo", noted)
    config = tiny_config(batch_size=4)
    trainer = Trainer(config, some_images(), tmp_path, quiet=True, accumulate=2)
    trainer.validation.untrained()
    trainer.validation.score(0)
    assert sizes == [8, 8]
    assert trainer_of(tmp_path, batch_size=8).validation.batch_size == 32


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
    begin(trainer)
    path = tmp_path / "model.safetensors"
    offers = [(5.0, 16), (7.0, 16), (9.0, 40), (6.0, 16), (math.nan, 80), (8.0, 40)]
    trainer.best.offer(math.nan, 16)  # beaten by any finite score
    kept = []
    for nats, images in offers:
        trainer.best.offer(nats, images)
        kept.append((validation_nats(path), validation_images(path)))
        assert trainer.progress.best == kept[-1][0]
    assert kept == [(5.0, 16), (5.0, 16), (9.0, 40), (9.0, 40), (9.0, 40), (8.0, 40)]


def test_validation_disturbs_nothing_and_repeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "progress_figures", progress_figures)
    trainer = make_trainer(tmp_path)
    begin(trainer)
    before = copy.deepcopy(trainer.recovery.state())
    end_epoch(trainer)
    first, after = dict(trainer.progress.val), copy.deepcopy(trainer.recovery.state())
    torch.rand(5)
    end_epoch(trainer)
    assert trainer.progress.val == first
    for name in set(before) - {"progress"}:
        assert_same(after[name], before[name], name)


def test_the_best_weights_are_kept_when_validation_gets_worse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    untrained = 99.0
    scored = score(monkeypatch, untrained, 10.0, 5.0, 7.0, float("nan"))
    trainer = make_trainer(tmp_path, tiny_config("vae", steps=4 * EPOCH))
    trainer.run()
    assert len(scored) == 5
    assert trainer.progress.best == 5.0
    assert_same(best_of(tmp_path), scored[2])
    # A run resumed from there remembers.
    score(monkeypatch, 6.0)
    again = make_trainer(tmp_path, tiny_config("vae", steps=5 * EPOCH))
    again.recovery.resume()
    again.run()
    assert_same(best_of(tmp_path), scored[2])


def test_better_weights_are_kept_by_a_run_that_went_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_trainer(tmp_path, tiny_config("vae")).run()
    path = tmp_path / "model.safetensors"
    before, nats = path.read_bytes(), validation_nats(path)
    assert nats == min(line["nats"] for line in lines_of(tmp_path) if line["split"] == "val")
    back = make_trainer(tmp_path, tiny_config("vae", steps=12))
    back.recovery.resume()
    back.progress.best = math.inf  # as in a checkpoint from before the best weights
    evaluate = validation.evaluate_elbo

    def worse(*args: Any, **kwargs: Any) -> ElboResult:
        return replace(evaluate(*args, **kwargs), nats=nats + 1)

    monkeypatch.setattr(validation, "evaluate_elbo", worse)
    back.run()
    assert path.read_bytes() == before
    assert back.progress.best == nats


def test_images_to_validate_on_are_spread_evenly() -> None:
    images = torch.arange(10)
    assert evenly_spaced(images, 4).tolist() == [0, 3, 6, 9]
    assert (
        evenly_spaced(images, 10).tolist() == evenly_spaced(images, 99).tolist() == list(range(10))
    )
    assert evenly_spaced(images, None) is images


# The histogram that the report compares with


def test_histogram_by_hand() -> None:
    train_images = torch.tensor([0, 0, 0, 255], dtype=torch.uint8).reshape(4, 1, 1, 1)
    test_images = torch.tensor([0, 255, 7], dtype=torch.uint8).reshape(3, 1, 1, 1)
    total = 4 + 256
    pooled = {0: 4 / total, 255: 2 / total, 7: 1 / total}
    expected = 0.0
    for level, count in ((0, 3), (255, 1), (7, 0)):
        expected -= math.log((count + 2.0 * pooled[level]) / (4 + 2.0))
    found = histogram_nats(train_images, test_images, prior_weight=2.0)
    assert found == pytest.approx(expected / 3, rel=1e-5)


def test_histogram_is_of_each_dimension() -> None:
    """Dimensions that never change cost little, each with its own level; others 8 bits."""
    generator = torch.Generator().manual_seed(0)
    fixed = torch.randint(0, 256, (1, 3, 4, 4), generator=generator, dtype=torch.uint8)
    constant = fixed.expand(2000, 3, 4, 4)
    uniform = 48 * math.log(256)
    assert histogram_nats(constant, constant[:5]) < 0.05 * uniform
    noise = torch.randint(0, 256, (2000, 3, 4, 4), generator=generator, dtype=torch.uint8)
    assert histogram_nats(noise, noise[:50]) == pytest.approx(uniform, rel=0.1)
    smooth = (noise.float() * 0.25 + 100).to(torch.uint8)
    assert histogram_nats(smooth[:1000], smooth[1000:]) < 0.85 * uniform
