"""What the README says holds: its code runs, its counts are those of the presets."""

import re
import textwrap
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch

from srvae_pyro.models import make_model
from srvae_pyro.presets import PRESETS, Preset, preset

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block_with(text: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    return next(block for block in blocks if text in block)


@pytest.mark.parametrize("text", ["self.p_u(size)", "self.q_u(y)"])
def test_the_programs_are_those_of_the_package(text: str) -> None:
    source = (ROOT / "srvae_pyro" / "models" / "srvae.py").read_text(encoding="utf-8")
    assert textwrap.indent(block_with(text), 8 * " ") in source


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
        assert (config.stages, config.latent_channels, config.p_u, config.d) == (
            published.stages,
            published.latent_channels,
            published.p_u,
            published.d,
        )
