"""``python -m srvae_pyro.evaluate``: the ELBO's terms of a run on a data set."""

import errno
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Annotated, Any, ClassVar
from unittest.mock import Mock

import pytest
import torch

from srvae_pyro.checked import AtLeast
from srvae_pyro.config import DataConfig
from srvae_pyro.data import DataSplits, ImageOptions, MemoryImages, load_data
from srvae_pyro.data.run_data import load_for
from srvae_pyro.data.splits import evenly_spaced, evenly_spaced_indices
from srvae_pyro.errors import UserError, with_flags
from srvae_pyro.evaluate import EvaluateArguments, main
from srvae_pyro.evaluation import command
from srvae_pyro.evaluation.command import print_results
from srvae_pyro.evaluation.fid import Distances
from srvae_pyro.evaluation.likelihood import Elbo, ElboResult, evaluate_elbo, evaluate_likelihood
from srvae_pyro.evaluation.measures import Measure, Result, Selection, Split, Task
from srvae_pyro.evaluation.record import newest_results, record
from srvae_pyro.inference.decoding import Decode, ImageNoise
from srvae_pyro.inference.elbo import TermsELBO
from srvae_pyro.inference.importance import estimate_log_likelihood
from srvae_pyro.inference.sampling import Temperatures
from srvae_pyro.models import load, make_model
from srvae_pyro.models.base import save_pretrained
from srvae_pyro.pixels import to_unit
from srvae_pyro.runs import CONFIG, read_config
from srvae_pyro.system.cli import check_arguments, parse
from srvae_pyro.system.files import write_json
from srvae_pyro.system.hub import is_cached_copy
from tests.builders import initialized, make_images, save_run, tiny, write_images

CPU = torch.device("cpu")


def results(run: Path) -> dict[str, Any]:
    """The newest result of each measure in a run's file."""
    return {name: line["result"] for name, line in newest_results(run).items()}


