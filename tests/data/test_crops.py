"""Crops of images of any sizes: random ones to train on, a grid for validation and test."""

import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from srvae_pyro import evaluate, figures, train
from srvae_pyro.data import DataSplits, ImageOptions, MemoryImages, load_data
from srvae_pyro.data import splits as orders
from srvae_pyro.data import streaming as streamed_crops
from srvae_pyro.data.crops import (
    MemoryCrops,
    SizedImages,
    capacities,
    crops_an_epoch,
    grid_places,
    shares,
)
from srvae_pyro.data.load import LOADERS
from srvae_pyro.data.run_data import load_for
from srvae_pyro.data.splits import shuffled_crops
from srvae_pyro.data.streaming import StreamedCrops
from srvae_pyro.drawing.arguments import FiguresArguments
from srvae_pyro.errors import UserError
from srvae_pyro.evaluate import EvaluateArguments
from srvae_pyro.evaluation.measures import select
from srvae_pyro.evaluation.record import newest_results
from srvae_pyro.models.card import model_card, shared_settings
from srvae_pyro.runs import read_config
from srvae_pyro.system.device import stream
from srvae_pyro.training.loop import Batches
from srvae_pyro.training.recovery import load_checkpoint
from tests.builders import refused
from tests.training.test_command import arguments, lines_of, plain
from tests.training.test_training import assert_same

CPU = torch.device("cpu")
SIDE = 16
SIZES = [(16, 16), (40, 33), (23, 64), (16, 50), (70, 48), (31, 31), (90, 20), (34, 66)]


def image(number: int, size: tuple[int, int]) -> Image.Image:
    """An image whose pixels tell where they are: its number, the row, the column."""
    width, height = size
    levels = np.empty((height, width, 3), np.uint8)
    levels[..., 0] = number
    levels[..., 1] = np.arange(height)[:, None]
    levels[..., 2] = np.arange(width)
    return Image.fromarray(levels)


def fill(folder: Path, count: int = 30, sizes: list[tuple[int, int]] = SIZES) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image(number, sizes[number % len(sizes)]).save(folder / f"{number:03}.png")
    return str(folder)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return fill(tmp_path / "images")


def in_tar(folder: str, tar: Path) -> str:
    with tarfile.open(tar, "w") as archive:
        for path in sorted(Path(folder).rglob("*.png")):
            archive.add(path, path.name)
    return f"wds:{tar}"


def load(data: str, **options: Any) -> DataSplits:
    return load_data(data, Path("nowhere"), ImageOptions(**({"crops": SIDE} | options)))


def epoch(data: DataSplits, number: int, seed: int = 0, batch_size: int = 5) -> Tensor:
    return torch.cat(list(Batches(data.train, batch_size, CPU, seed).epoch(number)))


def places(crops: Tensor) -> list[tuple[int, int, int]]:
    """Number, top and left of each crop; refuses what is not a crop of such an image."""
    found = []
    for crop in crops:
        number, top, left = crop[:, 0, 0].tolist()
        size = SIZES[number % len(SIZES)]
        expected = np.asarray(image(number, size))[top:, left:][:SIDE, :SIDE]
        assert np.array_equal(crop.permute(1, 2, 0), expected)
        found.append((number, top, left))
    return found


# Random ones


@pytest.mark.parametrize("kind", ["memory", "streamed", "shards"])
def test_crops_are_pixels_of_their_image_and_new_each_epoch(
    kind: str, folder: str, tmp_path: Path
) -> None:
    name = in_tar(folder, tmp_path / "a.tar") if kind == "shards" else folder
    data = load(name, stream=kind == "streamed" or None)
    assert isinstance(data.train, MemoryCrops if kind == "memory" else StreamedCrops)
    assert data.shape == (3, SIDE, SIDE)
    first, second = places(epoch(data, 0)), places(epoch(data, 1))
    assert first == places(epoch(data, 0))  # whenever it is read
    assert first != second
    assert Counter(first) != Counter(second)  # nor are they the same ones in another order
    assert first != places(epoch(data, 0, seed=1))
    batches = Batches(data.train, 5, CPU, 0)
    assert places(torch.cat(list(batches.epoch(0, start=3)))) == first[15:]
    assert places(batches.first(7)) == first[:7]


