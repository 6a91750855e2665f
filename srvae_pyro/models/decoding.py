"""How sites are drawn: by chance, at another temperature, or the most likely value."""

from __future__ import annotations

from typing import Any, Literal, get_args

import pyro.distributions as dist
from pyro.poutine.messenger import Messenger
from torch import Tensor

from srvae_pyro.distributions import DiscretizedLogisticMixture
from srvae_pyro.errors import UserError
from srvae_pyro.noise import GlobalNoise, Noise

__all__ = ["Decode", "Decoding", "base_of"]

Decoding = Literal["sample", "mode", "mean"]

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
            component's mean, colour by colour (what the published pictures show); ``mean`` takes
            the expectation, which is not on the grid, for the image ``top``, and the mode for the
            images below it: the networks above them have learnt from images on the grid only, and
            an expectation over many y is blurred as no y is.
        temperature: of the latents: standard deviations of the normals, and of the flow's base, are
            multiplied by it.
        image_temperature: of the likelihoods that are sampled from.
        noise: where the draws come from; PyTorch's global generator if not given.
        top: name of the image that is asked for.
    """

    def __init__(
        self,
        how: Decoding = "sample",
        temperature: float = 1.0,
        image_temperature: float = 1.0,
        noise: Noise | None = None,
        top: str = "x",
    ) -> None:
        super().__init__()
        if how not in get_args(Decoding):
            raise UserError(f"--decode is {', '.join(get_args(Decoding))}, not {how!r}")
        if temperature < 0 or image_temperature <= 0:
            raise UserError("a temperature of the latents is at least 0, of the images above 0")
        self.how = how
        self.temperature = temperature
        self.image_temperature = image_temperature
        self.noise = noise or GlobalNoise()
        self.top = top

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"] or msg["value"] is not None:
            return
        fn = msg["fn"]
        if isinstance(fn, DiscretizedLogisticMixture):
            msg["value"] = self._image(msg["name"], fn)
            msg["done"] = True
        elif isinstance(fn, _LATENTS):
            msg["value"] = self._latent(msg["name"], fn)
            msg["done"] = True

    def _image(self, name: str, fn: DiscretizedLogisticMixture) -> Tensor:
        if self.how != "sample":
            return fn.mean if self.how == "mean" and name == self.top else fn.mode
        if self.image_temperature != 1:
            fn = fn.with_temperature(self.image_temperature)
        channels, height, width = fn.event_shape
        like = fn.means.new_empty(()).expand(*fn.batch_shape, 1 + channels, height, width)
        return fn.draw(self.noise.uniform(name, like))

    def _latent(self, name: str, fn: Any) -> Tensor:
        """A draw with its spread multiplied by the temperature."""
        if isinstance(fn, dist.TransformedDistribution):
            value = self._latent(name, fn.base_dist)
            for transform in fn.transforms:
                value = transform(value)
            return value
        if isinstance(fn, dist.Independent):
            return self._latent(name, fn.base_dist)
        if not isinstance(fn, dist.MixtureSameFamily):
            mean = fn.mean.expand(fn.batch_shape)
            return mean + self.temperature * fn.stddev * self.noise.normal(name, mean)
        # The component keeps its chance; its own spread shrinks.
        normal = fn.component_distribution.base_dist
        like = normal.mean.new_empty(()).expand(*fn.batch_shape, 1, 1, 1)
        choice = self.noise.uniform(f"{name} component", like)[..., 0, 0]
        cumulative = fn.mixture_distribution.probs.cumsum(-1)[..., :-1]
        component = (choice >= cumulative).sum(-1)
        index = component.reshape(*component.shape, 1, 1, 1, 1)
        index = index.expand(*component.shape, 1, *normal.batch_shape[-3:])
        mean = normal.mean.expand(*component.shape, *normal.batch_shape[-4:])
        scale = normal.stddev.expand(*component.shape, *normal.batch_shape[-4:])
        mean = mean.gather(-4, index).squeeze(-4)
        scale = scale.gather(-4, index).squeeze(-4)
        return mean + self.temperature * scale * self.noise.normal(name, mean)


def base_of(fn: Any, value: Tensor) -> Tensor | None:
    """The standard normal noise that makes ``value`` a draw of a latent's distribution.

    The inverse of what :class:`Decode` does at temperature 1.

    Args:
        fn: the distribution, on events (C, H, W).
        value: (..., C, H, W).

    Returns:
        Noise (..., C, H, W); None for a mixture, where more than one draw makes the value.
    """
    if isinstance(fn, dist.MixtureSameFamily):
        return None
    if isinstance(fn, dist.TransformedDistribution):
        for transform in reversed(fn.transforms):
            value = transform.inv(value)
        return base_of(fn.base_dist, value)
    if isinstance(fn, dist.Independent):
        return base_of(fn.base_dist, value)
    return (value - fn.mean) / fn.stddev
