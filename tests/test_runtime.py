"""Device, precision, allocator, and how the commands start and fail."""

import os
import subprocess
import sys
import warnings
from dataclasses import dataclass

import pytest
import torch

from srvae_pyro.errors import UserError
from srvae_pyro.system.command_line import run_command
from srvae_pyro.system.device import (
    allowed_cores,
    choose_device,
    choose_precision,
    process_cores,
    tune_allocator,
)

CPU = torch.device("cpu")


def test_device_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(UserError, match="--device cpu or auto"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == "cuda"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be forbidden here")
def test_cores_that_are_forbidden_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert allowed_cores() == process_cores() == 1
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
        assert (allowed_cores(), process_cores()) == (8, 4)
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize("native", [True, False])
def test_precision_auto_takes_what_the_device_computes_in(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for check in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, check, lambda: native, raising=False)
    assert choose_precision("auto", CPU) == ("bf16" if native else "fp32")
    assert choose_precision("fp32", CPU) == "fp32"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert choose_precision("bf16", CPU) == "bf16"
    assert len(caught) == (0 if native else 1)
    assert all("--precision fp32" in str(warning.message) for warning in caught)


def test_precision_of_this_machine() -> None:
    assert choose_precision("auto", CPU) in ("fp32", "bf16")


def test_allocator_is_not_tuned_where_it_is_not_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", no_library)
    assert tune_allocator() is False
    monkeypatch.setattr(sys, "platform", "darwin")
    assert tune_allocator() is False


def test_a_tuned_allocator_allocates() -> None:
    """In a process of its own: it holds for all of one."""
    code = (
        "from srvae_pyro.system.device import tune_allocator\n"
        "import sys, torch\n"
        "done = tune_allocator()\n"
        "for _ in range(3):\n"
        "    assert torch.ones(20, 1024, 1024).sum().item() == 20 * 1024 * 1024\n"
        "print(done, sys.platform)\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    done, platform = out.split()
    assert done in ("True", "False")
    assert platform == "linux" or done == "False"


# Commands


@dataclass
class Arguments:
    """A command of the tests."""

    number: int = 1
    """a number"""


@pytest.fixture
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands set how warnings are shown; the test session's way comes back."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(sys, "argv", ["command", "--number", "3"])


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize("returned", [None, 0, 1, 130])
def test_a_command_exits_with_what_its_main_returns(returned: int | None) -> None:
    seen = []

    def main(arguments: Arguments) -> int | None:
        seen.append(arguments.number)
        return returned

    with pytest.raises(SystemExit) as stop:
        run_command(Arguments, main, "test")
    assert stop.value.code == (returned or 0)
    assert seen == [3]


@pytest.mark.usefixtures("_restored")
def test_a_mistake_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main(arguments: Arguments) -> int:
        raise UserError("no such thing: do this instead")

    with pytest.raises(SystemExit) as stop:
        run_command(Arguments, main, "test")
    assert stop.value.code == 2
    assert capsys.readouterr().err == "test: no such thing: do this instead\n"


@pytest.mark.usefixtures("_restored")
def test_ctrl_c_exits_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    def main(arguments: Arguments) -> int:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        run_command(Arguments, main, "test")
    assert stop.value.code == 130
    assert capsys.readouterr().err == "test: stopped\n"


@pytest.mark.usefixtures("_restored")
def test_a_bug_keeps_its_traceback() -> None:
    def main(arguments: Arguments) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(Arguments, main, "test")


def test_help_needs_no_library_and_names_every_option() -> None:
    code = (
        "import sys, runpy\n"
        "sys.argv = ['train', '--help']\n"
        "try:\n"
        "    runpy.run_module('srvae_pyro.train', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as stop:\n"
        "    print('exit', stop.code, 'torch' in sys.modules)\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert out.rstrip().endswith("exit 0 False")
    for option in ("--preset", "--model", "--data", "--run", "--resume", "--max-minutes"):
        assert option in out
