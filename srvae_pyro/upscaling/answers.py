"""Super-resolution of y: one answer x, drawn site by site."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor

from srvae_pyro.models import SRVAE
from srvae_pyro.models.base import images_plate
from srvae_pyro.models.decoding import Decode, Decoding
from srvae_pyro.networks import cached_weights
from srvae_pyro.noise import Noise

__all__ = ["answers"]


@torch.no_grad()
@cached_weights()
def answers(
    model: SRVAE,
    y: Tensor,
    noise: Noise | None = None,
    *,
    decode: Decoding = "sample",
    temperature: float = 1.0,
    image_temperature: float = 1.0,
) -> Tensor:
    """One answer x (B, C, H, W) for each y (B, c, h, w), as ``SRVAE.super_resolve`` draws them.

    Neither p(y|u) nor the prior of u is evaluated, which x given y does not need; the prior's
    demands on y's size therefore do not hold here.
    """
    y = y.to(model.device)
    with Decode(decode, temperature, image_temperature, noise), images_plate(y, 0):
        u = model.guide.lower.infer(y)
        z = pyro.sample(model.model.latent, model.model.prior(y, u))
        x: Tensor = pyro.sample(model.model.image, model.model.likelihood(y, z))
    return x
