"""The page's functions, without a browser or a server: what visitors get, and what is kept."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.utils import save_image

from srvae_pyro import demo
from srvae_pyro.config import Residual
from srvae_pyro.errors import UserError, with_flags
from srvae_pyro.inference.sampling import Sampling
from srvae_pyro.models import SRVAE, ImageModel, load
from srvae_pyro.page.arguments import DemoArguments
from srvae_pyro.page.sessions import Sessions, StoppedError, Work
from srvae_pyro.page.tabs import MOST_POINTS, copy_figures, read_curves, settings_in_words
from srvae_pyro.page.work import (
    check_upload,
    consistency_in_words,
    disk_bytes,
    generate,
    image_for,
    interpolate,
    recombine,
    reconstruct,
    upscale,
)
from srvae_pyro.system.cli import check_arguments
from srvae_pyro.upscale import UpscaleArguments
from srvae_pyro.upscale import main as upscale_command
from srvae_pyro.upscaling.arguments import UpscaleOptions
from srvae_pyro.upscaling.files import Outputs
from tests.builders import save_run

pytestmark = pytest.mark.usefixtures("two_strips")
EXACT = {"d": "average2", "likelihood": "groups", "latent_likelihood": "pyramid"}


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    """Makes the folder of a model that was initialised but not trained."""

    return partial(save_run, tmp_path / "run", p_u="standard")


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, 28, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png", dpi=(300, 300))
    return tmp_path / "photo.png"


def fresh(folder: Path) -> Work:
    folder.mkdir()
    return Work(folder)


def srvae(folder: Path) -> SRVAE:
    model = load(folder)
    return model


# What the commands do


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"samples": 3, "seed": 5},
        {"factor": 4, "decode": "sample", "temperature": 0.5, "image_temperature": 0.7},
    ],
)
def test_outputs_are_the_files_that_upscale_writes(
    run: Callable[..., Path], photograph: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    folder = run(**EXACT)
    options = UpscaleOptions(**settings)
    assert (
        upscale_command(UpscaleArguments(str(folder), (photograph,), tmp_path / "out", options))
        == 0
    )
    work = fresh(tmp_path / "work")
    shares: list[float] = []
    work.report = lambda done, _: shares.append(done)
    done = upscale(work, srvae(folder), photograph, options)
    expected = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    files = [*done.outputs.consistencies, *filter(None, [done.outputs.deviation])]
    assert {path.name: path.read_bytes() for path in files} == expected
    assert all(path.parent == work.folder for path in files)
    most = disk_bytes(srvae(folder), photograph, options)
    assert sum(path.stat().st_size for path in work.folder.iterdir()) <= most
    assert set(done.outputs.consistencies.values()) == {"exact"}
    assert "Exactly consistent" in done.words
    assert "28x20 upscaled" in done.words
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] == 1


def test_bicubic_has_the_outputs_mode_size_and_alpha(
    run: Callable[..., Path], photograph: Path, tmp_path: Path
) -> None:
    done = upscale(fresh(tmp_path / "work"), srvae(run()), photograph, UpscaleOptions())
    (output,) = done.outputs.consistencies
    with Image.open(done.bicubic) as bicubic, Image.open(output) as file:
        assert (bicubic.mode, bicubic.size) == (file.mode, file.size)
        assert bicubic.info["dpi"] == file.info["dpi"]
        assert np.array_equal(bicubic.getchannel("A"), file.getchannel("A"))
        assert not np.array_equal(bicubic.convert("RGB"), file.convert("RGB"))


def test_consistency_that_is_not_exact_is_given_in_decibels() -> None:
    some = {Path("a"): "48.1 dB", Path("b"): "50.2 dB"}
    assert "48.1 dB to 50.2 dB" in consistency_in_words(Outputs(some))
    one = Outputs({Path("a"): "exact"})
    assert "downscaling the output gives the input" in consistency_in_words(one)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "28x20 upscaled by 2 to 56x40: restored as an image of unknown origin."),
        ({"factor": 1}, "28x20: restored as an image of unknown origin."),
        ({"factor": 3}, "to 84x60: restored as an image of unknown origin."),
        ({"factor": 8, "input": "bicubic"}, "restored as an image downscaled with bicubic."),
        ({"input": "average"}, ": treated as an exact average of pixels. Exactly consistent"),
        ({"samples": 2}, "28x20 upscaled by 2 to 56x40: restored as an image of unknown origin."),
    ],
)
def test_a_restoring_model_says_how_it_takes_the_input(
    run: Callable[..., Path],
    photograph: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    words: str,
) -> None:
    model = srvae(run(**{**EXACT, "restorer": Residual(6, 1)}))
    options, work = UpscaleOptions(**settings), fresh(tmp_path / "work")
    said = upscale(work, model, photograph, options).words
    assert words in said
    assert ("consistent" in said) == (options.input == "average")
    assert "LR-PSNR" not in said
    most = disk_bytes(model, photograph, options)
    assert sum(path.stat().st_size for path in work.folder.iterdir()) <= most


@pytest.mark.parametrize("kind", ["srvae", "vae"])
def test_images_of_each_operation(
    run: Callable[..., Path], photograph: Path, tmp_path: Path, kind: str
) -> None:
    model = load(run(model=kind))
    x = image_for(model, photograph)
    assert x.shape == (1, 3, 16, 16)
    sampling = Sampling(seed=1)
    made = {"reconstruct": reconstruct(fresh(tmp_path / "r"), model, x, sampling)}
    assert len(made["reconstruct"]) == (5 if kind == "srvae" else 2)
    made["interpolate"] = interpolate(fresh(tmp_path / "i"), model, x, 1 - x, 3, sampling)
    assert [caption for _, caption in made["interpolate"]][1] == "step 1 of 3"
    if isinstance(model, SRVAE):
        made["recombine"] = recombine(fresh(tmp_path / "c"), model, x, 1 - x, sampling)
        captions = {caption for _, caption in made["recombine"]}
        assert "u of 1st, z of 2nd" in captions
    for shown in made.values():
        assert len({file for file, _ in shown}) == len(shown)
        for file, _ in shown:
            assert Image.open(file).size in {(16, 16), (8, 8)}
    again = interpolate(fresh(tmp_path / "again"), model, x, 1 - x, 3, sampling)
    for (one, _), (other, _) in zip(made["interpolate"], again, strict=True):
        assert Path(one).read_bytes() == Path(other).read_bytes()


def test_a_visitor_stops_between_images_and_tiles(
    run: Callable[..., Path], photograph: Path, tmp_path: Path
) -> None:
    model, told = srvae(run()), []

    def stopping(name: str, after: int) -> Work:
        work = fresh(tmp_path / name)

        def report(done: float, _: str) -> None:
            told.append(done)
            if len(told) == after:
                work.stop()

        work.report = report
        return work

    with pytest.raises(StoppedError):
        generate(stopping("g", 2), model, 40, Sampling())
    assert told == [0, 0.1]
    told.clear()
    with pytest.raises(StoppedError):
        upscale(stopping("e", 3), model, photograph, UpscaleOptions(samples=8))
    assert len(told) == 3
    assert not list((tmp_path / "e").iterdir())
    assert len(model.generate(1)["x"]) == 1  # others can go on


# What may be sent


def test_uploads_have_limits(photograph: Path, tmp_path: Path) -> None:
    assert check_upload(str(photograph), 1) == photograph
    with pytest.raises(
        UserError, match=r"photo\.png has 0\.00056 megapixels, .* takes at most 0\.0005"
    ):
        check_upload(photograph, 0.0005)
    with pytest.raises(UserError, match=r"^gone.png is no longer on the server: upload it again"):
        check_upload(tmp_path / "gone.png", 1)


def test_images_of_one_size_only(run: Callable[..., Path], photograph: Path) -> None:
    model: ImageModel = load(run())
    object.__setattr__(model.config, "image_shape", (3, 16, 32))
    with pytest.raises(UserError, match=r"photo\.png has 28x20 pixels, .* takes 32x16"):
        image_for(model, photograph)


# What is kept


def test_the_last_files_of_a_visitor_are_kept(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path)

    def shown(visitor: str, kind: str) -> Path:
        with sessions.work(visitor, kind) as work:
            (work.folder / "a.png").touch()
        return work.folder

    first, other = shown("a", "upscale"), shown("a", "generate")
    foreign = shown("b", "upscale")
    second = shown("a", "upscale")
    assert set(tmp_path.iterdir()) == {other, foreign, second}
    assert first != second
    with pytest.raises(UserError), sessions.work("a", "upscale") as failed:
        raise UserError("no")
    assert not failed.folder.exists()
    assert second.exists()
    sessions.leave("a")
    assert set(tmp_path.iterdir()) == {foreign}
    with sessions.work("b", "upscale") as work:
        sessions.leave("b")
        with pytest.raises(StoppedError):
            work.at(0.5)
    assert not list(tmp_path.iterdir())


def test_an_upload_goes_with_the_last_who_sent_it(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path)
    (tmp_path / "hash").mkdir()
    (tmp_path / "hash" / "same.png").touch()
    for visitor in ("a", "b"):
        sessions.uploaded(visitor, tmp_path / "hash" / "same.png")
    sessions.leave("a")
    assert (tmp_path / "hash" / "same.png").exists()
    sessions.leave("b")
    assert not list(tmp_path.iterdir())
    example = write(sessions.examples / "a.png", 1, 0)
    sessions.uploaded("a", example)
    sessions.leave("a")
    assert example.exists()


def write(path: Path, size: int, age: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    for changed in (path, path.parent):
        os.utime(changed, (time.time() - age, time.time() - age))
    return path


def test_files_of_all_visitors_have_a_bound(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path / "page", most_bytes=1_000_000)
    sessions.examples.mkdir(parents=True)
    uploads = [write(tmp_path / "page" / str(i) / "a.png", 300_000, 60 - i) for i in range(3)]
    for visitor, path in zip("abc", uploads, strict=True):
        sessions.uploaded(visitor, path)
    with sessions.room(300_000):
        assert [path.exists() for path in uploads] == [False, True, True]
        with pytest.raises(UserError, match=r"up to 0\.0008 GB on disk"), sessions.room(800_000):
            pass
    with sessions.work("b", "upscale") as work:
        with sessions.room(600_000):  # of who waits for an output the upload stays
            assert [path.exists() for path in uploads] == [False, True, False]
        write(work.folder / "a.png", 800_000, 0)
    assert not uploads[1].exists()
    assert (work.folder / "a.png").exists()
    with sessions.room(500_000):
        assert list((tmp_path / "page").iterdir()) == [sessions.examples]
    assert not sessions._files


def test_files_have_a_bound_however_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srvae_pyro.page.sessions.MOST_KEPT", 2)
    sessions = Sessions(tmp_path)
    for visitor in "abcd":
        with sessions.work(visitor, "run"):
            pass
    assert len(list(tmp_path.iterdir())) == len(sessions._files) == 2


def test_stopping_is_of_ones_own_work(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path)
    with sessions.work("a", "generate") as mine, sessions.work("b", "generate") as other:
        with sessions.work("a", "upscale") as another:
            sessions.stop("a", "generate")
            sessions.stop("nobody", "generate")
            another.at(0.5)
        other.at(0.5)
        with pytest.raises(StoppedError):
            mine.at(0.5)


# The run


def test_curves_of_a_run(tmp_path: Path) -> None:
    assert read_curves(tmp_path) == {}
    count = 3 * MOST_POINTS
    lines = [
        json.dumps({"split": "train", "step": i, "loss": float(i), "bits_per_dim": 3, "epoch": 1})
        for i in range(count)
    ]
    lines += [json.dumps({"split": "val", "step": 7, "bits_per_dim": 4.5}), '{"split": "tr', "[1]"]
    lines += [json.dumps({"split": "train", "step": 9, "loss": float("nan")})]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    curves = read_curves(tmp_path)
    assert list(curves) == ["negative ELBO (bits/dim)", "loss (nats per image)"]
    assert curves["negative ELBO (bits/dim)"].to_numpy().tolist()[-1] == [7, 4.5, "validation"]
    loss = curves["loss (nats per image)"].to_numpy().tolist()
    assert len(loss) == MOST_POINTS
    assert loss[-1] == [count - 1, count - 1, "training"]


def test_figures_and_settings_of_a_run(run: Callable[..., Path], tmp_path: Path) -> None:
    folder = run(d="average2", likelihood="groups")
    (folder / "figures" / "generated").mkdir(parents=True)
    save_image(torch.rand(3, 8, 8), folder / "figures" / "paper-samples.png")
    (tmp_path / "shown").mkdir()
    ((file, caption),) = copy_figures(folder, tmp_path / "shown")
    assert (Path(file).parent, caption) == (tmp_path / "shown", "paper samples")
    rows = dict(settings_in_words(folder, load(folder)))
    assert rows["model"] == "srVAE"
    assert rows["images"] == "16x16, 3 channels"
    assert rows["d(x)"] == "average2"


# The command


def test_without_gradio_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'srvae-pyro\[demo\]'"):
        demo.main(DemoArguments("pretrained"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"port": 0}, "--port"),
        ({"megapixels": 0.0}, "--megapixels"),
        ({"allow_host": ("*.example.com",)}, "allow-host"),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        check_arguments(DemoArguments("pretrained", **changes))
    assert message in with_flags(str(error.value))


def test_help_needs_no_gradio() -> None:
    code = "import sys; sys.modules['gradio'] = sys.modules['torch'] = None; "
    code += "import srvae_pyro.demo"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
