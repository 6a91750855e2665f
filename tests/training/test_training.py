"""The training loop: resuming, checkpoints, and updates that are not finite."""

import copy
import itertools
import json
import math
import os
import pickle
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from srvae_pyro.config import DataConfig, RunConfig, TrainingConfig
from srvae_pyro.data import DataSplits, MemoryImages
from srvae_pyro.errors import UserError
from srvae_pyro.inference.statistics import RunningMean
from srvae_pyro.system.parallel import ProcessGroup
from srvae_pyro.training import recovery
from srvae_pyro.training.loop import Batches, Trainer
from srvae_pyro.training.metrics import MetricsLog
from srvae_pyro.training.progress import Interrupt
from srvae_pyro.training.recovery import LAST, load_checkpoint
from tests.builders import Malicious, refused, smallest
from tests.training.test_command import lines_of

pytestmark = pytest.mark.usefixtures("as_in_a_run")

CPU = torch.device("cpu")
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
BATCH, EPOCH = 4, 5  # images a batch, batches an epoch of the 22 training images
SWITCHES = {"kl_u_start": 0.1, "kl_u_warmup": 0.7}


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


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(dict(sorted(model.state_dict().items())))


def best_of(folder: Path) -> dict[str, Tensor]:
    return dict(sorted(load_file(folder / "model.safetensors").items()))


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


def interrupted_at(at: int, number: int = signal.SIGINT) -> type[Trainer]:
    """A trainer that gets a signal in the middle of an update."""

    class Interrupted(Trainer):
        def step(self, images: Tensor) -> None:
            super().step(images)
            if self.progress.step == at:
                signal.raise_signal(number)

    return Interrupted


# Resuming


@pytest.mark.parametrize(
    ("at", "steps", "changes"),
    [
        # In the first epoch, metrics half averaged.
        (3, EPOCH + 1, {"prior": "realnvp", "optimizer": "muon"}),
        (2, 3, {"precision": "bf16", **SWITCHES}),
        (EPOCH, EPOCH + 1, SWITCHES),  # an epoch's end
        (2 * EPOCH + 1, 2 * EPOCH + 2, {"model": "vae"}),
        (1, 4, {"model": "vae", "prior": "mixture", "precision": "bf16", "optimizer": "muon"}),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    at: int, steps: int, changes: dict[str, Any], tmp_path: Path
) -> None:
    config = tiny_config(steps=steps, anneal=0.5, kl_warmup=0.5, **changes)
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


def test_gentle_signals_may_be_repeated_and_followed_by_sigterm() -> None:
    # Tests that nohup runs inherit that SIGHUP is ignored.
    inherited = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with Interrupt() as interrupt:
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGXCPU, signal.SIGTERM, signal.SIGHUP):
            signal.raise_signal(number)
    assert interrupt.signal == signal.SIGHUP
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    signal.signal(signal.SIGHUP, inherited)


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

    def die(_: Tensor) -> None:
        raise KeyboardInterrupt

    killed = make_trainer(tmp_path / "killed", config)
    killed.step = die
    with pytest.raises(KeyboardInterrupt):
        killed.run()
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


@pytest.mark.parametrize("by", ["torch", "pickle"])
def test_code_in_a_checkpoint_is_not_run(by: str, tmp_path: Path) -> None:
    path, trace = tmp_path / "last.ckpt", tmp_path / "trace"
    state = {"model": Malicious(os.mkdir, str(trace))}
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
    elbo = trainer.learner.objective.elbo
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
    assert "step 1: site x is not finite; update skipped (1 so far)" in said(capsys)
    with torch.no_grad():
        head.copy_(good)
    started.step(started.data.train.images[:BATCH])
    assert started.progress.skipped == 1
    assert not torch.equal(head, good)


def test_a_run_that_ends_on_a_skipped_update_says_what_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer(tmp_path, tiny_config("vae", steps=2))
    spoil_x(trainer, [False, True], monkeypatch)
    assert trainer.run().skipped == 1
    assert f"not saved: {tmp_path / LAST} is of an earlier step" in said(capsys)
    assert load_checkpoint(tmp_path / LAST)["progress"]["step"] < 2


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
    saved, save = [], recovery.save_checkpoint

    def noted(path: Path, state: dict[str, Any]) -> None:
        saved.append(state["progress"]["step"])
        save(path, state)

    monkeypatch.setattr(recovery, "save_checkpoint", noted)
    progress = trainer.run()
    assert progress.step == EPOCH + 4
    assert (progress.skipped, progress.skipped_in_a_row, progress.rollbacks) == (3, 0, 1)
    assert progress.rate_factor == 0.5
    assert f"returning to step {EPOCH} with 0.5 of the learning rate" in said(capsys)
    assert EPOCH + 1 in saved[saved.index(EPOCH) + 1 :]
    assert saved.count(EPOCH + 1) == saved.count(EPOCH + 2) == 1
    lines = [line for line in lines_of(tmp_path) if line["split"] == "train"]
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps))
    assert lines[-1]["skipped"] == 3
    assert all(math.isfinite(line["loss"]) for line in lines if "loss" in line)


def test_the_second_way_back_takes_the_averaged_weights(tmp_path: Path) -> None:
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
        with refused(r"3 returns .* did not help.*untouched"):
            bad.run()
    assert bad.progress.rollbacks == recovery.MAX_ROLLBACKS
    healed = make_trainer(tmp_path, tiny_config("vae", steps=8))
    healed.recovery.resume()
    assert all(value.isfinite().all() for value in healed.learner.model.state_dict().values())
    assert healed.run().step == 8
    assert lines_of(tmp_path)[-1]["step"] == 8


def test_a_vae_learns_the_same_whatever_is_set_for_u(tmp_path: Path) -> None:
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
