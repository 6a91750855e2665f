"""The command train from end to end, on a folder of a few small images."""

import contextlib
import errno
import io
import json
import math
import re
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pyro
import pytest
import torch
from PIL import Image

import srvae_pyro
from srvae_pyro import train
from srvae_pyro.checked import metadata_of
from srvae_pyro.config import ModelConfig, Residual, TrainingConfig
from srvae_pyro.data import DataSplits, MemoryImages, load_data
from srvae_pyro.errors import UserError
from srvae_pyro.evaluation.record import newest_results
from srvae_pyro.runs import read_config
from srvae_pyro.system.cli import parse, run_command
from srvae_pyro.system.parallel import ProcessGroup
from srvae_pyro.train import TrainArguments
from srvae_pyro.training import command as session
from srvae_pyro.training import loop
from srvae_pyro.training.arguments import setting_flags
from srvae_pyro.training.learner import Learner
from srvae_pyro.training.loop import Trainer
from srvae_pyro.training.settings import (
    folder_of,
    fresh_config,
    resume_command,
    resumed_config,
    run_name,
)
from tests.builders import smallest

BATCH, STEPS = 4, 7  # of 16 training images: one epoch of 4 steps, and 3 more


def tiny_preset(name: str, model: Any = "srvae") -> tuple[ModelConfig, TrainingConfig]:
    scales = dict.fromkeys(("init_scale", "head_scale", "likelihood_scale"), 0.1)
    settings = smallest(model=model, p_u="realnvp", **scales)
    training = TrainingConfig(epochs=None, max_minutes=3.0, batch_size=BATCH, warmup_steps=2)
    return settings, training


def plain_preset(name: str, model: Any = "srvae") -> tuple[ModelConfig, TrainingConfig]:
    """Of half as many networks."""
    settings, training = tiny_preset(name, model)
    return replace(settings, p_u="standard", groups=Residual(4, 1)), training


def exact_preset(name: str, model: Any = "srvae") -> tuple[ModelConfig, TrainingConfig]:
    settings, training = plain_preset(name, model)
    return replace(settings, d="average2", likelihood="groups"), training


def make_images(folder: Path, count: int = 20) -> None:
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        levels = torch.randint(0, 256, (4, 4, 3), generator=generator, dtype=torch.uint8)
        image = Image.fromarray(levels.numpy()).resize((16, 16), Image.Resampling.BILINEAR)
        image.save(folder / f"{number:02d}.png")


@contextlib.contextmanager
def tiny(preset: Any = tiny_preset) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("srvae_pyro.training.settings.preset", preset)
        patch.setattr(loop, "LOG_EVERY", 2)
        yield


@contextlib.contextmanager
def plain(preset: Any = plain_preset) -> Iterator[None]:
    """Tiny runs that draw no images."""
    with tiny(preset), pytest.MonkeyPatch.context() as patch:
        patch.setattr("srvae_pyro.training.validation.progress_figures", lambda *_: {})
        yield


def arguments(place: Path, **changes: Any) -> TrainArguments:
    settings: dict[str, Any] = {
        "data": str(place / "images"),
        "run": str(place / "runs" / "mine"),
        "steps": STEPS,
        "device": "cpu",
        "precision": "fp32",
        "keep_allocator": True,
    }
    return TrainArguments(**(settings | changes))


class Done(NamedTuple):
    """A finished run."""

    model: str
    folder: Path
    arguments: TrainArguments
    code: int
    output: str


