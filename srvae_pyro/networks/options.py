"""Ways to run networks that change neither parameters nor results: for memory, for speed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from srvae_pyro.networks.coders import Decoder, Encoder, PlainNetwork
from srvae_pyro.networks.dense import DenseBlock
from srvae_pyro.networks.residual import (
    ResidualBlock,
    ResidualFeatures,
    ResidualHead,
    ResidualNetwork,
)

__all__ = ["checkpoint_blocks", "compile_networks"]

VERSIONS = 4  # of a compiled network: with and without a gradient, of one shape and of any


def checkpoint_blocks(module: nn.Module, on: bool = True) -> None:
    """Let every dense or residual block keep its input alone, the rest being computed again.

    Takes less memory and about a third more time in training.

    References:
        Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016, arXiv:1604.06174.
    """
    for block in module.modules():
        if isinstance(block, DenseBlock | ResidualBlock):
            block.checkpoint = on


def compile_networks(module: nn.Module, **options: Any) -> None:
    """Compile every encoder, decoder, plain and residual network in place with ``torch.compile``.

    The state keeps its names. The first steps take minutes; on a CPU a C++ compiler is needed.

    Args:
        module: with the networks.
        options: of ``torch.compile``.
    """
    kinds = (
        Encoder,
        Decoder,
        PlainNetwork,
        ResidualFeatures,
        ResidualHead,
        ResidualNetwork,
    )
    networks = [network for network in module.modules() if isinstance(network, kinds)]
    for network in networks:
        network.compile(**options)
    # PyTorch keeps 8 compiled versions of a piece of code, and from then on runs it as it is. All
    # networks are one piece of code to it. Under this name in all versions from 2.6 to 2.14.
    config = torch._dynamo.config
    config.cache_size_limit = max(config.cache_size_limit, VERSIONS * len(networks))
