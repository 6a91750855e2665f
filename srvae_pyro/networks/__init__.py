"""Neural networks: weight-normalised convolutions, dense blocks, encoders, decoders, couplings."""

from srvae_pyro.networks.caching import cached_weights
from srvae_pyro.networks.coders import Decoder, Encoder, PlainNetwork
from srvae_pyro.networks.convolution import (
    WeightNormalized,
    WeightNormConv2d,
    WeightNormConvTranspose2d,
    aim_heads,
    initializing,
)
from srvae_pyro.networks.coupling import ChannelGain, CouplingNetwork
from srvae_pyro.networks.dense import ChannelAttention, DenseBlock, DenseStep
from srvae_pyro.networks.layout import channels_last, channels_last_on_gpus
from srvae_pyro.networks.options import checkpoint_blocks, compile_networks
from srvae_pyro.networks.residual import (
    ResidualBlock,
    ResidualFeatures,
    ResidualHead,
    ResidualNetwork,
)

__all__ = [
    "ChannelAttention",
    "ChannelGain",
    "CouplingNetwork",
    "Decoder",
    "DenseBlock",
    "DenseStep",
    "Encoder",
    "PlainNetwork",
    "ResidualBlock",
    "ResidualFeatures",
    "ResidualHead",
    "ResidualNetwork",
    "WeightNormConv2d",
    "WeightNormConvTranspose2d",
    "WeightNormalized",
    "aim_heads",
    "cached_weights",
    "channels_last",
    "channels_last_on_gpus",
    "checkpoint_blocks",
    "compile_networks",
    "initializing",
]
