"""Files written whole or not at all, by one process or several."""

import signal
import threading
from pathlib import Path

import pytest

from srvae_pyro.system.files import check_place, filling, unwinding, write_whole


def test_a_name_as_long_as_can_be_is_written(tmp_path: Path) -> None:
    for name in ("é" * 125 + ".png", "a." + "b" * 250):
        write_whole(tmp_path / name, lambda partial: partial.write_text("whole") and None)
        assert (tmp_path / name).read_text() == "whole"


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


def test_a_name_that_is_too_long_is_found_out_before_the_work(tmp_path: Path) -> None:
    check_place(tmp_path / "further" / "file.json")
    with pytest.raises(OSError, match="File name too long"):
        check_place(tmp_path / ("a" * 300 + ".json"))
    assert not list(tmp_path.iterdir())


def fill(folder: Path, error: str = "") -> None:
    (folder / "a").write_text("a")
    if error:
        raise OSError(error)


def test_a_folder_is_filled_at_once_or_not_at_all(tmp_path: Path) -> None:
    for there in (False, True):
        out = tmp_path / f"out-{there}"
        if there:
            out.mkdir()
        with pytest.raises(OSError, match="full"), filling(out) as partial:
            fill(partial, "full")
        assert list(out.iterdir() if there else tmp_path.iterdir()) == []
        with filling(out) as partial:
            fill(partial)
            assert not (out / "a").exists()
        assert [path.name for path in out.iterdir()] == ["a"]
        (out / "a").unlink()
        out.rmdir()


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
