"""Training of the networks for damaged inputs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from srvae_pyro import train
from srvae_pyro.data import DataSplits, MemoryImages
from srvae_pyro.errors import UserError
from srvae_pyro.models import InputKind, load
from srvae_pyro.runs import read_config, read_weights
from srvae_pyro.training import command
from srvae_pyro.training.command import final_figures
from srvae_pyro.training.recovery import load_checkpoint
from tests.training.test_command import arguments, exact_preset, plain
from tests.training.test_training import assert_same


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, and the run of an srVAE under runs/base."""
    place = tmp_path_factory.mktemp("restoration")
    (place / "images").mkdir()
    generator = torch.Generator().manual_seed(0)
    for index in range(20):
        levels = torch.randint(0, 256, (6, 6, 3), generator=generator, dtype=torch.uint8)
        image = Image.fromarray(levels.numpy()).resize((40, 40), Image.Resampling.BICUBIC)
        image.save(place / "images" / f"{index:02d}.png")
    with plain(exact_preset):
        given = arguments(place, run=str(place / "runs" / "base"), steps=2, crops=32)
        assert train.main(given) == 0
    return place


def damaged(place: Path, run: str, **changes: Any) -> Path:
    folder = place / "runs" / run
    settings: dict[str, Any] = {"data": None}
    if not changes.get("resume"):
        settings = {"init": str(place / "runs" / "base"), "inputs": "damaged", "crops": 32}
        settings |= {"batch_size": 4, "set": ('model.restorer={"width": 4, "blocks": 1}',)}
    with plain(exact_preset):
        assert train.main(arguments(place, run=str(folder), **(settings | changes))) == 0
    return folder


def weights(folder: Path) -> dict[str, Tensor]:
    return read_weights(folder / "model.safetensors")


@pytest.mark.parametrize("stream", [False, True])
def test_a_run_resumes_to_the_bit_and_keeps_its_srvae(place: Path, stream: bool) -> None:
    more = {"stream": True, "workers": 0} if stream else {}
    whole = damaged(place, f"whole-{stream}", steps=5, **more)
    parts = damaged(place, f"parts-{stream}", steps=2, **more)
    start = weights(parts)
    damaged(place, f"parts-{stream}", steps=5, resume=True)
    one, other = (load_checkpoint(folder / "last.ckpt") for folder in (whole, parts))
    for key in ("model", "average", "optimizer", "ranks"):
        assert_same(one[key], other[key])
    base, end = weights(place / "runs" / "base"), weights(whole)
    assert all(torch.equal(end[name], tensor) for name, tensor in base.items())
    learnt = {name for name in end if not torch.equal(end[name], start[name])}
    assert any("restorer.estimate" in name for name in learnt)
    assert any("restorer.groups" in name for name in learnt)
    assert all(name.startswith("restorer.") for name in learnt)


def test_a_run_that_has_learnt_from_damaged_inputs_restores(place: Path) -> None:
    folder = damaged(place, "restores", steps=1)
    assert read_config(folder).model.restorer is not None
    model = load(folder)
    o = torch.randint(0, 256, (2, 3, 16, 16)) / 255
    sites = model.restore(o, InputKind(noise=9.0), samples=3, seed=0)
    assert sites["x"].shape == (3, 2, 3, 32, 32)
    d = model.guide.d
    assert torch.equal(d(sites["x"].flatten(0, 1)), sites["y"].flatten(0, 1))
    assert not torch.equal(sites["y"][0], o)
    assert list((folder / "figures").glob("restored-*.png"))
    # From it again: its networks for damaged inputs go on.
    more = damaged(place, "more", steps=1, init=str(folder))
    assert read_config(more).model == read_config(folder).model
    # Or of another size: they start anew, and the srVAE is kept.
    size = ('model.restorer={"width": 5, "blocks": 1, "scaled": true}',)
    wider = damaged(place, "wider", steps=1, init=str(folder), set=size)
    new, old = weights(wider), weights(folder)
    assert all(torch.equal(new[name], old[name]) for name in old if "restorer." not in name)
    assert new["restorer.estimate.first.weight"].shape[0] == 5


def test_restored_samples_spread_less_than_p_y_given_o(place: Path) -> None:
    model = load(damaged(place, "spread", steps=1))
    o, kind = torch.full((1, 3, 16, 16), 128 / 255), InputKind(noise=9.0)
    kinds = kind.numbers(2)[None]
    with torch.no_grad():
        own = torch.cat([model.restorer(o, kinds).sample() for _ in range(64)])
    restored = model.restore(o, kind, samples=64, seed=0)["y"][:, 0]
    narrower = restored.std(0).mean() / own.std(0).mean()
    assert 0.5 < narrower < 0.95, narrower


def test_figures_are_cut_to_what_y_fits(place: Path, tmp_path: Path) -> None:
    model = load(place / "runs" / "base")
    larger = torch.zeros(2, 3, 33, 35, dtype=torch.uint8)
    data = DataSplits("made", MemoryImages(larger), larger, larger, larger=larger)
    assert "2 test images" in final_figures(model, data, tmp_path)[1]


def test_a_run_that_was_finished_meanwhile_stays(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, make = place / "runs" / "twice", command.make_trainer

    def beaten(*given: Any) -> Any:
        made = make(*given)
        folder.mkdir(parents=True)
        (folder / "model.safetensors").touch()
        return made

    monkeypatch.setattr(command, "make_trainer", beaten)
    with pytest.raises(UserError, match="already holds a run"):
        damaged(place, "twice")
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", ".lock"}


def test_what_does_not_suit_is_refused(place: Path) -> None:
    with plain(exact_preset), pytest.raises(UserError, match="`init`"):
        train.main(arguments(place, inputs="damaged", crops=32))
    model = load(place / "runs" / "base")
    with pytest.raises(UserError, match="was not trained on damaged inputs"):
        model.restore(torch.zeros(1, 3, 16, 16))