@pytest.fixture(scope="module", params=["srvae", "vae"])
def done(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Done:
    place = tmp_path_factory.mktemp(request.param)
    make_images(place / "images")
    given = arguments(place, model=request.param)
    output = io.StringIO()
    with tiny(), contextlib.redirect_stdout(output):
        code = train.main(given)
    return Done(request.param, place / "runs" / "mine", given, code, output.getvalue())


@pytest.fixture(autouse=True)
def _validation_again() -> Iterator[None]:
    yield
    pyro.enable_validation(True)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# A whole run


def test_a_run_leaves_a_complete_folder(done: Done) -> None:
    assert done.code == 0
    names = {path.name for path in done.folder.iterdir()}
    files = {"config.json", "model.safetensors", "last.ckpt", "metrics.jsonl", "evaluation.jsonl"}
    assert names - {".lock"} == files | {"tensorboard", "figures"}
    assert list((done.folder / "tensorboard").glob("events*"))
    kinds = {"samples", "reconstructions"}
    if done.model == "srvae":
        kinds.add("super-resolution")
    figures = {path.name for path in (done.folder / "figures").iterdir()}
    assert figures >= {f"{kind}-{step:07d}.png" for kind in kinds for step in (4, STEPS)}
    last = {"samples.png", *(("upscaled.png",) if done.model == "srvae" else ())}
    assert {name for name in figures if "-0" not in name} == last
    for name in figures:
        with Image.open(done.folder / "figures" / name) as image:
            assert image.mode == "RGB"
            assert min(image.size) >= 32


def test_a_run_records_its_settings(done: Done) -> None:
    config = read_config(done.folder)
    with tiny():
        asked = fresh_config(done.arguments.settings())
    assert config.preset == "paper"
    assert config.model == replace(asked.model, image_shape=(3, 16, 16))
    assert config.training == replace(asked.training, precision="fp32")
    assert (config.training.steps, config.training.max_minutes) == (STEPS, None)
    assert replace(config.data, info={}) == asked.data
    assert config.data.info["counts"] == {"train": 16, "val": 2, "test": 2}
    assert config.version == srvae_pyro.__version__


def test_a_run_records_its_metrics(done: Done) -> None:
    lines = lines_of(done.folder)
    train_lines = [line for line in lines if line["split"] == "train"]
    terms = {"re_x", "kl_z"} | ({"re_y", "kl_u"} if done.model == "srvae" else set())
    further = {"loss", "bits_per_dim", "gradient_norm", "lr", "images_per_second", "epoch"}
    assert [line["step"] for line in train_lines] == [1, 2, 4, 6]
    for line in train_lines:
        assert terms | further | {"seconds", "skipped"} <= line.keys()
        assert all(math.isfinite(line[name]) for name in terms | further)
        total = sum(line[name] for name in terms)
        assert line["bits_per_dim"] == pytest.approx(total / (768 * math.log(2)), rel=1e-4)
        assert line["loss"] == pytest.approx(total, rel=1e-4)  # the plain ELBO
        assert line["images_per_second"] > 0
    assert train_lines[0]["lr"] == pytest.approx(1e-3)
    val = [line for line in lines if line["split"] == "val"]
    assert [line["step"] for line in val] == [4, STEPS]
    assert all(terms | {"nats", "bits_per_dim"} <= line.keys() for line in val)


def test_a_run_reports_its_test_score(done: Done) -> None:
    results = newest_results(done.folder)["training"]["result"]
    assert (results["split"], results["images"], results["steps"]) == ("test", 2, STEPS)
    score = results["elbo"]["bits_per_dim"]
    for name in ("untrained_bits_per_dim", "histogram_bits_per_dim"):
        assert 0 < results[name] < 20
    assert 0 < score < results["untrained_bits_per_dim"]
    assert f"{score:.3f} bits/dim" in done.output
    terms = ("RE_y", "RE_x", "KL_u", "KL_z") if done.model == "srvae" else ("RE_x", "KL_z")
    named = ", ".join(f"{name} {results['elbo'][name.lower()]:.0f}" for name in terms)
    assert f"nats per image: {named}" in done.output
    assert "python -m srvae_pyro.generate" in done.output


def test_a_finished_run_is_not_started_again(done: Done, error: Callable[..., str]) -> None:
    data, run = str(done.arguments.data), str(done.folder)
    before = {path: path.stat().st_mtime_ns for path in done.folder.iterdir()}
    assert "--resume" in error("--data", data, "--run", run)
    resume = ("--run", run, "--resume", "--keep-allocator", "--device", "cpu")
    assert "is complete: to continue it" in error(*resume)
    assert {path: path.stat().st_mtime_ns for path in done.folder.iterdir()} == before


def test_a_group_that_lost_a_process_at_its_end_reports(
    done: Done, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    report = done.folder / "evaluation.jsonl"
    before = newest_results(done.folder)
    report.unlink()
    full = mock.Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    with tiny():
        warned = pytest.warns(match="evaluation.jsonl cannot be written: No space left on device")
        with mock.patch.object(session, "record", full), warned:
            assert train.main(done.arguments) == 0
        assert "bits/dim (negative ELBO)" in capsys.readouterr().out
        assert train.main(done.arguments) == 0
    assert newest_results(done.folder).keys() == before.keys()


# Stopping and going on


def test_a_signal_and_resume(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_images(here / "images")
    step = Trainer.step
    signals = {2: signal.SIGINT, 4: signal.SIGTERM}

    def interrupted(self: Trainer, images: torch.Tensor) -> None:
        step(self, images)
        if number := signals.pop(self.progress.step, None):
            signal.raise_signal(number)

    monkeypatch.setattr(Trainer, "step", interrupted)
    command = "python -m srvae_pyro.train --run mine --resume"
    with plain():
        code = train.main(arguments(here, run="mine", steps=3))
        assert code == 128 + signal.SIGINT
        assert command in capsys.readouterr().out
        folder = here / "runs" / "mine"
        config = read_config(folder)
        # Its length is the run's, or a new one.
        given = TrainArguments(run="mine", resume=True, device="cpu", keep_allocator=True)
        assert train.main(given) == 0
        assert read_config(folder) == config
        assert train.main(replace(given, steps=5)) == 128 + signal.SIGTERM
        assert command in capsys.readouterr().out
        assert read_config(folder) == replace(config, training=replace(config.training, steps=5))
        assert train.main(given) == 0
    steps = [line["step"] for line in lines_of(folder) if line["split"] == "train"]
    assert steps == [1, 2, 4]
    assert newest_results(folder)["training"]["result"]["steps"] == 5


def test_a_run_that_died_before_its_first_step_is_no_dead_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_images(tmp_path / "images")

    def die(self: Learner, images: torch.Tensor) -> None:
        raise KeyboardInterrupt

    with plain():
        with monkeypatch.context() as patch:
            patch.setattr(Learner, "initialize", die)
            with pytest.raises(KeyboardInterrupt):
                train.main(arguments(tmp_path, steps=1))
        assert train.main(arguments(tmp_path, steps=1)) == 0


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl"])
def test_a_folder_of_another_program_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"step": "theirs"}\n')
    with pytest.raises(UserError, match=f"{name} does not belong .*: choose another `run`"):
        train.main(arguments(tmp_path, run=str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_run_finds_its_images_where_they_were_moved(here: Path) -> None:
    make_images(here / "images")
    with plain():
        train.main(arguments(here, run="mine", steps=1, data_seed=3))
        before = read_config(Path("runs/mine")).data
        (here / "images").rename("elsewhere")
        make_images(here / "others", 21)
        given = TrainArguments(run="mine", resume=True, steps=2, device="cpu", keep_allocator=True)
        with pytest.raises(UserError, match=r"which no longer exists: use --data to give"):
            train.main(given)
        with pytest.raises(UserError, match="are not those that it was trained on"):
            train.main(replace(given, data="others"))
        assert train.main(replace(given, data="elsewhere")) == 0
        after = read_config(Path("runs/mine")).data
        assert after.data == str(here / "elsewhere")
        assert after.seed == before.seed == 3
        for fact in ("fingerprint", "held_out_indices", "counts"):
            assert after.info[fact] == before.info[fact]
        assert train.main(replace(given, steps=3)) == 0  # it stays known


def test_a_streamed_run_is_resumed_without_its_flags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_images(tmp_path / "images")
    given = {"run": str(tmp_path / "runs" / "mine"), "device": "cpu", "keep_allocator": True}
    with plain():
        assert train.main(arguments(tmp_path, steps=1, stream=True, workers=0)) == 0
        assert "images: val and test held out at random" in capsys.readouterr().out
        assert train.main(TrainArguments(resume=True, steps=2, workers=0, **given)) == 0
    info = read_config(tmp_path / "runs" / "mine").data.info
    assert info["streamed"]
    # In memory they are the same images.
    assert load_data(str(tmp_path / "images"), Path()).fingerprint() == info["fingerprint"]


def test_the_command_to_resume_has_what_settings_have_not() -> None:
    kept: dict[str, Any] = {"data_root": Path("big disk/data"), "run": "my run", "workers": 3}
    kept |= {"device": "cpu", "strict": True, "keep_allocator": True}
    settings: dict[str, Any] = {"data": "my images", "seed": 4, "data_seed": 5, "limit": 7}
    settings |= {"stream": True, "threads": 2, "steps": 9, "precision": "bf16"}
    given = TrainArguments(**kept, **settings, set=("training.anneal=0.5",))
    words = shlex.split(resume_command(str(given.run), given.options()))
    assert words[:3] == ["python", "-m", "srvae_pyro.train"]
    again = parse(TrainArguments, words=words[3:])
    assert again == TrainArguments(resume=True, **kept)
    assert run_name(fresh_config(TrainArguments(data="photos").settings())) == "srvae-paper-photos"


def test_a_run_is_under_runs_unless_it_has_a_slash() -> None:
    for name, folder in (
        ("here", "runs/here"),
        ("./here", "here"),
        ("here/", "here"),
        ("..", ".."),
        ("a/here", "a/here"),
        ("/a/here", "/a/here"),
    ):
        assert folder_of(name) == Path(folder)


def test_a_runs_seed_leaves_its_images_as_they_are(tmp_path: Path) -> None:
    make_images(tmp_path / "images")
    splits = []
    for seeds in ({"seed": 1}, {"seed": 2}, {"data_seed": 1}):
        given = arguments(tmp_path, **seeds)
        splits.append(session.load_images(fresh_config(given.settings()), given.options()))
    assert torch.equal(splits[0].test, splits[1].test)
    assert not torch.equal(splits[0].test, splits[2].test)


def test_resuming_with_images_of_another_size_is_refused(
    done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    black = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    images = DataSplits("", MemoryImages(black), black, black)
    monkeypatch.setattr(session, "load_images", lambda *_: images)
    given = TrainArguments(run=str(done.folder), resume=True, steps=9, keep_allocator=True)
    with pytest.raises(srvae_pyro.UserError, match="32"):
        train.main(given)
    assert read_config(done.folder).model.image_shape == (3, 16, 16)


def test_a_run_keeps_the_number_of_threads_that_it_was_given(
    done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []

    def start(*_: Any, threads: int, **__: Any) -> str:
        taken.append(threads)
        return "fp32"

    monkeypatch.setattr(session, "start", start)
    config = read_config(done.folder)
    for threads, resume in ((None, False), (2, False), (None, True), (0, True)):
        given = replace(done.arguments, threads=threads, resume=resume)
        config = session.on_this_machine(config, given.options(), ProcessGroup())
        assert config.training.threads == taken[-1]
    assert taken == [0, 2, 2, 0]


# Mistakes


@pytest.fixture
def error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Gives the one line that train says of a mistake in its flags."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def told(*flags: str) -> str:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["train", *flags])
        with pytest.raises(SystemExit) as stop:
            run_command(TrainArguments, train.main, "train")
        assert stop.value.code == 2
        output = capsys.readouterr()
        assert output.err.startswith("train: ")
        assert output.err.count("\n") == 1
        assert "Traceback" not in output.out + output.err
        return output.err

    return told


@pytest.mark.parametrize(
    ("flags", "advice"),
    [
        ("--lr -1", "--lr must be above 0"),
        ("--resume", "leave out --resume"),
        ("--model vae --kl-u-start 0.1", "--kl-u-start needs an srVAE: the VAE has no u"),
        ("--data cifar", "did you mean cifar10?"),
        ("--data ~nobody-of-this-name/images", "there is no data set or folder called"),
        ("--threads 3000000000", "--threads must be at most 4096"),
        ("--image-size 18", "pass --image-size 24"),
        ("--likelihood groups", "--likelihood groups needs --transform average2, not downscale2"),
    ],
)
@pytest.mark.usefixtures("here")
def test_mistakes_of_train(flags: str, advice: str, error: Callable[..., str]) -> None:
    make_images(Path("images"), 6)
    fixed = ["--keep-allocator", "--device", "cpu", "--run", "mine"]
    data = [] if "--data" in flags else ["--data", "images"]
    with tiny():
        assert advice in error(*fixed, *data, *flags.split())
    assert not Path("runs").exists()  # nothing is left that would be in the way


@pytest.mark.parametrize(("size", "better"), [((28, 28), 32), ((20, 28), 24), ((500, 300), 64)])
def test_images_that_do_not_suit_name_the_flag_that_helps(
    size: tuple[int, int], better: int, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    for number in range(10, 40):
        Image.new("L", size).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "images" / "99.png").write_text("no image, which reading all would tell")
    given = arguments(tmp_path, strict=True)
    with tiny(), pytest.raises(UserError, match=f"pass `image_size={better}`$"):
        session.load_images(fresh_config(given.settings()), given.options())
    given = replace(given, image_size=better, strict=False)
    with tiny(), pytest.warns(match="left out"):
        images = session.load_images(fresh_config(given.settings()), given.options())
    assert images.shape == (3, better, better)


# The flags


def test_every_training_setting_has_a_flag_with_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(TrainArguments, "train", ["--help-all"])
    told = capsys.readouterr().out
    names = {f.name for f in fields(TrainArguments)}
    assert {f.name for f in fields(TrainingConfig)} <= names
    for flag in setting_flags():
        assert f"--{flag.name.replace('_', '-')}" in told
        assert any(isinstance(mark, str) for mark in metadata_of(flag.hint)), flag.name


def test_flags_of_all_kinds_reach_the_settings() -> None:
    config = fresh_config(TrainArguments().settings())  # the published run
    assert (config.model, config.training) == (ModelConfig(), TrainingConfig())
    assert config.data.data == "cifar10"
    line = (
        "--preset small --betas 0.5 0.75 --analytic-kl False --epochs 2 --augment none --seed 3 "
        "--transform sketch --likelihood independent --prior mixture --guide-z-sees-y --limit 9 "
        "--channels 1 --image-size 64"
    )
    config = fresh_config(parse(TrainArguments, words=shlex.split(line)).settings())
    training, model, data = config.training, config.model, config.data
    assert (training.betas, training.analytic_kl, training.seed) == ((0.5, 0.75), False, 3)
    assert (training.epochs, training.steps, training.max_minutes) == (2, None, None)
    assert (model.d, model.p_u, model.guide_z_sees_y) == ("sketch", "mixture", True)
    assert (data.augment, data.limit, data.channels, data.image_size) == ("none", 9, 1, 64)
    assert data.seed == 0
    given = TrainArguments(preset="small", data_seed=4)
    assert fresh_config(given.settings()).data.seed == 4
    assert fresh_config(given.settings()).training.analytic_kl
    several = ("model.p_x.growth=5", "training.anneal=0.25", "model.likelihood_start=published")
    config = fresh_config(replace(given, set=several).settings())
    assert (config.model.p_x.growth, config.training.anneal) == (5, 0.25)
    assert config.model.likelihood_start == "published"


def test_a_resumed_run_refuses_each_other_setting_by_its_flag(
    done: Done, error: Callable[..., str]
) -> None:
    resume = ("--run", str(done.folder), "--resume", "--keep-allocator", "--device", "cpu")
    other = {"srvae": "vae", "vae": "srvae"}[done.model]
    for flags in (
        *("--seed 1", "--lr-decay 0.5", "--data-seed 1", "--augment none", "--prior mixture"),
        *("--preset small", "--batch-size 5", "--channels 1", f"--model {other}"),
    ):
        told = error(*resume, *flags.split())
        assert f"was trained with another {flags.split()[0]}" in told
        assert ": leave it out to resume" in told
    assert "--seed (0, not 1)" in error(*resume, "--seed", "1")
    assert "ema_half_life" in error(*resume, "--set", "training.ema_half_life=200")
    # Its length may change, by either way, and what is the same may be said.
    given = parse(TrainArguments, words=[*resume, "--seed", "0", "--epochs", "3"])
    config = resumed_config(given.settings(), done.folder).training
    assert (config.epochs, config.steps, config.max_minutes) == (3, None, None)
    given = parse(TrainArguments, words=[*resume, "--set", "training.steps=9"])
    assert resumed_config(given.settings(), done.folder).training.steps == 9


def test_photographs_come_as_crops_unless_a_size_is_given() -> None:
    assert fresh_config(TrainArguments(preset="photo").settings()).data.crops == 64
    assert fresh_config(TrainArguments(preset="photo", crops=32).settings()).data.crops == 32
    whole = fresh_config(TrainArguments(preset="photo", image_size=64).settings()).data
    assert (whole.crops, whole.image_size) == (None, 64)
    damaged = TrainArguments(preset="photo", init="pretrained-photo", inputs="damaged")
    assert fresh_config(damaged.settings()).data.crops == 160
    whole = fresh_config(replace(damaged, image_size=64).settings()).data
    assert (whole.crops, whole.image_size) == (None, 64)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.p_x.grwth=5", "unknown setting 'grwth'; did you mean growth?"),
        ("model.p_x.growth", "give a setting as config.json names it"),
        ("model.p_x.growth=many", "growth must be a whole number, not 'many'"),
        ("training.precision=bf16", "`set=training.precision=bf16`: use `precision=bf16`"),
    ],
)
def test_a_setting_that_cannot_be_is_a_users_error(setting: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        fresh_config(TrainArguments(preset="small", set=(setting,)).settings())


def test_a_run_can_start_from_anothers_weights(done: Done, tmp_path: Path) -> None:
    make_images(tmp_path / "images", 24)
    given = arguments(tmp_path, init=str(done.folder), steps=1, lr=1e-9)
    with plain():
        assert train.main(given) == 0
    folder = tmp_path / "runs" / "mine"
    config, of_init = read_config(folder), read_config(done.folder)
    assert config.model == of_init.model
    assert config.training.init == str(done.folder)
    ours, theirs = (srvae_pyro.load(run).state_dict() for run in (folder, done.folder))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-4)
    before = newest_results(folder)["training"]["result"]
    assert before["untrained_bits_per_dim"] == pytest.approx(
        before["elbo"]["bits_per_dim"], abs=0.01
    )
    with plain():  # and goes on without the weights that it started from
        assert train.main(arguments(tmp_path, resume=True, steps=2)) == 0


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model": "vae"}, "`init=.*` has `model` srvae, not vae"),
        ({"set": ("model.components=3",)}, "leave out `set=model"),
        ({"channels": 1}, "add `channels=3`"),
    ],
)
def test_init_refuses_other_networks(
    done: Done, changes: dict[str, Any], match: str, tmp_path: Path
) -> None:
    if done.model == "vae":
        return
    make_images(tmp_path / "images", 24)
    given = arguments(tmp_path, **{"init": str(done.folder), **changes})
    with tiny(), pytest.raises(UserError, match=match):
        train.main(given)
    assert not (tmp_path / "runs").exists()


def test_another_transform_than_an_exact_presets_has_independent_pixels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_images(tmp_path / "images")
    told = "p(x|y,z) of independent pixels: likelihood groups needs --transform average2\n"
    with plain(exact_preset):
        assert train.main(arguments(tmp_path, transform="grayscale", steps=1)) == 0
        assert capsys.readouterr().out.count(told) == 1
        assert read_config(tmp_path / "runs" / "mine").model.likelihood == "independent"
        assert train.main(arguments(tmp_path, run=str(tmp_path / "runs" / "exact"), steps=1)) == 0
        assert told not in capsys.readouterr().out
        assert read_config(tmp_path / "runs" / "exact").model.likelihood == "groups"
        asked = arguments(tmp_path, run="asked", transform="grayscale", likelihood="groups")
        with pytest.raises(UserError, match="groups` needs `transform=average2`, not grayscale"):
            train.main(asked)
