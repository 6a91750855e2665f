"""Models on disk: whole files, a run's folder, the Hub's format, and files that do not fit."""

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import srvae_pyro
from srvae_pyro.config import DataConfig, RunConfig
from srvae_pyro.errors import UserError
from srvae_pyro.models import SRVAE, VAE, ImageModel, load, make_model
from srvae_pyro.runs import CONFIG, WEIGHTS, find_run, name_for, read_config, save_weights
from srvae_pyro.system.files import write_json
from tests.builders import make_images, one_line, refused, smallest
from tests.models.test_models import sites, traces

MODELS: dict[str, dict[str, Any]] = {
    "srvae": {},
    "realnvp": {"p_u": "realnvp"},
    "vae": {"model": "vae"},
}


def make_run(folder: Path, **changes: Any) -> ImageModel:
    """A run's folder as training leaves it; the model that is in it."""
    model = make_model(smallest(posterior_log_variance=-1.0, **changes))
    model.initialize(make_images(4))
    config = RunConfig("quickstart", model.config, DataConfig("photos"), version="1.2")
    write_json(folder / CONFIG, config.to_dict())
    save_weights(model, folder)
    return model


@torch.no_grad()
def log_probs(model: ImageModel) -> dict[str, Tensor]:
    torch.manual_seed(5)
    both = zip(("model", "guide"), traces(model, make_images(3)), strict=True)
    return {f"{name} {s}": t.nodes[s]["log_prob"] for name, t in both for s in sites(t)}


def assert_alike(a: ImageModel, b: ImageModel) -> None:
    assert a.config == b.config
    torch.testing.assert_close(log_probs(a), log_probs(b), rtol=0, atol=0)


# Precision


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


# A run's folder


@pytest.mark.parametrize("name", MODELS)
def test_a_loaded_model_scores_as_the_saved_one(name: str, tmp_path: Path) -> None:
    model = make_run(tmp_path / "run", **MODELS[name])
    model.save_pretrained(tmp_path / "saved")
    ways = (srvae_pyro.load, type(model).from_pretrained, ImageModel.from_pretrained)
    for folder, load_it in product((tmp_path / "run", tmp_path / "saved"), ways):
        loaded = load_it(folder)
        assert type(loaded) is type(model)
        assert_alike(model, loaded)
        assert not loaded.training
        assert all(p.requires_grad for p in loaded.parameters())


def test_a_run_is_found_by_name_or_folder_and_with_a_slash_is_a_path(here: Path) -> None:
    make_run(Path("runs/mine"))
    for name in ("mine", "runs/mine", Path("runs") / "mine", here / "runs" / "mine"):
        assert find_run(name).resolve() == here / "runs" / "mine"
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


def test_a_typo_suggests_the_nearest_run(here: Path) -> None:
    with refused("train one first"):
        load("mine")
    for name in ("srvae-small-photos", "vae-paper-cifar10"):
        write_json(Path("runs", name, CONFIG), RunConfig().to_dict())
    with refused(r"did you mean srvae-small-photos\?"):
        load("srvae-smal-photo")
    with pytest.raises(UserError, match="runs/ has srvae-small-photos, vae-paper-cifar10") as error:
        load("zzz")
    assert str(error.value).endswith(
        "; or use pretrained or pretrained-photo, which ship with the package"
    )


def test_a_run_without_weights_or_settings_is_refused(tmp_path: Path) -> None:
    make_run(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with refused("end of an epoch"):
        load(tmp_path)
    (tmp_path / CONFIG).unlink()
    with refused(f"has no {CONFIG}"):
        load(tmp_path)


# The Hub's format


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
    data = DataConfig("/home/annabel/secret/holiday", info=PRIVATE)
    model.run_config = RunConfig("small", model.config, data, version="1.2")
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
    make_model(smallest()).save_pretrained(tmp_path)
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
    with refused("VAE"):
        SRVAE.from_pretrained(tmp_path)
    assert isinstance(VAE.from_pretrained(tmp_path), VAE)


def test_a_hub_id_without_a_network_is_a_users_error(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(here / "cache"))
    for wrong in ("nobody/no-such-model", "no body/model", "owner/"):
        with refused("Hub"):
            load(wrong)


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
def hub(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = HTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(here / "cache"))
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", address)
    yield
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("owner/none", "there is no such model, or it is private"),
        ("owner/private", "there is no such model, or it is private"),
        ("owner/token", "it answers 401: log in"),
        ("owner/gated", "it is gated; ask for access"),
    ],
)
def test_a_model_that_the_hub_refuses_is_a_users_error(hub: None, name: str, reason: str) -> None:
    for get in (load, SRVAE.from_pretrained):
        with pytest.raises(UserError, match=reason) as error:
            get(name)
        assert name in one_line(error)


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (ImportError("Using SOCKS proxy, but the 'socksio' package is not"), "install socksio"),
        (ValueError("Unknown scheme for proxy URL URL('socks4://ann:pw@x')"), "an http or socks5"),
        (ConnectionError("no route\nto host"), "does not answer"),
        (RuntimeError("what nobody\nexpects"), "what nobody expects"),
    ],
)
def test_every_failure_of_a_download_is_one_line(
    raised: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise raised

    monkeypatch.setattr("srvae_pyro.system.hub.snapshot_download", fail)
    with pytest.raises(UserError, match=reason) as error:
        load("owner/name")
    assert "ann:pw" not in one_line(error)


def test_an_incomplete_copy_of_the_hub_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    monkeypatch.setattr("srvae_pyro.system.hub.snapshot_download", lambda *_, **__: str(tmp_path))
    with refused(f"owner/name from the Hub has no {WEIGHTS}"):
        load("owner/name")


def test_an_address_of_the_hub_is_no_id() -> None:
    for address in (
        "https://huggingface.co/owner/name",
        "https://huggingface.co/owner/name/tree/main",
        "hf.co/owner/name",
    ):
        for get in (load, SRVAE.from_pretrained):
            with pytest.raises(UserError, match=r"is an address: use the id in it, owner/name$"):
                get(address)
