"""What the README says holds: its code runs, its counts are those of the presets."""

import re
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch

from srvae_pyro.models import make_model
from srvae_pyro.presets import PRESETS, Preset, preset

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def block_with(text: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    return next(block for block in blocks if text in block)


def test_pyro_example_runs() -> None:
    pyro.enable_validation(False)
    names: dict[str, Any] = {}
    exec(block_with("SVI("), names)
    assert names["samples"]["x"].shape == (4, 8, 3, 32, 32)
    assert torch.equal(
        pyro.poutine.trace(names["given_y"]).get_trace(count=8).nodes["y"]["value"], names["y"]
    )


@pytest.mark.parametrize("name", PRESETS)
def test_table_has_the_parameter_counts(name: Preset) -> None:
    row = next(line for line in README.splitlines() if line.startswith(f"| `{name}` |"))
    stated = re.findall(r"\d[\d,]{4,}", row)
    counted = [
        sum(p.numel() for p in make_model(preset(name, model)[0]).parameters())
        for model in ("srvae", "vae")
    ]
    assert [int(number.replace(",", "")) for number in stated] == counted


@pytest.mark.parametrize("model", ["srvae", "vae"])
def test_small_presets_are_of_the_published_family(model: str) -> None:
    published, *others = [preset(name, model)[0] for name in PRESETS]  # type: ignore[arg-type]
    for config in others:
        assert (config.stages, config.latent_channels, config.prior, config.transform) == (
            published.stages,
            published.latent_channels,
            published.prior,
            published.transform,
        )
