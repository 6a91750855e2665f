"""The training loop: resuming, checkpoints, validation, and updates that are not finite."""

import copy
import itertools
import json
import math
import os
import pickle
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from srvae_pyro.config import DataConfig, RunConfig, TrainingConfig
from srvae_pyro.data import DataSplits, MemoryImages
from srvae_pyro.data.splits import evenly_spaced
from srvae_pyro.drawing.grids import progress_figures
from srvae_pyro.errors import UserError
from srvae_pyro.evaluation.likelihood import ElboResult
from srvae_pyro.inference.statistics import RunningMean, bits_per_dim
from srvae_pyro.models import ImageModel
from srvae_pyro.runs import validation_nats
from srvae_pyro.system.parallel import ProcessGroup
from srvae_pyro.training import loop, recovery, validation
from srvae_pyro.training.loop import Batches, Trainer
from srvae_pyro.training.metrics import MetricsLog
from srvae_pyro.training.progress import Clock, Interrupt, Progress
from srvae_pyro.training.recovery import load_checkpoint
from tests.builders import refused, smallest

CPU = torch.device("cpu")
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
BATCH, EPOCH = 4, 5  # images a batch, batches an epoch of the 22 training images
SWITCHES = {"kl_u_start": 0.1, "kl_u_warmup": 0.7, "y_updates": 3}


def tiny_config(model: Any = "srvae", prior: Any = "standard", **training: Any) -> RunConfig:
    scales = dict.fromkeys(("init_scale", "head_scale", "likelihood_scale"), 0.1)
    settings = smallest(model=model, p_u=prior, **scales)
    defaults = {"epochs": None, "steps": 6, "batch_size": BATCH, "warmup_steps": 3}
    return RunConfig(
        "tiny", settings, DataConfig(), TrainingConfig(**{**defaults, **training}), "test"
    )


def some_images(train: int = 22) -> DataSplits:
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> Tensor:
        coarse = torch.rand(count, 3, 4, 4, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, (16, 16), mode="bilinear")
        return (255 * smooth).round().to(torch.uint8)

    return DataSplits("smooth", MemoryImages(images(train)), images(3), images(3))


def make_trainer(
    folder: Path, config: RunConfig | None = None, kind: type[Trainer] = Trainer
) -> Any:
    return kind(config or tiny_config(), some_images(), folder, quiet=True)


def begin(trainer: Trainer) -> None:
    """Makes the first weights."""
    trainer.learner.initialize(trainer.batches.first(BATCH))


def end_epoch(trainer: Trainer) -> None:
    """Validates and saves as at the end of an epoch."""
    with closing(MetricsLog(trainer.folder, 0)) as trainer.log, trainer.make_bar() as trainer.bar:
        trainer.validate()
        trainer.recovery.save()


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(dict(sorted(model.state_dict().items())))


def best_of(folder: Path) -> dict[str, Tensor]:
    return dict(sorted(load_file(folder / "model.safetensors").items()))


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Equal bit for bit, whatever is nested in whatever; clocks left out."""
    if isinstance(a, Tensor):
        assert isinstance(b, Tensor), where
        assert a.dtype == b.dtype, where
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            if key not in ("seconds", "images_per_second"):
                assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for number, (one, other) in enumerate(zip(a, b, strict=True)):
            assert_same(one, other, f"{where}/{number}")
    else:
        assert a == b or (a != a and b != b), where


def draw_nothing(model: ImageModel, x: Tensor) -> dict[str, Tensor]:
    torch.rand(7)  # as drawing would use random numbers
    return {"nothing": torch.zeros(3, 8, 8)}


@pytest.fixture(autouse=True)
def _as_in_a_run(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pyro's checks off, as the command has them; metrics every second step; little drawing."""
    monkeypatch.setattr(loop, "LOG_EVERY", 2)
    monkeypatch.setattr(validation, "progress_figures", draw_nothing)
    pyro.enable_validation(False)
    yield
    pyro.enable_validation(True)


