"""What may happen to a run: kills, full disks, damaged and hostile files, two processes at once."""

import contextlib
import errno
import io
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from safetensors.torch import save_file

from srvae_pyro.errors import UserError
from srvae_pyro.models import load
from srvae_pyro.runs import CONFIG, WEIGHTS, read_weights
from srvae_pyro.system import console as talk
from srvae_pyro.system.files import locked, write_json
from srvae_pyro.training import recovery
from srvae_pyro.training.command import IN_USE
from srvae_pyro.training.loop import Trainer
from srvae_pyro.training.metrics import MetricsLog
from srvae_pyro.training.recovery import LAST, load_checkpoint, save_checkpoint
from srvae_pyro.training.validation import Validation
from tests.builders import refused
from tests.training.test_training import make_trainer, some_images, tiny_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _as_in_a_run(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Validation, "draw", lambda *args, **options: None)
    pyro.enable_validation(False)
    yield
    pyro.enable_validation(True)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a finished tiny run."""
    folder = tmp_path / "run"
    trainer = make_trainer(folder, tiny_config(steps=2))
    trainer.run()
    write_json(folder / CONFIG, trainer.config.to_dict())
    return folder


# Kills


def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been() -> None:
    script = ROOT / "benchmarks" / "interruptions.py"
    command = [sys.executable, str(script), "--kills", "4", "--steps", "12", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    *_, told = done.stdout.splitlines()
    kills, runs = told.split(", ")
    assert kills == "4 of 4 kills survived"
    kept, _, made = runs.partition(" of ")
    assert int(kept) == int(made.split()[0]) > 0


def test_checkpoints_within_an_epoch_come_by_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    monkeypatch.setattr(
        recovery, "save_checkpoint", lambda path, s: saved.append(s["progress"]["step"])
    )
    args = (tiny_config(steps=4), some_images())
    Trainer(*args, tmp_path / "a", quiet=True, save_minutes=0).run()
    assert saved == [0, 1, 2, 3, 4]
    saved.clear()
    Trainer(*args, tmp_path / "b", quiet=True, save_minutes=99).run()
    assert saved == [0, 4]


# Disks


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_what_was_there(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer(run, tiny_config(steps=2))
    trainer.recovery.resume()
    before = {name: (run / name).read_bytes() for name in (LAST, WEIGHTS)}
    with largest_file(2000):
        trainer.recovery.save()
        assert not trainer.best.write()
    assert {name: (run / name).read_bytes() for name in before} == before
    assert not list(run.glob(".*partial*"))
    said = capsys.readouterr()
    assert "the earlier file is untouched; training continues" in said.out + said.err
    assert trainer.recovery.unsaved
    trainer.recovery.save()
    assert not trainer.recovery.unsaved


def failing(times: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The second and following saves fail ``times`` times; what became of each."""
    became: list[str] = []
    save = recovery.save_checkpoint

    def sometimes(path: Path, state: dict[str, Any]) -> None:
        if 0 < len(became) <= times:
            became.append("failed")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(path, state)
        became.append(f"step {state['progress']['step']}")

    monkeypatch.setattr(recovery, "save_checkpoint", sometimes)
    monkeypatch.setattr(recovery, "RETRY_AFTER", 0.0)
    return became


def test_training_goes_on_and_saves_when_there_is_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    became = failing(2, monkeypatch)
    trainer = make_trainer(tmp_path, tiny_config(steps=9))
    assert trainer.run().step == 9
    # Tried at the end of the epoch of 5 steps, then after each step.
    assert became == ["step 0", "failed", "failed", "step 7", "step 9"]


def test_a_run_whose_end_cannot_be_saved_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(99, monkeypatch)
    with pytest.raises(UserError, match=r"could not be saved \(No space left on device\)"):
        make_trainer(tmp_path, tiny_config(steps=3)).run()
    assert load_checkpoint(tmp_path / LAST)["progress"]["step"] == 0


def test_metrics_wait_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = MetricsLog(tmp_path, 0)
    log.close()  # TensorBoard's thread, which would only complain
    log.write("train", 1, {"loss": 1.5})
    with largest_file(50):
        log.write("train", 2, {"loss": 2.5})
        log.write("train", 3, {"loss": 3.5})
    log.write("train", 4, {"loss": 4.5})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]


