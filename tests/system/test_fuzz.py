"""Whatever comes in, nothing comes out but an output or one line: no traceback, no code run."""

import contextlib
import io
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from PIL import Image

from srvae_pyro.config import RunConfig
from srvae_pyro.data import ImageOptions, load_data
from srvae_pyro.errors import UserError
from srvae_pyro.models import load, make_model
from srvae_pyro.runs import WEIGHTS, read_config
from srvae_pyro.system.cli import run_command
from srvae_pyro.system.files import digest
from srvae_pyro.train import TrainArguments
from srvae_pyro.training.loop import Trainer
from srvae_pyro.training.recovery import LAST, load_checkpoint
from srvae_pyro.training.settings import fresh_config
from tests.builders import save_run
from tests.training.test_training import make_trainer, tiny_config

often = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
)  # JSON as Python reads it, NaN and Infinity included
anything = st.recursive(
    scalars, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=6), v, max_size=4)
)


@contextlib.contextmanager
def perhaps_refused() -> Iterator[None]:
    """Let a UserError of one line pass."""
    try:
        yield
    except UserError as error:
        if "\n" in str(error):
            raise


VALUES: dict[str, Any] = json.loads(json.dumps(tiny_config().to_dict()))
FIELDS = [(part, name) for part in ("model", "data", "training") for name in VALUES[part]]
FIELDS += [(part, None) for part in VALUES]


@often
@given(st.sampled_from(FIELDS), anything)
@example(("model", "p_x"), {"growth": 10**9, "steps": 10**9})
@example(("model", "image_shape"), [3, 16, 10**9])
def test_config_fields(where: tuple[str, str | None], value: Any) -> None:
    """A config is refused, or makes a model without values (which takes no memory)."""
    part, name = where
    values = json.loads(json.dumps(VALUES))
    if name is None:
        values[part] = value
    else:
        values[part][name] = value
    with perhaps_refused(), torch.device("meta"):
        make_model(RunConfig.from_dict(values).model)


@often
@given(anything | st.binary(max_size=200))
@example(b"[" * 100_000)
def test_config_files(content: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        with perhaps_refused():
            read_config(Path(folder))


flags = st.sampled_from(
    [f"--{name.replace('_', '-')}" for name in vars(TrainArguments())] + ["--", "-x", "--no-resume"]
)
words = st.sampled_from(["0", "-1", "nan", "inf", "1e999", "vae", "paper", "small", "..", ""])


@settings(often, max_examples=60)  # each of which makes a parser of all flags
@given(st.lists(flags | words | st.text(max_size=8), max_size=6))
def test_command_lines(line: list[str]) -> None:
    """A command line is parsed to settings that can be, or refused with code 2."""

    def parse_only(arguments: TrainArguments) -> None:
        fresh_config(arguments.settings())

    output, errors = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        patch.setattr(sys, "argv", ["train", *line])
        with pytest.raises(SystemExit) as stop:
            run_command(TrainArguments, parse_only, "train")
    assert stop.value.code in (0, 2)
    assert "Traceback" not in errors.getvalue()


@cache
def png() -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((16, 16)).convert("RGB").save(file, "png")
    return file.getvalue()


@cache
def checkpoint() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        make_trainer(Path(folder)).recovery.save()
        return (Path(folder) / "last.ckpt").read_bytes()


@st.composite
def damaged(draw: st.DrawFn, content: Callable[[], bytes]) -> bytes:
    """``content()`` cut, with bytes changed, or with some put in."""
    data = bytearray(content())
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        change = draw(st.sampled_from(["cut", "change", "insert"]))
        some = draw(st.binary(min_size=1, max_size=8))
        if change == "cut":
            del data[place:]
        elif change == "change":
            data[place : place + len(some)] = some
        else:
            data[place:place] = some
    return bytes(data)


@often
@given(damaged(png) | st.binary(max_size=300))
def test_image_bytes(content: bytes) -> None:
    """An image is read or left out, whatever is in its file."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(8):
            (Path(folder) / f"{number}.png").write_bytes(png())
        (Path(folder) / "4.png").write_bytes(content)
        with warnings.catch_warnings(action="ignore"), perhaps_refused():
            data = load_data(folder, Path("data"), ImageOptions(image_size=16))
            assert len(data.train) + len(data.val) + len(data.test) in (7, 8)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    return make_trainer(tmp_path_factory.mktemp("trainer"))


@often
@given(content=damaged(checkpoint) | st.binary(max_size=300))
def test_checkpoint_bytes(trainer: Trainer, content: bytes) -> None:
    """A checkpoint can be resumed from, or is refused."""
    (trainer.folder / LAST).write_bytes(content)
    with perhaps_refused():
        trainer.recovery.resume()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_run(tmp_path_factory.mktemp("run"))
    make_trainer(folder).recovery.save()
    return folder


def contents(path: Path) -> str:
    """A digest of what a checkpoint holds, or a model with such weights."""
    return digest(load_checkpoint(path) if path.name == LAST else load(path.parent).state_dict())


@pytest.mark.parametrize("name", [LAST, WEIGHTS])
@settings(often, max_examples=60)
@given(place=st.integers(0, 2**40), bit=st.integers(0, 7))
def test_a_changed_bit_is_noticed(run: Path, name: str, place: int, bit: int) -> None:
    """But for those that do not count, such as padding."""
    path = run / name
    content, whole = path.read_bytes(), contents(path)
    changed = bytearray(content)
    changed[place % len(content)] ^= 1 << bit
    path.write_bytes(changed)
    try:
        with perhaps_refused():
            assert contents(path) == whole
    finally:
        path.write_bytes(content)
