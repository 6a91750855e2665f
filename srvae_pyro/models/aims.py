"""What data-dependent initialisation aims the heads of likelihoods at."""

from __future__ import annotations

import math

import torch
from torch import nn

from srvae_pyro.config import ModelConfig
from srvae_pyro.distributions import DiscretizedLogisticMixture
from srvae_pyro.networks import aim_heads

__all__ = ["aim_likelihood", "aim_pixel"]

# How likelihoods start whose locations are relative to pixels that are known.
LOG_SCALES = (-5.0, -2.0)  # spread over the components
LOCATION_SPREAD = 0.1  # standard deviation of the locations to that of the other parameters
COLOURS = (0.8, 0.0, 0.8)  # coefficients at the start: each colour goes with the one before


def aim_likelihood(network: nn.Module, config: ModelConfig, channels: int) -> None:
    """Set what the initialisation of a likelihood's head aims at.

    Zero on average, or, where ``config.likelihood_start`` is "pictures", locations spread over
    [0.1, 0.9] and log-scales around -2.

    Args:
        network: ends in the head.
        config: the model's.
        channels: channels of the image.
    """
    k = config.components
    mean = torch.zeros(DiscretizedLogisticMixture.parameter_channels(k, channels))
    if config.likelihood_start == "pictures":
        locations = torch.linspace(0.1, 0.9, k).repeat_interleave(channels)  # (component, colour)
        mean[k : k + k * channels] = locations
        mean[k + k * channels : k + 2 * k * channels] = -2.0
    aim_heads(network, config.likelihood_scale, mean)


def aim_pixel(network: nn.Module, config: ModelConfig, channels: int, pixel: int) -> None:
    """Set what the initialisation of the head of one pixel of a block, 0 to 3, aims at.

    Args:
        network: ends in the head.
        config: the model's.
        channels: channels of the image.
        pixel: which, of a block whose average is given.
    """
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
    aim_heads(network, scale, mean)
