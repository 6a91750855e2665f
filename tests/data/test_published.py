"""CIFAR-10 and ImageNet32, from small stand-ins in the published layouts."""

import hashlib
import os
import pickle
import tarfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from srvae_pyro.data import ImageOptions, imagenet32, load_data
from srvae_pyro.data import named as cifar10
from srvae_pyro.data.imagenet32 import read_arrays
from srvae_pyro.errors import UserError
from tests.builders import Malicious, one_line


def images(count: int, first: int = 0) -> np.ndarray:
    """Rows (count, 3072) as CIFAR and ImageNet32 have them; image i's planes are i, i+1, i+2."""
    planes = np.arange(first, first + count)[:, None] + np.arange(3)
    return np.repeat(planes, 1024, axis=1).astype(np.uint8)


def reds(images: torch.Tensor) -> list[int]:
    return images[:, 0, 5, 7].tolist()


# CIFAR-10


@pytest.fixture
def small_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """5 batches of 4 images and a test batch of 3, with the checksums torchvision looks for."""
    folder = tmp_path / "made" / CIFAR10.base_folder
    folder.mkdir(parents=True)

    def write(name: str, content: dict[str, Any]) -> str:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    train = []
    for i in range(5):
        batch = {"data": images(4, 4 * i), "labels": [0] * 4}
        train.append([f"data_batch_{i + 1}", write(f"data_batch_{i + 1}", batch)])
    test = {"data": images(3, 100), "labels": [0] * 3}
    monkeypatch.setattr(CIFAR10, "train_list", train)
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", write("test_batch", test)]])
    meta = {**CIFAR10.meta, "md5": write("batches.meta", {"label_names": ["thing"]})}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    monkeypatch.setattr(cifar10, "VALIDATION", 6)
    return folder.parent


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.mark.usefixtures("no_network")
def test_cifar10_splits(small_cifar: Path) -> None:
    data = load_data("cifar10", small_cifar)
    train = data.train.in_memory()
    assert reds(train) == list(range(14))
    assert reds(data.val) == list(range(14, 20))
    assert reds(data.test) == [100, 101, 102]
    assert train[1, :, 0, 0].tolist() == [1, 2, 3]
    assert all(part.is_contiguous() for part in (train, data.val, data.test))
    inside = load_data(
        "cifar10", small_cifar / CIFAR10.base_folder, ImageOptions(limit=2, channels=1)
    )
    assert inside.shape == (1, 32, 32)
    assert inside.info["counts"] == {"train": 2, "val": 2, "test": 2}


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("download", [True, False])
def test_cifar10_archive_needs_no_network(
    small_cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, download: bool
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with tarfile.open(root / CIFAR10.filename, "w:gz") as archive:
        archive.add(small_cifar / CIFAR10.base_folder, CIFAR10.base_folder)
    digest = hashlib.md5((root / CIFAR10.filename).read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "tgz_md5", digest)
    assert len(load_data("cifar10", root, ImageOptions(download=download)).train) == 14


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("download", [True, False])
@pytest.mark.parametrize("state", ["absent", "exchanged"])
def test_cifar10_missing(small_cifar: Path, tmp_path: Path, state: str, download: bool) -> None:
    root = tmp_path / "empty" if state == "absent" else small_cifar
    if state == "exchanged":
        (root / CIFAR10.base_folder / "data_batch_3").write_bytes(b"something else")
    advice = r"cifar-10-python\.tar\.gz.*--data-root.*--data photos"
    with pytest.raises(UserError, match=advice) as error:
        load_data("cifar10", root, ImageOptions(download=download))
    assert ("no route to host" in one_line(error)) == download


@pytest.mark.parametrize("name", ["cifar10", "imagenet32", "imagenet32-batches"])
def test_only_their_own_size(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="32x32, not 64x64"):
        load_data(name, tmp_path, ImageOptions(image_size=64))
    with pytest.raises(UserError, match="32x32, smaller than crops of 64x64"):
        load_data(name, tmp_path, ImageOptions(crops=64))


# ImageNet32


@pytest.fixture
def small_hold_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet32, "HELD_OUT", 5)


def write_pngs(root: Path) -> None:
    for folder, count, first in (("train_32x32", 30, 0), ("valid_32x32", 4, 100)):
        (root / folder).mkdir(parents=True)
        for i, row in enumerate(images(count, first)):
            image = Image.fromarray(row.reshape(3, 32, 32).transpose(1, 2, 0))
            image.save(root / folder / f"{i:07}.png")


def pickled(path: Path, rows: np.ndarray) -> None:
    batch = {"data": rows, "labels": [1] * len(rows), "mean": rows.mean(axis=0)}
    path.write_bytes(pickle.dumps(batch, protocol=4))


