"""Super-resolution of y of any size: one answer x for each."""

from __future__ import annotations

import torch
from torch import Tensor

from srvae_pyro.inference.decoding import Decode, Decoding
from srvae_pyro.inference.noise import Noise
from srvae_pyro.models import SRVAE
from srvae_pyro.networks import cached_weights
from srvae_pyro.system.device import sent

__all__ = ["answers"]


@torch.no_grad()
@cached_weights()
def answers(
    model: SRVAE,
    y: Tensor,
    decode: Decoding = "sample",
    temperature: float = 1.0,
    image_temperature: float = 1.0,
    noise: Noise | None = None,
) -> Tensor:
    """One answer x (B, C, H, W) for each y (B, c, h, w) of any size, by the model's own program.

    Unlike by ``SRVAE.super_resolve`` each network runs once; what p(u) demands of y's size does not
    hold here.
    """
    with Decode(decode, temperature, image_temperature, noise):
        return model.super_resolution(sent(y, model.device))
