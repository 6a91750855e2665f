"""The models that come with the project do what their cards say."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from skimage.metrics import peak_signal_noise_ratio

from srvae_pyro import load, upscale
from srvae_pyro.data import ImageOptions
from srvae_pyro.data.named import load_photos
from srvae_pyro.evaluation.likelihood import evaluate_elbo
from srvae_pyro.upscale import UpscaleArguments
from srvae_pyro.upscaling.arguments import UpscaleOptions
from srvae_pyro.upscaling.upscaler import Upscaler

RUNS = Path(__file__).parents[2] / "runs"
FOLDER = RUNS / "pretrained"
PHOTO = RUNS / "pretrained-photo"


@pytest.mark.parametrize("folder", [FOLDER, PHOTO], ids=lambda folder: folder.name)
def test_it_is_small_and_not_tied_to_a_machine(folder: Path) -> None:
    assert sum(path.stat().st_size for path in folder.iterdir()) < 9e6
    assert "/" not in (folder / "config.json").read_text()


def test_both_latents_say_something_of_photographs() -> None:
    images = load_photos(ImageOptions(image_size=32)).test[::8]
    result = evaluate_elbo(load(FOLDER), images, torch.device("cpu"))
    assert result.terms["kl_z"] > 100
    assert result.terms["kl_u"] > 20
    assert result.bits_per_dim < 5.5  # a histogram of each dimension needs 7.7


@pytest.mark.parametrize("folder", [FOLDER, PHOTO], ids=lambda folder: folder.name)
def test_it_upscales_a_photograph_better_than_bicubic(folder: Path, tmp_path: Path) -> None:
    photograph = Image.fromarray(data.astronaut()).crop((192, 32, 288, 128))
    small = photograph.reduce(2)
    small.save(tmp_path / "y.png")
    options = UpscaleOptions(input="average")
    arguments = UpscaleArguments(str(folder), (tmp_path / "y.png",), tmp_path, options)
    assert upscale.main(arguments) == 0
    truth = np.asarray(photograph)
    ours = peak_signal_noise_ratio(truth, np.asarray(Image.open(tmp_path / "y-x2.png")))
    bicubic = np.asarray(small.resize((96, 96), Image.Resampling.BICUBIC))
    assert ours > peak_signal_noise_ratio(truth, bicubic) + 0.2
    assert Image.open(tmp_path / "y-x2.png").reduce(2).tobytes() == small.tobytes()


def test_it_restores_a_jpeg(tmp_path: Path) -> None:
    photograph = Image.fromarray(data.astronaut()).crop((192, 32, 320, 160))
    photograph.reduce(2).save(tmp_path / "y.jpg", quality=60)
    assert upscale.main(UpscaleArguments(str(PHOTO), (tmp_path / "y.jpg",), tmp_path)) == 0
    bicubic = Image.open(tmp_path / "y.jpg").resize((128, 128), Image.Resampling.BICUBIC)
    ours, theirs = (
        peak_signal_noise_ratio(np.asarray(photograph), np.asarray(image))
        for image in (Image.open(tmp_path / "y-x2.png"), bicubic)
    )
    assert ours > theirs + 0.5


def test_photographs_are_the_same_in_tiles_and_whole() -> None:
    lr = torch.from_numpy(data.astronaut()[:160, 100:300].copy()).permute(2, 0, 1)
    whole = Upscaler(load(PHOTO), UpscaleOptions(decode="mean", tile=0))
    tiled = Upscaler(whole.model, UpscaleOptions(decode="mean", tile=128))
    apart = (whole(lr).int() - tiled(lr).int()).abs()
    assert (apart > 1).float().mean() < 1e-5
