"""The models that come along are in the package, and work where it is installed."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

import srvae_pyro
from srvae_pyro import SRVAE, UserError, runs
from srvae_pyro.drawing.arguments import GenerateArguments
from srvae_pyro.evaluate import EvaluateArguments
from srvae_pyro.evaluate import main as evaluate
from srvae_pyro.generate import main as generate
from srvae_pyro.models import make_model
from srvae_pyro.presets import preset
from srvae_pyro.runs import find_run, packaged, results_folder

ROOT = Path(__file__).parent.parent
FILES = ("README.md", "config.json", "model.safetensors")
MODELS = sorted(card.parent.name for card in (ROOT / "runs").glob("pretrained*/README.md"))


def copy_of_repository(place: Path) -> Path:
    """What a distribution is built from, in a folder that may be written to."""
    for name in ("README.md", "LICENSE", "pyproject.toml", "setup.py"):
        place.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, place)
    no_bytecode = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "srvae_pyro", place / "srvae_pyro", ignore=no_bytecode)
    for name in MODELS:
        (place / "runs" / name).mkdir(parents=True)
        for file in FILES:
            shutil.copy(ROOT / "runs" / name / file, place / "runs" / name)
    mine = place / "runs" / "mine"  # a run of the user's, which stays at home
    shutil.copytree(place / "runs" / "pretrained", mine)
    (place / "runs" / "pretrained" / "last.ckpt").touch()
    return place


def python(code: str, folder: Path, path: str = "") -> str:
    """What Python prints in the folder, with so much of a path to modules."""
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *code.split("|")]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


BUILD = "-c|from setuptools import build_meta; build_meta.build_{kind}({place!r})"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    repository = copy_of_repository(tmp_path_factory.mktemp("repository") / "r")
    python(BUILD.format(kind="wheel", place=str(place)), repository)
    return next(place.glob("*.whl"))


def test_the_wheel_has_the_models(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    models = {name for name in names if "packaged" in name}
    assert models == {f"srvae_pyro/packaged/{m}/{file}" for m in MODELS for file in FILES}
    assert "srvae_pyro/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"srvae_pyro", "srvae_pyro-0.1.0.dist-info"}


def test_a_wheel_can_be_built_from_the_source_distribution(tmp_path: Path) -> None:
    repository = copy_of_repository(tmp_path / "repository")
    python(BUILD.format(kind="sdist", place=str(tmp_path)), repository)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert names >= {f"runs/{model}/{file}" for model in MODELS for file in FILES}
    assert "runs/mine/config.json" not in names


def test_models_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in MODELS:
        assert find_run(name) == find_run(Path(name)) == ROOT / "runs" / name
    assert isinstance(srvae_pyro.load("pretrained"), SRVAE)
    assert isinstance(SRVAE.from_pretrained("pretrained"), SRVAE)
    with pytest.raises(UserError, match=r"train one first.*; or use pretrained"):
        find_run("mine")
    with pytest.raises(UserError, match=r"did you mean pretrained\?"):
        find_run("pretraind")


def test_several_models_come_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, repository = tmp_path / "packaged", tmp_path / "runs"
    for folder in (package, repository):
        for name in ("pretrained", "pretrained-photo", "mine"):
            shutil.copytree(ROOT / "runs" / "pretrained", folder / name)
    (package / "pretrained-photo" / "README.md").unlink()  # no card
    monkeypatch.setattr(runs, "PACKAGED", (package, repository))
    found = {name: folder.parent for name, folder in packaged().items()}
    assert found == {"pretrained": package, "pretrained-photo": repository}


def test_a_run_of_ones_own_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in (Path("pretrained"), Path("runs/pretrained")):
        make_model(preset("quickstart")[0]).save_pretrained(folder)
        assert find_run("pretrained") == folder
        assert results_folder("pretrained", folder) == folder
    assert capsys.readouterr().out == ""


def test_what_is_made_of_it_goes_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted((ROOT / "runs" / "pretrained").rglob("*"))
    told = "pretrained ships with the package: its outputs go to runs/pretrained\n"
    for count in (1, 2):  # the second call finds the folder of the first, which is no run
        assert generate(GenerateArguments("pretrained", count, device="cpu")) == 0
        said = capsys.readouterr().out
        assert said.startswith(told)
        assert f"{count} image" in said
        assert " in runs/pretrained/figures/generated/images" in said
    assert generate(GenerateArguments("pretrained", 1, device="cpu", out=tmp_path / "out")) == 0
    assert told not in capsys.readouterr().out
    few = EvaluateArguments("pretrained", data="photos", limit=2, elbo_only=True, device="cpu")
    assert evaluate(few) == 0
    assert told in capsys.readouterr().out
    assert (tmp_path / "runs" / "pretrained" / "evaluation.jsonl").exists()
    assert sorted((ROOT / "runs" / "pretrained").rglob("*")) == before


@pytest.mark.slow
def test_commands_work_where_the_wheel_is_installed(wheel: Path, tmp_path: Path) -> None:
    place, here = tmp_path / "installed", tmp_path / "here"
    here.mkdir()
    pip = "-m|pip|install|-q|--no-deps|--no-index|--target"
    python(f"{pip}|{place}|{wheel}", here)
    shown = python("-c|import srvae_pyro.runs as r; print(r.packaged())", here, str(place))
    assert str(place / "srvae_pyro" / "packaged" / "pretrained") in shown
    image = Image.new("RGB", (24, 16), "teal")
    image.save(here / "y.png")
    run = "-m|srvae_pyro.{}|pretrained"
    for command in (
        "generate|pretrained|--count|2",
        "upscale|pretrained|y.png",
        "evaluate|pretrained|--data|photos|--limit|4|--elbo-only",
        "figures|pretrained|--data|photos|--count|2",
    ):
        said = python(f"-m|srvae_pyro.{command}|--device|cpu", here, str(place))
        assert "its outputs go to runs/pretrained" in said, run
    results = here / "runs" / "pretrained"
    assert (results / "evaluation.jsonl").exists()
    made = {path.name for path in (results / "figures").iterdir()}
    assert made >= {"generated", "upscaled", "paper-samples.png"}
    loaded = python(
        "-c|import srvae_pyro; print(type(srvae_pyro.load('pretrained')).__name__)",
        here,
        str(place),
    )
    assert loaded == "SRVAE\n"
    assert not list((place / "srvae_pyro" / "packaged").rglob("figures"))