def evaluate(run: Path, folder: Path | str, **options: Any) -> int:
    """The command, with the check of its arguments."""
    arguments = EvaluateArguments(str(run), data=str(folder), **options)
    check_arguments(arguments)
    return main(arguments)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders that each test has copies of."""
    place = tmp_path_factory.mktemp("originals")
    for split in ("train", "test"):
        write_images(place / "images" / split, make_images(15, seed=len(split)))
    torch.manual_seed(0)
    save_run(place / "run", p_u="mixture")
    return place


@pytest.fixture
def folder(tmp_path: Path, originals: Path) -> Path:
    """A folder of 30 images, train and test."""
    return shutil.copytree(originals / "images", tmp_path / "images")


@pytest.fixture
def run(tmp_path: Path, originals: Path) -> Path:
    """The folder of a model that was initialised but not trained."""
    return shutil.copytree(originals / "run", tmp_path / "run")


@pytest.mark.parametrize("limit", [None, 4, 1])
def test_terms_are_those_of_the_elbo(
    folder: Path, run: Path, limit: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    assert evaluate(run, folder, limit=limit, batch_size=4, elbo_only=True, json=out) == 0
    values = json.loads(out.read_text())
    test = load_data(str(folder), folder).test
    images = evenly_spaced(test, limit)
    indices = evenly_spaced_indices(len(test), limit)
    model = load(run)
    with Decode(noise=ImageNoise(0, indices.tolist())):
        terms = TermsELBO(analytic_kl=True).terms(model.model, model.guide, to_unit(images))
    for name, term in terms.named().items():
        assert values["elbo"][name] == pytest.approx(term.mean().item(), rel=1e-5)
    total = sum(values["elbo"][name] for name in terms.named())
    assert values["elbo"]["nats"] == pytest.approx(total, rel=1e-6)
    assert values["images"] == len(images)
    text = capsys.readouterr().out
    assert f"negative ELBO: {values['elbo']['bits_per_dim']:.4f}" in text
    assert (values["elbo"]["standard_error"] is None) == ("±" not in text) == (limit == 1)


def test_likelihood_and_what_is_recorded(
    folder: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "out.json"
    assert evaluate(run, folder, json=out, limit=3, importance_samples=30, seed=4) == 0
    evaluate(run, folder, split="train", elbo_only=True)
    values = json.loads(out.read_text())
    line = newest_results(run)["likelihood"]
    expected = {**line["result"], "flags": line["flags"]}
    assert expected == values["likelihood"]
    for name in ("run", "weights", "data", "split", "images", "indices", "checksum", "versions"):
        assert line[name] == values[name]
    assert line["flags"]["importance_samples"] == 30
    assert newest_results(run)["elbo"]["split"] == "train"
    assert values["indices"] == [0, 7, 14]
    assert values["data"]["counts"]["test"] == 15
    test = load_data(str(folder), folder).test
    x = to_unit(test[[0, 7, 14]])
    estimate = estimate_log_likelihood(load(run), x, 30, seed=4, images=[0, 7, 14])
    expected = -estimate.log_likelihood.mean().item()
    assert values["likelihood"]["nats"] == pytest.approx(expected, rel=1e-6)
    assert values["likelihood"]["bits_per_dim"] < values["elbo"]["bits_per_dim"]
    text = capsys.readouterr().out
    assert f"{values['likelihood']['bits_per_dim']:.3f} ± " in text
    assert "importance sampling, 30 samples, product" in text
    assert "effective of 30" in text
    assert "paper" not in text


def test_the_refined_likelihood_stands_beside_the_other(
    folder: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(run, folder, limit=2, importance_samples=3) == 0
    before = results(run)
    assert "refined by" not in capsys.readouterr().out
    assert evaluate(run, folder, limit=2, importance_samples=3, refine=2) == 0
    text = capsys.readouterr().out
    two = results(run)["refined_likelihood"]
    assert newest_results(run)["refined_likelihood"]["flags"]["refine"] == 2
    for found in (plain := results(run)["likelihood"], before["likelihood"]):
        del found["seconds"]
    assert plain == before["likelihood"]
    images = load_data(str(folder), folder).test[[0, 14]]
    indices = torch.tensor([0, 14])
    expected = evaluate_likelihood(load(run), images, CPU, 3, refine=2, indices=indices)
    assert two["bits_per_dim"] == pytest.approx(expected.bits_per_dim, rel=1e-6)
    assert two["kept"] == expected.kept
    lines = [line.split() for line in text.splitlines()]
    numbers = ("elbo_bits_per_dim", "bits_per_dim")
    for start, result in (("of the encoder", plain), ("refined by 2 steps", two)):
        row = next(line for line in lines if line[: len(start.split())] == start.split())
        assert row[len(start.split()) :][:2] == [f"{result[name]:.4f}" for name in numbers]
    table = replace(expected, kept=1200).table({"likelihood": expected})
    assert "the nll by 0.0000" in table
    assert table.endswith("for 1,200 of the images it does not, and the encoder's q is kept")


@pytest.mark.parametrize("alike", [False, True])
def test_units_are_counted(folder: Path, alike: bool) -> None:
    """By hand, of images that differ and of one image again and again."""
    images = load_data(str(folder), folder).test
    model = initialized(to_unit(images), posterior_scale=1.0, posterior_log_variance=0.0)
    images = images[:1].expand_as(images) if alike else images
    x = to_unit(images)
    expected = {}
    for name, mean in {
        "z": model.guide.q_z(x).mean,
        "u": model.guide.q_u(model.guide.d(x)).mean,
    }.items():
        expected[f"units_{name}"] = mean[0].numel()
        expected[f"active_units_{name}"] = (mean.var(0, correction=0) > 0.01).sum().item()
    with Decode(noise=ImageNoise(0, range(len(x)))):
        terms = TermsELBO(detailed_kl=True).terms(model.model, model.guide, x)
    expected["kl_units_z"] = (terms.detailed_kl["z"].mean(0) > 0.01).sum().item()
    counted = evaluate_elbo(model, images, CPU, units=True, batch_size=4).to_json()
    assert {name: counted[name] for name in expected} == expected
    assert (expected["active_units_z"] == 0) == alike
    assert "kl_units_u" not in counted  # a flow's KL has no closed form


def test_more_elbo_samples_are_averaged(folder: Path, run: Path) -> None:
    model, images = load(run), load_data(str(folder), folder).test
    single = evaluate_elbo(model, images, CPU).to_json()
    many = evaluate_elbo(model, images, CPU, samples=3, batch_size=7).to_json()
    again = evaluate_elbo(model, images, CPU, samples=3, batch_size=100).to_json()
    assert many["re_x"] != single["re_x"]
    for name, value in many.items():
        assert again[name] == pytest.approx(value, rel=1e-5, abs=1e-6)  # a KL may be near 0
        assert value == pytest.approx(single[name], rel=0.3)
    lower = (many["re_y"] + many["kl_u"]) / (3 * 8 * 8 * math.log(2))
    assert many["y_bits_per_dim"] == pytest.approx(lower)


def test_a_vae_is_measured_too(folder: Path, tmp_path: Path) -> None:
    run = save_run(tmp_path / "vae", model="vae")
    assert evaluate(run, folder, limit=2, importance_samples=3) == 0
    values = results(run)
    assert values["likelihood"]["estimator"] == "paired"
    assert "re_y" not in values["elbo"]
    with pytest.raises(UserError, match="a VAE has no y"):
        evaluate(run, folder, super_resolution=True)


def test_published_rows_stand_beside_the_same_data_only(capsys: pytest.CaptureFixture[str]) -> None:
    terms = {"re_x": 1.0, "re_y": 2.0, "kl_z": 3.0, "kl_u": 4.0}
    elbo = ElboResult(terms, 10.0, 3.0, standard_error=0.1, y_bits_per_dim=5.0)
    test = torch.zeros(10, 3, 1, 1, dtype=torch.uint8)

    def text(name: str, trained_on: str, images: int = 10, split: Split = "test") -> str:
        data = DataSplits(name, MemoryImages(test), test[:0], test)
        indices = torch.arange(images)
        selection = Selection(data, split, test[indices], indices, 10)
        print_results({"elbo": elbo}, selection, trained_on)
        return capsys.readouterr().out

    assert "3.65  5107  1241   619   819" in text("cifar10", "cifar10").replace("3.650", "3.65")
    assert "4.000" in text("imagenet32-batches", "cifar10")
    assert "paper" not in text("imagenet32-batches", "imagenet32-batches")
    assert "paper" not in text("imagenet32", "cifar10")
    assert "paper" not in text("cifar10", "cifar10", images=9)
    assert "paper" not in text("cifar10", "cifar10", split="train")


def of_data(run: Path, data: Path, **settings: object) -> None:
    """Let a run have been trained on ``data``."""
    images = load_data(str(data), data, ImageOptions(seed=settings.get("seed", 0)))
    config = replace(read_config(run), data=DataConfig(str(data), info=images.info, **settings))
    write_json(run / CONFIG, config.to_dict())


def test_a_runs_own_images_are_split_as_they_were(run: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "test").rename(folder / "train" / "more")
    of_data(run, folder, seed=5)
    config = read_config(run)
    own = load_for(config, None, Path())
    shutil.copytree(folder, copy := tmp_path / "copy")
    for place in (folder, copy):
        found = load_for(config, str(place), Path())
        assert found.info["own"]
        assert torch.equal(found.test, own.test)
    folder.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"which no longer exists: use --data to give"):
        main(EvaluateArguments(str(run), elbo_only=True))
    assert evaluate(run, copy, elbo_only=True) == 0
    next((copy / "train").rglob("*.png")).unlink()
    assert not load_for(config, str(copy), Path()).info["own"]
    shutil.copytree(copy, folder)
    with pytest.warns(match="are not those that the run was trained on"):
        load_for(config, None, Path())


@pytest.mark.parametrize(
    ("data", "split", "warned"),
    [
        ("images", "test", False),
        ("images", "all", True),
        ("images/train", "all", True),
        ("images/test", "all", False),
        (".", "all", True),
    ],
)
def test_a_warning_when_images_are_those_of_training(
    data: str,
    split: str,
    warned: bool,
    run: Path,
    folder: Path,
    tmp_path: Path,
    recwarn: pytest.WarningsRecorder,
) -> None:
    of_data(run, folder)
    assert evaluate(run, tmp_path / data, split=split, limit=2, elbo_only=True) == 0
    told = [str(w.message) for w in recwarn.list if "was trained on some of" in str(w.message)]
    assert len(told) == warned


def test_a_folder_without_a_split_can_be_measured_on(
    run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("srvae_pyro.evaluation.fid.FeatureExtractor", lambda *_: None)
    shutil.rmtree(folder / "train")
    assert evaluate(run, folder, elbo_only=True) == 0
    assert newest_results(run)["elbo"]["images"] == 15
    with pytest.raises(UserError, match="has no folder val/: choose another split"):
        evaluate(run, folder, split="val")
    with pytest.raises(UserError, match="lacks train/ or test/, which fid compares with"):
        evaluate(run, folder, fid=True)
    (folder / "test").rename(folder / "more")
    with pytest.raises(UserError, match=r"has no folder test/: use --split all"):
        evaluate(run, folder)
    assert evaluate(run, folder, split="all", elbo_only=True) == 0
    assert newest_results(run)["elbo"]["images"] == 15


def test_fid_is_asked_for_as_in_the_paper(
    folder: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, images = [], []

    def stand_in(images_at, real, extractor, **options):
        drawn = images_at(range(3))["x"]
        images.append(drawn)
        asked.append((len(real), options["samples"], drawn.dtype, extractor.weights.name))
        return Distances(12.345, 0.01, 0.001, 1000, options["samples"], len(real))

    monkeypatch.setattr("srvae_pyro.evaluation.fid.fid_and_kid", stand_in)
    find_weights = Mock(side_effect=lambda path: path)
    monkeypatch.setattr("srvae_pyro.evaluation.fid.find_weights", find_weights)
    options = {"elbo_only": True, "fid": True, "fid_weights": Path("weights.pth")}
    assert evaluate(run, folder, **options) == 0
    assert find_weights.call_count == 1  # the file is hashed
    # Test images, and all others: 13 or 14 to train on and the one that is held out.
    byte = torch.uint8
    assert asked == [(15, 10_000, byte, "weights.pth"), (15, 50_000, byte, "weights.pth")]
    line = newest_results(run)["fid"]
    assert line["result"]["train"]["fid"] == 12.345
    assert (line["flags"]["fid_weights"], line["flags"]["temperature"]) == ("weights.pth", 1.0)
    assert "12.35 (12.35)" in capsys.readouterr().out.replace("12.34", "12.35")
    assert evaluate(run, folder, **options, temperatures=Temperatures(1.0, 0.5, 0.25)) == 0
    assert newest_results(run)["fid"]["flags"]["y_temperature"] == 0.25
    assert not torch.equal(images[0], images[-1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"importance_samples": 0}, "--importance-samples must be at least 1, not 0"),
        ({"refine": 9, "elbo_only": True}, "--refine needs importance sampling: leave out"),
        ({"memory_gb": 1e-9}, "1e-09 is too little: use at least"),
        ({"fid_images": 9, "kid": True}, "--fid-images needs --fid: give both, or neither"),
        ({"kid_images": 9, "fid": True}, "--kid-images needs --kid"),
        ({"decode": "mode"}, "--decode needs --fid or --kid"),
        ({"temperatures": Temperatures(y_temperature=0.9)}, "--y-temperature needs --fid or --kid"),
        ({"run": "nowhere"}, "no run called nowhere"),
        ({"folder": "nowhere"}, "there is no data set or folder called 'nowhere'"),
        ({"measure": ("nothing",)}, "--measure nothing: there is no such measure without flags"),
    ],
)
def test_bad_requests(folder: Path, run: Path, options: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        evaluate(**{"run": run, "folder": folder, "limit": 1, **options})
    assert message in with_flags(str(error.value))


def test_images_of_another_shape_are_refused(folder: Path, tmp_path: Path) -> None:
    save_pretrained(make_model(tiny(image_shape=(3, 16, 32))), tmp_path / "wide")
    with pytest.raises(UserError, match=r"images of 16x16, the model is for 16x32"):
        evaluate(tmp_path / "wide", folder)


# What is recorded


def test_no_result_is_lost(folder: Path, run: Path) -> None:
    """Each is a line of its own, whatever its flags, images and weights."""
    lines: list[str] = []
    weights = (run / "model.safetensors").stat().st_size
    for changes in ({}, {"limit": 2}, {"seed": 5}, {"split": "train"}, {}):
        assert evaluate(run, folder, elbo_only=True, **changes) == 0
        *before, _ = (run / "evaluation.jsonl").read_text().splitlines()
        assert before == lines
        lines = (run / "evaluation.jsonl").read_text().splitlines()
    assert weights == (run / "model.safetensors").stat().st_size
    first, few, other, train, last = map(json.loads, lines)
    assert [line["images"] for line in (first, few, train)] == [15, 2, 14]
    assert few["indices"] == [0, 14]
    assert (first["seed"], other["seed"]) == (0, 5)
    assert first["checksum"] != train["checksum"]
    assert first == last
    assert newest_results(run) == {"elbo": last}


@pytest.mark.parametrize(
    "damage", ['{"measure": "elbo", "resu', "[1, 2]\n", "\x00", "null\n", "[" * 9999]
)
def test_damaged_lines_are_passed_over(tmp_path: Path, damage: str) -> None:
    for number in (1, 2):
        with (tmp_path / "evaluation.jsonl").open("a") as file:
            file.write(damage)
        record(tmp_path, "training", {"steps": number}, {"seed": 3})
        line = {"measure": "training", "seed": 3, "result": {"steps": number}}
        assert newest_results(tmp_path) == {"training": line}
    assert (tmp_path / "evaluation.jsonl").read_text().count(damage) == 2


def test_two_that_record_at_once_lose_nothing(tmp_path: Path) -> None:
    names = [str(number) for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: record(tmp_path, name, {"of": name}), names))
    assert results(tmp_path) == {name: {"of": name} for name in names}


def test_a_full_disk_leaves_no_half_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path, "elbo", {"nats": 1})
    before = (tmp_path / "evaluation.jsonl").read_text()

    class Full(FileIO):
        def write(self, content: Any) -> int:
            return super().write(content[:9])

    monkeypatch.setattr(Path, "open", lambda path, mode, **_: Full(path, mode.replace("b", "")))
    with pytest.raises(OSError, match="No space left"):
        record(tmp_path, "likelihood", {"nats": 1})
    assert (tmp_path / "evaluation.jsonl").read_bytes() == before.encode()


def test_nothing_is_written_to_a_copy_from_the_hub(folder: Path, run: Path) -> None:
    assert not is_cached_copy(run.parent / "snapshots" / "abc")
    (run.parent / "models--owner--name").mkdir()
    copy = run.rename(run.parent / "models--owner--name" / "snapshots") / "abc"
    copy.mkdir()
    for name in ("config.json", "model.safetensors"):
        (copy.parent / name).rename(copy / name)
    with pytest.warns(UserWarning, match=r"a copy from the Hub: the results are printed only"):
        evaluate(copy, folder, limit=2, elbo_only=True)
    assert not (copy / "evaluation.jsonl").exists()


def test_each_result_is_recorded_before_the_next_is_measured(
    folder: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def look(name: str, result: Callable[..., Any]) -> Callable[..., Any]:
        def stand_in(*args, **options) -> Any:
            found = results(run)
            seen.append((name, list(found), list(found.get("fid", ()))))
            return result(*args, **options)

        return stand_in

    def fail(*args, **options) -> None:
        raise KeyboardInterrupt

    distances, place = Distances(1, 1, 1, 1, 1, 1), "srvae_pyro.evaluation"
    for name, function in (
        ("likelihood.evaluate_likelihood", evaluate_likelihood),
        ("fid.fid_and_kid", lambda *args, **options: distances),
        ("super_resolution.evaluate_super_resolution", fail),
    ):
        monkeypatch.setattr(f"{place}.{name}", look(name.partition(".")[0], function))
    monkeypatch.setattr(f"{place}.fid.FeatureExtractor", lambda *_: True)
    with pytest.raises(KeyboardInterrupt):
        evaluate(run, folder, fid=True, super_resolution=True, importance_samples=2)
    three = ["elbo", "likelihood", "fid"]
    assert seen == [
        ("likelihood", ["elbo"], []),
        ("fid", ["elbo", "likelihood"], []),
        ("fid", three, ["test"]),
        ("super_resolution", three, ["test", "train"]),
    ]
    assert "importance sampling, 2 samples" in capsys.readouterr().out  # the results so far


def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    folder: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Elbo, "run", None)
    (run / "file").touch()
    (run / "other.json").write_text('{"run": "somebody\'s"}')
    for name, told in (
        ("file/out.json", r"cannot write .*out\.json .Not a directory.: give --json FILE"),
        (
            "other.json",
            r"other\.json exists and was not written by this command: choose another --json FILE",
        ),
        ("evaluation.jsonl", r"evaluation\.jsonl is the run's own record"),
    ):
        with pytest.raises(UserError, match=told):
            evaluate(run, folder, json=run / name)
    assert "somebody" in (run / "other.json").read_text()


def test_results_of_a_run_that_cannot_be_written_to_are_printed(
    folder: Path,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(path: Path) -> None:
        if path.parent == run:
            raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr("srvae_pyro.evaluation.record.check_place", refuse)
    with pytest.warns(UserWarning, match=r"Read-only.*: the results are printed only; --json FILE"):
        assert evaluate(run, folder, elbo_only=True) == 0
    assert "bits/dim" in capsys.readouterr().out
    assert not (run / "evaluation.jsonl").exists()
    for again in (False, True):
        with pytest.warns(UserWarning, match="the results are not recorded there"):
            assert evaluate(run, folder, elbo_only=True, json=tmp_path / "out.json") == 0
        assert "elbo" in json.loads((tmp_path / "out.json").read_text())
        assert ("out.json, replacing an earlier one" in capsys.readouterr().out) == again


@pytest.mark.parametrize("times", [1, 9])
def test_what_a_full_disk_does_not_take_is_written_with_the_next(
    times: int,
    folder: Path,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failures = iter(range(times))

    def full(*args) -> None:
        if next(failures, None) is not None:
            raise OSError(errno.ENOSPC, "No space left on device")
        record(*args)

    monkeypatch.setattr("srvae_pyro.evaluation.record.record", full)
    code = 0 if times == 1 else 2
    with pytest.warns(UserWarning, match="run cannot be written: No space left on device"):
        assert evaluate(run, folder, importance_samples=2) == code
    assert list(results(run)) == (["elbo", "likelihood"] if times == 1 else [])
    assert "importance sampling, 2 samples" in capsys.readouterr().out


# A measure of one's own


@dataclass(frozen=True)
class Edges(Result):
    """How much neighbouring pixels of generated images differ."""

    levels: float

    def to_json(self) -> dict[str, Any]:
        return {"levels": self.levels}

    def table(self, others: Mapping[str, Any] | None = None) -> str:
        return f"edges: {self.levels:.1f} levels, nats {(others or {})['elbo'].nats:.0f}"


@dataclass
class EdgesMeasure(Measure):
    """All that a new measure takes, beside its entry in the list."""

    name: ClassVar[str] = "edges"
    seed: int  # the command's flag
    count: Annotated[int, AtLeast(1)] = 4

    def check(self, task: Task) -> None:
        if len(task.selection.images) < 2:
            raise UserError("edges takes two images")

    def run(self, task: Task) -> Iterator[Edges]:
        x = task.model.generate(self.count, seed=self.seed)["x"]
        yield Edges(255 * (x[..., 1:] - x[..., :-1]).abs().mean().item())


def test_a_measure_is_a_class_and_an_entry_in_the_list(
    folder: Path,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "MEASURES", [*command.MEASURES, EdgesMeasure])
    line = f"{run} --data {folder} --elbo-only --seed 3 --json {tmp_path / 'out.json'}"

    def command_line(words: str) -> int:
        return main(parse(EvaluateArguments, words=f"{line} {words}".split()))

    assert command_line("") == 0
    assert list(results(run)) == ["elbo"]
    assert command_line("--measure edges count=5") == 0
    x = load(run).generate(5, seed=3)["x"]
    expected = 255 * (x[..., 1:] - x[..., :-1]).abs().mean().item()
    found = newest_results(run)["edges"]
    assert found["result"] == {"levels": expected}
    assert found["flags"] == {"seed": 3, "count": 5}
    assert found["weights"] == newest_results(run)["elbo"]["weights"]
    assert json.loads((tmp_path / "out.json").read_text())["edges"]["levels"] == expected
    nats = results(run)["elbo"]["nats"]
    assert f"edges: {expected:.1f} levels, nats {nats:.0f}\n" in capsys.readouterr().out
    for words, message in (
        ("--measure edges --limit 1", "edges takes two images"),
        ("--measure edges count=0", "`count` must be at least 1, not 0"),
        ("--measure count=2 edges", "count=2: name the measure first"),
        ("--measure edges seed=2", "edges has no setting seed"),
    ):
        with pytest.raises(UserError, match=message):
            command_line(words)
