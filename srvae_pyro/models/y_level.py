"""The srVAE's lower level alone: a VAE of y = d(x), its first lines and its networks.

::

    model:  u ~ p(u)                guide:  y = d(x)
            y ~ p(y|u)                      u ~ q(u|y)
"""

from __future__ import annotations

from typing import ClassVar

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from srvae_pyro.models.base import Levels, images_plate
from srvae_pyro.models.srvae import SRVAE
from srvae_pyro.models.transforms import Transform


class YLevelModel(nn.Module):
    """p(y, u) = p(y|u) p(u), a Pyro program."""

    levels: ClassVar[Levels] = (("u", "y"),)

    def __init__(self, p_u: nn.Module, p_y: nn.Module) -> None:
        super().__init__()
        self.p_u = p_u
        self.p_y = p_y

    def forward(self, x: Tensor) -> Tensor:
        """As many images y as there are images x (B, C, H, W)."""
        with images_plate(x):
            u = pyro.sample("u", self.p_u(None))
            return pyro.sample("y", self.p_y(u))


class YLevelGuide(nn.Module):
    """q(y, u|x) = q(u|y) delta(y = d(x)), a Pyro program."""

    def __init__(self, d: Transform, q_u: nn.Module) -> None:
        super().__init__()
        self.d = d
        self.q_u = q_u

    def forward(self, x: Tensor) -> None:
        """Sample y and u of the images x (B, C, H, W)."""
        with images_plate(x):
            y = pyro.sample("y", dist.Delta(self.d(x), event_dim=3))
            pyro.sample("u", self.q_u(y))


class YLevelVAE(nn.Module):
    """A model and guide pair of y = d(x) alone, of a srVAE's networks and with no others."""

    def __init__(self, srvae: SRVAE) -> None:
        super().__init__()
        self.model = YLevelModel(srvae.model.p_u, srvae.model.p_y)
        self.guide = YLevelGuide(srvae.guide.d, srvae.guide.q_u)
