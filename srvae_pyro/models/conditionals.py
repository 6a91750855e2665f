"""The conditionals of the graphical models as networks.

A network here is a module that returns a distribution: ``p_y(u)`` is p(y|u) for that u. Tensors are
(..., C, H, W), with any leading dimensions, which are the distribution's batch shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.util import broadcast_shape
from torch import Tensor, nn

from srvae_pyro.config import Dense, ModelConfig
from srvae_pyro.distributions import DiscretizedLogisticMixture
from srvae_pyro.models.transforms import Transform
from srvae_pyro.networks import (
    Decoder,
    Encoder,
    PlainNetwork,
    channels_last,
    channels_last_on_gpus,
    init_heads,
)
from srvae_pyro.system.device import THREADS

# The start of likelihoods whose locations are relative to known pixels.
LOG_SCALES = (-5.0, -2.0)  # spread over the components
LOCATION_SPREAD = 0.1  # standard deviation of the locations to that of the other parameters
COLOURS = (0.8, 0.0, 0.8)  # coefficients at the start: each colour goes with the one before


def init_likelihood(network: nn.Module, config: ModelConfig, channels: int) -> None:
    """Set the targets of the data-dependent initialisation of a likelihood's head.

    Means of 0, or, if ``config.likelihood_start`` is "images", locations spread over [0.1, 0.9]
    and log-scales around -2.
    """
    k = config.components
    mean = torch.zeros(DiscretizedLogisticMixture.parameter_channels(k, channels))
    if config.likelihood_start == "images":
        locations = torch.linspace(0.1, 0.9, k).repeat_interleave(channels)  # (component, colour)
        mean[k : k + k * channels] = locations
        mean[k + k * channels : k + 2 * k * channels] = -2.0
    init_heads(network, config.likelihood_scale, mean)


def init_pixel_head(network: nn.Module, config: ModelConfig, channels: int, pixel: int) -> None:
    """The same for the head of one pixel of a block with a given average."""
    k = config.components
    colours = k * channels
    of_mixture = DiscretizedLogisticMixture.parameter_channels(k, channels)
    mean = torch.zeros(of_mixture + pixel * channels)  # the last ones of earlier pixels
    scale = torch.full_like(mean, config.likelihood_scale)
    locations, log_scales, coefficients = (
        slice(k + i * colours, k + (i + 1) * colours) for i in range(3)
    )
    scale[locations] *= LOCATION_SPREAD
    start = torch.linspace(*LOG_SCALES, k) if k > 1 else torch.tensor([sum(LOG_SCALES) / 2])
    mean[log_scales] = start.repeat_interleave(channels)
    if channels == 3:
        mean[coefficients] = torch.tensor([math.atanh(c) for c in COLOURS]).repeat(k)
    init_heads(network, scale, mean)


LOG_VARIANCE_RANGE = (-7.0, 7.0)


def over_images(network: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Apply ``network`` to inputs of any leading shape: (..., C, H, W) to (..., C', H', W').

    Leading shapes are broadcast, flattened and restored. If all inputs are repeated along a
    dimension the network runs once, and the dimension has size 1.
    """
    THREADS.fit()  # if a command adapts the number of threads
    inputs = tuple(_without_copies(x) for x in inputs)
    batch = broadcast_shape(*(x.shape[:-3] for x in inputs))
    flat = (x.expand(*batch, *x.shape[-3:]).reshape(-1, *x.shape[-3:]) for x in inputs)
    out = network(*map(channels_last, flat))
    return out.reshape(*batch, *out.shape[1:])


def _without_copies(x: Tensor) -> Tensor:
    """``x`` with leading dimensions that only repeat it (``expand``) narrowed to one."""
    for dim in range(x.dim() - 3):
        if x.stride(dim) == 0:
            x = x.narrow(dim, 0, 1)
    return x


def diagonal_normal(parameters: Tensor) -> dist.TorchDistribution:
    """N(mean, exp(log-variance)) from (..., 2C, H, W): means, then log-variances."""
    if parameters.dtype in (torch.bfloat16, torch.float16):
        parameters = parameters.float()
    mean, log_variance = parameters.chunk(2, dim=-3)
    return dist.Normal(mean, (0.5 * log_variance.clamp(*LOG_VARIANCE_RANGE)).exp()).to_event(3)


class ImageEncoder(nn.Module):
    """q(u|y) or q(z|x), an encoder of the image; or q(z|x,y), of x and y = d(x) stacked."""

    def __init__(
        self,
        config: ModelConfig,
        channels: int,
        dense: Dense,
        stages: int,
        d: Transform | None = None,
        widening: int | None = None,
    ) -> None:
        super().__init__()
        self.d = d
        latent = config.latent_channels
        self.encoder = Encoder(channels, 2 * latent, dense, stages, widening=widening)
        # Of the means, of the log-variances.
        scale = torch.tensor([config.posterior_scale or config.head_scale, config.head_scale])
        mean = torch.tensor([0.0, config.posterior_log_variance])
        init_heads(self, scale.repeat_interleave(latent), mean.repeat_interleave(latent))

    def network(self, image: Tensor) -> Tensor:
        """(B, 2 * latent channels, h, w), from the image (B, C, H, W)."""
        if self.d is not None:
            lifted = self.d.lift(self.d(image), image.shape[-2:])
            image = torch.cat([image, channels_last_on_gpus(lifted)], dim=1)
        return self.encoder(image)

    def parameters_of(self, image: Tensor) -> Tensor:
        """(..., 2 * latent channels, h, w): means, then log-variances before their clamp."""
        return over_images(self.network, image)

    def forward(self, image: Tensor) -> dist.TorchDistribution:
        return diagonal_normal(self.parameters_of(image))