class Interrupted(Trainer):
    """Gets a signal in the middle of an update."""

    at = 0
    number = signal.SIGINT

    def step(self, images: Tensor) -> None:
        super().step(images)
        if self.progress.step == self.at:
            signal.raise_signal(self.number)


def interrupted_at(step: int, number: int = signal.SIGINT) -> type[Trainer]:
    return type("Interrupted", (Interrupted,), {"at": step, "number": number})


# Resuming


@pytest.mark.parametrize(
    ("model", "prior", "precision", "at", "steps", "switches"),
    [
        # In the first epoch, metrics half averaged.
        ("srvae", "realnvp", "fp32", 3, EPOCH + 1, {}),
        ("srvae", "standard", "bf16", 2, 3, SWITCHES),
        ("srvae", "standard", "fp32", EPOCH, EPOCH + 1, SWITCHES),  # an epoch's end
        ("vae", "standard", "fp32", 2 * EPOCH + 1, 2 * EPOCH + 2, {}),
        ("vae", "mixture", "bf16", 1, 4, {}),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    model: str,
    prior: str,
    precision: Any,
    at: int,
    steps: int,
    switches: dict[str, Any],
    tmp_path: Path,
) -> None:
    config = tiny_config(
        model, prior, steps=steps, precision=precision, anneal=0.5, kl_warmup=0.5, **switches
    )
    whole = make_trainer(tmp_path / "whole", config)
    whole.run()

    folder = tmp_path / "parts"
    assert make_trainer(folder, config, interrupted_at(at)).run().step == at
    torch.manual_seed(99)  # what happens in between does not matter
    resumed = make_trainer(folder, config)
    resumed.recovery.resume()
    assert resumed.progress.step == at
    resumed.run()

    assert_same(resumed.recovery.state(), whole.recovery.state())
    assert_same(load_checkpoint(folder / "last.ckpt"), whole.recovery.state())
    assert_same(lines_of(folder), lines_of(tmp_path / "whole"))
    logged = [line["step"] for line in lines_of(folder) if line["split"] == "train"]
    assert logged == [1, *range(2, steps + 1, 2)]
    assert_same(best_of(folder), best_of(tmp_path / "whole"))


def test_a_signal_in_the_last_step_leaves_a_finished_run(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, tiny_config(steps=3), interrupted_at(3))
    trainer.run()
    assert trainer.fraction_done() == 1
    assert (tmp_path / "model.safetensors").is_file()
    assert lines_of(tmp_path)[-1]["split"] == "val"


def test_a_second_signal_stops_at_once_and_handlers_come_back() -> None:
    # Tests that run in the background of a shell inherit that SIGINT is ignored.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interrupt() as interrupt:  # noqa: PT012
        assert not interrupt
        signal.raise_signal(signal.SIGINT)
        assert interrupt
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    signal.signal(signal.SIGINT, inherited)


class Killed(Trainer):
    """Dies in its first update."""

    def step(self, images: Tensor) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_save_as_ctrl_c_does(number: int, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, tiny_config("vae"), interrupted_at(2, number))
    assert trainer.run().step == 2
    assert trainer.interrupt.signal == number
    assert load_checkpoint(tmp_path / "last.ckpt")["progress"]["step"] == 2


def test_gentle_signals_may_be_repeated_and_followed_by_sigterm() -> None:
    with Interrupt() as interrupt:
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGXCPU, signal.SIGTERM, signal.SIGHUP):
            signal.raise_signal(number)
    assert interrupt.signal == signal.SIGHUP
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            signal.raise_signal(signal.SIGHUP)
        assert not interrupt
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_killed_in_its_first_epoch_can_be_resumed(tmp_path: Path) -> None:
    config = tiny_config("vae")
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path / "killed", config, Killed).run()
    resumed = make_trainer(tmp_path / "killed", config)
    resumed.recovery.resume()
    resumed.run()
    whole = make_trainer(tmp_path / "whole", config)
    whole.run()
    assert_same(resumed.recovery.state(), whole.recovery.state())


