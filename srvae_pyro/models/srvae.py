r"""The super-resolution VAE: a VAE of y = d(x) with latent u, and x given y on top with latent z.

::

    model:  u ~ p(u)                guide:  y = d(x)
            y ~ p(y|u)                      u ~ q(u|y)
            z ~ p(z|y,u)                    z ~ q(z|x)  or  q(z|x,y)
            x ~ p(x|y,z), observed

A network here is a module that returns a distribution; a model is a program over seven of them.
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
from srvae_pyro.networks import cached_weights

__all__ = ["SRVAE", "SRVAEGuide", "SRVAEModel"]


class SRVAEModel(nn.Module):
    """p(x, y, z, u) = p(x|y,z) p(z|y,u) p(y|u) p(u), a Pyro program.

    Args:
        p_u: p(u), a module that returns a distribution, given height and width or None.
        p_y: p(y|u) likewise, given u.
        p_z: p(z|y,u), given y and u.
        p_x: p(x|y,z), given y and z.
    """

    def __init__(self, p_u: nn.Module, p_y: nn.Module, p_z: nn.Module, p_x: nn.Module) -> None:
        super().__init__()
        self.p_u = p_u
        self.p_y = p_y
        self.p_z = p_z
        self.p_x = p_x

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
            u = pyro.sample("u", self.p_u(size))
            y = pyro.sample("y", self.p_y(u))
            z = pyro.sample("z", self.p_z(y, u))
            return pyro.sample("x", self.p_x(y, z), obs=x)


class SRVAEGuide(nn.Module):
    """q(y, z, u|x) = q(z|x) q(u|y) delta(y = d(x)), a Pyro program.

    Args:
        d: the deterministic y = d(x).
        q_u: q(u|y), a module that returns a distribution.
        q_z: q(z|x), or q(z|x,y): with y = d(x) a function of x too.
    """

    def __init__(self, d: Transform, q_u: nn.Module, q_z: nn.Module) -> None:
        super().__init__()
        self.d = d
        self.q_u = q_u
        self.q_z = q_z

    def forward(self, x: Tensor, count: int = 1, size: tuple[int, int] | None = None) -> None:
        """Sample y, u, z of the images x (B, C, H, W); the rest is the model's signature."""
        with images_plate(x, count):
            y = pyro.sample("y", dist.Delta(self.d(x), event_dim=3))
            pyro.sample("u", self.q_u(y))
            pyro.sample("z", self.q_z(x))


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
        channels, lower_channels, d = config.image_shape[0], sizes.lower[0], sizes.transform
        self.lower_channels, self.lower_stages = lower_channels, sizes.lower_stages
        self.model = SRVAEModel(
            p_u=make_prior(config, sizes.latent),
            p_y=ImageGivenLatent(config, lower_channels, config.p_y, sizes.lower_stages),
            p_z=LatentGivenLower(config, lower_channels, sizes.lower_stages),
            p_x=ImageGivenLower(config, d, channels, lower_channels),
        )
        seen = channels + (lower_channels if config.guide_z_sees_y else 0)
        self.guide = SRVAEGuide(
            d=d,
            q_u=LatentGivenImages(config, lower_channels, config.q_u, sizes.lower_stages),
            q_z=LatentGivenImages(
                config, seen, config.q_z, config.stages, d if config.guide_z_sees_y else None
            ),
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
                    pyro.sample("u", self.guide.q_u(self.guide.d(images)))

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
                    pyro.sample("u", self.guide.q_u(self.guide.d(a)))
                    pyro.sample("z", self.guide.q_z(b))

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
                    pyro.sample("u", self.guide.q_u(images))

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
        own = sizes_of(self.config).lower[1:] if self.config.p_u == "mixture" else None
        check_images(y, "y", self.lower_channels, multiple, own)
