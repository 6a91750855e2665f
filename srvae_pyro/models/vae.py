r"""The one-level VAE: the baseline, and the lowest level of the srVAE.

::

    model:  z ~ p(z)                guide:  z ~ q(z|x)
            x ~ p(x|z), observed
"""

from __future__ import annotations

import pyro
from torch import Tensor, nn

from srvae_pyro.config import ModelConfig
from srvae_pyro.models.base import ImageModel, images_plate, make_prior, sizes_of
from srvae_pyro.models.conditionals import ImageGivenLatent, LatentGivenImages

__all__ = ["VAE", "VAEGuide", "VAEModel"]


class VAEModel(nn.Module):
    """p(x, z) = p(x|z) p(z), a Pyro program.

    Args:
        prior: p(z), a module that returns a distribution.
        likelihood: p(x|z), a module that returns a distribution.
        latent: name of the latent's site.
        image: name of the image's site.
    """

    def __init__(
        self, prior: nn.Module, likelihood: nn.Module, latent: str = "z", image: str = "x"
    ) -> None:
        super().__init__()
        self.prior = prior
        self.likelihood = likelihood
        self.latent = latent
        self.image = image

    def joint(
        self, observed: Tensor | None = None, size: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Sample the image and the latent, within a plate of the images."""
        latent = pyro.sample(self.latent, self.prior(size))
        image = pyro.sample(self.image, self.likelihood(latent), obs=observed)
        return image, latent

    def forward(
        self, x: Tensor | None = None, count: int = 1, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Images x (B, C, H, W): observed if given, else ``count`` of them.

        Args:
            x: observed images.
            count: how many images, where none are observed.
            size: height and width of the latent, where not the model's own.
        """
        with images_plate(x, count):
            return self.joint(x, size)[0]


class VAEGuide(nn.Module):
    """q(z|x), a Pyro program.

    Args:
        posterior: q(z|x), a module that returns a distribution.
        latent: name of the latent's site.
    """

    def __init__(self, posterior: nn.Module, latent: str = "z") -> None:
        super().__init__()
        self.posterior = posterior
        self.latent = latent

    def infer(self, x: Tensor) -> Tensor:
        """Sample the latent given the image, within a plate of the images."""
        return pyro.sample(self.latent, self.posterior(x))

    def forward(self, x: Tensor, count: int = 1, size: tuple[int, int] | None = None) -> None:
        """Sample the latent of the images x (B, C, H, W); the rest is the model's signature."""
        with images_plate(x, count):
            self.infer(x)


class VAE(ImageModel):
    """The one-level VAE with a RealNVP prior, a model and guide pair.

    Args:
        config: what it is made of; ``config.model`` is ``vae``.
    """

    model: VAEModel
    guide: VAEGuide

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        sizes = sizes_of(config)
        channels = config.image_shape[0]
        self.model = VAEModel(
            make_prior(config, sizes.latent),
            ImageGivenLatent(config, channels, config.p_x_from_z, config.stages),
        )
        self.guide = VAEGuide(LatentGivenImages(config, channels, config.q_z, config.stages))
