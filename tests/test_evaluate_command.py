"""``python -m srvae_pyro.evaluate``: the ELBO's terms of a run on a data set."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.utils import save_image

from srvae_pyro.config import ModelConfig
from srvae_pyro.data import load_data, to_unit
from srvae_pyro.errors import UserError
from srvae_pyro.evaluate import EvaluateArguments, main
from srvae_pyro.evaluation.elbo import TermsELBO
from srvae_pyro.evaluation.terms import spread
from srvae_pyro.models import make_model
from srvae_pyro.models.loading import load, save_pretrained


@pytest.fixture
def folder(tmp_path: Path, pictures: Callable[..., Tensor]) -> Path:
    """A folder of 30 pictures, train and test."""
    for split in ("train", "test"):
        (tmp_path / "pictures" / split).mkdir(parents=True)
        for number, picture in enumerate(pictures(15, seed=len(split))):
            save_image(picture, tmp_path / "pictures" / split / f"{number:02d}.png")
    return tmp_path / "pictures"


@pytest.fixture
def run(tmp_path: Path, tiny: Callable[..., ModelConfig], pictures: Callable[..., Tensor]) -> Path:
    """The folder of a model that was initialised but not trained."""
    model = make_model(tiny())
    model.initialize(pictures(8))
    save_pretrained(model, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("limit", [None, 4])
def test_terms_are_those_of_the_elbo(
    folder: Path, run: Path, limit: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    arguments = EvaluateArguments(str(run), data=str(folder), limit=limit, batch_size=50, json=out)
    assert main(arguments) == 0
    values = json.loads(out.read_text())
    images = spread(load_data(str(folder), folder).test, limit)
    model = load(run)
    torch.manual_seed(0)
    elbo = TermsELBO(analytic_kl=True)
    terms = elbo.terms(model.model, model.guide, to_unit(images))
    for name, term in terms.named().items():
        assert values["elbo"][name] == pytest.approx(term.mean().item(), rel=1e-5)
    total = sum(values["elbo"][name] for name in terms.named())
    assert values["elbo"]["nats"] == pytest.approx(total, rel=1e-6)
    assert values["images"] == len(images)
    assert f"{values['elbo']['bits_per_dim']:.4f} bits/dim" in capsys.readouterr().out


def test_the_same_twice_and_for_any_split(folder: Path, run: Path, tmp_path: Path) -> None:
    results = []
    for split in ("test", "test", "train"):
        out = tmp_path / "out.json"
        main(EvaluateArguments(str(run), data=str(folder), split=split, json=out))  # type: ignore[arg-type]
        results.append(json.loads(out.read_text())["elbo"])
    assert results[0] == results[1] != results[2]


def test_photos_come_in_the_models_size(run: Path, tmp_path: Path) -> None:
    assert main(EvaluateArguments(str(run), data="photos", limit=2)) == 0


def test_pictures_of_another_shape_are_refused(
    folder: Path, tmp_path: Path, tiny: Callable[..., ModelConfig]
) -> None:
    save_pretrained(make_model(tiny(image_shape=(3, 16, 32))), tmp_path / "wide")
    with pytest.raises(UserError, match=r"pictures of 16x16, the model is for 16x32"):
        main(EvaluateArguments(str(tmp_path / "wide"), data=str(folder)))


def test_spread_covers_the_whole() -> None:
    images = torch.arange(10)
    assert spread(images, 3).tolist() == [0, 4, 9]
    assert spread(images, None) is images
    assert len(spread(images, 7).unique()) == 7
