"""Models on disk: whole files, a run's folder, the Hub's format, and files that do not fit."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from pyro import poutine
from safetensors.torch import load_file, save_file
from torch import Tensor

import srvae_pyro
from srvae_pyro.config import DataConfig, Dense, ModelConfig, RunConfig
from srvae_pyro.errors import UserError
from srvae_pyro.files import write_json, write_whole
from srvae_pyro.models import SRVAE, VAE, ImageModel, make_model
from srvae_pyro.models.loading import CONFIG, WEIGHTS, find_run, load, read_config, save_weights

MODELS: dict[str, dict[str, Any]] = {
    "srvae": {},
    "realnvp": {"prior": "realnvp"},
    "vae": {"model": "vae"},
}


def tiny_config(**changes: Any) -> ModelConfig:
    networks = [f.name for f in fields(ModelConfig) if isinstance(f.default, Dense)]
    settings: dict[str, Any] = {
        "image_shape": (3, 16, 16),
        "latent_channels": 2,
        "components": 2,
        "prior": "standard",
        "init_scale": 0.5,
        "head_scale": 0.5,
        "likelihood_scale": 0.5,
        "likelihood_start": "pictures",
        "posterior_log_variance": -1.0,
        **dict.fromkeys(networks, Dense(2, 1)),
    }
    return ModelConfig(**(settings | changes))


def some_pictures(count: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 16, 16), generator=generator) / 255


def make_run(folder: Path, **changes: Any) -> ImageModel:
    """A run's folder as training leaves it; the model that is in it."""
    model = make_model(tiny_config(**changes))
    model.initialize(some_pictures())
    config = RunConfig("quickstart", model.config, DataConfig("photos"), version="1.2")
    write_json(folder / CONFIG, config.to_dict())
    save_weights(model, folder)
    return model


@torch.no_grad()
def log_probs(model: ImageModel) -> dict[str, Tensor]:
    torch.manual_seed(5)
    x = some_pictures(3)
    guide = poutine.trace(model.guide).get_trace(x)
    trace = poutine.trace(poutine.replay(model.model, trace=guide)).get_trace(x)
    for each in (guide, trace):
        each.compute_log_prob()
    return {
        f"{name} {site}": each.nodes[site]["log_prob"]
        for name, each in (("guide", guide), ("model", trace))
        for site in each.stochastic_nodes + each.observation_nodes
        if site != "images"
    }


def assert_alike(a: ImageModel, b: ImageModel) -> None:
    assert a.config == b.config
    expected = log_probs(a)
    found = log_probs(b)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def message_of(error: pytest.ExceptionInfo[UserError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# Whole files


def test_weights_of_half_precision_are_loaded_in_single(tmp_path: Path) -> None:
    model = make_run(tmp_path / "run")
    load(tmp_path / "run").half().save_pretrained(tmp_path / "half")
    stored = load_file(tmp_path / "half" / WEIGHTS)
    assert {t.dtype for t in stored.values() if t.is_floating_point()} == {torch.float16}
    small = load(tmp_path / "half")
    wanted = model.state_dict()
    for name, tensor in small.state_dict().items():
        assert tensor.dtype == wanted[name].dtype, name
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-3, atol=1e-4)
    for name, value in log_probs(small).items():
        torch.testing.assert_close(value, log_probs(model)[name], rtol=0.02, atol=2.0)


def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("old")

    def fail(partial: Path) -> None:
        partial.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_that_fails_is_not_there(tmp_path: Path) -> None:
    def stop(partial: Path) -> None:
        partial.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "deep" / "notes.txt", stop)
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_file_is_replaced_only_when_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "picture.png"
    write_whole(path, lambda partial: partial.write_text("one") and None)

    def write(partial: Path) -> None:
        assert partial.suffix == ".png"  # image libraries go by it
        partial.write_text("two")
        assert path.read_text() == "one"

    write_whole(path, write)
    assert path.read_text() == "two"


def test_json_that_cannot_be_written_leaves_the_old(tmp_path: Path) -> None:
    path = tmp_path / "values.json"
    write_json(path, {"a": [1, None]})
    with pytest.raises(TypeError):
        write_json(path, {"a": {1, 2}})
    assert json.loads(path.read_text()) == {"a": [1, None]}


# A run's folder


@pytest.mark.parametrize("name", MODELS)
def test_a_loaded_model_scores_as_the_saved_one(name: str, tmp_path: Path) -> None:
    model = make_run(tmp_path, **MODELS[name])
    loaded = srvae_pyro.load(tmp_path)
    assert type(loaded) is type(model)
    assert_alike(model, loaded)
    assert not loaded.training
    assert all(p.requires_grad for p in loaded.parameters())


def test_loading_never_initialises_again(tmp_path: Path) -> None:
    make_run(tmp_path)
    loaded = load(tmp_path)
    assert loaded.initialized
    before = {name: value.clone() for name, value in loaded.state_dict().items()}
    loaded.initialize(1 - some_pictures())
    loaded.generate(2)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_weights_do_not_depend_on_the_random_state(tmp_path: Path) -> None:
    make_run(tmp_path)
    torch.manual_seed(1)
    first = load(tmp_path)
    torch.manual_seed(2)
    assert_alike(first, load(str(tmp_path)))


