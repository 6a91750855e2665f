"""Images that are read when they are needed."""

import gc
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import tarfile
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from srvae_pyro.data import ImageOptions, MemoryImages, load_data
from srvae_pyro.data.sources import TarShards
from srvae_pyro.data.splits import WINDOW, shuffled_in_windows
from srvae_pyro.data.streaming import StreamedImages, read_ahead
from srvae_pyro.errors import UserError
from srvae_pyro.system.cli import run_command
from srvae_pyro.system.device import process_memory, stream
from srvae_pyro.training.loop import Batches
from srvae_pyro.training.recovery import load_checkpoint
from srvae_pyro.training.settings import data_name
from tests.builders import file_of
from tests.data.test_folder import reds
from tests.training.test_command import make_images

CPU = torch.device("cpu")


def png(red: int, size: int = 8) -> bytes:
    return file_of(Image.new("RGB", (size, size), (red, 5, 9)), "PNG")


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path: Path) -> str:
    """Four tars of 25 images, whose red is their number; each with a class beside it."""
    for shard in range(4):
        with tarfile.open(tmp_path / f"part-{shard:03d}.tar", "w") as tar:
            for number in range(25 * shard, 25 * (shard + 1)):
                add(tar, f"{number:06d}.png", png(number))
                add(tar, f"{number:06d}.cls", b"3")
    return f"wds:{tmp_path}/part-{{000..003}}.tar"


def one_shard(folder: Path, count: int, bad: Iterable[int] = ()) -> str:
    """A tar of images, whose red is their number; those in ``bad`` are no pictures."""
    with tarfile.open(folder / "a.tar", "w") as tar:
        for number in range(count):
            add(tar, f"{number}.png", b"no picture" if number in bad else png(number))
    return f"wds:{folder}/a.tar"


def streamed(data_name: str, **options: object) -> StreamedImages:
    images = load_data(data_name, Path(), ImageOptions(**options)).train
    assert isinstance(images, StreamedImages)
    return images


def test_shards_hold_every_image_once(shards: str) -> None:
    data = load_data(shards, Path())
    assert isinstance(data.train, StreamedImages)
    assert data.shape == (3, 8, 8)
    assert (len(data.train), len(data.val), len(data.test)) == (80, 10, 10)
    everything = data.train.read(torch.arange(80))
    assert torch.equal(data.train.in_memory(), everything)
    assert sorted(reds(everything) + reds(data.val) + reds(data.test)) == list(range(100))
    assert torch.equal(data.train.read(torch.tensor([7, 3])), everything[[7, 3]])
    again, other = load_data(shards, Path()), load_data(shards, Path(), ImageOptions(seed=1))
    assert torch.equal(again.test, data.test)
    assert reds(other.test) != reds(data.test)
    assert again.fingerprint() == data.fingerprint() == other.fingerprint()  # of the same files
    assert len(load_data(shards, Path(), ImageOptions(limit=4)).train) == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_of_shards_is_every_image_once_in_an_order_of_its_own(
    shards: str, workers: int
) -> None:
    images = streamed(shards)
    images.workers = workers
    before = torch.get_rng_state()
    batches = Batches(images, 16, CPU, seed=3)
    first, second = (torch.cat(list(batches.epoch(epoch))) for epoch in (0, 1))
    everything = sorted(reds(images.read(torch.arange(80))))
    assert sorted(reds(first)) == sorted(reds(second)) == everything
    assert reds(first) != reds(second)
    assert torch.equal(torch.cat(list(batches.epoch(0, start=2))), first[32:])
    assert torch.equal(batches.first(5), first[:5])
    ranks = [list(Batches(images, 16, CPU, 3, rank, 2).epoch(0)) for rank in range(2)]
    for start, parts in zip(range(0, 80, 16), zip(*ranks, strict=True), strict=True):
        assert sorted(reds(torch.cat(parts))) == sorted(reds(first[start : start + 16]))
    assert torch.equal(torch.get_rng_state(), before)  # or a resumed run would differ


@dataclass
class Nothing:
    """A command without arguments."""


def stacked(items: list[Tensor]) -> tuple[Tensor]:
    return (torch.stack(items),)


@dataclass
class Items(Dataset[Tensor]):
    """What ``make`` makes of each index."""

    make: Callable[[int], Tensor]

    def __getitem__(self, index: int) -> Tensor:
        return self.make(index)


def test_processes_need_no_short_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    config = multiprocessing.current_process()._config
    monkeypatch.setitem(config, "tempdir", f"/{'t' * 120}")  # sockets have paths of 107 bytes
    monkeypatch.setattr("srvae_pyro.data.streaming.SILENCE", 30.0)
    read = read_ahead(Items(lambda i: torch.full((3,), i)), [[0, 1], [2]], stacked, 1)
    assert [batch.tolist() for (batch,) in read] == [[[0] * 3, [1] * 3], [[2] * 3]]