def test_one_training_image_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 2"):
        Trainer(tiny_config(), some_images(train=1), tmp_path, quiet=True).run()


# The order of the images


def numbers(batches: Batches, epoch: int, start: int = 0) -> list[int]:
    return torch.cat(list(batches.epoch(epoch, start))).flatten().tolist()


def test_an_epoch_meets_every_image_at_most_once() -> None:
    images = torch.arange(22, dtype=torch.uint8).reshape(22, 1, 1, 1)
    batches = Batches(MemoryImages(images), 4, CPU, seed=3)
    epochs = [numbers(batches, epoch) for epoch in range(3)]
    assert all(len(set(epoch)) == len(epoch) == 20 for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert numbers(batches, 1) == epochs[1]
    assert numbers(batches, 1, start=3) == epochs[1][12:]
    assert numbers(Batches(MemoryImages(images), 4, CPU, seed=4), 0) != epochs[0]
    few = Batches(MemoryImages(images[:3]), 32, CPU, seed=0)
    assert len(few) == len(list(few.epoch(0))) == 1  # fewer than a batch make one


# Checkpoints


def test_a_truncated_checkpoint_is_a_users_error(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.recovery.save()
    path = tmp_path / "last.ckpt"
    content = path.read_bytes()
    for length in (0, 1, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with refused(r"last\.ckpt"):
            trainer.recovery.resume()
    path.write_bytes(content)
    trainer.recovery.resume()


@pytest.mark.parametrize("content", ["list", "incomplete", "other model", "missing"])
def test_a_checkpoint_of_something_else_is_a_users_error(content: str, tmp_path: Path) -> None:
    if content == "other model":
        make_trainer(tmp_path, tiny_config("vae")).recovery.save()
    elif content != "missing":
        torch.save(["a"] if content == "list" else {"model": {}}, tmp_path / "last.ckpt")
    with refused(r"last\.ckpt"):
        make_trainer(tmp_path, tiny_config("srvae")).recovery.resume()


class Malicious:
    """Makes a folder when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("by", ["torch", "pickle"])
def test_code_in_a_checkpoint_is_not_run(by: str, tmp_path: Path) -> None:
    path, trace = tmp_path / "last.ckpt", tmp_path / "trace"
    state = {"model": Malicious(trace)}
    if by == "torch":
        torch.save(state, path)
    else:
        path.write_bytes(pickle.dumps(state, protocol=2))
    with refused(r"last\.ckpt"):
        load_checkpoint(path)
    assert not trace.exists()


# Metrics


def test_metrics_are_repaired_and_cut_to_the_checkpoint(tmp_path: Path) -> None:
    lines = [{"split": "train", "step": step, "loss": 1.0} for step in (1, 50, 100, 150)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    cut = text + '{"split": "train", "step": 10'
    (tmp_path / "metrics.jsonl").write_text(cut, encoding="utf-8-sig")  # as Notepad saves it
    log = MetricsLog(tmp_path, step=100)
    log.write("val", 100, {"nats": 2.0})
    log.close()
    assert lines_of(tmp_path) == [*lines[:3], {"split": "val", "step": 100, "nats": 2.0}]


def test_means_weigh_every_image_alike() -> None:
    means = RunningMean()
    means.add({"nats": torch.tensor([1.0, 2.0, 3.0]), "norm": torch.tensor(1.0)})
    means.add({"nats": torch.tensor([10.0]), "norm": torch.tensor(3.0)})
    assert means.read() == {"nats": 4.0, "norm": 2.0}
    assert means.read() == {}


def test_bits_per_dim_of_a_uniform_image_are_8() -> None:
    nats = 3 * 16 * 16 * torch.tensor(256.0).log().item()
    assert bits_per_dim(nats, (3, 16, 16)) == pytest.approx(8.0, rel=1e-6)


def test_images_to_validate_on_are_spread_evenly() -> None:
    images = torch.arange(10)
    assert evenly_spaced(images, 4).tolist() == [0, 3, 6, 9]
    assert (
        evenly_spaced(images, 10).tolist() == evenly_spaced(images, 99).tolist() == list(range(10))
    )
    assert evenly_spaced(images, None) is images


# Learning and validation


def test_training_learns(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, tiny_config(steps=15, lr=2e-2))
    progress = trainer.run()
    assert progress.skipped == 0
    assert progress.val["bits_per_dim"] < progress.untrained - 0.2


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


def test_validation_is_of_the_averaged_weights(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    begin(trainer)
    with torch.no_grad():
        for parameter in trainer.learner.model.parameters():
            parameter.fill_(float("nan"))
    end_epoch(trainer)
    assert torch.tensor(trainer.progress.val["nats"]).isfinite()
    assert_same(best_of(tmp_path), weights_of(trainer.learner.averaged))


def score(monkeypatch: pytest.MonkeyPatch, *scores: float) -> list[dict[str, Tensor]]:
    """Lets the models that are scored next have the scores; their weights, as they are scored."""
    scored: list[dict[str, Tensor]] = []

    def next_score(model: ImageModel, *args: Any, **kwargs: Any) -> ElboResult:
        scored.append(weights_of(model))
        nats = scores[len(scored) - 1]
        return ElboResult({}, nats, nats, standard_error=None)

    monkeypatch.setattr(validation, "evaluate_elbo", next_score)
    return scored


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


# Updates that are not finite


@pytest.fixture
def started(tmp_path: Path) -> Trainer:
    """A trainer after one good step."""
    trainer: Trainer = make_trainer(tmp_path)
    begin(trainer)
    trainer.step(trainer.data.train.images[:BATCH])
    return trainer


def learnt(trainer: Trainer) -> dict[str, Any]:
    state = trainer.recovery.state()
    parts = {name: state[name] for name in ("model", "average", "norms")}
    return copy.deepcopy({**parts, "optimizer": state["optimizer"]["state"]})


def spoil_x(trainer: Trainer, spoilt: Iterable[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """x's log-probability is NaN where ``spoilt`` is true, call by call of the ELBO."""
    elbo = trainer.learner.whole.objective.elbo
    terms = elbo.terms
    calls = iter(spoilt)

    def spoilt_terms(*args: Any, **kwargs: Any) -> Any:
        found = terms(*args, **kwargs)
        if next(calls):
            found.reconstruction["x"] = found.reconstruction["x"] * float("nan")
        return found

    monkeypatch.setattr(elbo, "terms", spoilt_terms)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    output = capsys.readouterr()
    return output.out + output.err


def test_a_poisoned_parameter_spreads_no_further(
    started: Trainer, capsys: pytest.CaptureFixture[str]
) -> None:
    head = list(started.learner.model.model.get_submodule("p_x").parameters())[-1]
    good = head.detach().clone()
    with torch.no_grad():
        head.view(-1)[0] = float("nan")
    before = learnt(started)
    started.step(started.data.train.images[:BATCH])
    assert started.progress.skipped == 1
    assert started.progress.step == 2
    after = learnt(started)
    for name, value in after["model"].items():
        assert torch.equal(value.nan_to_num(7), before["model"][name].nan_to_num(7)), name
    assert_same(after["average"], before["average"])
    assert all(value.isfinite().all() for value in after["average"].values())
    assert_same(after["optimizer"], before["optimizer"])
    assert "step 1: not finite at site x; update skipped (1 so far)" in said(capsys)
    with torch.no_grad():
        head.copy_(good)
    started.step(started.data.train.images[:BATCH])
    assert started.progress.skipped == 1
    assert not torch.equal(head, good)


def test_an_infinite_gradient_is_named(
    started: Trainer, capsys: pytest.CaptureFixture[str]
) -> None:
    name, parameter = list(started.learner.model.named_parameters())[-1]
    before = learnt(started)
    handle = parameter.register_hook(lambda gradient: gradient + float("inf"))
    started.step(started.data.train.images[:BATCH])
    handle.remove()
    assert_same(learnt(started), before)
    assert f"gradient of {name}" in said(capsys)


def test_skipped_updates_in_a_row_lead_back_to_the_checkpoint_with_a_smaller_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recovery, "MAX_SKIPPED_IN_A_ROW", 3)
    trainer = make_trainer(tmp_path, tiny_config("vae", steps=EPOCH + 4))
    # The checkpoint at the epoch's end is good, one that falls among bad updates is not written.
    trainer.recovery.save_every = 0.0
    spoil_x(trainer, [*[False] * EPOCH, *[True] * 3, *[False] * 99], monkeypatch)
    saved = []
    save = recovery.save_checkpoint
    monkeypatch.setattr(
        recovery,
        "save_checkpoint",
        lambda path, state: (saved.append(state["progress"]["step"]), save(path, state)),
    )
    progress = trainer.run()
    assert progress.step == EPOCH + 4
    assert (progress.skipped, progress.skipped_in_a_row, progress.rollbacks) == (3, 0, 1)
    assert progress.rate_factor == 0.5
    assert f"back to step {EPOCH} with 0.5 of the learning rate" in said(capsys)
    assert EPOCH + 1 in saved[saved.index(EPOCH) + 1 :]
    assert saved.count(EPOCH + 1) == saved.count(EPOCH + 2) == 1
    lines = [line for line in lines_of(tmp_path) if line["split"] == "train"]
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps))
    assert lines[-1]["skipped"] == 3
    assert all(math.isfinite(line["loss"]) for line in lines if "loss" in line)


