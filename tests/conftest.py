"""The order of the tests, and the state in which each starts."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch

# One thread: tests compare bits, and run side by side. The commands that they start likewise.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)


# The longest files, which start first, so that no process has one left when the others are done.
LONGEST = (
    "training/test_parallel.py",
    "page/test_served.py",
    "system/test_fake_cuda.py",
    "training/test_command.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the others stay in their order."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get("/".join(item.path.parts[-2:]), len(places)))


@pytest.fixture(autouse=True)
def _clean_start() -> None:
    """No parameters of earlier tests in Pyro's store, a fixed seed, Pyro's validation on."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    pyro.enable_validation(True)


@pytest.fixture
def as_in_a_run(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pyro's checks off, as the command has them; metrics every second step; little drawing."""

    def draw(model: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
        torch.rand(7)  # as drawing would use random numbers
        return {"nothing": torch.zeros(3, 8, 8)}

    monkeypatch.setattr("srvae_pyro.training.loop.LOG_EVERY", 2)
    monkeypatch.setattr("srvae_pyro.training.validation.progress_figures", draw)
    pyro.enable_validation(False)
    yield
    pyro.enable_validation(True)


@pytest.fixture
def two_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expectations in two strips of an image: small ones take as long as each strip does."""
    monkeypatch.setattr("srvae_pyro.distributions.truncated_mixture.STRIPS", 2)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder, as the one in which the test runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