def silent(_: int) -> Tensor:
    time.sleep(0.5)
    return torch.zeros(1)


def killed(_: int) -> Tensor:
    os.kill(os.getpid(), signal.SIGKILL)
    return torch.zeros(1)


@pytest.mark.parametrize("make", [silent, killed])
def test_workers_that_hang_or_die_are_one_line(
    make: Callable[[int], Tensor],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if make is silent:
        monkeypatch.setattr("srvae_pyro.data.streaming.SILENCE", 0.1)
    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # a command replaces it
    with pytest.raises(SystemExit) as stop:
        run_command(Nothing, lambda _: [*read_ahead(Items(make), [[0]], stacked, 1)] and 0, "train")
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train: reading images ahead failed (DataLoader ")
    assert "use fewer --workers" in line


def test_workers_that_cannot_be_started_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    ignored: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
    with pytest.raises(UserError, match=r"\(Resource temporarily unavailable\): use --workers 0"):
        next(read_ahead(Items(silent), [[0]], stacked, 2))
    gc.collect()
    assert not ignored  # and nothing is printed beside the line


def test_images_of_few_shards_are_mixed_at_a_time() -> None:
    starts = np.arange(0, 4000, 40)  # 100 shards
    order = shuffled_in_windows(starts, 4000, stream(1))
    assert sorted(order.tolist()) == list(range(4000))
    for first in range(0, 4000, 40 * WINDOW):
        part = order[first : first + 40 * WINDOW]
        assert len((part // 40).unique()) == len(part) / 40
        assert (part.diff() == 1).float().mean() < 0.1  # and well
    assert not torch.equal(order, shuffled_in_windows(starts, 4000, stream(2)))


def test_a_signal_to_all_processes_of_a_streamed_run_saves_it(tmp_path: Path) -> None:
    make_images(tmp_path / "images")
    command = [sys.executable, "-m", "tests.parallel_worker", str(tmp_path), "terminated"]
    place = Path(__file__).parents[2]
    done = subprocess.run(
        command, capture_output=True, text=True, start_new_session=True, cwd=place
    )
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert load_checkpoint(tmp_path / "runs" / "mine" / "last.ckpt")["progress"]["step"] == 3


def test_a_folder_too_large_for_memory_is_streamed_in_the_same_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_images(tmp_path / "images")
    folder = str(tmp_path / "images")
    memory = load_data(folder, Path()).train
    assert isinstance(memory, MemoryImages)
    monkeypatch.setattr("srvae_pyro.data.folder.process_memory", lambda: 100.0)
    data = load_data(folder, Path())
    assert isinstance(data.train, StreamedImages)
    assert data.info["streamed"]
    assert data.info["counts"]["train"] == len(data.train)
    assert len(data.train.in_memory(5)) == 5
    epochs = [torch.cat([*Batches(images, 4, CPU, 0).epoch(1)]) for images in (memory, data.train)]
    assert torch.equal(*epochs)


def test_unreadable_images_held_out_are_left_out_and_counted(tmp_path: Path) -> None:
    name = one_shard(tmp_path, 200, bad=range(0, 200, 3))
    with pytest.warns(match=r"^left out \d+ images, the first: .*image .*a\.tar/image"):
        data = load_data(name, Path())
    for images in (data.val, data.test, data.train.in_memory(200)):
        numbers = reds(images)
        assert len(numbers) == len(set(numbers))
        assert all(number % 3 for number in numbers)
    lost = data.info["left_out"]
    assert len(data.val) + len(data.test) + len(lost) == 40
    assert all(int(name.removeprefix("a.tar/image ")) % 3 == 0 for name in lost)
    assert data.info["counts"]["test"] == len(data.test)


def test_held_out_images_of_which_none_can_be_read_are_a_users_error(tmp_path: Path) -> None:
    test = load_data(one_shard(tmp_path, 10), Path()).test
    with pytest.raises(UserError, match=r"cannot read the image .*a\.tar"):
        load_data(one_shard(tmp_path, 10, bad=reds(test)), Path())


def test_unreadable_images_are_replaced_or_refused(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    name = one_shard(tmp_path, 30, bad=range(0, 30, 7))
    images = streamed(name)
    whole = torch.cat(list(Batches(images, 8, CPU, 0).epoch(0)))
    assert whole.shape == (24, 3, 8, 8)
    assert not set(reds(whole)) & {0, 7, 14, 21, 28}
    told = [str(w.message) for w in recwarn.list if "left out" in str(w.message)]
    assert "a.tar" in told[0]
    with pytest.raises(UserError, match=r"cannot read the image .*a\.tar"):
        load_data(name, Path(), ImageOptions(strict=True))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "part-002.tar").unlink(), "there is no file .*part-002.tar"),
        (lambda folder: (folder / "part-001.tar").write_bytes(b"x" * 999), "part-001.tar is not a"),
        (
            lambda folder: [tarfile.open(tar, "w").close() for tar in folder.glob("*.tar")],
            "part-000.tar has no images",
        ),
    ],
)
def test_bad_shards_are_users_errors(
    shards: str, tmp_path: Path, break_it: Callable[[Path], object], message: str
) -> None:
    break_it(tmp_path)
    with pytest.raises(UserError, match=message):
        load_data(shards, Path())


@pytest.mark.parametrize(
    ("names", "left_out"),
    [
        (["1.png", "1.mask.png", "2.mask.png", "2.png"], ["1.mask.png", "2.mask.png"]),
        (["1.jpg", "1.png", "1.seg.webp", "2.jpg"], ["1.png", "1.seg.webp"]),
        (["a/1.image.png", "a/1.seg.png", "b/1.png"], ["a/1.seg.png"]),
        (["2020.01.png", "2020.02.png", "1.left.png", "1.right.png", "3.mask.png"], []),
    ],
)
def test_a_sample_of_a_shard_has_one_image(
    names: list[str], left_out: list[str], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in names:
            add(tar, name, name.encode())
            add(tar, f"{name[:-4]}.cls", b"3")
    shards = TarShards([tmp_path / "a.tar"])
    found = [shards.content(index).decode() for index in range(len(shards))]
    assert found == [name for name in names if name not in left_out]
    told = [str(warning.message) for warning in recwarn.list]
    assert len(told) == bool(left_out)
    if left_out:
        assert f"as a sample has one image: a.tar: {left_out[0]} beside " in told[0]
        assert told[0].endswith(f" and {len(left_out) - 1} more") == (len(left_out) > 1)


def test_an_empty_shard_is_left_out(shards: str, tmp_path: Path) -> None:
    tarfile.open(tmp_path / "part-001.tar", "w").close()
    tarfile.open(tmp_path / "part-002.tar", "w").close()
    with pytest.warns(match=r"left out, without images: .*part-001\.tar and 1 more"):
        data = load_data(shards, Path())
    everything = [*reds(data.train.in_memory(99)), *reds(data.val), *reds(data.test)]
    assert sorted(everything) == [*range(25), *range(75, 100)]
    assert len(data.train.order(0, 0)) == 40


def test_bad_names_of_shards_are_users_errors(shards: str) -> None:
    for name, message in (
        ("wds:https://example.org/{0..3}.tar", "local paths"),
        ("wds:pipe:cat part.tar", "such as wds:DIR/part-{000..099}.tar"),
        (shards.replace("}", ""), "a brace is not closed"),
        (shards.removeprefix("wds:").replace("{000..003}", "000"), "wds:PATH"),
    ):
        with pytest.raises(UserError, match=message):
            load_data(name, Path())
        if name.startswith("wds:") and "brace" not in message:
            with pytest.raises(UserError, match=message):
                data_name(name)


def test_sizes_that_differ_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(30):
            add(tar, f"{number}.png", png(number, 8 if number < 15 else 9))
    with pytest.raises(UserError, match="pass --image-size N"):
        load_data(f"wds:{tmp_path}/a.tar", Path())
    assert len(streamed(f"wds:{tmp_path}/a.tar", image_size=8, strict=True)) == 24


def test_memory_is_what_each_process_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    whole = process_memory([tmp_path / "memory.max"])
    assert whole > 1e8
    (tmp_path / "memory.max").write_text("40000000\n")
    assert process_memory([tmp_path / "memory.max"]) == 4e7
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert process_memory([tmp_path / "memory.max"]) == 4e7  # left by another program
    for name, value in (("RANK", 1), ("WORLD_SIZE", 4), ("MASTER_ADDR", "x"), ("MASTER_PORT", 1)):
        monkeypatch.setenv(name, str(value))
    assert process_memory([tmp_path / "memory.max"]) == 1e7


@pytest.mark.parametrize(("kind", "size"), [("0", 1 << 60), ("x", 1 << 39), ("L", 1 << 39)])
def test_sizes_that_a_tar_claims_are_held_against_it(tmp_path: Path, kind: str, size: int) -> None:
    path = Path(one_shard(tmp_path, 4).removeprefix("wds:"))
    with tarfile.open(path, "a") as tar:
        end = tar.offset
    claim = tarfile.TarInfo("4.png")
    claim.size, claim.type = size, kind.encode()
    path.write_bytes(path.read_bytes()[:end] + claim.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(UserError, match=r"a\.tar is not a tar that can be read in place \(.+\)"):
        load_data(f"wds:{path}", Path())
