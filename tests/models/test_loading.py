"""Models on disk: whole files, a run's folder, the Hub's format, and files that do not fit."""

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from safetensors.torch import load_file, save_file
from torch import Tensor

import srvae_pyro
from srvae_pyro.config import DataConfig, Dense, ModelConfig, RunConfig
from srvae_pyro.errors import UserError
from srvae_pyro.models import SRVAE, VAE, ImageModel, load, make_model
from srvae_pyro.runs import CONFIG, WEIGHTS, find_run, name_for, read_config, save_weights
from srvae_pyro.system.files import write_json, write_whole

MODELS: dict[str, dict[str, Any]] = {
    "srvae": {},
    "realnvp": {"p_u": "realnvp"},
    "vae": {"model": "vae"},
}


def tiny_config(**changes: Any) -> ModelConfig:
    networks = [f.name for f in fields(ModelConfig) if isinstance(f.default, Dense)]
    settings: dict[str, Any] = {
        "image_shape": (3, 16, 16),
        "latent_channels": 2,
        "components": 2,
        "p_u": "standard",
        "init_scale": 0.5,
        "head_scale": 0.5,
        "likelihood_scale": 0.5,
        "likelihood_start": "images",
        "posterior_log_variance": -1.0,
        **dict.fromkeys(networks, Dense(2, 1)),
    }
    return ModelConfig(**(settings | changes))


def some_images(count: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 16, 16), generator=generator) / 255


def make_run(folder: Path, **changes: Any) -> ImageModel:
    """A run's folder as training leaves it; the model that is in it."""
    model = make_model(tiny_config(**changes))
    model.initialize(some_images())
    config = RunConfig("quickstart", model.config, DataConfig("photos"), version="1.2")
    write_json(folder / CONFIG, config.to_dict())
    save_weights(model, folder)
    return model


