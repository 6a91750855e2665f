"""Files written whole or not at all, by one process or several."""

import threading
from pathlib import Path

import pytest

from srvae_pyro.system.files import check_place, write_whole


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