def test_the_second_way_back_takes_the_averaged_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(tmp_path, tiny_config("vae", steps=4))
    trainer.run()
    trainer.progress.rollbacks = 1
    trainer.recovery.roll_back()
    assert trainer.progress.rollbacks == 2
    assert not trainer.learner.optimizer.state
    assert_same(weights_of(trainer.learner.model), weights_of(trainer.learner.averaged))


def test_a_run_that_goes_bad_leaves_a_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "MAX_SKIPPED_IN_A_ROW", 3)
    make_trainer(tmp_path, tiny_config("vae", steps=4)).run()
    bad = make_trainer(tmp_path, tiny_config("vae", steps=30))
    bad.recovery.resume()
    with monkeypatch.context() as patch:
        spoil_x(bad, itertools.repeat(True), patch)
        with pytest.raises(UserError, match=r"3 returns .* did not help.*untouched") as error:
            bad.run()
    assert "\n" not in str(error.value)
    assert bad.progress.rollbacks == recovery.MAX_ROLLBACKS
    healed = make_trainer(tmp_path, tiny_config("vae", steps=8))
    healed.recovery.resume()
    assert all(value.isfinite().all() for value in healed.learner.model.state_dict().values())
    assert healed.run().step == 8
    assert lines_of(tmp_path)[-1]["step"] == 8


