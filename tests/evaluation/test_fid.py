"""FID and KID: torch-fidelity's numbers, through a network whose features are known."""

import hashlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor

from srvae_pyro.drawing.grids import save_image
from srvae_pyro.errors import UserError
from srvae_pyro.evaluation import fid
from srvae_pyro.evaluation.fid import (
    INCEPTION,
    Distances,
    FeatureExtractor,
    fid_and_kid,
    find_weights,
    generated,
)
from srvae_pyro.inference.sampling import Sampling
from srvae_pyro.pixels import to_levels
from tests.builders import initialized, make_images, refused

NAME = "mean-colours"


@pytest.fixture(scope="module")
def network() -> Iterator[type]:
    """A network registered with torch-fidelity: three features, the image's mean colours."""
    torch_fidelity = pytest.importorskip("torch_fidelity")
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    class MeanColours(torch_fidelity.FeatureExtractorBase):
        seen: list[Tensor] = []  # noqa: RUF012

        def __init__(self, name: str, features: list[str], **_: Any) -> None:
            super().__init__(name, features)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("colours",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "colours"

        def forward(self, images: Tensor) -> tuple[Tensor]:
            assert images.dtype == torch.uint8
            assert images.shape[1] == 3
            self.seen.append(images.clone())
            return (images.float().mean(dim=(2, 3)),)

    torch_fidelity.register_feature_extractor(NAME, MeanColours)
    yield MeanColours
    del FEATURE_EXTRACTORS_REGISTRY[NAME]


@pytest.fixture
def seen(network: Any) -> list[Tensor]:
    """The batches that the network is given in a test."""
    network.seen.clear()
    batches: list[Tensor] = network.seen
    return batches


def levels(count: int, low: int, high: int, seed: int, channels: int = 3) -> Tensor:
    """Images (count, channels, 4, 4) of random levels."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, channels, 4, 4)
    return torch.randint(low, high, shape, generator=generator, dtype=torch.uint8)


def measure(fake: Tensor, real: Tensor, **options: Any) -> Distances:
    """FID and KID with the mean colours, of ``fake`` drawn on demand."""
    settings = {"samples": len(fake), "batch_size": 7, "progress": False}

    def images_at(indices: range) -> dict[str, Tensor]:
        return {"x": fake[indices.start : indices.stop], "y": fake[:0]}

    found = fid_and_kid(images_at, real, FeatureExtractor(NAME), **(settings | options))
    return found


def test_kid_takes_the_usual_subsets_where_there_are_enough(
    network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch_fidelity.defaults import DEFAULTS

    usual = DEFAULTS["kid_subset_size"], DEFAULTS["rng_seed"]
    assert usual == (fid.KID_SUBSET_SIZE, fid.KID_SEED)
    monkeypatch.setattr(fid, "KID_SUBSET_SIZE", 40)  # 1000 would take seconds
    fake, real = levels(40, 0, 200, seed=1), levels(40, 20, 220, seed=2)
    assert measure(fake, real).kid_subset_size == 40
    assert measure(fake[1:], real).kid_subset_size == 19


def test_numbers_are_those_of_torch_fidelity_on_png_files(network: Any, tmp_path: Path) -> None:
    from torch_fidelity import calculate_metrics

    fake, real = levels(40, 0, 200, seed=1), levels(60, 40, 256, seed=2)
    used = real[torch.linspace(0, 59, 40, dtype=torch.float64).round().long()]
    for name, images in (("fake", fake), ("real", used)):
        for number, image in enumerate(images):
            save_image(image / 255, tmp_path / name / f"{number:03}.png")
    theirs = calculate_metrics(
        input1=str(tmp_path / "fake"),
        input2=str(tmp_path / "real"),
        feature_extractor=NAME,
        fid=True,
        kid=True,
        kid_subset_size=20,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    ours = measure(fake, real)
    assert ours.fid == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    assert ours.kid_mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6)
    assert ours.kid_std == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-6)
    assert (ours.generated, ours.real, ours.kid_subset_size) == (40, 40, 20)
    other = measure(fake, real, seed=1)
    assert other.kid_mean != ours.kid_mean
    assert other.fid == ours.fid


def test_grey_images_are_repeated_to_colour(seen: list[Tensor]) -> None:
    fake, real = levels(20, 0, 200, seed=1, channels=1), levels(20, 40, 256, seed=2, channels=1)
    found = measure(fake, real)
    assert torch.equal(torch.cat(seen), torch.cat([real, fake]).repeat(1, 3, 1, 1))
    # All covariance lies along grey: the distance of two normals on a line, three times.
    a, b = fake.double().mean(dim=(1, 2, 3)), real.double().mean(dim=(1, 2, 3))
    on_line = (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2
    assert found.fid == pytest.approx(3 * on_line.item(), rel=1e-4)
    with pytest.raises(ValueError, match="uint8 images"):
        measure(fake / 255, real)


def test_too_few_images_are_refused(network: Any) -> None:
    real = levels(3, 0, 256, seed=1)
    with pytest.warns(UserWarning, match="FID of 3 images .* more images than .*3"):
        measure(real, real)
    for samples, count in ((1, 3), (3, 1)):
        with pytest.raises(UserError, match="at least 2 images"):
            measure(real, real[:count], samples=samples)


def test_generated_images_are_the_levels_of_the_models() -> None:
    model = initialized(make_images()).eval()
    images_at = generated(model, Sampling(decode="mode", temperature=0.7, seed=5))
    expected = model.generate(5, decode="mode", temperature=0.7, seed=5)
    whole, first, last = (images_at(part) for part in (range(5), range(3), range(3, 5)))
    for site in ("x", "y"):
        assert whole[site].dtype == torch.uint8
        assert torch.equal(whole[site].int(), to_levels(expected[site]))
        parts = torch.cat([first[site], last[site]])
        assert (whole[site].int() - parts.int()).abs().max() <= 1  # another batch rounds otherwise
    assert not torch.equal(whole["x"][0], whole["x"][1])


# Weights.


@pytest.fixture
def hub(network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which torch-fidelity keeps its weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def url(network: Any) -> str:
    """Where torch-fidelity has its weights from."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    return str(URL_INCEPTION_V3)


def write_weights(path: Path, classes: int = 1008) -> None:
    """A file that passes for an Inception's weights at first sight."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"fc.weight": torch.zeros(classes, 2048)}, path)


def test_weights_are_found_where_torch_fidelity_keeps_them(
    hub: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *a, **_: loaded.append(a))
    own = hub / Path(url).name
    write_weights(own)
    with pytest.warns(UserWarning, match="cannot be compared with published ones"):
        assert find_weights() == own
    assert not loaded
    digest = hashlib.sha256(own.read_bytes()).hexdigest()
    monkeypatch.setattr(fid, "INCEPTION_SHA256", digest)  # as if they were the published ones
    with warnings.catch_warnings(action="error"):
        assert find_weights(own) == own


def test_weights_are_downloaded_to_where_torch_fidelity_looks(
    hub: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(source: str, target: str, hash_prefix: str) -> None:
        assert source == url
        assert hash_prefix.startswith(Path(url).stem.rsplit("-", 1)[1])
        write_weights(Path(target))

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.warns(UserWarning, match="cannot be compared"):
        path = find_weights(None)
    assert path == hub / Path(url).name
    monkeypatch.delattr(torch.hub, "download_url_to_file")
    assert list(torch.hub.load_state_dict_from_url(url)) == ["fc.weight"]  # as torch-fidelity does


def test_without_network_the_message_names_file_and_place(
    hub: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise URLError("no\nnetwork")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with refused(f"no network.*: get {url} .* at {hub / Path(url).name}, .* as fid_weights"):
        find_weights(None)


class _Harmful:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_weights_cannot_run_code(network: Any, tmp_path: Path) -> None:
    file, mark = tmp_path / "weights.pth", tmp_path / "mark"
    torch.save({"fc.weight": torch.zeros(1008, 2048), "other": _Harmful(mark)}, file)
    with refused("cannot be read as weights alone"):
        FeatureExtractor(INCEPTION, file)
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore:.*cannot be compared")
def test_other_files_are_refused(network: Any, tmp_path: Path) -> None:
    for name in ("torchvision", "other"):
        write_weights(tmp_path / f"{name}.pth", classes=1000 if name == "torchvision" else 1008)
    (tmp_path / "damaged.pth").write_bytes(b"<html>not found</html>")
    for name, message in (
        ("absent", r"there is no file .*absent\.pth"),
        ("damaged", r"damaged\.pth cannot be read"),
        ("torchvision", "does not hold the weights of torch-fidelity's Inception"),
        ("other", r"other\.pth does not hold the weights of"),
    ):
        with refused(message):
            _ = FeatureExtractor(INCEPTION, tmp_path / f"{name}.pth").network


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*sys.modules, "torch_fidelity"]:
        if name.partition(".")[0] == "torch_fidelity":
            monkeypatch.setitem(sys.modules, name, None)
    real = levels(4, 0, 256, seed=1)
    for call in (find_weights, lambda: measure(real, real)):
        with pytest.raises(UserError, match=r"pip install 'srvae-pyro\[fid\]'"):
            call()