class ZGivenYU(nn.Module):
    """p(z|y,u): the prior of a level's latent given the level below, its image y and latent u."""

    def __init__(
        self, config: ModelConfig, channels: int, stages: int, u_stages: int | None = None
    ) -> None:
        super().__init__()
        latent = config.latent_channels
        y, u, joint = config.p_z_from_y, config.p_z_from_u, config.p_z
        self.from_y = Encoder(channels, latent, y, stages, head=False)
        smaller = 0 if u_stages is None else u_stages - stages  # u than z
        self.from_u: nn.Module
        if smaller > 0:
            self.from_u = Decoder(latent, latent, u, smaller, head=False)
        elif smaller < 0:
            self.from_u = Encoder(latent, latent, u, -smaller, head=False)
        else:
            self.from_u = PlainNetwork(latent, latent, u, head=False)
        self.joint = PlainNetwork(2 * latent, 2 * latent, joint)
        init_heads(self, config.head_scale)

    def encode(self, y: Tensor) -> Tensor:
        """Features of y, (..., latent channels, h, w)."""
        return over_images(lambda y: F.elu(self.from_y(y)), y)

    def from_encoded(self, encoded: Tensor, u: Tensor) -> Tensor:
        """As :meth:`parameters_of`, from :meth:`encode`'s features of y."""
        of_u = over_images(self.from_u, u)
        return over_images(lambda *parts: self.joint(torch.cat(parts, dim=1)), encoded, of_u)

    def parameters_of(self, y: Tensor, u: Tensor) -> Tensor:
        """(..., 2 * latent channels, h, w), as of :class:`ImageEncoder`."""
        return self.from_encoded(self.encode(y), u)

    def bind(self, y: Tensor) -> Callable[[Tensor], dist.TorchDistribution]:
        """p(z|y, .) as a function of u, with y encoded once for many u."""
        encoded = self.encode(y)
        return lambda u: diagonal_normal(self.from_encoded(encoded, u))

    def forward(self, y: Tensor, u: Tensor) -> dist.TorchDistribution:
        return self.bind(y)(u)


class ImageGivenLatent(nn.Module):
    """p(y|u), or the one-level VAE's p(x|z): a decoder of the latent."""

    def __init__(self, config: ModelConfig, channels: int, dense: Dense, stages: int) -> None:
        super().__init__()
        self.channels = channels
        out = DiscretizedLogisticMixture.parameter_channels(config.components, channels)
        self.decoder = Decoder(config.latent_channels, out, dense, stages)
        init_likelihood(self.decoder, config, channels)

    def parameters_of(self, latent: Tensor) -> Tensor:
        """(..., channels of the likelihood, H, W)."""
        return over_images(self.decoder, latent)

    def forward(self, latent: Tensor) -> DiscretizedLogisticMixture:
        return DiscretizedLogisticMixture.from_channels(self.parameters_of(latent), self.channels)


class XGivenYZ(nn.Module):
    """p(x|y,z): a level's image given the image below, brought to its size, and its latent.

    Example:
        >>> from srvae_pyro.models.transforms import make_transform
        >>> config = ModelConfig(
        ...     latent_channels=4, components=2, p_x_from_z=Dense(8, 2), p_x=Dense(4, 2, blocks=1)
        ... )
        >>> p_x = XGivenYZ(config, make_transform("downscale2"), 3, 3)
        >>> likelihood = p_x(torch.rand(5, 3, 16, 16), torch.randn(5, 4, 8, 8))
        >>> x = likelihood.sample()
        >>> x.shape, likelihood.log_prob(x).shape
        (torch.Size([5, 3, 32, 32]), torch.Size([5]))
    """

    def __init__(
        self, config: ModelConfig, d: Transform, channels: int, lower_channels: int
    ) -> None:
        super().__init__()
        self.channels = channels
        self.d = d
        out = DiscretizedLogisticMixture.parameter_channels(config.components, channels)
        detail = config.p_x_z_channels or out
        self.from_z = Decoder(
            config.latent_channels, detail, config.p_x_from_z, config.stages, head=False
        )
        self.joint = PlainNetwork(
            lower_channels + detail, out, config.p_x, full_precision_input=True
        )
        init_likelihood(self.joint, config, channels)

    def network(self, y: Tensor, z: Tensor) -> Tensor:
        """(B, channels of the likelihood, H, W), from y (B, C, h, w) and z."""
        detail = self.from_z(z)
        # In float32: bfloat16 would round y by up to half a level of 256, and x is close to y.
        lifted = channels_last_on_gpus(self.d.lift(y, detail.shape[-2:]))
        return self.joint(torch.cat([lifted, detail.to(lifted.dtype)], dim=1))

    def parameters_of(self, y: Tensor, z: Tensor) -> Tensor:
        """(..., channels of the likelihood, H, W)."""
        return over_images(self.network, y, z)

    def forward(self, y: Tensor, z: Tensor) -> DiscretizedLogisticMixture:
        return DiscretizedLogisticMixture.from_channels(self.parameters_of(y, z), self.channels)
