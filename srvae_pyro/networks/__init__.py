"""Neural networks: weight-normalised convolutions, dense blocks, encoders, decoders, couplings."""

from srvae_pyro.networks.dense import (
    ChannelAttention,
    ChannelGain,
    CouplingNetwork,
    Decoder,
    DenseBlock,
    DenseStep,
    Encoder,
    PlainNetwork,
)
from srvae_pyro.networks.layers import (
    WeightNormalized,
    WeightNormConv2d,
    WeightNormConvTranspose2d,
    cached_weights,
    channels_last,
    channels_last_on_gpus,
    init_heads,
    initializing,
)
from srvae_pyro.networks.residual import (
    ResidualBlock,
    ResidualFeatures,
    ResidualHead,
    ResidualNetwork,
    checkpoint_blocks,
    compile_networks,
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
    "cached_weights",
    "channels_last",
    "channels_last_on_gpus",
    "checkpoint_blocks",
    "compile_networks",
    "init_heads",
    "initializing",
]
