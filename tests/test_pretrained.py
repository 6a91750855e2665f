"""The model that comes with the project does what its card says."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from skimage.metrics import peak_signal_noise_ratio

from srvae_pyro import SRVAE, load, upscale
from srvae_pyro.data import PictureOptions
from srvae_pyro.data.photos import load_photos
from srvae_pyro.evaluation.elbo_terms import evaluate_elbo
from srvae_pyro.upscale import UpscaleArguments

FOLDER = Path(__file__).parent.parent / "runs" / "pretrained"


@pytest.fixture(scope="module")
def model() -> SRVAE:
    model = load(FOLDER)
    assert isinstance(model, SRVAE)
    return model


def test_it_is_small_and_not_tied_to_a_machine() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 6e6
    assert "/" not in (FOLDER / "config.json").read_text()


def test_both_latents_say_something_of_photographs(model: SRVAE) -> None:
    images = load_photos(PictureOptions(image_size=32)).test[::8]
    result = evaluate_elbo(model, images, torch.device("cpu"))
    assert result.terms["kl_z"] > 100
    assert result.terms["kl_u"] > 20
    assert result.bits_per_dim < 4.5  # a histogram of each dimension needs 7.7


def test_samples_differ_and_follow_their_seeds(model: SRVAE) -> None:
    one, same, other = (model.generate(2, seed=seed)["x"] for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert (one[0] - one[1]).std() > 0.05
    assert (one - other).std() > 0.05


def test_it_enlarges_a_photograph_better_than_bicubic(tmp_path: Path) -> None:
    photograph = Image.fromarray(data.astronaut()).crop((192, 32, 288, 128))
    small = photograph.reduce(2)
    small.save(tmp_path / "y.png")
    assert upscale.main(UpscaleArguments(str(FOLDER), (tmp_path / "y.png",), out=tmp_path)) == 0
    truth = np.asarray(photograph)
    ours = peak_signal_noise_ratio(truth, np.asarray(Image.open(tmp_path / "y-x2.png")))
    bicubic = np.asarray(small.resize((96, 96), Image.Resampling.BICUBIC))
    assert ours > peak_signal_noise_ratio(truth, bicubic) + 0.2
    assert Image.open(tmp_path / "y-x2.png").reduce(2).tobytes() == small.tobytes()