def zipped(path: Path, rows: np.ndarray) -> None:
    np.savez_compressed(f"{path}.npz", data=rows, labels=np.ones(len(rows)), mean=rows.mean(axis=0))


def write_batches(root: Path, write: Callable[[Path, np.ndarray], None] = pickled) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for i in range(10):
        write(root / f"train_data_batch_{i + 1}", images(3, 3 * i))
    write(root / "val_data", images(4, 100))


@pytest.mark.usefixtures("small_hold_out")
@pytest.mark.parametrize("kind", ["pngs", "pickled", "zipped"])
def test_imagenet32(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "imagenet32"
    if kind == "pngs":
        write_pngs(root)
    else:
        write_batches(root, pickled if kind == "pickled" else zipped)
    name = "imagenet32" if kind == "pngs" else "imagenet32-batches"
    data = load_data(name, tmp_path, ImageOptions(seed=3))
    assert data.shape == (3, 32, 32)
    held = data.info["held_out_indices"]["val"]
    assert reds(data.val) == held
    train = data.train.in_memory()
    assert sorted(reds(train) + held) == list(range(30))
    assert len(held) == 5
    assert reds(data.test) == [100, 101, 102, 103]
    assert train[0, :, 0, 0].diff().tolist() == [1, 1]
    assert all(part.is_contiguous() for part in (train, data.val, data.test))
    few = load_data(name, root, ImageOptions(seed=3, limit=2, channels=1))
    assert few.shape == (1, 32, 32)
    assert few.info["counts"] == {"train": 2, "val": 2, "test": 2}
    assert load_data(name, root, ImageOptions(seed=4)).info["held_out_indices"]["val"] != held


@pytest.mark.usefixtures("small_hold_out")
def test_imagenet32_the_other_kind(tmp_path: Path) -> None:
    write_pngs(tmp_path / "a")
    write_batches(tmp_path / "b")
    with pytest.raises(UserError, match=r"use --data imagenet32$"):
        load_data("imagenet32-batches", tmp_path / "a")
    with pytest.raises(UserError, match=r"use --data imagenet32-batches$"):
        load_data("imagenet32", tmp_path / "b")


def test_imagenet32_not_whole(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train_32x32\.tar"):
        load_data("imagenet32", tmp_path)
    with pytest.raises(UserError, match=r"no train_data_batch_1, .*_3 \.\.\. of ImageNet32"):
        load_data("imagenet32-batches", tmp_path)
    write_batches(tmp_path)
    with pytest.raises(UserError, match="too few"):
        load_data("imagenet32-batches", tmp_path)
    (tmp_path / "train_data_batch_4").unlink()
    with pytest.raises(UserError, match="no train_data_batch_4 of"):
        load_data("imagenet32-batches", tmp_path)
    zipped(tmp_path / "train_data_batch_4", images(3)[:, :100])
    with pytest.raises(UserError, match=r"train_data_batch_4\.npz is not a batch"):
        load_data("imagenet32-batches", tmp_path)


# Pickles


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    content = {"data": images(3), "mean": np.float64(1.5), "labels": [1, 2], "name": "x"}
    (tmp_path / "file").write_bytes(pickle.dumps(content, protocol=protocol))
    found = read_arrays(tmp_path / "file")
    assert np.array_equal(found["data"], content["data"])
    assert {**found, "data": 0} == {**content, "data": 0}


def test_arrays_of_an_old_numpy(tmp_path: Path) -> None:
    data = pickle.dumps(images(3), protocol=2).replace(b"numpy._core", b"numpy.core")
    (tmp_path / "file").write_bytes(data)
    assert np.array_equal(read_arrays(tmp_path / "file"), images(3))


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("function", [os.mkdir, eval, exec])
def test_code_is_refused_and_not_run(
    tmp_path: Path, function: Callable[..., Any], protocol: int
) -> None:
    trace = tmp_path / "trace"
    argument = str(trace) if function is os.mkdir else f"__import__('os').mkdir({str(trace)!r})"
    content = {"data": images(2), "labels": Malicious(function, argument)}
    write_batches(tmp_path)
    (tmp_path / "train_data_batch_1").write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(UserError, match=rf"train_data_batch_1 asks for \w+\.{function.__name__},"):
        load_data("imagenet32-batches", tmp_path)
    assert not trace.exists()


def test_no_pickle(tmp_path: Path) -> None:
    whole = pickle.dumps(images(3))
    for content in (b"", b"junk", whole[: len(whole) // 2]):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(UserError, match="not an intact pickle"):
            read_arrays(tmp_path / "file")
