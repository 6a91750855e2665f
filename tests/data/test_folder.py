"""Folders of images: layouts, kinds of files, and what goes wrong."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from srvae_pyro.compression.command import read_lossless
from srvae_pyro.data import DataSplits, ImageOptions, MemoryImages, load_data
from srvae_pyro.data.folder import fingerprint_folder
from srvae_pyro.data.image_files import find_images, read_image
from srvae_pyro.errors import UserError
from tests.builders import refused


def fill(folder: Path, count: int, size: int = 8, first: int = 0) -> None:
    """``count`` images, image i of the one colour (i, 2i, 3i) mod 256."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        colour = (i % 256, 2 * i % 256, 3 * i % 256)
        Image.new("RGB", (size, size), colour).save(folder / f"{i:04}.png")


def reds(images: torch.Tensor) -> list[int]:
    return images[:, 0, 0, 0].tolist()


def load(folder: Path, **options: int | None) -> DataSplits:
    return load_data(str(folder), Path("nowhere"), ImageOptions(**options))


def test_splits_of_its_own(tmp_path: Path) -> None:
    fill(tmp_path / "train" / "dogs", 3, first=10)
    fill(tmp_path / "train" / "cats", 2)
    fill(tmp_path / "valid", 2, first=20)
    fill(tmp_path / "test", 1, first=30)
    data = load(tmp_path)
    parts = data.train.in_memory(), data.val, data.test
    assert [reds(part) for part in parts] == [[0, 1, 10, 11, 12], [20, 21], [30]]
    assert data.shape == (3, 8, 8)
    assert all(part.is_contiguous() for part in parts)
    assert parts[0][3, :, 4, 4].tolist() == [11, 22, 33]
    assert data.info["counts"] == {"train": 5, "val": 2, "test": 1}
    assert "held_out_indices" not in data.info


@pytest.mark.parametrize("sub", ["", "train", "class_a"])
def test_all_images_are_split(tmp_path: Path, sub: str) -> None:
    fill(tmp_path / sub, 50)
    data = load(tmp_path, seed=1)
    assert data.info["counts"] == {"train": 40, "val": 5, "test": 5}
    assert sorted(reds(torch.cat([data.train.in_memory(), data.val, data.test]))) == list(range(50))
    held = data.info["held_out_indices"]
    assert (reds(data.val), reds(data.test)) == (held["val"], held["test"])
    again, other = load(tmp_path, seed=1), load(tmp_path, seed=2)
    assert torch.equal(data.train.in_memory(), again.train.in_memory())
    assert not torch.equal(data.train.in_memory(), other.train.in_memory())


@pytest.mark.parametrize("missing", ["val", "test"])
def test_one_split_missing(tmp_path: Path, missing: str) -> None:
    fill(tmp_path / "train", 20)
    fill(tmp_path / {"val": "test", "test": "val"}[missing], 3, first=100)
    data = load(tmp_path)
    assert reds(getattr(data, missing)) == data.info["held_out_indices"][missing]
    assert len(data.train) == 18
    assert reds({"val": data.test, "test": data.val}[missing]) == [100, 101, 102]


@pytest.mark.parametrize(
    "names",
    [
        ("Train", "Validation", "Test"),
        ("TRAINING", "valid_set", "Testing"),
        ("train2017", "val2017", "test2017"),
        ("Training Images", "dev", "test-images"),
        ("train_32x32", "valid_32x32", "testset"),
    ],
)
def test_splits_by_their_usual_names(tmp_path: Path, names: tuple[str, str, str]) -> None:
    for first, name in zip((0, 10, 20), names, strict=True):
        fill(tmp_path / name, 2, first=first)
    data = load(tmp_path)
    parts = data.train.in_memory(), data.val, data.test
    assert [reds(part) for part in parts] == [[0, 1], [10, 11], [20, 21]]
    pairs = zip(("train", "val", "test"), names, strict=True)
    assert data.info["split"] == ", ".join(f"{split} from {name}/" for split, name in pairs)


