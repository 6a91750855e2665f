"""The graphical models: the one-level VAE and the super-resolution VAE."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from srvae_pyro.config import ModelConfig
from srvae_pyro.models.base import MODELS, ImageModel
from srvae_pyro.models.restorer import InputKind
from srvae_pyro.models.srvae import SRVAE, SRVAEGuide, SRVAEModel
from srvae_pyro.models.vae import VAE, VAEGuide, VAEModel
from srvae_pyro.runs import find_run

if TYPE_CHECKING:
    from typing_extensions import TypeIs

__all__ = [
    "SRVAE",
    "VAE",
    "ImageModel",
    "InputKind",
    "SRVAEGuide",
    "SRVAEModel",
    "VAEGuide",
    "VAEModel",
    "load",
    "make_model",
    "super_resolves",
]


def make_model(config: ModelConfig) -> ImageModel:
    """A fresh model of the kind that ``config.model`` names."""
    return MODELS[config.model](config)


def super_resolves(model: ImageModel) -> TypeIs[SRVAE]:
    """Whether there is an image y below x, and the operations that start from it."""
    return len(model.levels) > 1 and hasattr(model, "super_resolution")


def load(run: str | Path, device: str | torch.device = "cpu") -> ImageModel:
    """The trained model of a run, ready to generate, in float32.

    Example::

        >>> model = srvae_pyro.load("runs/NAME")  # doctest: +SKIP
        >>> x = model.generate(16)["x"]  # doctest: +SKIP

    Args:
        run: its folder, its name under ``runs/``, a pretrained model, or a Hub id.
    """
    return ImageModel.from_run(find_run(run), device)