# Each level by itself


def test_y_can_have_more_updates_than_x(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, tiny_config(prior="realnvp", steps=4, y_updates=3))
    progress = trainer.run()
    assert (progress.step, progress.images, progress.skipped) == (4, 4 * BATCH, 0)
    counts: dict[str, set[int]] = {}
    for name, parameter in trainer.learner.model.named_parameters():
        network = ".".join(name.split(".")[:2])
        steps = trainer.learner.optimizer.state[parameter]["step"]
        counts.setdefault(network, set()).add(int(steps))
    once = {name: {4} for name in ("model.p_z", "model.p_x", "guide.q_z")}
    assert counts == once | {name: {12} for name in ("model.p_u", "model.p_y", "guide.q_u")}
    assert len(trainer.learner.lower[0].clip.norms) == 8


def test_a_further_update_of_y_leaves_x_as_it_is(tmp_path: Path) -> None:
    """Also the moments of its networks: the first update is that of a run without further ones."""
    states = []
    for updates in (1, 2):
        trainer = make_trainer(tmp_path, tiny_config(y_updates=updates))
        begin(trainer)
        torch.manual_seed(5)
        trainer.step(trainer.data.train.images[:BATCH])
        states.append(weights_of(trainer.learner.model))
    one, two = states
    changed = {name.split(".")[1] for name in one if not torch.equal(one[name], two[name])}
    assert changed == {"p_y", "q_u"}  # p(u) has no parameters here