@pytest.mark.parametrize("name", ["trainers", "test tubes", "valley", "developers", "contest"])
def test_other_folders_are_no_splits(tmp_path: Path, name: str) -> None:
    fill(tmp_path / name, 10)
    data = load(tmp_path)
    assert len(data.train) == 8
    assert data.info["split"] == "val and test held out at random"


def test_ambiguous_folders_are_reported(tmp_path: Path) -> None:
    fill(tmp_path / "twice" / "train", 4)
    fill(tmp_path / "twice" / "val", 1)
    fill(tmp_path / "twice" / "Valid", 1)
    with pytest.raises(UserError, match=r"has Valid/ and val/, both for val: move or rename one"):
        load(tmp_path / "twice")
    for kind in ("bus", "train", "tank"):
        fill(tmp_path / "kinds" / kind, 4)
    with pytest.warns(match=r"left out bus and 1 more beside train/; .* into a folder train/"):
        load(tmp_path / "kinds")
    for part in ("train", "test"):
        fill(tmp_path / "deep" / "set" / part, 4)
    with pytest.warns(match=r"images of set/test are split at random like the rest; to use"):
        load(tmp_path / "deep")


def test_a_folder_with_a_data_sets_name_is_reported(here: Path) -> None:
    fill(Path("photos"), 10)
    with pytest.warns(match=r"photos is the data set .*; for the folder use --data \./photos"):
        assert load_data("photos", here, ImageOptions(limit=1)).shape == (3, 32, 32)
    assert load_data("./photos", here).shape == (3, 8, 8)


def test_the_shape_is_checked_before_all_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, 10)

    def refuse(shape: tuple[int, int, int]) -> None:
        raise UserError(str(shape))

    monkeypatch.setattr("srvae_pyro.data.folder.read_images", None)  # which reads all
    for stream in (None, True, False):
        with pytest.raises(UserError, match=r"\(3, 8, 8\)"):
            load_data(str(tmp_path), tmp_path, ImageOptions(stream=stream, check_shape=refuse))
    options = ImageOptions(image_size=9, channels=1, check_shape=refuse)
    with pytest.raises(UserError, match=r"\(1, 9, 9\)"):
        load_data("photos", tmp_path, options)


def test_a_folder_of_test_images_alone_is_not_for_training(tmp_path: Path) -> None:
    fill(tmp_path / "Test", 3)
    with pytest.raises(UserError, match="has Test/ but no train/"):
        load(tmp_path)
    data = load_data(str(tmp_path), Path(), ImageOptions(for_training=False))
    assert (len(data.train), len(data.val), reds(data.test)) == (0, 0, [0, 1, 2])


def test_a_fingerprint_is_of_the_files_alone(tmp_path: Path) -> None:
    fill(tmp_path / "a", 20)
    first = load(tmp_path / "a")
    assert isinstance(first.train, MemoryImages)
    (tmp_path / "deep").mkdir()
    (tmp_path / "a").rename(tmp_path / "deep" / "b")
    folder = tmp_path / "deep" / "b"
    others = [load(folder), load(folder, stream=True), load(folder, seed=1), load(folder, limit=3)]
    found = {data.fingerprint() for data in (first, *others)}
    assert found == {fingerprint_folder(folder)}
    image = folder / "0007.png"
    content = image.read_bytes()
    for change in (
        lambda: image.write_bytes(content[:-1] + b"x"),
        lambda: image.write_bytes(content + b"x"),
        lambda: image.rename(folder / "0700.png"),
    ):
        change()
        changed = fingerprint_folder(folder)
        assert changed not in found
        found.add(changed)


def test_limit_takes_the_first(tmp_path: Path) -> None:
    fill(tmp_path, 50)
    data, few = load(tmp_path), load(tmp_path, limit=3)
    for name in ("val", "test"):
        assert torch.equal(getattr(few, name), getattr(data, name)[:3])
    assert torch.equal(few.train.in_memory(), data.train.in_memory()[:3])
    assert few.info["counts"] == {"train": 3, "val": 3, "test": 3}


