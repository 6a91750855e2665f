"""What all commands have in common."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from srvae_pyro.commands import run_command


@dataclass
class Arguments:
    """Some of each kind."""

    images: tuple[Path, ...] = ()
    out: Path | None = None
    run: str = ""
    count: int = 1


def test_every_path_has_its_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    line = ["command", "--images", "~/a.png", "b~.png", "--out=~/x", "--run=~/runs/r"]
    monkeypatch.setattr(sys, "argv", line)
    given: list[Arguments] = []
    with pytest.raises(SystemExit):
        run_command(Arguments, lambda arguments: given.append(arguments), "command")
    assert given == [
        Arguments(
            (Path("/home/me/a.png"), Path("b~.png")), Path("/home/me/x"), "/home/me/runs/r", 1
        )
    ]
