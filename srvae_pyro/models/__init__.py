"""The graphical models: the one-level VAE and the super-resolution VAE."""

from pathlib import Path

import torch

from srvae_pyro.config import ModelConfig
from srvae_pyro.models.base import ImageModel
from srvae_pyro.models.restorer import InputKind
from srvae_pyro.models.srvae import SRVAE, SRVAEGuide, SRVAEModel
from srvae_pyro.models.vae import VAE, VAEGuide, VAEModel
from srvae_pyro.models.y_level import YLevelVAE
from srvae_pyro.runs import find_run

__all__ = [
    "SRVAE",
    "VAE",
    "ImageModel",
    "InputKind",
    "SRVAEGuide",
    "SRVAEModel",
    "VAEGuide",
    "VAEModel",
    "YLevelVAE",
    "load",
    "make_model",
]


def make_model(config: ModelConfig) -> ImageModel:
    """A fresh model of the kind that ``config.model`` names."""
    return VAE(config) if config.model == "vae" else SRVAE(config)


def load(run: str | Path, device: str | torch.device = "cpu") -> ImageModel:
    """The trained model of a run, ready to generate, in float32.

    Example::

        >>> model = srvae_pyro.load("runs/NAME")  # doctest: +SKIP
        >>> x = model.generate(16)["x"]  # doctest: +SKIP

    Args:
        run: a run's folder, its name under ``runs/``, or a Hub id.
        device: where to put it.

    Raises:
        UserError: there is no such run, or its files do not fit together.
    """
    return ImageModel.from_run(find_run(run), device)
