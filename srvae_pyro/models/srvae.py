r"""The super-resolution VAE: a VAE of y = d(x) with latent u, and x given y on top with latent z.

::

    model:  u ~ p(u)                guide:  y = d(x)
            y ~ p(y|u)                      u ~ q(u|y)
            z ~ p(z|y,u)                    z ~ q(z|x)  or  q(z|x,y)
            x ~ p(x|y,z), observed

The level below is any program with the VAE's methods ``joint`` and ``infer``, an srVAE too: levels
stack.
"""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from srvae_pyro.config import ModelConfig
from srvae_pyro.data.transforms import Transform
from srvae_pyro.errors import UserError
from srvae_pyro.models.base import ImageModel, images_plate, make_prior, sizes_of
from srvae_pyro.models.conditionals import (
    ImageGivenLatent,
    ImageGivenLower,
    LatentGivenImages,
    LatentGivenLower,
)
from srvae_pyro.models.decoding import Decode, Decoding
from srvae_pyro.models.operations import check_images, image_noise, joined
from srvae_pyro.models.vae import VAEGuide, VAEModel
from srvae_pyro.networks import cached_weights

__all__ = ["SRVAE", "SRVAEGuide", "SRVAEModel"]


class SRVAEModel(nn.Module):
    """p(x, y, z, u) = p(x|y,z) p(z|y,u) p(y|u) p(u), a Pyro program.

    Args:
        lower: p(y, u), a program with the method ``joint``.
        prior: p(z|y,u), a module that returns a distribution.
        likelihood: p(x|y,z), a module that returns a distribution.
        latent: name of the latent's site.
        image: name of the image's site.
    """

    def __init__(
        self,
        lower: VAEModel | SRVAEModel,
        prior: nn.Module,
        likelihood: nn.Module,
        latent: str = "z",
        image: str = "x",
    ) -> None:
        super().__init__()
        self.lower = lower
        self.prior = prior
        self.likelihood = likelihood
        self.latent = latent
        self.image = image

    def joint(
        self, observed: Tensor | None = None, size: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Sample all levels, within a plate of the images; returns the top's image and latent."""
        y, u = self.lower.joint(size=size)
        z = pyro.sample(self.latent, self.prior(y, u))
        x = pyro.sample(self.image, self.likelihood(y, z), obs=observed)
        return x, z

    def forward(
        self, x: Tensor | None = None, count: int = 1, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Images x (B, C, H, W): observed if given, else ``count`` of them.

        Args:
            x: observed images.
            count: how many images, where none are observed.
            size: height and width of the latents, where not the model's own.
        """
        with images_plate(x, count):
            return self.joint(x, size)[0]


class SRVAEGuide(nn.Module):
    """q(y, z, u|x) = q(z|x) q(u|y) delta(y = d(x)), a Pyro program.

    Args:
        lower: q(u|y), a program with the method ``infer``.
        transform: the deterministic y = d(x).
        posterior: q(z|x), or q(z|x,y) if ``sees_lower``.
        sees_lower: whether the posterior is given y beside x.
        latent: name of the latent's site.
        lower_image: name of y's site.
    """

    def __init__(
        self,
        lower: VAEGuide | SRVAEGuide,
        transform: Transform,
        posterior: nn.Module,
        sees_lower: bool = False,
        latent: str = "z",
        lower_image: str = "y",
    ) -> None:
        super().__init__()
        self.lower = lower
        self.transform = transform
        self.posterior = posterior
        self.sees_lower = sees_lower
        self.latent = latent
        self.lower_image = lower_image

    def infer(self, x: Tensor) -> Tensor:
        """Sample y and all latents given x, within a plate of the images."""
        y = pyro.sample(self.lower_image, dist.Delta(self.transform(x), event_dim=3))
        self.lower.infer(y)
        return pyro.sample(self.latent, self.posterior_of(x, y))

    def posterior_of(self, x: Tensor, y: Tensor) -> dist.TorchDistribution:
        """q(z|x), or q(z|x,y)."""
        if self.sees_lower:
            return self.posterior(x, self.transform.lift(y, x.shape[-2:]))
        return self.posterior(x)

    def forward(self, x: Tensor, count: int = 1, size: tuple[int, int] | None = None) -> None:
        """Sample y, u, z of the images x (B, C, H, W); the rest is the model's signature."""
        with images_plate(x, count):
            self.infer(x)


class SRVAE(ImageModel):
    """The super-resolution VAE, a model and guide pair.

    Args:
        config: what it is made of; ``config.model`` is ``srvae``.
    """

    model: SRVAEModel
    guide: SRVAEGuide

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        sizes = sizes_of(config)
        channels, lower_channels = config.image_shape[0], sizes.lower[0]
        self.lower_channels, self.lower_stages = lower_channels, sizes.lower_stages
        lower = VAEModel(
            make_prior(config, sizes.latent),
            ImageGivenLatent(config, lower_channels, config.p_y, sizes.lower_stages),
            latent="u",
            image="y",
        )
        self.model = SRVAEModel(
            lower,
            LatentGivenLower(config, lower_channels, sizes.lower_stages),
            ImageGivenLower(config, sizes.transform, channels, lower_channels),
        )
        posterior_channels = channels + (lower_channels if config.guide_z_sees_y else 0)
        self.guide = SRVAEGuide(
            VAEGuide(
                LatentGivenImages(config, lower_channels, config.q_u, sizes.lower_stages),
                latent="u",
            ),
            sizes.transform,
            LatentGivenImages(config, posterior_channels, config.q_z, config.stages),
            sees_lower=config.guide_z_sees_y,
        )

    @torch.no_grad()
    @cached_weights()
    def generative_reconstruct(  # type: ignore[override]
        self,
        x: Tensor,
        *,
        decode: Decoding = "sample",
        temperature: float = 1.0,
        image_temperature: float = 1.0,
        seed: int | None = None,
        batch_size: int = 64,
    ) -> dict[str, Tensor]:
        """x by way of u alone: y* = d(x), u ~ q(u|y*), y ~ p(y|u), z ~ p(z|y,u), x ~ p(x|y,z).

        Args:
            x: images (B, C, H, W) on the grid k/255.
            decode: see :class:`~srvae_pyro.models.operations.Operations`, as for the others.

        Returns:
            By site: x (B, C, H, W), y, z and u; the y is new, not d(x).
        """

        self.check_images(x)

        def guide(images: Tensor) -> Callable[[], None]:
            def infer() -> None:
                with images_plate(images, 0):
                    self.guide.lower.infer(self.guide.transform(images))

            return infer

        how = (decode, temperature, image_temperature)
        return self._from_guide(x, guide, how, seed, batch_size)

    @torch.no_grad()
    @cached_weights()
    def recombine(
        self,
        structure: Tensor,
        detail: Tensor,
        *,
        decode: Decoding = "sample",
        temperature: float = 1.0,
        image_temperature: float = 1.0,
        seed: int | None = None,
        batch_size: int = 64,
    ) -> dict[str, Tensor]:
        """u of some images with z of others: u ~ q(u|d(a)), z ~ q(z|b), y ~ p(y|u), x ~ p(x|y,z).

        Args:
            structure: images a (B, C, H, W) on the grid k/255, which give u.
            detail: images b of the same shape, which give z.
            decode: see :class:`~srvae_pyro.models.operations.Operations`, as for the others.

        Returns:
            By site: x (B, C, H, W), y, z and u; the y is new, not d(a).
        """
        for name, images in (("structure", structure), ("detail", detail)):
            self.check_images(images, name)
        if structure.shape != detail.shape:
            raise UserError(
                f"images of {tuple(structure.shape)} and {tuple(detail.shape)} cannot be recombined"
            )

        def guide(images: Tensor) -> Callable[[], None]:
            a, b = images.unbind(1)

            def infer() -> None:
                with images_plate(a, 0):
                    self.guide.lower.infer(self.guide.transform(a))
                    pyro.sample("z", self.guide.posterior_of(b, self.guide.transform(b)))

            return infer

        how = (decode, temperature, image_temperature)
        pairs = torch.stack([structure, detail], dim=1)
        return self._from_guide(pairs, guide, how, seed, batch_size)

    @torch.no_grad()
    @cached_weights()
    def super_resolve(  # type: ignore[override]
        self,
        y: Tensor,
        samples: int = 1,
        *,
        decode: Decoding = "sample",
        temperature: float = 1.0,
        image_temperature: float = 1.0,
        seed: int | None = None,
        batch_size: int = 64,
    ) -> dict[str, Tensor]:
        """Images x that y may be d(x) of: y -> u ~ q(u|y) -> z ~ p(z|y,u) -> x ~ p(x|y,z).

        Args:
            y: images (B, c, h, w) on the grid k/255, such as the transform gives.
            samples: how many answers for each, S.
            decode: draw the pixels (``sample``) or take the likeliest component's (``mode``).
            temperature: factor on the standard deviations of the latents.
            image_temperature: the same of the likelihood, if sampled from.
            seed: the answers for the i-th y are the same whatever the batch; without one, PyTorch's
                generator.
            batch_size: images times samples at a time, but one image's samples at least.

        Returns:
            By site: x (S, B, C, H, W), and y, z, u likewise.
        """
        if samples < 1 or batch_size < 1:
            raise UserError("samples and batch_size must be at least 1")
        self.check_lower(y)
        y = y.to(self.device)
        chunks = []
        step = max(batch_size // samples, 1)
        for start in range(0, len(y), step):
            images = y[start : start + step]

            def guide(images: Tensor = images) -> None:
                with images_plate(images, 0):
                    pyro.sample("y", dist.Delta(images, event_dim=3))
                    self.guide.lower.infer(images)

            factor = 2**self.lower_stages
            size = (images.shape[-2] // factor, images.shape[-1] // factor)
            noise = image_noise(seed, start, len(images))
            with Decode(decode, temperature, image_temperature, noise):
                chunks.append(self._predict(guide, len(images), size, samples))
        return joined(chunks, dim=1)

    def check_lower(self, y: Tensor) -> None:
        """Refuse a y that the networks cannot take, as :meth:`check_images` does an x.

        Raises:
            UserError: its shape or values do not suit; says what would.
        """
        multiple = self.config.multiple(self.lower_stages)
        own = sizes_of(self.config).lower[1:] if self.config.prior == "mixture" else None
        check_images(y, "y", self.lower_channels, multiple, own)