def test_many_parts_keep_their_order(tmp_path: Path) -> None:
    fill(tmp_path / "train", 255, size=2)
    fill(tmp_path / "val", 1, size=2)
    fill(tmp_path / "test", 1, size=2)
    assert reds(load(tmp_path).train.in_memory()) == list(range(255))


def test_mixed_sizes(tmp_path: Path) -> None:
    fill(tmp_path, 8)
    fill(tmp_path, 3, size=16, first=8)
    with pytest.raises(UserError, match=r"2 different sizes, most often 8x8 \(8\).*--image-size"):
        load(tmp_path)
    assert load(tmp_path, image_size=8).shape == (3, 8, 8)


@pytest.mark.parametrize("stream", [False, True])
def test_splits_of_different_sizes(tmp_path: Path, stream: bool) -> None:
    fill(tmp_path / "train", 8, size=16)
    fill(tmp_path / "val", 3)
    fill(tmp_path / "test", 3)
    with pytest.raises(UserError, match="pass --image-size"):
        load(tmp_path, stream=stream)


def test_image_size_takes_the_centre(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (20, 60, 3), np.uint8)
    for turned in (False, True):
        image = Image.fromarray(levels.transpose(1, 0, 2) if turned else levels)
        image.save(tmp_path / "long.png")
        result = read_image(tmp_path / "long.png", 3, image_size=10)
        whole = image.resize((10, 30) if turned else (30, 10), Image.Resampling.LANCZOS)
        expected = whole.crop((0, 10, 10, 20) if turned else (10, 0, 20, 10))
        assert np.array_equal(result, expected)


def test_finds_in_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b/2.PNG", "b/10.jpeg", "a.webp", ".hidden.png", ".git/x.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert names == ["a.webp", "b/10.jpeg", "b/2.PNG"]


def test_what_is_no_regular_file_is_no_image(tmp_path: Path) -> None:
    fill(tmp_path / "images", 9)
    os.mkfifo(tmp_path / "images" / "pipe.png")
    with pytest.warns(match=r"left out, not a regular file: .*pipe\.png"):
        data = load(tmp_path / "images")
    assert data.info["counts"] == {"train": 7, "val": 1, "test": 1}
    # Where a link leads to is found out when it is opened.
    os.symlink(tmp_path / "images" / "pipe.png", tmp_path / "link.png")
    assert fingerprint_folder(tmp_path)
    with pytest.raises(UserError, match="it is a named pipe"):
        read_image(tmp_path / "link.png", 3)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("0003_mask.png", True),
        ("0003.seg.PNG", True),
        ("masks/0003.png", True),
        ("with_mask/0003.png", False),
        ("9999_mask.png", False),  # there is no other image that it could be of
    ],
)
def test_masks_beside_images_are_reported(
    tmp_path: Path, name: str, told: bool, recwarn: pytest.WarningsRecorder
) -> None:
    fill(tmp_path, 9)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert load(tmp_path).info["counts"]["train"] == 8
    assert any(f"{name} are used as images" in str(w.message) for w in recwarn.list) == told