def test_a_further_update_that_is_not_finite_is_skipped_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer(tmp_path, tiny_config(y_updates=3))
    begin(trainer)
    monkeypatch.setattr(
        trainer.learner.lower[0].objective, "forward", lambda x, weights: infinite(trainer)
    )
    before = learnt(trainer)
    trainer.step(trainer.data.train.images[:BATCH])
    told = "not finite at site y in a further update of y's level; update skipped (1 so far)"
    assert told in said(capsys)
    assert trainer.progress.skipped_in_a_row == 1
    after = learnt(trainer)  # the first update was made, and is in the average
    assert not torch.equal(torch.tensor(after["norms"]), torch.tensor(before["norms"]))
    assert all(value.isfinite().all() for value in after["model"].values())
    assert any(not torch.equal(v, before["average"][n]) for n, v in after["average"].items())


def infinite(trainer: Trainer) -> tuple[Tensor, dict[str, Tensor]]:
    """A loss that is not, and its terms."""
    loss = sum(p.sum() for p in trainer.learner.lower[0].objective.parameters()) * float("inf")
    return loss, {"re_y": loss.expand(BATCH), "kl_u": torch.zeros(BATCH)}


def test_a_vae_has_one_update_whatever_the_settings_of_its_preset(tmp_path: Path) -> None:
    """Presets have their training for both models."""
    weights = []
    for name, switches in (("plain", {}), ("switched", SWITCHES)):
        trainer = make_trainer(tmp_path / name, tiny_config("vae", steps=2, **switches))
        trainer.run()
        weights.append(weights_of(trainer.learner.model))
    assert_same(*weights)


# On a GPU


@pytest.mark.gpu
@CUDA
def test_a_step_in_bf16_on_a_gpu(tmp_path: Path) -> None:
    config = tiny_config(prior="realnvp", precision="bf16")
    trainer = Trainer(config, some_images(), tmp_path, ProcessGroup(device=torch.device("cuda")))
    begin(trainer)
    trainer.step(next(trainer.batches.epoch(0)))
    assert trainer.progress.skipped == 0
    assert torch.tensor(trainer.means.read()["loss"]).isfinite()
    assert all(p.is_cuda and p.dtype == torch.float32 for p in trainer.learner.model.parameters())


@pytest.mark.gpu
@CUDA
def test_resuming_on_a_gpu_restores_its_state(tmp_path: Path) -> None:
    gpu, config = ProcessGroup(device=torch.device("cuda")), tiny_config(steps=2 * EPOCH)
    interrupted_at(7)(config, some_images(), tmp_path, gpu, quiet=True).run()
    saved = load_checkpoint(tmp_path / "last.ckpt")
    trainer = Trainer(config, some_images(), tmp_path, gpu, quiet=True)
    trainer.recovery.resume()
    state = trainer.recovery.state()
    random, saved_random = (part["ranks"][0]["random"] for part in (state, saved))
    assert "cuda" in saved_random
    assert_same(random, saved_random)
    for name, value in state["model"].items():
        assert value.is_cuda
        assert torch.equal(value.cpu(), saved["model"][name]), name
    assert trainer.run().step == 2 * EPOCH
    assert trainer.progress.skipped == 0
