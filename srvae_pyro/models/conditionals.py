"""The networks of the graphical models: each computes a conditional and returns a distribution."""

from __future__ import annotations

from collections.abc import Callable

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srvae_pyro.config import Dense, ModelConfig
from srvae_pyro.data.transforms import Transform
from srvae_pyro.distributions import DiscretizedLogisticMixture
from srvae_pyro.networks import Decoder, Encoder, PlainNetwork

__all__ = [
    "ImageGivenLatent",
    "ImageGivenLower",
    "LatentGivenImages",
    "LatentGivenLower",
    "over_images",
]

LOG_VARIANCE_RANGE = (-7.0, 7.0)
MEMORY_FORMAT = torch.channels_last  # of what networks work on: faster on CPUs and GPUs


def over_images(network: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Apply ``network`` to inputs of any leading shape: (..., C, H, W) to (..., C', H', W').

    The leading shapes are broadcast against each other, flattened to one and restored. Where all
    inputs are repeated along a dimension the network runs once, and the dimension has size 1.
    """
    inputs = tuple(_without_copies(x) for x in inputs)
    batch = torch.broadcast_shapes(*(x.shape[:-3] for x in inputs))
    flat = (x.expand(*batch, *x.shape[-3:]).reshape(-1, *x.shape[-3:]) for x in inputs)
    out = network(*(x.contiguous(memory_format=MEMORY_FORMAT) for x in flat))
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


class LatentGivenImages(nn.Module):
    """q(u|y) or q(z|x), an encoder of the image; or q(z|x,y), of x and y = d(x) stacked.

    Args:
        config: the model's.
        channels: channels of the image, those of d's included.
        dense: of the encoder.
        stages: how often the resolution is halved.
        d: the transform whose y is seen beside x, if it is.
    """

    def __init__(
        self,
        config: ModelConfig,
        channels: int,
        dense: Dense,
        stages: int,
        d: Transform | None = None,
    ) -> None:
        super().__init__()
        self.d = d
        self.encoder = Encoder(
            channels,
            2 * config.latent_channels,
            dense.growth,
            dense.steps,
            stages,
            init_scale=config.init_scale,
            head_scale=config.head_scale,
        )
        if config.posterior_scale or config.posterior_log_variance:
            head = self.encoder[-1]
            start = torch.full((2, config.latent_channels), config.head_scale)
            start[0] = config.posterior_scale or config.head_scale
            head.init_scale = start.flatten()
            start = torch.zeros(2, config.latent_channels)
            start[1] = config.posterior_log_variance
            head.init_mean = start.flatten()

    def network(self, image: Tensor) -> Tensor:
        if self.d is not None:
            image = torch.cat([image, self.d.lift(self.d(image), image.shape[-2:])], dim=1)
        return self.encoder(image)

    def parameters_of(self, image: Tensor) -> Tensor:
        """(..., 2 * latent channels, h, w): means, then log-variances before their clamp."""
        return over_images(self.network, image)

    def forward(self, image: Tensor) -> dist.TorchDistribution:
        return diagonal_normal(self.parameters_of(image))


class LatentGivenLower(nn.Module):
    """p(z|y,u): the prior of a level's latent given the level below, its image y and latent u.

    Args:
        config: the model's.
        channels: channels of y.
        stages: how often y's resolution is halved to reach the latents'.
    """

    def __init__(self, config: ModelConfig, channels: int, stages: int) -> None:
        super().__init__()
        latent = config.latent_channels
        y, u, joint = config.p_z_from_y, config.p_z_from_u, config.p_z
        scale = config.init_scale
        self.from_y = Encoder(
            channels,
            latent,
            y.growth,
            y.steps,
            stages,
            init_scale=scale,
            head_scale=scale,
            full_precision=False,
        )
        self.from_u = PlainNetwork(
            latent,
            latent,
            u.growth,
            u.steps,
            u.blocks,
            init_scale=scale,
            head_scale=scale,
            full_precision=False,
        )
        self.joint = PlainNetwork(
            2 * latent,
            2 * latent,
            joint.growth,
            joint.steps,
            joint.blocks,
            init_scale=scale,
            head_scale=config.head_scale,
        )

    def encode(self, y: Tensor) -> Tensor:
        """What of y the rest needs, (..., latent channels, h, w)."""
        return over_images(lambda y: F.elu(self.from_y(y)), y)

    def from_encoded(self, encoded: Tensor, u: Tensor) -> Tensor:
        of_u = over_images(self.from_u, u)
        return over_images(lambda *parts: self.joint(torch.cat(parts, dim=1)), encoded, of_u)

    def parameters_of(self, y: Tensor, u: Tensor) -> Tensor:
        """(..., 2 * latent channels, h, w): means, then log-variances before their clamp."""
        return self.from_encoded(self.encode(y), u)

    def given(self, y: Tensor) -> Callable[[Tensor], dist.TorchDistribution]:
        """p(z|y, .) as a function of u, with y encoded once for many u."""
        encoded = self.encode(y)
        return lambda u: diagonal_normal(self.from_encoded(encoded, u))

    def forward(self, y: Tensor, u: Tensor) -> dist.TorchDistribution:
        return self.given(y)(u)


def start_likelihood(head: nn.Module, config: ModelConfig, channels: int) -> None:
    """Set what a likelihood's last layer is initialised to: see ``likelihood_start``."""
    if config.likelihood_start == "published":
        return
    k = config.components
    means = torch.linspace(0.1, 0.9, k).repeat_interleave(channels)  # (component, colour)
    start = torch.zeros(DiscretizedLogisticMixture.parameter_channels(k, channels))
    start[k : k + k * channels] = means
    start[k + k * channels : k + 2 * k * channels] = -2.0
    head.init_mean = start


class ImageGivenLatent(nn.Module):
    """p(y|u), or the one-level VAE's p(x|z): a decoder of the latent.

    Args:
        config: the model's.
        channels: channels of the image.
        dense: of the decoder.
        stages: how often the resolution is doubled.
    """

    def __init__(self, config: ModelConfig, channels: int, dense: Dense, stages: int) -> None:
        super().__init__()
        self.channels = channels
        self.decoder = Decoder(
            config.latent_channels,
            DiscretizedLogisticMixture.parameter_channels(config.components, channels),
            dense.growth,
            dense.steps,
            stages,
            init_scale=config.init_scale,
            head_scale=config.likelihood_scale,
        )
        start_likelihood(self.decoder[-1], config, channels)

    def parameters_of(self, latent: Tensor) -> Tensor:
        """(..., channels of the likelihood, H, W)."""
        return over_images(self.decoder, latent)

    def forward(self, latent: Tensor) -> DiscretizedLogisticMixture:
        return DiscretizedLogisticMixture.from_channels(self.parameters_of(latent), self.channels)


class ImageGivenLower(nn.Module):
    """p(x|y,z): a level's image given the image below, brought to its size, and its latent.

    Args:
        config: the model's.
        d: the y = d(x) of the level below; brings y to x's size.
        channels: channels of x.
        lower_channels: channels of y.
    """

    def __init__(
        self, config: ModelConfig, d: Transform, channels: int, lower_channels: int
    ) -> None:
        super().__init__()
        self.channels = channels
        self.d = d
        out = DiscretizedLogisticMixture.parameter_channels(config.components, channels)
        z, joint = config.p_x_from_z, config.p_x
        scale = config.init_scale
        # As many channels from z as the likelihood has parameters: 100 in the published networks.
        self.from_z = Decoder(
            config.latent_channels,
            config.p_x_z_channels or out,
            z.growth,
            z.steps,
            config.stages,
            init_scale=scale,
            head_scale=scale,
            full_precision=False,
        )
        self.joint = PlainNetwork(
            lower_channels + (config.p_x_z_channels or out),
            out,
            joint.growth,
            joint.steps,
            joint.blocks,
            init_scale=scale,
            head_scale=config.likelihood_scale,
            full_precision_input=True,
        )
        start_likelihood(self.joint[-1], config, channels)

    def network(self, y: Tensor, z: Tensor) -> Tensor:
        detail = self.from_z(z)
        # In float32: bfloat16 would round y by up to half a level of 256, and x is close to y.
        lifted = self.d.lift(y, detail.shape[-2:])
        return self.joint(torch.cat([lifted, detail.to(lifted.dtype)], dim=1))

    def parameters_of(self, y: Tensor, z: Tensor) -> Tensor:
        """(..., channels of the likelihood, H, W)."""
        return over_images(self.network, y, z)

    def forward(self, y: Tensor, z: Tensor) -> DiscretizedLogisticMixture:
        return DiscretizedLogisticMixture.from_channels(self.parameters_of(y, z), self.channels)
