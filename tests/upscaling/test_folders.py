"""``python -m srvae_pyro.upscale`` of many files: folders, their structure, what is left out."""

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from srvae_pyro.errors import UserError
from srvae_pyro.upscaling import command as session
from srvae_pyro.upscaling.files import find_inputs, names_for
from tests.builders import save_run
from tests.upscaling.test_command import image_of, smooth, upscale


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that was initialised but not trained."""
    return save_run(tmp_path_factory.mktemp("run"), p_u="standard")


def filled(folder: Path) -> Path:
    """A folder of photographs, one of them damaged, and of other files."""
    for name in ("a.png", "holiday/a.jpg", "holiday/b.png", "holiday/b.webp", "holiday/2/c d.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image_of(smooth(8, 12)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    os.mkfifo(folder / "holiday" / "pipe.png")
    (folder / "holiday" / "video.mp4").write_bytes(b"no picture")
    (folder / "holiday" / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / ".thumbnails").mkdir()
    image_of(smooth(4, 4)).save(folder / ".thumbnails" / "a.png")
    return folder


def answers_in(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


ANSWERS = [
    "a-x2.png",
    "holiday/2/c d-x2.png",
    "holiday/a-x2.png",
    "holiday/b-png-x2.png",
    "holiday/b-webp-x2.png",
]


def test_a_folder_is_upscaled_with_its_subfolders(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = filled(tmp_path / "photographs"), tmp_path / "out"
    assert upscale(run, folder, out=out) == 2  # one is damaged
    assert answers_in(out) == ANSWERS
    with Image.open(out / "holiday" / "2" / "c d-x2.png") as file:
        assert file.size == (24, 16)
    said = capsys.readouterr()
    (line,) = (line for line in said.out.splitlines() if line.startswith("left out"))
    assert "notes.txt" in line
    assert "video.mp4" in line
    assert "pipe.png" in line
    assert ".thumbnails" not in said.out
    assert len(said.err.splitlines()) == 1
    assert "cut.png" in said.err
    assert "5 of 6 images upscaled" in said.out
    # The output to a file in a folder is that to the file by itself.
    upscale(run, folder / "holiday" / "a.jpg", out=tmp_path / "one")
    one = (tmp_path / "one" / "a-x2.png").read_bytes()
    assert one == (out / "holiday" / "a-x2.png").read_bytes()


def test_outputs_are_not_inputs_the_next_time(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = filled(tmp_path / "photographs")
    (folder / "holiday" / "cut.png").unlink()
    for earlier in (0, len(ANSWERS)):
        assert upscale(run, folder, out=folder / "upscale_from") == 0
        assert answers_in(folder / "upscale_from") == ANSWERS
        said = capsys.readouterr().out
        assert (f"folder {folder / 'upscale_from'}: {earlier} images" in said) == bool(earlier)
    with pytest.raises(UserError, match="choose another `out`"):
        upscale(run, folder, out=folder)
    # In the folder above they are beside the photographs.
    assert upscale(run, folder / "holiday" / "2", out=folder / "holiday") == 0
    assert (folder / "holiday" / "c d-x2.png").is_file()


def test_files_that_are_named_twice_are_upscaled_once(tmp_path: Path) -> None:
    folder = filled(tmp_path / "photographs")
    again = folder / "holiday" / ".." / "a.png"
    inputs = find_inputs([folder / "a.png", folder, again], tmp_path / "out")
    names = names_for(inputs.paths, inputs.places)
    assert sorted(f"{name}-x2.png" for name in names) == sorted([*ANSWERS, "holiday/cut-x2.png"])
    # Files of one name in two folders that are named themselves are told apart by a number.
    (tmp_path / "other").mkdir()
    (folder / "holiday" / "a.jpg").rename(tmp_path / "other" / "b.png")
    inputs = find_inputs([folder / "holiday", tmp_path / "other"], tmp_path / "out")
    names = names_for(inputs.paths, inputs.places)
    assert set(map(str, names)) >= {"b-png", "b-png-2", "b-webp"}


def test_folders_without_images_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no images in the folder"):
        upscale(run, tmp_path / "empty", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    image_of(smooth(8, 8)).save(tmp_path / "a.png")
    assert upscale(run, tmp_path / "empty", tmp_path / "a.png", out=tmp_path / "out") == 2
    assert answers_in(tmp_path / "out") == ["a-x2.png"]
    assert "no images in the folder" in capsys.readouterr().err


def test_outputs_that_fail_leave_no_files(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    for name in ("a.png", "b.png"):
        image_of(smooth(8, 8)).save(tmp_path / name)
    files = (tmp_path / "a.png", tmp_path / "b.png")
    with monkeypatch.context() as patched:
        patched.setattr("srvae_pyro.upscaling.tiling._FileCanvas.append", full)
        assert upscale(run, *files, out=tmp_path / "out", samples=2) == 2
    assert not answers_in(tmp_path / "out")
    assert capsys.readouterr().err.count("No space left on device") == 2


def test_the_bar_counts_all_pixels(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars = []

    class Kept(session.Bar):
        def __init__(self, *given: Any, **options: Any) -> None:
            super().__init__(*given, **options)
            self.first = self.total
            bars.append(self)

    monkeypatch.setattr(session, "Bar", Kept)
    image_of(smooth(20, 36)).save(tmp_path / "a.png")
    image_of(smooth(9, 5)).save(tmp_path / "b.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    files = [tmp_path / name for name in ("a.png", "bad.png", "b.png")]
    upscale(run, *files, out=tmp_path / "out", tile=32, factor=4, samples=2)
    (bar,) = bars
    made = 2 * (4 + 16) * (20 * 36 + 9 * 5)
    assert bar.n == bar.total == made
    assert bar.first == made + 2 * (4 + 16) * 20 * 36  # of the bad one nothing