def test_an_epoch_has_the_area_of_each_image(folder: str) -> None:
    data = load(folder)
    counts = Counter(number for number, _, _ in places(epoch(data, 3, batch_size=1)))
    held = [*data.info["held_out_indices"]["val"], *data.info["held_out_indices"]["test"]]
    assert counts.keys() == set(range(30)) - set(held)
    for number, count in counts.items():
        width, height = SIZES[number % len(SIZES)]
        assert abs(count - width * height / SIDE**2) <= 0.5
    assert counts[0] == 1
    assert len(data.train) == sum(counts.values()) == data.info["counts"]["train"]
    assert data.info["crops"] == {"side": SIDE, "images": {"train": 24, "val": 3, "test": 3}}


def test_every_place_is_as_probable_as_any_other() -> None:
    images = torch.tensor(np.asarray(image(1, (20, 18)))).permute(2, 0, 1)[None]
    crops = MemoryCrops.of_images(images.expand(3000, -1, -1, -1), SIDE)
    assert len(crops) == 3000  # 1.4 of them fit
    found = crops.read(torch.cat([crops.order(5, number) for number in range(2)]))
    counts = Counter(map(tuple, found[:, 1:, 0, 0].tolist()))
    assert counts.keys() == {(top, left) for top in range(3) for left in range(5)}
    chi_square = sum((count - 400) ** 2 / 400 for count in counts.values())
    assert chi_square < 36  # 14 degrees of freedom: one in 1,000 seeds is above


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_crops_are_those_in_memory(folder: str, workers: int) -> None:
    memory, streamed = load(folder), load(folder, stream=True)
    streamed.train.workers = workers
    before = torch.get_rng_state()
    for number in range(2):
        assert torch.equal(epoch(streamed, number), epoch(memory, number))
    for rank in range(2):
        ours, theirs = (
            torch.cat(list(Batches(data.train, 6, CPU, 4, rank, 2).epoch(1)))
            for data in (memory, streamed)
        )
        assert torch.equal(ours, theirs)
        whole = torch.cat([b[rank::2] for b in Batches(memory.train, 6, CPU, 4).epoch(1)])
        assert torch.equal(ours, whole)
    assert torch.equal(torch.get_rng_state(), before)  # or a resumed run would differ
    assert torch.equal(memory.train.in_memory(20), streamed.train.in_memory(20))
    assert len(memory.train.in_memory(20)) == 20


def test_images_of_the_crops_size_are_taken_as_they_are(tmp_path: Path) -> None:
    folder = fill(tmp_path / "images", sizes=[(SIDE, SIDE)])
    crops, whole = load(folder), load(folder, crops=None)
    assert torch.equal(epoch(crops, 2), epoch(whole, 2))
    assert torch.equal(crops.val, whole.val)
    assert torch.equal(crops.test, whole.test)
    assert not crops.photographs
    assert crops.fingerprint() == whole.fingerprint()


# Order, and how much is in memory


