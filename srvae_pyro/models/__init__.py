"""The graphical models: the one-level VAE and the super-resolution VAE."""

from srvae_pyro.config import ModelConfig
from srvae_pyro.models.base import ImageModel
from srvae_pyro.models.srvae import SRVAE, SRVAEGuide, SRVAEModel
from srvae_pyro.models.vae import VAE, VAEGuide, VAEModel

__all__ = [
    "SRVAE",
    "VAE",
    "ImageModel",
    "SRVAEGuide",
    "SRVAEModel",
    "VAEGuide",
    "VAEModel",
    "make_model",
]


def make_model(config: ModelConfig) -> ImageModel:
    """A fresh model of the kind that ``config.model`` names."""
    return VAE(config) if config.model == "vae" else SRVAE(config)