class Gone:
    """A stream whose reader has gone, or whose disk is full."""

    encoding = "utf-8"

    def __init__(self, number: int) -> None:
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, os.strerror(self.number))

    def flush(self) -> None:
        raise OSError(self.number, os.strerror(self.number))

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC, errno.EIO])
def test_a_terminal_or_log_that_takes_nothing_does_not_end_a_run(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", Gone(number))
    monkeypatch.setattr(sys, "stderr", Gone(number))
    trainer = Trainer(tiny_config(steps=9), some_images(), tmp_path, save_minutes=0)
    talk.print_line("nobody hears this")
    assert trainer.run().step == 9
    assert load_checkpoint(tmp_path / LAST)["progress"]["step"] == 9


def test_a_closed_pipe_leaves_the_exit_code_as_it_is() -> None:
    code = (
        "from srvae_pyro.system.console import ignore_write_errors_of_streams as quiet\n"
        "import sys\n"
        "with quiet():\n"
        "    for _ in range(9): print('words ' * 9999); print('words', file=sys.stderr)\n"
        "sys.exit(3)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    process.stderr.close()
    assert process.wait() == 3


def test_tensorboard_that_cannot_be_imported_does_not_end_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert make_trainer(tmp_path, tiny_config(steps=2)).run().step == 2
    said = capsys.readouterr().out
    assert said.count("no TensorBoard (") == 1
    assert (tmp_path / "metrics.jsonl").exists()


def test_a_bar_in_a_log_is_a_plain_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talk, "LINE_EVERY", 0.02)
    log = io.StringIO()
    with talk.Bar(total=4, file=log) as bar:
        for number in range(4):
            time.sleep(0.03)
            bar.set_postfix_str(f"loss={number}", refresh=False)
            bar.update()
    lines = log.getvalue().splitlines()
    assert lines[0].startswith("25%, 1 of 4, 00:00<")
    assert lines[-1].endswith("loss=3")
    assert "\r" not in log.getvalue()
    monkeypatch.setattr(talk, "LINE_EVERY", 60.0)
    log = io.StringIO()
    with talk.Bar(total=4, file=log) as bar:
        bar.set_postfix_str("validating")
        bar.update(4)
    assert log.getvalue() == ""


def test_rank_0_alone_speaks_and_one_process_a_machine_complains(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(talk, "LINE_EVERY", 0.0)

    def told(rank: int, local: int) -> tuple[list[str], list[str]]:
        monkeypatch.setenv("WORLD_SIZE", "9")
        monkeypatch.setenv("MASTER_ADDR", "localhost")
        monkeypatch.setenv("MASTER_PORT", "29511")
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(local))
        log = io.StringIO()
        for _ in talk.Bar(range(2), file=log):
            time.sleep(0.01)
        talk.print_line("said")
        talk.print_error("wrong")
        output = capsys.readouterr()
        return output.out.splitlines() + output.err.splitlines(), log.getvalue().splitlines()

    words, lines = told(0, 0)
    assert words == ["said", "wrong"]
    assert lines
    assert told(1, 1) == ([], [])
    assert told(8, 0) == (["wrong"], [])  # the first of another machine, which has other files
    monkeypatch.delenv("RANK")
    log = io.StringIO()
    assert list(talk.Bar(range(2), file=log, in_log=False)) == [0, 1]
    assert not log.getvalue()


# Two at once


def hold(folder: Path, pipe: Any) -> None:
    with locked(folder, IN_USE):
        pipe.send("locked")
        time.sleep(60)


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path, theirs))
    process.start()
    assert ours.recv() == "locked"
    with (
        pytest.raises(UserError, match="another process is training"),
        locked(tmp_path, IN_USE),
    ):
        pass
    process.kill()
    process.join()
    with locked(tmp_path, IN_USE):
        pass
    with locked(tmp_path, IN_USE):  # and a living one lets go of it
        pass


# Damaged and hostile files


@pytest.mark.parametrize("change", ["cut", "missing", "extra", "shape", "kind", "nan", "large"])
def test_weights_that_do_not_fit_are_a_users_error(run: Path, change: str) -> None:
    state = read_weights(run / WEIGHTS)
    name = next(name for name in state if name.endswith("direction"))
    flag = next(name for name in state if name.endswith("initialized"))
    if change == "missing":
        del state[name]
    elif change == "extra":
        state["more"] = torch.zeros(1)
    elif change == "shape":
        state[name] = torch.zeros(3, 3)
    elif change == "kind":
        state[flag] = torch.zeros(())
    elif change == "nan":
        state[name].view(-1)[0] = float("nan")
    elif change == "large":  # for float32
        state[name] = state[name].double() * 1e300
    save_file(state, run / WEIGHTS)
    if change == "cut":
        (run / WEIGHTS).write_bytes((run / WEIGHTS).read_bytes()[:1000])
    match = {"cut": WEIGHTS, "missing": name, "extra": "more", "kind": flag, "shape": name}.get(
        change, "not finite"
    )
    with refused(match):
        load(run)


def test_a_config_too_large_for_its_weights_takes_no_memory(run: Path) -> None:
    values = json.loads((run / CONFIG).read_text())
    values["model"]["p_x"] = {"growth": 4096, "steps": 6, "blocks": 3}
    write_json(run / CONFIG, values)
    with pytest.raises(UserError, match=r"tensors are missing"):
        load(run)


def test_an_optimiser_of_other_shapes_is_a_users_error(run: Path) -> None:
    trainer = make_trainer(run, tiny_config(steps=4))
    state = load_checkpoint(run / LAST)
    state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(5)
    save_checkpoint(run / LAST, state)
    with pytest.raises(UserError, match=r"last\.ckpt does not fit .* another shape"):
        trainer.recovery.resume()


def test_another_optimiser_s_checkpoint_is_a_users_error(run: Path) -> None:
    trainer = make_trainer(run, tiny_config(steps=4))
    state = load_checkpoint(run / LAST)
    moments = state["optimizer"]["state"][0]
    moments["exp_avg_sq"] = moments.pop("exp_inf")  # as Adam has it
    save_checkpoint(run / LAST, state)
    with pytest.raises(UserError, match=r"last\.ckpt does not fit .* another optimiser"):
        trainer.recovery.resume()
    muon = make_trainer(run, tiny_config(steps=4, optimizer="muon"))
    with pytest.raises(UserError, match=r"last\.ckpt does not fit .* another optimiser"):
        muon.recovery.resume()