def test_config_is_the_runs(tmp_path: Path) -> None:
    model = make_run(tmp_path, guide_z_sees_y=True)
    config = read_config(tmp_path)
    assert config.model == model.config
    assert (config.preset, config.data.data, config.version) == ("quickstart", "photos", "1.2")


def test_a_run_is_found_by_name_or_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs/mine"))
    for name in ("mine", "runs/mine", Path("runs") / "mine", tmp_path / "runs" / "mine"):
        assert find_run(name).resolve() == tmp_path / "runs" / "mine"


def test_a_typo_suggests_the_nearest_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="train one first") as error:
        load("mine")
    message_of(error)
    for name in ("srvae-small-photos", "vae-paper-cifar10"):
        write_json(Path("runs", name, CONFIG), RunConfig().to_dict())
    with pytest.raises(UserError, match=r"did you mean srvae-small-photos\?") as error:
        load("srvae-smal-photo")
    message_of(error)
    with pytest.raises(UserError, match="there are srvae-small-photos, vae-paper-cifar10"):
        load("zzz")


def test_a_folder_without_a_config_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"holds no {CONFIG}"):
        load(tmp_path)


def test_a_run_without_weights_says_when_they_come(tmp_path: Path) -> None:
    make_run(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(UserError, match="end of an epoch") as error:
        load(tmp_path)
    message_of(error)


@pytest.mark.parametrize("length", [0, 7, 1000, -1])
def test_damaged_weights_are_a_users_error(length: int, tmp_path: Path) -> None:
    make_run(tmp_path)
    content = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(content[:length])
    with pytest.raises(UserError, match=WEIGHTS) as error:
        load(tmp_path)
    message_of(error)


@pytest.mark.parametrize("change", ["missing", "further", "shape"])
def test_weights_of_another_model_are_a_users_error(change: str, tmp_path: Path) -> None:
    make_run(tmp_path)
    state = load_file(tmp_path / WEIGHTS)
    name = next(name for name in state if name.endswith("bias"))
    if change == "missing":
        del state[name]
    elif change == "further":
        state["further"] = torch.zeros(1)
    else:
        state[name] = torch.zeros(len(state[name]) + 1)
    save_file(state, tmp_path / WEIGHTS)
    with pytest.raises(UserError, match=WEIGHTS) as error:
        load(tmp_path)
    message_of(error)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"model": {"latent_size": 3}}',
        '{"model": 3}',
        '{"model": {"image_shape": [3, 17, 16]}}',
        '{"model": {"transform": "blur"}}',
        '{"model": {"prior": "flow"}}',
        '{"model": {"latent_channels": "16"}}',
        "\x00\xff",
    ],
)
def test_a_config_that_does_not_fit_is_a_users_error(text: str, tmp_path: Path) -> None:
    make_run(tmp_path)
    (tmp_path / CONFIG).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError) as error:
        load(tmp_path)
    message_of(error)


# The Hub's format


@pytest.mark.parametrize("name", MODELS)
def test_save_pretrained_writes_what_load_reads(name: str, tmp_path: Path) -> None:
    model = make_model(tiny_config(**MODELS[name]))
    model.initialize(some_pictures())
    model.save_pretrained(tmp_path / "saved")
    assert_alike(model, load(tmp_path / "saved"))


@pytest.mark.parametrize("name", MODELS)
def test_from_pretrained_reads_a_run(name: str, tmp_path: Path) -> None:
    model = make_run(tmp_path, **MODELS[name])
    for kind in (type(model), ImageModel):
        found = kind.from_pretrained(tmp_path)
        assert type(found) is type(model)
        assert_alike(model, found)
    assert not found.training


def test_a_runs_settings_survive_save_pretrained(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    load(tmp_path / "run").save_pretrained(tmp_path / "saved")
    assert read_config(tmp_path / "saved") == read_config(tmp_path / "run")


def test_from_pretrained_refuses_the_other_model(tmp_path: Path) -> None:
    make_run(tmp_path, model="vae")
    with pytest.raises(UserError, match="VAE") as error:
        SRVAE.from_pretrained(tmp_path)
    message_of(error)
    assert isinstance(VAE.from_pretrained(tmp_path), VAE)


def test_from_pretrained_refuses_weights_that_do_not_fit(tmp_path: Path) -> None:
    make_run(tmp_path)
    state = load_file(tmp_path / WEIGHTS)
    del state[next(iter(state))]
    save_file(state, tmp_path / WEIGHTS)
    with pytest.raises(UserError, match=WEIGHTS):
        SRVAE.from_pretrained(tmp_path)


def test_a_hub_id_without_a_network_is_a_users_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    for wrong in ("nobody/no-such-model", "no body/model", "owner/"):
        with pytest.raises(UserError, match="Hub") as error:
            load(wrong)
        message_of(error)
