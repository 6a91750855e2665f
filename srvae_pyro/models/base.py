"""What the one-level VAE and the srVAE have in common."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from torch import Tensor

from srvae_pyro import runtime
from srvae_pyro.config import ModelConfig, RunConfig
from srvae_pyro.data.transforms import Transform, make_transform
from srvae_pyro.distributions import MixturePrior, Prior, RealNVPPrior, StandardPrior
from srvae_pyro.errors import UserError
from srvae_pyro.models.operations import Operations
from srvae_pyro.networks import WeightNormalized, aim_heads, initializing

_PROGRAMS = itertools.count()  # numbers for the names under which programs register

__all__ = ["ImageModel", "Sizes", "current_names", "images_plate", "make_prior", "sizes_of"]


def images_plate(x: Tensor | None = None, count: int = 1) -> Any:
    """The plate of the images (..., B, C, H, W), or of ``count``: the rightmost batch dimension."""
    return pyro.plate("images", count if x is None else x.shape[-4], dim=-1)


@dataclass(frozen=True)
class Sizes:
    """Shapes (channels, height, width) that follow from a model's config."""

    transform: Transform
    lower: tuple[int, int, int]  # of y
    lower_stages: int  # how often y's resolution is halved towards u
    latent: tuple[int, int, int]  # of u and of z


def sizes_of(config: ModelConfig) -> Sizes:
    """Check the image's shape against the networks and derive all others.

    Raises:
        UserError: the shape does not suit; the message says which sizes do.
    """
    channels, height, width = config.image_shape
    if channels not in (1, 3):
        raise UserError(f"images need 1 or 3 channels, not {channels}")
    transform = make_transform(config.d)
    multiple = config.multiple(config.stages)
    if height % multiple or width % multiple or min(height, width) < multiple:
        below = max(min(height, width) // multiple, 1) * multiple
        raise UserError(
            f"images of {height}x{width} do not suit {config.stages} halvings and the "
            f"{config.p_u} prior: height and width must be multiples of {multiple}, "
            f"such as {below} or {below + multiple}"
        )
    latent = (config.latent_channels, height // 2**config.stages, width // 2**config.stages)
    if config.model == "vae":
        return Sizes(transform, config.image_shape, config.stages, latent)
    lower = transform.output_shape(config.image_shape)
    factor = height // lower[1]
    lower_stages = config.stages - (factor.bit_length() - 1)
    if 2 ** (factor.bit_length() - 1) != factor or lower_stages < 0:
        raise UserError(
            f"a y {factor} times smaller than x does not suit {config.stages} halvings: "
            f"use at least {factor.bit_length() - 1} stages and a power of 2"
        )
    return Sizes(transform, lower, lower_stages, latent)


def make_prior(config: ModelConfig, shape: tuple[int, int, int]) -> Prior:
    """The prior that the config names, on events of ``shape``."""
    if config.p_u == "standard":
        return StandardPrior(shape)
    if config.p_u == "mixture":
        return MixturePrior(shape, config.p_u_components)
    prior = RealNVPPrior(shape, config.p_u_network.growth, config.p_u_network.steps)
    aim_heads(prior, config.head_scale)
    return prior


# What parts were called in weights saved by version 0.1, the first that fits.
_RENAMED = {
    "model.lower.prior.": "model.p_u.",
    "model.lower.likelihood.": "model.p_y.",
    "model.prior.": "model.p_z.",
    "model.likelihood.": "model.p_x.",
    "guide.lower.posterior.": "guide.q_u.",
    "guide.posterior.": "guide.q_z.",
}


def current_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under the names that parts of models have now."""
    renamed = {}
    for name, tensor in state.items():
        old = next((old for old in _RENAMED if name.startswith(old)), "")
        renamed[_RENAMED.get(old, "") + name.removeprefix(old)] = tensor
    return renamed


class ImageModel(Operations, PyTorchModelHubMixin):
    """A model and guide pair of plain modules, each a Pyro program on images (B, C, H, W).

    Images are on the grid k/255 of [0, 1].

    ``Trace_ELBO()(m.model, m.guide)`` is an ordinary module with all parameters of both.
    ``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` are the Hugging Face Hub's.

    Args:
        config: what the model is made of.
    """

    run_config: RunConfig | None = None  # of the run that it was loaded from

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        runtime.wake_vector_math()
        self.config = config

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False
    ) -> Any:
        """As every module's; weights saved under earlier names of parts load too."""
        return super().load_state_dict(current_names(state_dict), strict, assign)

    @property
    def initialized(self) -> bool:
        """Whether every layer has had its data-dependent initialisation."""
        layers = (m for m in self.modules() if isinstance(m, WeightNormalized))
        return all(bool(layer.initialized) for layer in layers)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Data-dependent initialisation of the layers that have not had it.

        Args:
            x: a batch of training images (B, C, H, W), B > 1.
        """
        with initializing(self, self.config.init_scale), pyro.poutine.block():
            guide = pyro.poutine.trace(self.guide).get_trace(x)
            model = pyro.poutine.trace(pyro.poutine.replay(self.model, trace=guide)).get_trace(x)
            # The flow meets data when it scores the latent.
            model.compute_log_prob()

    def programs(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Model and guide for Pyro's own ``SVI``, their parameters registered with Pyro.

        Example::

            model, guide = vae.programs()
            svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
        """

        # Under names of their own: Pyro's store would else hand SVI the parameters that another
        # model registered first, and leave this one untrained.
        number = next(_PROGRAMS)

        def model(*args: Any, **kwargs: Any) -> Any:
            return pyro.module(f"model{number}", self.model)(*args, **kwargs)

        def guide(*args: Any, **kwargs: Any) -> Any:
            return pyro.module(f"guide{number}", self.guide)(*args, **kwargs)

        return model, guide

    # The Hub's way to save and load: the two files of a run's folder that make a model.

    def _save_pretrained(self, save_directory: Path) -> None:
        from srvae_pyro.models.loading import save_pretrained

        save_pretrained(self, save_directory)

    def generate_model_card(self, *_: Any, repo_id: str = "OWNER/NAME", **__: Any) -> ModelCard:
        """The card that goes with a saved model."""
        from srvae_pyro.models.card import model_card

        return ModelCard(model_card(self, repo_id))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload weights, settings and a card; see :class:`~huggingface_hub.ModelHubMixin`."""
        card = {"repo_id": repo_id, **(options.pop("model_card_kwargs", None) or {})}
        return super().push_to_hub(repo_id, model_card_kwargs=card, **options)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, **options: Any
    ) -> ImageModel:
        """The model in a folder or on the Hub; options as :class:`~huggingface_hub.ModelHubMixin`.

        Raises:
            UserError: it is not to be had, or is of another kind.
        """
        # Not by way of the mixin, which asks the Hub for the settings first and fails in its words.
        return cls._from_pretrained(model_id=str(pretrained_model_name_or_path), **options)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> ImageModel:
        from srvae_pyro.models.loading import load_pretrained

        model = load_pretrained(model_id, **options)
        if not isinstance(model, cls):
            kind = type(model).__name__
            raise UserError(f"{model_id} is a {kind}: load it with {kind}.from_pretrained")
        return model
