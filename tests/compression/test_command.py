"""``python -m srvae_pyro.compress`` and ``decompress``: files whole, or one line and none."""

import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from srvae_pyro import compress, decompress
from srvae_pyro.compress import CompressArguments
from srvae_pyro.compression import container
from srvae_pyro.compression import pixels as tables
from srvae_pyro.compression.container import Entry, Header, names_of, read_parts
from srvae_pyro.decompress import DecompressArguments
from srvae_pyro.errors import UserError, with_flags
from srvae_pyro.models.base import save_pretrained
from srvae_pyro.system.cli import check_arguments
from tests.builders import initialized, make_images, refused, save_run


@pytest.fixture
def place(here: Path) -> Path:
    """A folder with runs/net, an srVAE with standard prior, and three images."""
    save_run(here / "runs" / "net", p_u="standard")
    generator = np.random.default_rng(0)
    (here / "in").mkdir()
    for name, shape in (("a.png", (16, 16, 3)), ("b.webp", (9, 14, 3)), ("gray.png", (16, 16))):
        levels = generator.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(levels).save(here / "in" / name, lossless=True)
    return here


MADE: list[bytes] = []


@pytest.fixture
def packed(place: Path) -> Path:
    """The file that they are compressed into, made once: it is the same each time."""
    path = place / "packed"
    if not MADE:
        arguments = CompressArguments("net", (Path("in"),), Path("packed"), group=2)
        assert compress.main(arguments) == 0
        MADE.append(path.read_bytes())
    path.write_bytes(MADE[0])
    return path


