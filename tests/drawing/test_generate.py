"""``python -m srvae_pyro.generate``: a folder with the images of one call and no others."""

import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from PIL import Image

from srvae_pyro.data import load_data
from srvae_pyro.drawing.generate import chunks
from srvae_pyro.errors import UserError
from srvae_pyro.generate import GenerateArguments, main
from srvae_pyro.models import ImageModel
from srvae_pyro.models.base import save_pretrained
from tests.builders import initialized, make_images, save_run


@pytest.fixture
def asked(tmp_path: Path) -> GenerateArguments:
    """Six images of a model that was initialised but not trained."""
    run = save_run(tmp_path / "run", p_u="standard")
    return GenerateArguments(str(run), 6, batch_size=4, out=tmp_path / "out")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The indices of the images that are drawn, in order."""
    numbers: list[int] = []
    generate = ImageModel.generate

    def noted(self: ImageModel, count: int, *, first: int = 0, **options: Any) -> dict:
        numbers.extend(range(first, first + count))
        return generate(self, count, first=first, **options)

    monkeypatch.setattr(ImageModel, "generate", noted)
    return numbers


def contents(arguments: GenerateArguments) -> dict[str, bytes]:
    """The single images that there are, by name."""
    return {path.name: path.read_bytes() for path in (arguments.out / "images").iterdir()}


def names(count: int) -> set[str]:
    return {f"{number:05d}.png" for number in range(count)}


def with_sampling(arguments: GenerateArguments, **changes: Any) -> GenerateArguments:
    return replace(arguments, sampling=replace(arguments.sampling, **changes))


def elsewhere(arguments: GenerateArguments, **changes: Any) -> dict[str, bytes]:
    """What the same arguments but for changes draw into a new folder."""
    fresh = replace(arguments, out=arguments.out.with_name("fresh"), **changes)
    assert main(fresh) == 0
    return contents(fresh)


def test_the_folder_of_images_is_data(asked: GenerateArguments) -> None:
    main(asked)
    assert contents(asked).keys() == names(6)
    data = load_data(str(asked.out / "images"), asked.out)
    assert sum(data.info["counts"].values()) == 6
    record = json.loads((asked.out / "generate.json").read_text())
    assert (record["run"], record["count"]) == (asked.run, 6)
    assert record["settings"]["seed"] == 0
    with Image.open(asked.out / "grid.png") as grid:
        assert grid.size[0] > 8 * 2 * 16


def test_images_of_two_settings_are_never_mixed(asked: GenerateArguments) -> None:
    main(asked)
    before = contents(asked)
    seen = set(before.values())
    temperatures = ("temperature", "image_temperature", "y_temperature")
    changes: list[dict[str, Any]] = [{"seed": 1}, {"decode": "mode"}]
    for change in [*changes, *({name: 0.5} for name in temperatures)]:
        changed = replace(with_sampling(asked, **change), count=2)
        unchanged = contents(asked)
        with pytest.raises(UserError, match="images of other settings: choose another `out`, or"):
            main(changed)
        assert contents(asked) == unchanged
        main(replace(changed, overwrite=True))
        after = contents(asked)
        assert after.keys() == names(2)
        assert not seen & set(after.values()), change
        seen |= set(after.values())
    main(replace(asked, overwrite=True))
    assert contents(asked) == before


def test_a_temperature_of_y_that_changes_nothing_is_no_other_setting(
    asked: GenerateArguments,
) -> None:
    main(with_sampling(asked, image_temperature=0.5))
    before = contents(asked)
    same = with_sampling(asked, image_temperature=0.5, y_temperature=0.5)
    main(replace(same, count=7))
    assert before.items() <= contents(asked).items()
    settings = json.loads((asked.out / "generate.json").read_text())["settings"]
    assert "y_temperature" not in settings


def test_other_weights_are_other_settings(asked: GenerateArguments) -> None:
    main(asked)
    model = initialized(make_images(8, seed=5), p_u="standard")
    save_pretrained(model, Path(asked.run))
    with pytest.raises(UserError, match="images of other settings"):
        main(asked)


def test_more_of_the_same_are_added_and_fewer_leave_the_others(
    asked: GenerateArguments, drawn: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    main(replace(asked, count=9))
    before = contents(asked)
    drawn.clear()
    main(replace(asked, count=2))
    assert "kept from an earlier call: 7 further images" in capsys.readouterr().out
    assert contents(asked) == before
    assert drawn == [0, 1]  # for the grid
    main(replace(asked, count=11))
    assert contents(asked) == elsewhere(asked, count=11)
    main(replace(asked, count=2, overwrite=True))
    assert contents(asked).keys() == names(2)


def test_a_call_that_was_stopped_goes_on(
    asked: GenerateArguments, drawn: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, generate = replace(asked, count=10), ImageModel.generate
    monkeypatch.setattr("srvae_pyro.drawing.generate.IN_GRID", 5)

    def stop(self: ImageModel, count: int, *, first: int = 0, **options: Any) -> dict:
        if first >= 6:
            raise KeyboardInterrupt
        return generate(self, count, first=first, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ImageModel, "generate", stop)
        with pytest.raises(KeyboardInterrupt):
            main(replace(arguments, batch_size=2))
    assert contents(asked).keys() == names(6)
    (asked.out / "images" / "00003.png").unlink()
    (asked.out / "images" / ".00006.partial.png").write_bytes(b"half")
    drawn.clear()
    main(arguments)
    assert drawn == [3, 6, 7, 8, 9, 0, 1, 2, 4]  # what was missing; the rest of the grid
    assert contents(asked) == elsewhere(arguments)
    grid, other = (p / "grid.png" for p in (asked.out, asked.out.with_name("fresh")))
    assert grid.read_bytes() == other.read_bytes()


def test_files_of_others_are_neither_mixed_in_nor_lost(asked: GenerateArguments) -> None:
    images = asked.out / "images"
    images.mkdir(parents=True)
    for own in (images / "00000.png", asked.out / "grid.png"):
        own.write_bytes(b"mine")
        with pytest.raises(UserError, match=f"{own.name} was not drawn by this command"):
            main(asked)
        assert own.read_bytes() == b"mine"
        own.unlink()
    main(asked)
    (images / "cat.png").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"cat\.png was not drawn by this command"):
        main(with_sampling(asked, seed=1))
    assert contents(asked).keys() == names(6) | {"cat.png"}


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"run": 1, "settings": 3, "count": 1}'])
def test_a_damaged_record_is_no_licence_to_mix(content: str, asked: GenerateArguments) -> None:
    main(asked)
    (asked.out / "generate.json").write_text(content)
    with pytest.raises(UserError, match="is damaged, so the settings of"):
        main(asked)


def test_two_do_not_draw_into_one_folder(asked: GenerateArguments) -> None:
    asked.out.mkdir()
    in_use = "is in use: another process is drawing there"
    with FileLock(asked.out / ".lock"), pytest.raises(UserError, match=in_use):
        main(asked)


def test_memory_does_not_grow_with_the_count(
    asked: GenerateArguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all images but the grid's nothing is kept."""
    kept, generate = [], ImageModel.generate

    def noted(self: ImageModel, count: int, **options: Any) -> dict:
        sites = generate(self, count, **options)
        kept.append(weakref.ref(sites["x"]))
        assert sum(reference() is not None for reference in kept) <= 2
        return sites

    monkeypatch.setattr(ImageModel, "generate", noted)
    main(replace(asked, count=24))
    assert len(kept) == 6


def test_indices_are_drawn_in_chunks() -> None:
    assert list(chunks([], 3)) == []
    found = [list(chunk) for chunk in chunks([0, 1, 2, 3, 5, 8, 9], 3)]
    assert found == [[0, 1, 2], [3], [5], [8, 9]]