@pytest.mark.parametrize("starts", [[0], [0, 40, 90]])
def test_few_images_are_decoded_at_a_time_and_each_once(
    starts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "BLOCK", 1000)
    monkeypatch.setattr(orders, "WINDOW", 1)
    random = np.random.default_rng(0)
    counts, nbytes = random.integers(1, 30, 120), random.integers(20, 90, 120)
    order = shuffled_crops(counts, nbytes, np.array(starts), stream(1))
    assert (np.bincount(order) == counts).all()
    assert (order != shuffled_crops(counts, nbytes, np.array(starts), stream(2))).any()
    first, last = np.full(120, len(order)), np.zeros(120)
    np.minimum.at(first, order, np.arange(len(order)))
    np.maximum.at(last, order, np.arange(len(order)))
    held = [nbytes[(first <= at) & (at <= last)].sum() for at in range(len(order))]
    assert max(held) < 1000 + 90
    assert np.mean(held) > 500  # and not one after another
    tars = np.searchsorted(starts, np.arange(120), side="right")  # of one after the other
    spans = [tars[(first <= at) & (at <= last)] for at in range(len(order))]
    assert max(len(np.unique(span)) for span in spans) <= 2
    in_block = np.unique(order[: len(order) // 12])
    assert len(in_block) > 8  # well mixed


def test_a_large_image_comes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "BLOCK", 1000)
    counts = np.full(50, 203)
    order = shuffled_crops(counts, np.full(50, 200), np.zeros(1, int), stream(1))
    assert (np.bincount(order) == 203).all()
    in_block = np.bincount(order[:150], minlength=50)
    assert ((in_block == 0) | (in_block <= 2 * orders.MOST_AT_ONCE)).all()
    assert (in_block > 0).sum() >= 4


def test_a_streamed_image_is_decoded_once_for_a_block(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = load(folder)
    nbytes = 3 * memory.train.sizes.prod(axis=1)
    reads: list[int] = []
    read = SizedImages.read

    def counted(self: SizedImages, index: int) -> Tensor:
        reads.append(index)
        return read(self, index)

    monkeypatch.setattr(SizedImages, "read", counted)
    streamed = load(folder, stream=True)
    assert isinstance(streamed.train, StreamedCrops)
    reads.clear()
    for number in range(3):  # all of them fit
        assert torch.equal(epoch(streamed, number), epoch(memory, number))
    assert sorted(reads) == list(range(24))
    # Little memory: half a dozen images.
    monkeypatch.setattr(orders, "BLOCK", 20_000)
    monkeypatch.setattr(streamed_crops, "HELD", 25_000)
    streamed = load(folder, stream=True)
    assert isinstance(streamed.train, StreamedCrops)
    reads.clear()
    most = 0
    expected = epoch(memory, 3, batch_size=2).split(2)
    for batch, images in zip(Batches(streamed.train, 2, CPU, 0).epoch(3), expected, strict=True):
        assert torch.equal(batch, images)
        most = max(most, sum(nbytes[index] for index in streamed.train._held))
    assert sorted(reads) == list(range(24))
    assert 15_000 < most <= 25_000


# The grid


def test_a_grid_covers_a_image_without_overlaps() -> None:
    for width, height in [*SIZES, (16, 17), (47, 48), (160, 99)]:
        most = (width // SIDE) * (height // SIDE)
        for count in {1, 2, 3, most // 2, most} - {0}:
            if count > most:
                continue
            found = grid_places(width, height, SIDE, count)
            covered = np.zeros((height, width), int)
            for top, left in found.tolist():
                assert 0 <= top <= height - SIDE
                assert 0 <= left <= width - SIDE
                covered[top : top + SIDE, left : left + SIDE] += 1
            assert covered.max() == 1
            assert covered.sum() == count * SIDE**2
        tops, lefts = (np.unique(found) for found in grid_places(width, height, SIDE, most).T)
        for starts, length in ((tops, height), (lefts, width)):
            borders = np.diff(starts)
            assert len(starts) == length // SIDE
            assert borders.size == 0 or borders.max() - borders.min() <= 1
            if len(starts) > 1:
                assert (starts[0], starts[-1]) == (0, length - SIDE)
            else:
                assert starts[0] == (length - SIDE) // 2


def test_crops_are_shared_evenly() -> None:
    room = np.array([1, 9, 4, 2, 30, 4])
    assert shares(room).tolist() == shares(room, 99).tolist() == room.tolist()
    for most in range(1, 51):
        counts = shares(room, most)
        assert counts.sum() == most
        assert (counts <= room).all()
        least_of_others = counts[counts < room].min(initial=99)
        assert counts.max() <= least_of_others + 1
    assert shares(np.full(9, 7), 3).tolist() == [1, 0, 0, 0, 1, 0, 0, 0, 1]
    sizes = np.array([[16, 16], [40, 33], [33, 40], [24, 16], [23, 16]])
    assert capacities(sizes, 16).tolist() == [1, 4, 4, 1, 1]
    assert crops_an_epoch(sizes, 16).tolist() == [1, 5, 5, 2, 1]


def test_validation_is_the_same_from_memory_streamed_and_from_shards(
    folder: str, tmp_path: Path
) -> None:
    data = load(folder)
    shards = in_tar(folder, tmp_path / "a.tar")
    for other in (load(folder, stream=True), load(shards), load(folder)):
        assert torch.equal(other.val, data.val)
        assert torch.equal(other.test, data.test)
        for split in ("val", "test"):
            numbers = torch.tensor([number for number, _, _ in places(getattr(data, split))])
            held = torch.tensor(data.info["held_out_indices"][split])
            groups = other.photographs[split] - other.photographs[split].min()
            assert torch.equal(held[groups], numbers)
    found = [place for split in (data.val, data.test) for place in places(split)]
    assert len(set(found)) == len(found)
    few = load(folder, eval_crops=5)
    assert (len(few.val), len(few.test)) == (5, 5)
    assert [len(few.photographs[split].unique()) for split in ("val", "test")] == [3, 3]
    assert len(load(folder, eval_crops=2).test) == 2
    assert len(few.train) == len(data.train)


def test_images_of_different_splits_are_not_alike(folder: str) -> None:
    data = load(folder).described(own=True)
    selection = select(data, "all", None)
    numbers = torch.tensor([number for number, _, _ in places(selection.images)])
    alike = selection.photographs[:, None] == selection.photographs
    assert torch.equal(alike, numbers[:, None] == numbers)
    assert torch.equal(select(data, "train", None).images, data.train.in_memory())


# What is left out


def test_smaller_images_are_left_out_and_counted(
    folder: str, recwarn: pytest.WarningsRecorder
) -> None:
    whole = load(folder)
    small = [3, *whole.info["held_out_indices"]["val"][:1]]
    for number in small:
        image(number, (40, 15)).save(Path(folder, f"{number:03}.png"))
    recwarn.clear()
    data = load(folder)
    assert [str(w.message) for w in recwarn] == [
        f"left out, smaller than crops of 16x16: {folder}/003.png (40x15) and 1 more"
    ]
    assert data.info["crops"]["smaller"] == {"train": 1, "val": 1, "test": 0}
    assert data.info["crops"]["images"] == {"train": 23, "val": 2, "test": 3}
    assert data.info["held_out_indices"] == whole.info["held_out_indices"]
    assert torch.equal(data.test, whole.test)
    assert not {number for number, _, _ in places(epoch(data, 0))} & set(small)
    with pytest.warns(UserWarning, match="left out, smaller"):
        assert torch.equal(epoch(load(folder, stream=True), 0), epoch(data, 0))
    with pytest.raises(UserError, match=r"003.png \(40x15\) is smaller .*: leave out --strict, or"):
        load(folder, strict=True)
    for path in Path(folder).iterdir():
        image(1, (19, 15)).save(path)
    with pytest.raises(UserError, match=r"no train image .* 16x16: .* are 15x15$"):
        load(folder)


def test_images_that_cannot_be_read_are_left_out(
    folder: str, recwarn: pytest.WarningsRecorder
) -> None:
    whole = load(folder)
    held = whole.info["held_out_indices"]
    lost = held["test"][0]
    kept = sorted(set(range(30)) - {*held["val"], *held["test"]})
    noise = np.random.default_rng(0).integers(0, 256, (40, 33, 3), np.uint8)
    for number in (*kept[4:6], lost):
        Image.fromarray(noise).save(path := Path(folder, f"{number:03}.png"))
        path.write_bytes(path.read_bytes()[:2000])  # its size can be read, its pixels cannot
    Path(folder, f"{kept[9]:03}.png").write_text("no image")
    bad = {*kept[4:6], kept[9], lost}
    with pytest.warns(UserWarning, match=r"^left out 4 images, the first: cannot read the image"):
        data = load(folder)
    assert set(data.info["left_out"]) == {f"{number:03}.png" for number in bad}
    assert data.info["crops"]["images"] == {"train": 21, "val": 3, "test": 2}
    assert not {number for number, _, _ in places(epoch(data, 0))} & bad
    streamed = load(folder, stream=True)
    for number in range(2):
        crops = epoch(streamed, number)
        assert len(crops) == len(streamed.train) // 5 * 5  # others take their places
        assert not {number for number, _, _ in places(crops)} & bad
    told = [str(w.message) for w in recwarn if "perhaps among others" in str(w.message)]
    assert len(told) == 1
    with pytest.raises(UserError, match="cannot read the image"):
        epoch(streamed, 0, batch_size=1)
    with pytest.raises(UserError, match="cannot read the image"):
        load(folder, strict=True)
    for path in Path(folder).glob("*.png"):
        path.write_text("no image")
    with pytest.raises(UserError, match=r"none of the train images of .* can be read"):
        load(folder)


@pytest.mark.parametrize("stream", [False, True])
def test_turned_gray_and_transparent_images(tmp_path: Path, stream: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    for number in range(12):
        image(number, (60, 20)).save(tmp_path / f"{number:02}.png", exif=exif)
    data = load(str(tmp_path), stream=stream)
    for crops in (epoch(data, 0), data.val, data.test, data.train.in_memory()):
        rows, columns = crops[:, 1].int(), crops[:, 2].int()  # of the file
        assert (rows.diff(dim=2) == -1).all()
        assert (columns.diff(dim=1) == 1).all()
        assert (rows.diff(dim=1) == 0).all()
    assert epoch(data, 0)[:, 2].max() > 50
    gray = load(str(tmp_path), stream=stream, channels=1)
    assert epoch(gray, 0).shape[1:] == gray.shape == (1, SIDE, SIDE)
    for path in tmp_path.iterdir():
        Image.new("RGBA", (40, 40), (9, 8, 7, 0)).save(path)
    assert epoch(load(str(tmp_path), stream=stream), 0).eq(255).all()


def test_images_that_do_not_fit_into_memory_are_streamed(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("srvae_pyro.data.cropping.process_memory", lambda: 1e4)
    data = load(folder)
    assert isinstance(data.train, StreamedCrops)
    assert data.info["streamed"]
    with pytest.raises(UserError, match="too large for the split train"):
        select(data, "train", None)


# Whole runs


def of_crops(place: Path, **changes: Any) -> Any:
    # Settings that follow the run's length would differ in a run in two parts.
    fixed = ("training.anneal=0", "training.kl_warmup=0")
    return arguments(place, **({"crops": SIDE, "eval_crops": 6, "set": fixed} | changes))


def test_a_resumed_run_is_an_uninterrupted_one(tmp_path: Path) -> None:
    fill(tmp_path / "images")
    states = []
    for parts, streamed in (([9], False), ([4, 9], False), ([6, 9], True)):
        run = str(tmp_path / "runs" / f"until {parts}")
        for steps in parts:
            options = of_crops(tmp_path, steps=steps, run=run, stream=streamed, workers=0)
            with plain():
                assert train.main(replace(options, resume=steps != parts[0])) == 0
        states.append(load_checkpoint(Path(run) / "last.ckpt"))
    for state in states[1:]:
        for key in ("model", "average", "optimizer", "ranks"):
            assert_same(states[0][key], state[key])


def test_a_run_on_crops_prints_and_records_them(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(here / "images")
    with plain():
        assert train.main(of_crops(here, steps=2)) == 0
    told = capsys.readouterr().out
    run = here / "runs" / "mine"
    config = read_config(run)
    assert (config.data.crops, config.data.eval_crops) == (SIDE, 6)
    train_crops = config.data.info["counts"]["train"]
    assert f"{train_crops} crops of 3x16x16" in told
    assert (
        f"crops: {train_crops} random crops per epoch (the area of 24 images); 6 from 3 images for "
        "validation, 6 from 3 for testing"
    ) in told
    assert "test, 6 crops: " in told
    score = newest_results(run)["training"]["result"]["elbo"]
    validated = next(line for line in lines_of(run) if line["split"] == "val")
    assert score["photographs"] == validated["photographs"] == 3
    card = model_card(shared_settings(config), 5, "OWNER/NAME")
    assert f"{train_crops} random 16x16 crops per epoch of 24 images" in card

    # Measured on its own crops, also where they were moved to, and on those of other images.
    own = load_for(config, None, Path())
    (here / "images").rename(here / "moved")
    moved = load_for(config, str(here / "moved"), Path())
    assert moved.info["own"]
    assert torch.equal(moved.test, own.test)
    fill(here / "others" / "test", 4)
    options = EvaluateArguments(str(run), data=str(here / "others"), elbo_only=True)
    assert evaluate.main(options) == 0
    assert "6 of 6 crops" in (told := capsys.readouterr().out)
    assert "over 4 photographs" in told
    assert load_for(config, "photos", Path()).shape == (3, SIDE, SIDE)
    drawn = FiguresArguments(str(run), data=str(here / "moved"), count=2, samples=1)
    assert figures.main(drawn) == 0
    resumed = of_crops(here, data=str(here / "moved"), steps=3, resume=True)
    with plain():
        for wrong in ({"crops": 32}, {"eval_crops": 7}):
            with pytest.raises(UserError, match=r"trained with another `(eval_)?crops` \(\d"):
                train.main(replace(resumed, **wrong))
        assert train.main(resumed) == 0
        assert train.main(replace(resumed, crops=None, eval_crops=None, steps=4)) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crops": 0}, "--crops must be at least 1, not 0"),
        ({"crops": None, "eval_crops": 9}, "--eval-crops needs --crops"),
        ({"image_size": 16}, "leave out --image-size, or --crops"),
        ({"crops": 100}, "has no train image .* for crops of 100x100: .* 48x48"),
    ],
)
def test_impossible_crops_are_refused(options: dict[str, Any], message: str, folder: str) -> None:
    with refused(message):
        load(folder, **options)


def test_data_sets_of_one_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    levels = np.stack([np.asarray(image(number, (32, 32))) for number in range(20)])
    images = torch.tensor(levels).permute(0, 3, 1, 2).contiguous()

    def fixed(root: Path, options: ImageOptions) -> DataSplits:
        return DataSplits("cifar10", MemoryImages(images[:14]), images[14:17], images[17:])

    monkeypatch.setitem(LOADERS, "cifar10", fixed)
    same = load("cifar10", crops=32)
    assert torch.equal(same.val, images[14:17])
    assert torch.equal(same.test, images[17:])
    assert epoch(same, 0, batch_size=7)[:, 0, 0, 0].sort().values.tolist() == list(range(14))
    smaller = load("cifar10", crops=16)
    assert smaller.shape == (3, 16, 16)
    assert len(smaller.train) == 14 * 4
    assert len(smaller.val) == len(smaller.test) == 3 * 4
    assert len(smaller.photographs["val"].unique()) == 3
    assert len(load("cifar10", crops=24).train) == 14 * 2
    assert len(load("cifar10", crops=24).val) == 3
    with pytest.raises(UserError, match="cifar10 has images of 32x32, smaller than crops of 64x64"):
        load("cifar10", crops=64)
    with pytest.raises(UserError, match=r"photos has crops .*: use --image-size 64 instead of"):
        load("photos", crops=64)
