"""The benchmark of runs that differ in one thing: its flags."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def studies(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("studies")


def test_a_part_is_two_numbers(studies: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert studies.part("2/3") == (2, 3)
    for text in ("x", "3", "0/2", "3/2", "1/-2", "1/2/3"):
        monkeypatch.setattr(sys, "argv", ["studies", "small", "--part", text])
        with pytest.raises(SystemExit) as stopped:
            studies.main()
        assert stopped.value.code == 2


def test_a_runs_own_flags_go_before_the_shared_ones(studies: ModuleType) -> None:
    shared = ("--preset", "small", "--kl-warmup", "1", "--set", "a=1")
    joined = studies.joined(("--kl-warmup", "3", "--set", "b=2"), shared)
    assert joined == ["--kl-warmup", "3", "--set", "b=2", "a=1", "--preset", "small"]
