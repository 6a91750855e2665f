"""How sites are drawn: by chance, at another temperature, or the most likely value."""

from __future__ import annotations

from typing import Any, Literal

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger

from srvae_pyro.distributions import DiscretizedLogisticMixture
from srvae_pyro.errors import UserError

__all__ = ["Decode", "Decoding"]

Decoding = Literal["sample", "mode"]

_LATENTS = (
    dist.Independent,
    dist.Normal,
    dist.TransformedDistribution,
    dist.MixtureSameFamily,
)


class Decode(Messenger):
    """A Pyro effect handler that changes how unobserved sites are drawn.

    Args:
        how: ``sample`` draws an image's pixels from the likelihood; ``mode`` takes the likeliest
            component's mean, colour by colour (what the published pictures show).
        temperature: of the latents: standard deviations of the normals, and of the flow's base, are
            multiplied by it.
        image_temperature: of the likelihoods that are sampled from.
    """

    def __init__(
        self,
        how: Decoding = "sample",
        temperature: float = 1.0,
        image_temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if how not in ("sample", "mode"):
            raise UserError(f"--decode is sample or mode, not {how!r}")
        if temperature < 0 or image_temperature <= 0:
            raise UserError("a temperature of the latents is at least 0, of the images above 0")
        self.how = how
        self.temperature = temperature
        self.image_temperature = image_temperature

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"] or msg["value"] is not None:
            return
        fn = msg["fn"]
        if isinstance(fn, DiscretizedLogisticMixture):
            if self.how == "mode":
                msg["value"] = fn.mode
                msg["done"] = True
            elif self.image_temperature != 1:
                msg["fn"] = fn.with_temperature(self.image_temperature)
        elif self.temperature != 1 and isinstance(fn, _LATENTS):
            msg["value"] = _cooled(fn, self.temperature)
            msg["done"] = True


def _cooled(fn: Any, temperature: float) -> Any:
    """A draw from a latent's distribution with its spread multiplied by ``temperature``."""
    if isinstance(fn, dist.TransformedDistribution):
        value = _cooled(fn.base_dist, temperature)
        for transform in fn.transforms:
            value = transform(value)
        return value
    if isinstance(fn, dist.Independent):
        return _cooled(fn.base_dist, temperature)
    if isinstance(fn, dist.MixtureSameFamily):
        # The component keeps its chance; its own spread shrinks.
        component = fn.mixture_distribution.sample()
        normal = fn.component_distribution.base_dist
        index = component.reshape(*component.shape, 1, 1, 1, 1)
        index = index.expand(*component.shape, 1, *normal.batch_shape[-3:])
        mean = normal.mean.expand(*component.shape, *normal.batch_shape[-4:])
        scale = normal.stddev.expand(*component.shape, *normal.batch_shape[-4:])
        mean = mean.gather(-4, index).squeeze(-4)
        scale = scale.gather(-4, index).squeeze(-4)
        return mean + temperature * scale * torch.randn_like(mean)
    return fn.mean + temperature * fn.stddev * torch.randn_like(fn.mean)
