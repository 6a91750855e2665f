"""Device, precision, allocator, and how the commands start and fail."""

import math
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from srvae_pyro.errors import UserError
from srvae_pyro.system import device
from srvae_pyro.system.console import print_error
from srvae_pyro.system.device import (
    Threads,
    choose_device,
    choose_precision,
    process_cores,
    tune_allocator,
)
from srvae_pyro.system.environment import Others, allowed_cores, busy_seconds, core_quota
from srvae_pyro.system.parallel import process_group

CPU = torch.device("cpu")


def with_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets what torchrun sets for the second of two processes."""
    values = {"RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": 29511}
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))


def test_device_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(
        UserError, match=r"\(CUDA_VISIBLE_DEVICES is ''\); use `device=cpu` or auto"
    ):
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
        assert process_cores() == 8  # it tells of no group alone
        with_group(monkeypatch)
        assert (allowed_cores(), process_cores()) == (8, 4)
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(
    ("name", "value"), [("RANK", None), ("RANK", "2"), ("MASTER_ADDR", None), ("MASTER_PORT", "")]
)
def test_an_incomplete_process_group_is_ignored_with_a_warning(
    name: str,
    value: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with_group(monkeypatch)
    for other in ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.setenv(other, "7" if name == "RANK" else "")
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    with pytest.warns(match="WORLD_SIZE is .*: this process works alone"):  # noqa: SIM117
        with process_group("cpu") as group:
            assert (group.rank, group.size) == (0, 1)
    assert process_cores() == allowed_cores()
    print_error("a mistake")
    assert capsys.readouterr().err == "a mistake\n"


def test_a_process_group_that_does_not_meet_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def alone(*_: object, **__: object) -> Iterator[None]:
        raise torch.distributed.DistNetworkError("timed out")
        yield

    with_group(monkeypatch)
    monkeypatch.setattr(torch.distributed, "rendezvous", alone)
    with pytest.raises(UserError, match="to localhost, port 29511: start them all, or unset"):
        process_group("cpu").__enter__()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "5")
    with pytest.raises(UserError, match="LOCAL_RANK is 5, and PyTorch sees 4 CUDA devices"):
        process_group("cuda").__enter__()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no such cores here")
def test_time_of_others_is_what_these_cores_were_busy_without_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2})
    ticks = os.sysconf("SC_CLK_TCK")
    rows = [f"cpu{core} {ticks} 0 {ticks} 9999 9999 0 0 {ticks} 55 55\n" for core in range(3)]
    (tmp_path / "stat").write_text("cpu 1 2 3 4 5 6 7 8 9 10\n" + "".join(rows) + "intr 5 6\n")
    assert busy_seconds(tmp_path / "stat") == 6
    assert math.isnan(busy_seconds(tmp_path / "none"))
    now = {"monotonic": 10.0, "process_time": 3.0, "busy": 50.0}
    monkeypatch.setattr("time.monotonic", lambda: now["monotonic"])
    monkeypatch.setattr("time.process_time", lambda: now["process_time"])
    monkeypatch.setattr("srvae_pyro.system.environment.busy_seconds", lambda: now["busy"])
    others = Others()
    assert math.isnan(others.look())  # nothing to compare with
    now |= {"monotonic": 12.0, "process_time": 4.0, "busy": 54.0}
    assert others.look() == 1.5


def test_a_containers_share_of_cores_is_read(tmp_path: Path) -> None:
    new, old = tmp_path / "cpu.max", [tmp_path / "quota", tmp_path / "period"]
    assert core_quota([[new], old]) == math.inf
    for path, text in zip((new, *old), ("max 100000\n", "-1\n", "100000\n"), strict=True):
        path.write_text(text)
    assert core_quota([[new], old]) == math.inf
    old[0].write_text("150000\n")
    assert core_quota([[new], old]) == 1.5
    new.write_text("400000 100000\n")
    assert core_quota([[new], old]) == 4


class Machine:
    """Eight cores, of which others use some; stands for PyTorch's threads too."""

    since, others, threads = -math.inf, 0.0, 8

    def look(self) -> float:
        return self.others


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    for name in device.DECIDED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(device, "OTHERS", made)
    monkeypatch.setattr(device, "allowed_cores", lambda: 8)
    monkeypatch.setattr(device, "core_quota", lambda: math.inf)
    monkeypatch.setattr(torch, "get_num_threads", lambda: made.threads)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: setattr(made, "threads", count))
    return made


@pytest.mark.parametrize(
    ("others", "count"), [(0, 8), (0.2, 8), (0.3, 7), (3, 5), (7.9, 1), (math.nan, 8)]
)
def test_threads_are_as_many_as_other_processes_leave_cores_for(
    others: float, count: int, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = Threads()
    threads.follow()
    assert machine.threads == 8
    machine.others = others
    threads.fit()
    assert machine.threads == count
    machine.others = 0
    threads.fit()
    assert machine.threads == 8
    told = "threads: 8 of 8, as other processes use 0.0 of 8 cores; --threads N fixes the number "
    assert capsys.readouterr().out == f"{told}(last bits depend on it)\n"  # once a minute


def test_a_number_of_threads_that_is_given_stays(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = Threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    machine.others = 4
    threads.follow()
    threads.fit()
    assert machine.threads == 8
    monkeypatch.delenv("OMP_NUM_THREADS")
    threads.fix(3)
    threads.fit()
    assert machine.threads == 3
    assert not capsys.readouterr().out


def test_nothing_is_chosen_while_the_number_of_threads_is_fixed(machine: Machine) -> None:
    threads = Threads()
    threads.follow()
    with threads.fixed(1):
        threads.fit()
        assert machine.threads == 1
    machine.others = 4
    threads.fit()
    assert machine.threads == 4


def test_a_containers_share_bounds_the_threads(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "core_quota", lambda: 2.5)
    Threads().follow()
    assert machine.threads == 3


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
    assert all("`precision=fp32`" in str(warning.message) for warning in caught)


def test_allocator_is_not_tuned_where_it_is_not_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", no_library)
    assert tune_allocator() is False
    monkeypatch.setattr(sys, "platform", "darwin")
    assert tune_allocator() is False
