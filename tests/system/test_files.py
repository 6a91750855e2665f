"""Files written whole or not at all, by one process or several."""

import errno
import fcntl
import os
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from srvae_pyro.errors import UserError
from srvae_pyro.system.files import (
    check_output,
    check_place,
    distinct_names,
    filling,
    locked,
    read_json,
    unwinding,
    write_json,
    write_text,
    write_whole,
)


def test_a_name_as_long_as_can_be_is_written(tmp_path: Path) -> None:
    for name in ("é" * 125 + ".png", "a." + "b" * 250):
        write_whole(tmp_path / name, lambda partial: partial.write_text("whole") and None)
        assert (tmp_path / name).read_text() == "whole"


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_file_is_replaced_only_when_all_of_it_is_written(
    tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "deep" / "image.png"

    def fail(partial: Path) -> None:
        assert partial.suffix == ".png"  # image libraries go by it
        partial.write_text("ne")
        raise error

    for before in (None, "old"):
        if before:
            path.write_text(before)
        with pytest.raises(type(error)):
            write_whole(path, fail)
        assert [p.read_text() for p in path.parent.iterdir()] == [before] * bool(before)
    with pytest.raises(TypeError):
        write_json(path, {"a": {1, 2}})
    assert path.read_text() == "old"


def test_json_has_short_lists_in_a_line_and_strings_as_they_are(tmp_path: Path) -> None:
    values = {"shape": [3, 8, -1e-7], "[ 2019 ]": "/photos/Holiday [ 2019 ]", "a": ["b", []]}
    write_json(tmp_path / "a.json", values)
    assert read_json(tmp_path / "a.json") == values
    assert '"shape": [3, 8, -1e-07],' in (tmp_path / "a.json").read_text()


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    begun, go_on = threading.Event(), threading.Event()
    partials = []

    def slow(partial: Path) -> None:
        partials.append(partial)
        with partial.open("w") as file:
            file.write("first ")
            file.flush()
            begun.set()
            go_on.wait(10)
            file.write("writer")

    def fast(partial: Path) -> None:
        partials.append(partial)
        partial.write_text("second")

    thread = threading.Thread(target=write_whole, args=(path, slow))
    thread.start()
    begun.wait(10)
    write_whole(path, fast)
    assert path.read_text() == "second"
    go_on.set()
    thread.join()
    assert path.read_text() == "first writer"
    assert len(set(partials)) == 2
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_written_over(tmp_path: Path) -> None:
    partials = []

    def write(partial: Path) -> None:
        partials.append(partial)
        partial.touch()

    for _ in range(2):
        write_whole(tmp_path / "a.bin", write)
    assert partials[0] == partials[1]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_text_of_other_systems_is_read(tmp_path: Path, encoding: str) -> None:
    text = '{"run": "é",\r\n"steps": 3}\r\n'
    (tmp_path / "file.json").write_bytes(text.encode(encoding))
    assert read_json(tmp_path / "file.json") == {"run": "é", "steps": 3}


def test_names_are_made_distinct() -> None:
    assert distinct_names(["a", "A", "a-2", "b", "a"]) == ["a", "A-2", "a-2-2", "b", "a-3"]


def test_a_name_that_is_too_long_is_found_out_before_the_work(tmp_path: Path) -> None:
    check_place(tmp_path / "further" / "file.json")
    for folder in (tmp_path, tmp_path / "further"):
        with pytest.raises(OSError, match="File name too long"):
            check_place(folder / ("a" * 300 + ".json"))
    assert not list(tmp_path.iterdir())
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(OSError, match="it is a named pipe"):
        check_place(tmp_path / "pipe.json")


def test_an_output_replaces_earlier_ones_alone(tmp_path: Path) -> None:
    for name in ("ours", "others"):
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")

    def ours(path: Path) -> bool:
        return path.read_text() == "ours"

    for name in ("ours", "new"):
        check_output(tmp_path / name, "--out FILE", ours)
    for name in ("others", "link", "."):
        with pytest.raises(
            UserError, match="was not written by this command: choose another --out FILE"
        ):
            check_output(tmp_path / name, "--out FILE", ours)
    with pytest.raises(UserError, match=r"\(it is a named pipe\): give --out FILE"):
        check_output(tmp_path / "pipe", "--out FILE", ours)
    check_output(tmp_path, "--out DIR")
    with pytest.raises(
        UserError, match="was not written by this command: choose another --out DIR"
    ):
        check_output(tmp_path / "ours", "--out DIR")


def fill(folder: Path, error: str = "") -> None:
    (folder / "a").write_text("a")
    if error:
        raise OSError(error)


def test_a_folder_is_filled_at_once_or_not_at_all(tmp_path: Path) -> None:
    for there in (False, True):
        out = tmp_path / f"out-{there}"
        if there:
            out.mkdir()
        with pytest.raises(OSError, match="full"), filling(out, ["a"]) as partial:
            fill(partial, "full")
        assert list(out.iterdir() if there else tmp_path.iterdir()) == []
        with filling(out, ["a"]) as partial:
            fill(partial)
            assert not (out / "a").exists()
        assert [path.name for path in out.iterdir()] == ["a"]
        (out / "a").unlink()
        out.rmdir()


def put(
    out: Path, names: Sequence[str], text: str, meanwhile: Callable[[], None] = lambda: None
) -> None:
    """Files of these names, if others write them too ``meanwhile``."""
    with filling(out, names) as partial:
        for name in names:
            (partial / name).write_text(text)
        meanwhile()


@pytest.mark.parametrize("there", [False, True])
def test_two_fill_one_folder(tmp_path: Path, there: bool) -> None:
    out = tmp_path / "out"
    if there:
        out.mkdir()
    put(out, "a", "first", lambda: put(out, "b", "second"))
    assert {path.name: path.read_text() for path in out.iterdir()} == {"a": "first", "b": "second"}
    with pytest.raises(UserError, match="c already exists"):
        put(out, "dc", "first", lambda: put(out, "c", "second"))
    assert (out / "c").read_text() == "second"
    with pytest.raises(FileNotFoundError), filling(out, "ef") as partial:
        (partial / "e").touch()
    assert sorted(path.name for path in out.iterdir()) == ["a", "b", "c"]
    assert list(tmp_path.iterdir()) == [out]


def test_what_a_killed_process_left_of_a_folder_goes(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), filling(tmp_path / "out", ["a"]) as partial:
        pass
    (partial / "left").mkdir(parents=True)
    with filling(tmp_path / "out", ["a"]) as again:
        assert list(tmp_path.iterdir()) == [again]
        (again / "a").touch()


@pytest.fixture
def only_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without permissions, locks, and synchronised or renamed folders."""
    rename, fsync = os.rename, os.fsync

    def refuse(number: int) -> Any:
        def call(*_: Any, **__: Any) -> None:
            raise OSError(number, os.strerror(number))

        return call

    def rename_file(old: Path, new: Path) -> None:
        (refuse(errno.ENOTSUP) if os.path.isdir(old) else rename)(old, new)

    def fsync_file(descriptor: int) -> None:
        fsync(descriptor)
        refuse(errno.EINVAL)()

    for name in ("chmod", "fchmod", "link"):
        monkeypatch.setattr(os, name, refuse(errno.EPERM))
    monkeypatch.setattr(os, "rename", rename_file)
    monkeypatch.setattr(os, "fsync", fsync_file)
    monkeypatch.setattr(fcntl, "flock", refuse(errno.ENOTSUP))


@pytest.mark.usefixtures("only_bytes")
def test_file_systems_need_only_hold_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole"
    for name in ("a", "b"):
        put(tmp_path / "out", name, "whole")
    with locked(tmp_path / "run", "by another"):
        assert "cannot be locked on its file system" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "a.txt", "b", "out", "run"]


def test_a_disk_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        write_text(tmp_path / "a.txt", "whole")
    assert not list(tmp_path.iterdir())


def test_termination_unwinds() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as told, unwinding():
        signal.raise_signal(signal.SIGTERM)
    assert told.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    within = []

    def elsewhere() -> None:  # where signals are another thread's
        with unwinding():
            within.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert within == [before]
