"""What README and documentation say holds: code runs, counts are those of the presets."""

import re
import textwrap
from pathlib import Path
from typing import Any, get_args

import pyro
import pytest
import torch

from srvae_pyro.config import DATA_SETS, TransformName
from srvae_pyro.data import load_data
from srvae_pyro.data.load import LOADERS
from srvae_pyro.models import make_model
from srvae_pyro.models.transforms import TRANSFORMS, make_transform
from srvae_pyro.pixels import to_levels, to_unit
from srvae_pyro.presets import PRESETS, Preset, preset

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
REFERENCE = ROOT / "docs" / "reference"


def block_with(text: str, page: str = README) -> str:
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    return next(block for block in blocks if text in block)


@pytest.mark.parametrize("text", ["self.p_u(size)", "self.q_u(y)"])
def test_the_programs_are_those_of_the_package(text: str) -> None:
    source = (ROOT / "srvae_pyro" / "models" / "srvae.py").read_text(encoding="utf-8")
    assert textwrap.indent(block_with(text), 8 * " ") in source


def test_readme_example_runs() -> None:
    pyro.enable_validation(False)
    names: dict[str, Any] = {}
    exec(block_with("srvae_pyro.load("), names)
    assert names["outputs"].shape == (8, 4, 3, 32, 32)
    assert names["log_p"].shape == (4,)
    assert torch.equal(names["net"].guide.d(names["x_given_y"]), names["y"])
    assert names["draws"]["x"].shape == (2, 4, 3, 32, 32)


def test_pyro_example_runs() -> None:
    pyro.enable_validation(False)
    names: dict[str, Any] = {}
    page = (REFERENCE / "python" / "index.md").read_text(encoding="utf-8")
    exec(block_with("SVI(", page), names)
    assert names["samples"]["x"].shape == (4, 8, 3, 32, 32)
    assert torch.equal(
        pyro.poutine.trace(names["given_y"]).get_trace(count=8).nodes["y"]["value"], names["y"]
    )


def test_what_one_writes_oneself_works() -> None:
    pyro.enable_validation(False)
    page = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    loaders = dict(LOADERS)
    try:
        for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
            exec(block, names)
        static = load_data("static", ROOT)
    finally:
        LOADERS.clear()
        LOADERS.update(loaders)
    net, x = names["net"], names["x"]
    assert torch.equal(net.guide.d(x), x[..., ::2, ::2])
    assert net.model.p_u.log_scale.grad.abs().sum() > 0
    assert net.model.p_x.convolution.weight.grad.abs().sum() > 0
    assert names["outputs"].shape == (2, 4, 3, 32, 32)
    assert torch.equal(to_unit(to_levels(names["outputs"])), names["outputs"])
    assert names["log_p"].isfinite().all()
    assert names["dark"].shape == x.shape
    assert (len(static.train), static.shape) == (80, (3, 32, 32))


@pytest.mark.parametrize("transform", get_args(TransformName))
def test_every_name_has_what_it_names(transform: str) -> None:
    assert TRANSFORMS.keys() == set(get_args(TransformName))
    assert make_transform(transform).name == transform
    assert LOADERS.keys() == set(DATA_SETS)


@pytest.mark.parametrize("name", PRESETS)
def test_table_has_the_parameter_counts(name: Preset) -> None:
    page = (REFERENCE / "configuration.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
    stated = re.findall(r"\d[\d,]{4,}", row)
    counted = [
        sum(p.numel() for p in make_model(preset(name, model)[0]).parameters())
        for model in ("srvae", "vae")
    ]
    assert [int(number.replace(",", "")) for number in stated] == counted


@pytest.mark.parametrize("model", ["srvae", "vae"])
def test_small_presets_are_of_the_published_family(model: str) -> None:
    published, *others = [preset(name, model)[0] for name in PRESETS]
    for config in others:
        assert (config.stages, config.latent_channels, config.p_u) == (
            published.stages,
            published.latent_channels,
            published.p_u,
        )
