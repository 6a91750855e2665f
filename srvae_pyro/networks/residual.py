"""Residual networks, and ways to run networks that change neither parameters nor results."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from srvae_pyro.networks.dense import Decoder, DenseBlock, Encoder, PlainNetwork
from srvae_pyro.networks.layers import WeightNormConv2d


class ResidualBlock(nn.Module):
    """x plus two 3x3 convolutions of it, each after an ELU, (B, c, H, W) to the same.

    References:
        He et al., Identity Mappings in Deep Residual Networks, 2016, arXiv:1603.05027.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = WeightNormConv2d(channels, channels, 3)
        self.second = WeightNormConv2d(channels, channels, 3)
        self.checkpoint = False

    def forward(self, x: Tensor) -> Tensor:
        if self.checkpoint and torch.is_grad_enabled():
            added: Tensor = checkpoint(self.added, x, use_reentrant=False)
        else:
            added = self.added(x)
        return x + added

    def added(self, x: Tensor) -> Tensor:
        return self.second(F.elu(self.first(F.elu(x))))


class ResidualFeatures(nn.Sequential):
    """(B, in, H, W) to features (B, width, H, W), with a receptive field of 3 + 4 ``blocks``."""

    def __init__(self, channels: int, width: int, blocks: int) -> None:
        super().__init__(
            WeightNormConv2d(channels, width, 3), *(ResidualBlock(width) for _ in range(blocks))
        )


class ResidualHead(nn.Sequential):
    """(B, width, H, W) to (B, out, H, W): residual blocks, an ELU and a 1x1 convolution."""

    def __init__(self, width: int, out_channels: int, blocks: int) -> None:
        super().__init__(
            *(ResidualBlock(width) for _ in range(blocks)),
            nn.ELU(),
            WeightNormConv2d(width, out_channels, 1, head=True),
        )


class ResidualNetwork(nn.Sequential):
    """(B, in, H, W) to (B, out, H, W): :class:`ResidualFeatures`, an ELU and a 1x1 convolution."""

    def __init__(self, channels: int, out_channels: int, width: int, blocks: int) -> None:
        super().__init__(
            *ResidualFeatures(channels, width, blocks),
            nn.ELU(),
            WeightNormConv2d(width, out_channels, 1, head=True),
        )


VERSIONS = 4  # of a compiled network: with and without a gradient, of one shape and of any


def checkpoint_blocks(module: nn.Module, on: bool = True) -> None:
    """Gradient checkpointing of every dense or residual block: a third more time.

    References:
        Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016, arXiv:1604.06174.
    """
    for block in module.modules():
        if isinstance(block, DenseBlock | ResidualBlock):
            block.checkpoint = on


def compile_networks(module: nn.Module, **options: Any) -> None:
    """Compile every encoder, decoder, plain and residual network in place with ``torch.compile``.

    The state keeps its names. The first steps take minutes; a CPU needs a C++ compiler.
    """
    kinds = Encoder | Decoder | PlainNetwork | ResidualFeatures | ResidualHead | ResidualNetwork
    networks = [network for network in module.modules() if isinstance(network, kinds)]
    for network in networks:
        network.compile(**options)
    # PyTorch keeps 8 compiled versions of a piece of code, which all networks share. The name is
    # the same from 2.6 to 2.14.
    config = torch._dynamo.config
    config.cache_size_limit = max(config.cache_size_limit, VERSIONS * len(networks))
