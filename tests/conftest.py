"""What the tests share: a clean start, tiny models and random images."""

import os
from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor

from srvae_pyro.config import Dense, ModelConfig, Residual

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


@pytest.fixture(scope="session")
def tiny() -> Callable[..., ModelConfig]:
    """Makes the config of a tiny model of 3x16x16 images, with any settings changed."""

    def make(**changes: Any) -> ModelConfig:
        dense, plain = Dense(4, 2), Dense(4, 2, 2)
        settings: dict[str, Any] = {
            "image_shape": (3, 16, 16),
            "latent_channels": 4,
            "components": 2,
            "p_u_network": Dense(4, 1),
            "p_u_components": 3,
            **dict.fromkeys(("q_u", "p_y", "q_z", "p_z_from_y", "p_x_from_z"), dense),
            **dict.fromkeys(("p_z_from_u", "p_z", "p_x"), plain),
            "groups": Residual(4, 1),
            "pyramid": Residual(4, 1),
            "pyramid_channels": 5,
            "init_scale": 0.1,
            "head_scale": 0.1,
            "likelihood_scale": 0.1,
        }
        return ModelConfig(**(settings | changes))

    return make


@pytest.fixture
def two_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expectations in two strips of an image: small ones take as long as each strip does."""
    monkeypatch.setattr("srvae_pyro.distributions.truncated_mixture.STRIPS", 2)


@pytest.fixture(scope="session")
def make_images() -> Callable[..., Tensor]:
    """Makes random images (B, C, H, W) on the grid k/255."""

    def make(count: int = 4, shape: tuple[int, int, int] = (3, 16, 16), seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(0, 256, (count, *shape), generator=generator) / 255

    return make
