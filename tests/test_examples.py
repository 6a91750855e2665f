"""The examples in the package's docstrings run and print what they show."""

import doctest
import importlib
from pathlib import Path

import pytest

import srvae_pyro

ROOT = Path(srvae_pyro.__file__).parent


def has_examples(path: Path) -> bool:
    lines = path.read_text(encoding="utf-8").splitlines()
    return any(">>> " in line and "+SKIP" not in line for line in lines)


MODULES = [
    ".".join(("srvae_pyro", *path.relative_to(ROOT).with_suffix("").parts))
    for path in sorted(ROOT.rglob("*.py"))
    if has_examples(path)
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
