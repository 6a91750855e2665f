"""``python -m srvae_pyro.figures``: the paper's figures for any run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.utils import make_grid
from torchvision.utils import save_image as torchvision_save_image

from srvae_pyro.config import DataConfig
from srvae_pyro.data import ImageOptions, load_data
from srvae_pyro.drawing.grids import LabelledRow, grid, labelled_rows, save_image
from srvae_pyro.errors import UserError
from srvae_pyro.figures import FiguresArguments, main
from srvae_pyro.inference.sampling import Sampling
from srvae_pyro.runs import CONFIG, read_config
from srvae_pyro.system.cli import check_arguments
from srvae_pyro.system.files import write_json
from tests.builders import make_images, save_run, write_images

BOTH = {"paper-samples", "paper-reconstructions", "paper-interpolations"}
SRVAE_ONLY = {"paper-super-resolution", "paper-generative-reconstructions", "swapped-latents"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of the tiny models' size, ten to test on."""
    for split in ("train", "test"):
        write_images(tmp_path / "images" / split, make_images(10, seed=len(split)))
    return tmp_path / "images"


@pytest.fixture
def run(tmp_path: Path):
    def make(name: str, **changes) -> str:
        return str(save_run(tmp_path / name, **({"p_u": "standard"} | changes)))

    return make


@pytest.mark.parametrize("model", ["srvae", "vae"])
def test_figures(
    folder: Path, run: Callable[..., str], model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run("mine", model=model)
    given = FiguresArguments(path, data=str(folder), count=3, samples=2, side=32)
    assert main(given) == 0
    expected = BOTH | (SRVAE_ONLY if model == "srvae" else set())
    files = {file.stem: file for file in (Path(path) / "figures").glob("*.png")}
    assert set(files) == expected
    lines = capsys.readouterr().out.splitlines()
    assert {Path(line).stem for line in lines} == expected
    before = {name: file.read_bytes() for name, file in files.items()}
    assert main(given) == 0
    assert {name: file.read_bytes() for name, file in files.items()} == before
    if model == "srvae":  # temperatures reach what is sampled, and nothing else
        assert main(replace(given, sampling=Sampling(y_temperature=0.5))) == 0
        same = {name for name, file in files.items() if file.read_bytes() == before[name]}
        of_given_y = {"paper-reconstructions", "paper-super-resolution", "swapped-latents"}
        assert same == of_given_y
    else:
        with pytest.raises(UserError, match="`y_temperature` needs an srVAE: a VAE has no y"):
            main(replace(given, sampling=Sampling(y_temperature=0.5)))
    rows = {"paper-reconstructions": 2}
    if model == "srvae":
        rows |= {"paper-super-resolution": 6, "paper-generative-reconstructions": 5}
    for name, count in rows.items():
        assert Image.open(files[name]).height == 16 + count * 34 - 2


def test_two_runs_beside_each_other(folder: Path, run: Callable[..., str], tmp_path: Path) -> None:
    first, second = run("one"), run("two", model="vae")
    out = tmp_path / "out"
    given = FiguresArguments(first, second, data=str(folder), count=2, out=out)
    # The temperature is of the one that has a y.
    assert main(replace(given, sampling=Sampling(y_temperature=0.5))) == 0
    assert {f.stem for f in out.iterdir()} == {"compared-samples", "compared-reconstructions"}


@pytest.mark.parametrize(("seeds", "warned"), [((1, 1), False), ((1, 2), True)])
def test_a_warning_when_runs_are_compared_on_training_images(
    folder: Path,
    run: Callable[..., str],
    tmp_path: Path,
    seeds: tuple[int, int],
    warned: bool,
    recwarn: pytest.WarningsRecorder,
) -> None:
    (folder / "test").rename(folder / "train" / "more")
    paths = [run("one"), run("two", model="vae")]
    for path, seed in zip(paths, seeds, strict=True):
        images = load_data(str(folder), folder, ImageOptions(seed=seed))
        data = DataConfig(str(folder), seed=seed, info=images.info)
        config = replace(read_config(Path(path)), data=data)
        write_json(Path(path) / CONFIG, config.to_dict())
    assert main(FiguresArguments(*paths, count=1, out=tmp_path / "out")) == 0
    told = [str(w.message) for w in recwarn.list if "trained on some of" in str(w.message)]
    assert len(told) == warned
    assert all("two was trained" in text and "--data-seed 2" in text for text in told)


def test_bad_requests(folder: Path, run: Callable[..., str], tmp_path: Path) -> None:
    path = run("mine")
    with pytest.raises(UserError, match="`count` must be at least 1, not 0"):
        check_arguments(FiguresArguments(path, count=0))
    with pytest.raises(UserError, match="no run called nowhere"):
        main(FiguresArguments("nowhere"))
    with pytest.raises(UserError, match="different sizes"):
        main(FiguresArguments(path, run("wide", image_shape=(3, 16, 32)), data=str(folder)))
    assert not (tmp_path / "mine" / "figures").exists()


@pytest.mark.parametrize(("count", "channels"), [(1, 1), (2, 1), (4, 3), (9, 3)])
def test_images_in_rows_are_as_torchvision_has_them(
    count: int, channels: int, tmp_path: Path
) -> None:
    images = make_images(count, (channels, 5, 7))
    upscale_from = images.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    expected = make_grid(upscale_from, nrow=4, padding=3, pad_value=1.0)
    assert torch.equal(grid(images, columns=4, scale=2, gap=3), expected)
    save_image(images[0] * 0.999, tmp_path / "a.png")
    torchvision_save_image(images[0] * 0.999, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_labelled_rows_are_where_they_should_be() -> None:
    red = torch.zeros(2, 3, 4, 4)
    red[:, 0] = 1.0
    gray = torch.full((1, 1, 2, 2), 0.5)  # smaller, of one channel: brought to the others' size
    figure = np.asarray(labelled_rows([LabelledRow("red", red), LabelledRow("g", gray)], side=16))
    height, width = figure.shape[:2]
    assert height == 8 + 16 + 2 + 16 + 8
    assert (figure[8:24, width - 8 - 34 : width - 8 - 18] == (255, 0, 0)).all()
    assert (figure[26:42, width - 8 - 34 : width - 8 - 18] == 128).all()
    assert (figure[26:42, width - 8 - 16 :] == 255).all()
    label = figure[8:24, : width - 8 - 36]
    assert (label < 128).any()
