"""What the one-level VAE and the srVAE have in common."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import torch
from huggingface_hub import PyTorchModelHubMixin
from pyro.infer import Predictive
from torch import Tensor, nn

from srvae_pyro import runtime
from srvae_pyro.config import ModelConfig, RunConfig
from srvae_pyro.data.transforms import Transform, make_transform
from srvae_pyro.distributions import MixturePrior, Prior, RealNVPPrior, StandardPrior
from srvae_pyro.errors import UserError
from srvae_pyro.models.decoding import Decode, Decoding
from srvae_pyro.networks import WeightNormalized, initializing
from srvae_pyro.noise import ImageNoise, Noise

_PROGRAMS = itertools.count()  # numbers for the names under which programs register

__all__ = ["ImageModel", "Sizes", "image_noise", "images_plate", "joined", "make_prior", "sizes_of"]


def images_plate(x: Tensor | None, count: int) -> Any:
    """The plate of the images: independent, the rightmost batch dimension."""
    return pyro.plate("images", count if x is None else x.shape[0], dim=-1)


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
    transform = make_transform(config.transform)
    multiple = 2**config.stages * (2 if config.prior == "realnvp" else 1)
    if height % multiple or width % multiple or min(height, width) < multiple:
        below = max(min(height, width) // multiple, 1) * multiple
        raise UserError(
            f"images of {height}x{width} do not suit {config.stages} halvings and the "
            f"{config.prior} prior: height and width must be multiples of {multiple}, "
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
    if config.prior == "standard":
        return StandardPrior(shape)
    if config.prior == "mixture":
        return MixturePrior(shape, config.prior_components)
    return RealNVPPrior(
        shape,
        config.prior_network.growth,
        config.prior_network.steps,
        init_scale=config.init_scale,
        head_scale=config.head_scale,
    )


class ImageModel(nn.Module, PyTorchModelHubMixin):
    """A model and guide pair of plain modules, each a Pyro program on images (B, C, H, W).

    Images are on the grid k/255 of [0, 1].

    ``Trace_ELBO()(m.model, m.guide)`` is an ordinary module with all parameters of both.
    ``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` are the Hugging Face Hub's.

    Args:
        config: what the model is made of.
    """

    model: nn.Module
    guide: nn.Module
    run_config: RunConfig | None = None  # of the run that it was loaded from

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        runtime.wake_vector_math()
        self.config = config

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
        with initializing(self), pyro.poutine.block():
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

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> ImageModel:
        from srvae_pyro.models.loading import load_pretrained

        model = load_pretrained(model_id, **options)
        if not isinstance(model, cls):
            kind = type(model).__name__
            raise UserError(f"{model_id} is a {kind}: load it with {kind}.from_pretrained")
        return model

    # What people do with it, by Pyro's Predictive.

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @torch.no_grad()
    def generate(
        self,
        count: int,
        *,
        decode: Decoding = "sample",
        temperature: float = 1.0,
        image_temperature: float = 1.0,
        seed: int | None = None,
        first: int = 0,
        batch_size: int = 64,
    ) -> dict[str, Tensor]:
        """New images: the model's sites, drawn from the top of the graph to x.

        Args:
            count: how many, n.
            decode: draw the pixels (``sample``) or take the likeliest component's (``mode``).
            temperature: factor on the standard deviations of the latents.
            image_temperature: the same of the likelihoods that are sampled from.
            seed: image i of a seed is the same in every call; without one, PyTorch's generator.
            first: number of the first image, where a seed is given.
            batch_size: images at a time.

        Returns:
            By site: x (n, C, H, W) on the grid k/255, and the others, (n, ...) each.
        """
        if count < 1 or batch_size < 1:
            raise UserError("count and batch_size must be at least 1")
        chunks = []
        for start in range(0, count, batch_size):
            number = min(batch_size, count - start)
            # One image a sample: Predictive's trial runs then cost one image each.
            predictive = Predictive(self.model, num_samples=number, parallel=True)
            noise = image_noise(seed, first + start, number, dim=-5)
            with Decode(decode, temperature, image_temperature, noise):
                chunks.append(predictive())
        return joined([{k: v.squeeze(1) for k, v in chunk.items()} for chunk in chunks], dim=0)

    @torch.no_grad()
    def reconstruct(
        self,
        x: Tensor,
        *,
        decode: Decoding = "sample",
        seed: int | None = None,
        batch_size: int = 64,
    ) -> dict[str, Tensor]:
        """x decoded from its own latents: x -> q(..|x) -> p(x|..), y = d(x) unchanged.

        Args:
            x: images (B, C, H, W) on the grid k/255.
            decode: see :meth:`generate`.
            seed: see :meth:`generate`.
            batch_size: images at a time.

        Returns:
            By site: x (B, C, H, W) and the others.
        """
        chunks = []
        for start in range(0, len(x), batch_size):
            images = x[start : start + batch_size].to(self.device)
            guide = partial(self.guide, images)
            with Decode(decode, noise=image_noise(seed, start, len(images))):
                chunks.append(self._predict(guide, len(images), _latent_size(self, images)))
        return joined([{k: v.squeeze(0) for k, v in c.items()} for c in chunks], dim=0)

    def _predict(
        self, guide: Callable[[], Any], count: int, size: tuple[int, int], samples: int = 1
    ) -> dict[str, Tensor]:
        """All sites (samples, count, ...) of the model, ``guide``'s samples where it has any."""
        return Predictive(
            lambda: self.model(None, count, size),
            guide=guide,
            num_samples=samples,
            parallel=True,
            return_sites=_sites(self.model),
        )()


def _latent_size(model: ImageModel, x: Tensor) -> tuple[int, int]:
    """Height and width of the latents of images x."""
    factor = 2**model.config.stages
    return x.shape[-2] // factor, x.shape[-1] // factor


def _sites(model: nn.Module) -> tuple[str, ...]:
    """The names of a program's sites, from the top image down."""
    lower = getattr(model, "lower", None)
    own = (str(model.image), str(model.latent))
    return own if lower is None else own + _sites(lower)


def image_noise(seed: int | None, first: int, count: int, dim: int = -4) -> Noise | None:
    """The noise of images ``first`` and on of a seed; without a seed, PyTorch's generator."""
    return None if seed is None else ImageNoise(seed, range(first, first + count), dim)


def joined(chunks: list[dict[str, Tensor]], dim: int) -> dict[str, Tensor]:
    """The chunks' values, site by site, in one tensor each."""
    return {name: torch.cat([chunk[name] for chunk in chunks], dim=dim) for name in chunks[0]}