def test_links_are_followed_to_each_folder_once(tmp_path: Path) -> None:
    for name in ("in/b/1.png", "in/c/2.png", "out/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    folder = tmp_path / "in"
    os.symlink(tmp_path / "out", folder / "b" / "further")
    os.symlink(folder / "c", folder / "a")  # comes first, but is not where the images are
    os.symlink(".", folder / "all")
    os.symlink("..", folder / "c" / "up")
    names = [path.relative_to(folder).as_posix() for path in find_images(folder)]
    assert names == ["b/1.png", "b/further/3.png", "c/2.png"]


def test_a_link_does_not_bring_test_images_to_the_others(tmp_path: Path) -> None:
    fill(tmp_path / "train", 4)
    fill(tmp_path / "test", 2, first=20)
    os.symlink(tmp_path / "test", tmp_path / "train" / "more")
    data = load(tmp_path)
    assert sorted(reds(torch.cat([data.train.in_memory(), data.val]))) == [0, 1, 2, 3]
    assert reds(data.test) == [20, 21]


def test_files_that_cannot_be_read_are_left_out_of_their_split(tmp_path: Path) -> None:
    fill(tmp_path, 20, size=64)
    whole = load(tmp_path)
    bad = [0, 1, whole.info["held_out_indices"]["test"][0]]
    text, truncated, floats = (tmp_path / f"{number:04d}.png" for number in bad)
    for file, content in ((text, b"not an image"), (truncated, truncated.read_bytes()[:-60])):
        file.write_bytes(content)
        with refused(rf"cannot read the image .*{file.name}"):
            read_image(file, 3)
    Image.fromarray(np.zeros((64, 64), np.float32)).save(floats, format="TIFF")
    with refused(r"cannot read the image .*000"):
        load(tmp_path, strict=True)
    with pytest.warns(UserWarning, match=r"^left out \d images, the first: cannot read"):
        data = load(tmp_path)
    names = {f"{number:04d}.png" for number in bad}
    assert set(data.info["left_out"]) == names
    held = whole.info["held_out_indices"]
    kept = {split: [i for i in held[split] if i not in bad] for split in ("val", "test")}
    for split, numbers in kept.items():
        before = getattr(whole, split)
        expected = before[[i for i, number in enumerate(held[split]) if number in numbers]]
        assert torch.equal(getattr(data, split), expected)


def test_a_split_of_which_nothing_can_be_read(tmp_path: Path) -> None:
    fill(tmp_path / "train", 5)
    fill(tmp_path / "test", 1)
    (tmp_path / "test" / "0000.png").write_text("not an image")
    with (
        pytest.raises(UserError, match="none of the test images of"),
        pytest.warns(match="left"),
    ):
        load(tmp_path)
    for file in tmp_path.rglob("*.png"):
        file.write_text("not an image")
    with pytest.raises(UserError, match="cannot read the image"):
        load(tmp_path)


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no images in"):
        load(tmp_path)
    fill(tmp_path / "few", 2)
    with pytest.raises(UserError, match="too few to hold out val and test"):
        load(tmp_path / "few")
    fill(tmp_path / "odd" / "test", 2)
    with pytest.raises(UserError, match="no train/"):
        load(tmp_path / "odd")
    fill(tmp_path / "gap" / "train", 5)
    (tmp_path / "gap" / "val").mkdir()
    with pytest.raises(UserError, match=r"no images in .*val"):
        load(tmp_path / "gap")


def test_no_such_data(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"did you mean cifar10.*imagenet32-batches, photos"):
        load_data("cifra10", tmp_path)
    with pytest.raises(UserError, match=r"'/no/such/folder': use"):
        load_data("/no/such/folder", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        load(tmp_path / "file")
    with pytest.raises(UserError, match="--limit"):
        load_data("photos", tmp_path, ImageOptions(limit=0))


def test_unreadable_folders_are_named_and_empty_names_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("", "cats"):
        (tmp_path / place).mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / place / "a.png")
    scan = os.scandir

    def refusing(place: str) -> Any:  # as of another user's folder, also for root
        if place.endswith("cats"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), place)
        return scan(place)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.warns(UserWarning, match="left out, cannot be read: .*cats"):
        assert len(find_images(tmp_path)) == 1
    with refused("cannot read the folder .*cats"):  # else the file would be incomplete
        read_lossless([tmp_path], 3)
    with refused("--data is empty"):
        load_data("", tmp_path)


def test_masks_are_found_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, 20)
    Image.new("RGB", (8, 8)).save(tmp_path / "0003_mask.png")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(
        UserWarning, match=r"0003_mask\.png are used as images, but named like masks"
    ):
        load_data(".", tmp_path, ImageOptions())