@torch.no_grad()
def log_probs(model: ImageModel) -> dict[str, Tensor]:
    torch.manual_seed(5)
    x = some_images(3)
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_weights_load_in_single_precision_whatever_the_default(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    expected = make_run(tmp_path).generate(1, seed=0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = load(tmp_path)
        sites = model.generate(1, seed=0)
    finally:
        torch.set_default_dtype(before)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(torch.equal(value, expected[name]) for name, value in sites.items())


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
    path = tmp_path / "folder" / "image.png"
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
    loaded.initialize(1 - some_images())
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


def test_a_run_with_a_slash_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs/mine"))
    for name in ("./mine", "mine/", "../mine"):
        with pytest.raises(UserError, match=r"no run (in|called) "):
            find_run(name)
    with pytest.raises(UserError, match=r"did you mean runs/mine\?"):
        find_run("./mine")
    make_run(Path("mine"))
    assert find_run("mine") == Path("runs/mine")
    for named in ("./mine", Path("mine"), name_for(Path("mine"))):
        assert find_run(named) == Path("mine")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_run_whose_settings_another_system_saved(tmp_path: Path, encoding: str) -> None:
    make_run(tmp_path)
    text = (tmp_path / CONFIG).read_text(encoding="utf-8").replace("\n", "\r\n")
    (tmp_path / CONFIG).write_bytes(text.encode(encoding))
    assert read_config(tmp_path).preset == "quickstart"


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
    with pytest.raises(UserError, match="there are srvae-small-photos, vae-paper-cifar10") as error:
        load("zzz")
    assert str(error.value).endswith("; or take pretrained or pretrained-photo, which comes along")


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
        '{"model": {"d": "blur"}}',
        '{"model": {"p_u": "flow"}}',
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
    model.initialize(some_images())
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


PRIVATE = {
    "name": "/home/annabel/secret/holiday",
    "source": "/home/annabel/secret/holiday",
    "left_out": ["annabel-at-the-beach.png", "passport.png"],
    "held_out_indices": {"val": [1], "test": [0]},
    "counts": {"train": 1200, "val": 1, "test": 1},
    "split": "val and test held out at random",
    "fingerprint": "files-0123",
}


@pytest.mark.parametrize("name", MODELS)
def test_a_shared_model_has_a_card_and_nothing_private(name: str, tmp_path: Path) -> None:
    model = make_run(tmp_path / "run", **MODELS[name])
    model.run_config = RunConfig(
        "small",
        model.config,
        DataConfig("/home/annabel/secret/holiday", info=PRIVATE),
        version="1.2",
    )
    model.save_pretrained(tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text()
    texts = card + (tmp_path / "saved" / CONFIG).read_text()
    for private in ("/home", "annabel", "secret", "passport", "More Information Needed"):
        assert private not in texts
    assert "held_out_indices" not in texts
    parameters = sum(parameter.numel() for parameter in model.parameters())
    for said in (
        f"{parameters:,} parameters",
        "preset `small`",
        "16x16 pixels",
        "Trained on `holiday`: 1,200 images",
        "library_name: srvae_pyro",
        "python -m srvae_pyro.generate OWNER/NAME",
        "arXiv:2006.05218",
        "## Licence",
    ):
        assert said in card
    code = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)[0]
    names: dict[str, Any] = {}
    exec(code.replace("OWNER/NAME", str(tmp_path / "saved")), names)
    assert names["x"].shape == (16, 3, 16, 16)
    assert ("outputs" in names) == isinstance(model, SRVAE)
    found = load(tmp_path / "saved")
    assert_alike(model, found)
    assert found.run_config is not None
    info = found.run_config.data.info
    assert (info["fingerprint"], info["left_out"]) == ("files-0123", 2)
    found.save_pretrained(tmp_path / "again")
    assert read_config(tmp_path / "again") == read_config(tmp_path / "saved")


def test_a_shared_models_data_keeps_its_kind(tmp_path: Path) -> None:
    model = make_run(tmp_path / "run")
    for data, shared in (
        ("cifar10", "cifar10"),
        ("/home/annabel/photos", "./photos"),
        ("wds:/home/annabel/part-{000..003}.tar", "wds:part-{000..003}.tar"),
    ):
        model.run_config = RunConfig("small", model.config, DataConfig(data))
        model.save_pretrained(tmp_path / "saved")
        assert read_config(tmp_path / "saved").data.data == shared


def test_a_model_of_no_run_claims_no_data(tmp_path: Path) -> None:
    make_model(tiny_config()).save_pretrained(tmp_path)
    assert read_config(tmp_path).data.data == ""
    assert "is not recorded" in (tmp_path / "README.md").read_text()


def test_the_card_of_a_pushed_model_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploaded = {}

    class Api:
        def __init__(self, **_: Any) -> None:
            pass

        def create_repo(self, repo_id: str, **_: Any) -> SimpleNamespace:
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, folder_path: Path, **_: Any) -> str:
            uploaded.update({file.name: file.read_bytes() for file in folder_path.iterdir()})
            return "https://huggingface.co/ann/mine"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    make_run(tmp_path).push_to_hub("ann/mine")
    assert uploaded.keys() == {CONFIG, WEIGHTS, "README.md"}
    assert 'srvae_pyro.load("ann/mine")' in uploaded["README.md"].decode()


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


class Refusing(BaseHTTPRequestHandler):
    """Outputs as the Hub does for a model that is not to be had, by its name."""

    kinds: ClassVar = {
        "none": (404, "RepoNotFound"),
        "private": (401, "RepoNotFound"),
        "token": (401, ""),
        "gated": (403, "GatedRepo"),
    }

    def do_GET(self) -> None:
        kind = next(kind for kind in self.kinds if kind in self.path)
        status, code = self.kinds[kind]
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = HTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", address)
    monkeypatch.chdir(tmp_path)
    yield
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("owner/none", "there is none of that name, or it is private"),
        ("owner/private", "there is none of that name, or it is private"),
        ("owner/token", "it answers 401: log in"),
        ("owner/gated", "it is gated; ask for access"),
    ],
)
def test_a_model_that_the_hub_refuses_is_a_users_error(hub: None, name: str, reason: str) -> None:
    for get in (load, SRVAE.from_pretrained):
        with pytest.raises(UserError, match=reason) as error:
            get(name)
        assert name in message_of(error)


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (ImportError("Using SOCKS proxy, but the 'socksio' package is not"), "install socksio"),
        (ValueError("Unknown scheme for proxy URL URL('socks4://ann:pw@x')"), "an http or socks5"),
        (ConnectionError("no route\nto host"), "does not answer"),
        (RuntimeError("what nobody\nexpects"), "what nobody expects"),
    ],
)
def test_whatever_keeps_a_model_away_is_told_in_a_line(
    raised: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise raised

    monkeypatch.setattr("srvae_pyro.system.hub.snapshot_download", fail)
    with pytest.raises(UserError, match=reason) as error:
        load("owner/name")
    assert "ann:pw" not in message_of(error)


def test_a_copy_of_the_hub_that_is_not_whole_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    monkeypatch.setattr("srvae_pyro.system.hub.snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(UserError, match=f"owner/name from the Hub has no {WEIGHTS}") as error:
        load("owner/name")
    message_of(error)


def test_an_address_of_the_hub_is_no_id() -> None:
    for address in (
        "https://huggingface.co/owner/name",
        "https://huggingface.co/owner/name/tree/main",
        "hf.co/owner/name",
    ):
        for get in (load, SRVAE.from_pretrained):
            with pytest.raises(UserError, match=r"is an address: give the id in it, owner/name$"):
                get(address)


def test_a_loaded_model_learns(tmp_path: Path) -> None:
    make_run(tmp_path)
    model = srvae_pyro.load(tmp_path)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    channels, height, width = model.config.image_shape
    x = torch.randint(0, 256, (4, channels, height, width)) / 255
    svi = SVI(*model.programs(), pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    svi.step(x)
    assert all(not torch.equal(before[name], p) for name, p in model.named_parameters())
    assert not model.generate(1)["x"].requires_grad
