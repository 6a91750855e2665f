r"""The one-level VAE that the srVAE is compared with.

::

    model:  z ~ p(z)                guide:  z ~ q(z|x)
            x ~ p(x|z), observed
"""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

import pyro
from torch import Tensor, nn

from srvae_pyro.config import ModelConfig
from srvae_pyro.errors import UserError
from srvae_pyro.models.base import ImageModel, Levels, images_plate, latent_size, make_prior
from srvae_pyro.models.conditionals import ImageEncoder
from srvae_pyro.models.pixel_groups import image_given_latent
from srvae_pyro.models.shapes import sizes_of


class VAEModel(nn.Module):
    """p(x, z) = p(x|z) p(z), a Pyro program; ``p_z`` takes z's height and width, or None."""

    levels: ClassVar[Levels] = (("z", "x"),)

    def __init__(self, p_z: nn.Module, p_x: nn.Module, shrink: int | None = None) -> None:
        super().__init__()
        self.p_z, self.p_x, self.shrink = p_z, p_x, shrink

    def forward(
        self, x: Tensor | None = None, count: int = 1, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Images x (B, C, H, W): observed if given, else ``count`` of them."""
        size = size or latent_size(x, self.shrink)
        with images_plate(x, count):
            z = pyro.sample("z", self.p_z(size))
            return pyro.sample("x", self.p_x(z), obs=x)


class VAEGuide(nn.Module):
    """q(z|x), a Pyro program."""

    def __init__(self, q_z: nn.Module) -> None:
        super().__init__()
        self.q_z = q_z

    def forward(self, x: Tensor, count: int = 1, size: tuple[int, int] | None = None) -> None:
        """Sample z of the images x (B, C, H, W); the rest is the model's signature."""
        with images_plate(x, count):
            pyro.sample("z", self.q_z(x))


class VAE(ImageModel):
    """The one-level VAE, a model and guide pair."""

    model: VAEModel
    guide: VAEGuide

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        sizes = sizes_of(config)
        channels = config.image_shape[0]
        self.multiple = sizes.multiple
        self.model = VAEModel(
            p_z=make_prior(config, sizes.latent),
            p_x=image_given_latent(config, channels, config.p_x_from_z, config.stages),
            shrink=config.image_shape[1] // sizes.latent[1],
        )
        self.guide = VAEGuide(q_z=ImageEncoder(config, channels, config.q_z, config.stages))

    def reconstruct(self, x: Tensor, **sampling: Any) -> dict[str, Tensor]:
        """x decoded from its own latent."""

        def program(x: Tensor) -> None:
            with images_plate(x):
                z = pyro.sample("z", self.guide.q_z(x))
                pyro.sample("x", self.model.p_x(z))

        self.check_images(x)
        return self.draw(program, x, **sampling)

    def generative_reconstruct(self, *_: Any, **__: Any) -> NoReturn:
        """Raises a UserError: the one-level VAE has no y."""
        raise UserError("generative reconstruction needs an srVAE: a VAE has no y")

    def super_resolve(self, *_: Any, **__: Any) -> NoReturn:
        """Raises a UserError: the one-level VAE has no y."""
        raise UserError("super-resolution needs an srVAE: a VAE has no y")