def test_images_go_through_a_file(
    place: Path, packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = CompressArguments("net", (Path("in"),), Path("again"), group=2)
    assert compress.main(again) == 0
    assert (place / "again").read_bytes() == packed.read_bytes()
    told = capsys.readouterr().out
    assert f"{packed.stat().st_size:,} bytes" in told
    assert "u and y: " in told
    assert "are initial" in told
    assert decompress.main(DecompressArguments(packed, place / "out")) == 0
    assert "3 images in" in capsys.readouterr().out
    for source in (place / "in").iterdir():
        before, after = Image.open(source), Image.open(place / "out" / f"{source.stem}.png")
        assert before.mode == after.mode
        assert np.array_equal(np.asarray(before), np.asarray(after))
    assert len(list((place / "out").iterdir())) == 3
    header = read_parts(packed).header
    assert header.made["torch"] == torch.__version__
    assert header.made["threads"] == "1"
    with pytest.raises(UserError, match=r"a\.png already exists"):
        decompress.main(DecompressArguments(packed, place / "out"))


def test_the_first_part_alone_shows_every_y(
    place: Path, packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = packed.read_bytes()
    read = read_parts(packed, preview=True)
    assert read.bytes_read < 0.4 * len(content)
    packed.write_bytes(content[: read.bytes_read])  # what has come so far
    arguments = DecompressArguments(packed, place / "y", preview=True)
    assert decompress.main(arguments) == 0
    assert f"from {read.bytes_read:,} of" in capsys.readouterr().out
    sizes = {path.stem: Image.open(path).size for path in (place / "y").iterdir()}
    assert sizes == {"a": (8, 8), "b": (7, 5), "gray": (8, 8)}
    with pytest.raises(UserError, match="it is truncated or damaged"):
        decompress.main(replace(arguments, preview=False, out=place / "x"))
    assert not (place / "x").exists()


def test_damaged_files_are_refused_and_nothing_is_written(place: Path, packed: Path) -> None:
    content, other = packed.read_bytes(), place / "other"
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    damages = [bytes(changed), content[:-9], content + b"more", b"", b"\x89PNG\r\n", content[::-1]]
    for damage in damages:
        other.write_bytes(damage)
        with refused("other cannot be decompressed: it"):
            decompress.main(DecompressArguments(other, place / "out"))
    assert not (place / "out").exists()
    with pytest.raises(UserError, match="cannot read missing: No such file"):
        decompress.main(DecompressArguments(Path("missing"), place / "out"))


def rewritten(packed: Path, change: Callable[[dict], object]) -> None:
    """The file with another header, its checksum made to fit: what a foe could write."""
    content = packed.read_bytes()
    start = len(container.MAGIC)
    length = int.from_bytes(content[start : start + 8], "little")
    values = json.loads(zlib.decompress(content[start + 8 : start + 8 + length]))
    made = change(values)
    part = made if isinstance(made, bytes) else zlib.compress(json.dumps(values).encode())
    rest = content[start + 8 + length + container.CHECK :]
    head = len(part).to_bytes(8, "little") + part + container._hash(part, container.CHECK)
    packed.write_bytes(content[:start] + head + rest)


HOSTILE: dict[str, Callable[[dict], object]] = {
    "outside": lambda v: v["images"]["name"].__setitem__(0, "../a"),
    "absolute": lambda v: v["images"]["name"].__setitem__(0, "/tmp/a"),
    "same": lambda v: v["images"]["name"].__setitem__(0, "GRAY"),
    "huge": lambda v: v["images"]["height"].__setitem__(0, 1 << 31),
    "fewer": lambda v: [column.pop() for column in v["images"].values()],
    "ragged": lambda v: v["images"]["height"].pop(),
    "long": lambda v: v.update(more="x" * 2_000_000),
    "bomb": lambda v: zlib.compress(b"[" * (container.LARGEST + 1), 1),
    "deep": lambda v: zlib.compress(b"[" * 200_000),
}


def test_a_file_of_a_foe_is_refused(packed: Path, place: Path) -> None:
    content = packed.read_bytes()
    for name, change in HOSTILE.items():
        packed.write_bytes(content)
        rewritten(packed, change)
        with pytest.raises(UserError, match="packed cannot be decompressed: it"):
            decompress.main(DecompressArguments(packed, place / "out"))
        assert not (place / "out").exists(), name


def test_sizes_that_are_claimed_are_refused_before_decoding(
    packed: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("srvae_pyro.compression.codec.Stack", None)
    rewritten(packed, lambda values: values["images"]["height"].__setitem__(0, 1000))
    for preview in (False, True):
        arguments = DecompressArguments(packed, place / "out", preview=preview)
        with pytest.raises(UserError, match="it is too short for images of 16x1000 pixels"):
            decompress.main(arguments)
    monkeypatch.setattr("srvae_pyro.compression.codec.process_memory", lambda: 1e7)
    with pytest.raises(UserError, match=r"packed cannot be decompressed: 16x1000 pixels need .*B"):
        decompress.main(arguments)
    assert not (place / "out").exists()


def test_names_that_cannot_be_written_are_changed(
    packed: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("srvae_pyro.compression.command.longest_name", lambda _: len("gr.png"))
    assert decompress.main(DecompressArguments(packed, place / "out")) == 0
    assert "renamed, as such names cannot be written here: gray to gr\n" in capsys.readouterr().out
    assert sorted(path.name for path in (place / "out").iterdir()) == ["a.png", "b.png", "gr.png"]


def test_only_what_compress_wrote_is_replaced(
    packed: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "mine").write_bytes(b"mine")
    arguments = CompressArguments("net", (Path("in/gray.png"),), Path("mine"))
    with pytest.raises(
        UserError, match="mine exists and was not written by this command: choose another --out"
    ):
        compress.main(arguments)
    assert (place / "mine").read_bytes() == b"mine"
    assert compress.main(replace(arguments, out=packed)) == 0
    assert "packed, replacing an earlier one: " in capsys.readouterr().out


def test_a_file_names_no_run_elsewhere(packed: Path, place: Path) -> None:
    for name in ("owner/name", str(place / "runs" / "net"), "..", "gone"):
        rewritten(packed, lambda values, name=name: values.update(run=name))
        with pytest.raises(UserError, match="which is not under runs/: name its run with --run"):
            decompress.main(DecompressArguments(packed, place / "out"))
    assert decompress.main(DecompressArguments(packed, place / "out", run="runs/net")) == 0


def test_other_weights_are_refused(packed: Path, place: Path) -> None:
    model = initialized(make_images(8, seed=9), p_u="standard")
    save_pretrained(model, place / "runs" / "other")
    with pytest.raises(UserError, match="made with weights other than those of other"):
        decompress.main(DecompressArguments(packed, place / "out", run="other"))
    assert not (place / "out").exists()


def test_a_machine_with_other_arithmetic_is_named(
    packed: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A last bit here and there, as another processor or PyTorch has it, but too many to miss."""
    exp = tables.exp_of_negative
    monkeypatch.setattr(tables, "exp_of_negative", lambda x: exp(x * (1 + 1e-6)))
    rewritten(packed, lambda values: values["made"].update(torch="2.0.0"))
    with pytest.raises(UserError, match=r"arithmetic differs .*torch 2\.0\.0 there and .* here"):
        decompress.main(DecompressArguments(packed, place / "out"))
    assert not (place / "out").exists()


def test_what_would_not_be_kept_is_refused(place: Path) -> None:
    out = Path("packed")
    levels = np.zeros((16, 16, 4), np.uint8)
    Image.fromarray(levels).save("clear.png")
    Image.fromarray(np.zeros((16, 16), np.uint16)).save("deep.png")
    for name, lost in (("clear.png", "its transparency"), ("deep.png", "8 of its 16 bits")):
        with pytest.raises(UserError, match=f"{name} cannot be stored losslessly .{lost}"):
            compress.main(CompressArguments("net", (Path(name),), out))
    Image.fromarray(levels + np.uint8(255)).save("opaque.png")
    Path("empty").mkdir()
    with pytest.raises(UserError, match="there are no images in empty"):
        compress.main(CompressArguments("net", (Path("empty"),), out))
    with pytest.raises(UserError, match="there is no file gone"):
        compress.main(CompressArguments("net", (Path("gone.png"),), out))
    assert not out.exists()
    arguments = CompressArguments("net", (Path("opaque.png"),), out, verify=True)
    assert compress.main(replace(arguments, arithmetic="fp32")) == 0
    assert read_parts(out).header.arithmetic == "fp32"


def test_arguments_that_make_no_sense(tmp_path: Path) -> None:
    for arguments, told in (
        (CompressArguments("net", (), tmp_path / "out"), "name at least one image"),
        (CompressArguments("net", (Path("a.png"),)), "--out FILE"),
        (
            CompressArguments("net", (Path("a.png"),), Path("b.PNG")),
            "has the extension of an",
        ),
        (DecompressArguments(Path("file")), "--out DIR"),
        (DecompressArguments(Path("file"), Path("a.png")), "--out takes a folder"),
    ):
        with pytest.raises(UserError) as error:
            check_arguments(arguments)
        assert told in with_flags(str(error.value))


def test_names_are_distinct_and_can_be_written() -> None:
    long, accents = "n" * 251, "\u00e9" * 200
    texts = [".", "..", "A", "a", "a-2", 'b:"?', "c\n", "Aux.tar", "auxiliary", "\u00e9", "e\u0301"]
    names = names_of([*texts, long, long, accents])
    assert names[:2] == ["_.", "_.."]
    names = names[2:]
    assert names[:7] == ["A", "a-2", "a-2-2", "b___", "c_", "_Aux.tar", "auxiliary"]
    assert names[7:9] == ["\u00e9", "e\u0301-2"]  # one name on some systems
    assert names[9:] == [long, long[:-2] + "-2", accents[:125]]
    images = tuple(Entry(name, 1, 1) for name in ["_.", "_..", *names])
    Header("net", "digest", "fp64", 1, (3, 3), {"torch": "2"}, images).check()


def test_headers_repeat_themselves_cheaply() -> None:
    images = tuple(Entry(f"{i:05d}", 32, 32) for i in range(1000))
    header = Header("net", "digest", "fp64", 16, (3, 3), {"torch": "2"}, images)
    content = header.to_bytes()
    assert len(content) < 4000
    assert Header.from_bytes(content) == header
