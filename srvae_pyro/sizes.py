"""How large a network is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from srvae_pyro.checked import Between, Settings

__all__ = ["Dense", "Residual"]


@dataclass(frozen=True)
class Dense(Settings):
    """Growth, steps and blocks of a network of dense blocks."""

    growth: Annotated[int, Between(1, 4096), "channels each dense step adds, in the first block"]
    steps: Annotated[int, Between(1, 256), "dense steps a block"]
    blocks: Annotated[int, Between(1, 64), "blocks at constant resolution (plain networks)"] = 1
    attention: Annotated[
        bool, "channel attention after each block, which averages over all that it sees"
    ] = True


@dataclass(frozen=True)
class Residual(Settings):
    """Width and blocks of the residual networks of groups of pixels."""

    width: Annotated[int, Between(1, 4096), "channels"]
    blocks: Annotated[int, Between(0, 64), "residual blocks of each group's network"] = 2
    shared: Annotated[
        int,
        Between(0, 256),
        "residual blocks before the four networks, which see the coarser image, computed once",
    ] = 0
    estimate: Annotated[
        bool,
        "these blocks also say one finer image, from which the four networks' locations start",
    ] = False
