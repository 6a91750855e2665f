r"""The super-resolution VAE: a VAE of y = d(x) with latent u, and x given y on top with latent z.

::

    model:  u ~ p(u)                guide:  y = d(x)
            y ~ p(y|u)                      u ~ q(u|y)
            z ~ p(z|y,u)                    z ~ q(z|x)  or  q(z|x,y)
            x ~ p(x|y,z), observed

A model is a program over d(x) and six networks, modules that return distributions.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from srvae_pyro.config import ModelConfig
from srvae_pyro.errors import UserError
from srvae_pyro.inference.operations import check_images
from srvae_pyro.models.base import ImageModel, Levels, images_plate, latent_size, make_prior
from srvae_pyro.models.conditionals import ImageEncoder, ZGivenYU
from srvae_pyro.models.pixel_groups import X_GIVEN_YZ, image_given_latent
from srvae_pyro.models.restorer import Y_TEMPERATURE, InputKind, Restorer
from srvae_pyro.models.shapes import sizes_of
from srvae_pyro.models.transforms import Transform
from srvae_pyro.system.device import to_device


class SRVAEModel(nn.Module):
    """p(x, y, z, u) = p(x|y,z) p(z|y,u) p(y|u) p(u), a Pyro program.

    Its parts are modules that return distributions; ``p_u`` takes u's height and width, or None.
    x's sides are ``shrink`` times as long as u's; without it, only x of one size can be observed.
    """

    levels: ClassVar[Levels] = (("u", "y"), ("z", "x"))

    def __init__(
        self,
        p_u: nn.Module,
        p_y: nn.Module,
        p_z: nn.Module,
        p_x: nn.Module,
        shrink: int | None = None,
    ) -> None:
        super().__init__()
        self.p_u, self.p_y, self.p_z, self.p_x = p_u, p_y, p_z, p_x
        self.shrink = shrink

    def forward(
        self, x: Tensor | None = None, count: int = 1, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Images x (B, C, H, W): observed if given, else ``count`` of them."""
        size = size or latent_size(x, self.shrink)
        with images_plate(x, count):
            u = pyro.sample("u", self.p_u(size))
            y = pyro.sample("y", self.p_y(u))
            z = pyro.sample("z", self.p_z(y, u))
            return pyro.sample("x", self.p_x(y, z), obs=x)


class SRVAEGuide(nn.Module):
    """q(y, z, u|x) = q(z|x) q(u|y) delta(y = d(x)), a Pyro program."""

    def __init__(self, d: Transform, q_u: nn.Module, q_z: nn.Module) -> None:
        super().__init__()
        self.d, self.q_u, self.q_z = d, q_u, q_z

    def forward(self, x: Tensor, count: int = 1, size: tuple[int, int] | None = None) -> None:
        """Sample y, u, z of the images x (B, C, H, W); the rest is the model's signature."""
        with images_plate(x, count):
            y = pyro.sample("y", dist.Delta(self.d(x), event_dim=3))
            pyro.sample("u", self.q_u(y))
            pyro.sample("z", self.q_z(x))


class SRVAE(ImageModel):
    """The super-resolution VAE, a model and guide pair."""

    model: SRVAEModel
    guide: SRVAEGuide

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        sizes = sizes_of(config)
        channels, lower_channels, d = config.image_shape[0], sizes.lower[0], sizes.transform
        self.lower_channels = lower_channels
        self.multiple, self.lower_multiple = sizes.multiple, sizes.lower_multiple
        self.model = SRVAEModel(
            p_u=make_prior(config, sizes.lower_latent),
            p_y=image_given_latent(config, lower_channels, config.p_y, sizes.u_stages),
            p_z=ZGivenYU(config, lower_channels, sizes.lower_stages, sizes.u_stages),
            p_x=X_GIVEN_YZ[config.likelihood](config, d, channels, lower_channels),
            shrink=config.image_shape[1] // sizes.lower_latent[1],
        )
        self.restorer = Restorer(config) if config.restorer else None
        seen_d = d if config.guide_z_sees_y else None
        seen = channels + (lower_channels if config.guide_z_sees_y else 0)
        self.guide = SRVAEGuide(
            d=d,
            q_u=ImageEncoder(
                config, lower_channels, config.q_u, sizes.u_stages, widening=sizes.lower_stages
            ),
            q_z=ImageEncoder(config, seen, config.q_z, config.stages, seen_d),
        )

    @property
    def is_consistent(self) -> bool:
        """Whether all x that are drawn for a y have d(x) = y."""
        return getattr(self.model.p_x, "is_consistent", False)

    @property
    def has_point_estimate(self) -> bool:
        """Whether the network of p(x|y,z) also predicts x from y alone."""
        return self.config.has_point_estimate and hasattr(self.model.p_x, "estimate")

    # Operations (section 3.3 of the paper): each is a program over the same networks.

    def reconstruct(self, x: Tensor, **sampling: Any) -> dict[str, Tensor]:
        """x decoded from its own latents, y = d(x) unchanged."""

        def program(x: Tensor) -> None:
            with images_plate(x):
                y = pyro.sample("y", dist.Delta(self.guide.d(x), event_dim=3))
                pyro.sample("u", self.guide.q_u(y))
                z = pyro.sample("z", self.guide.q_z(x))
                pyro.sample("x", self.model.p_x(y, z))

        self.check_images(x)
        return self.draw(program, x, **sampling)

    def generative_reconstruction(self, x: Tensor) -> Tensor:
        """The program of :meth:`generative_reconstruct`."""
        with images_plate(x):
            u = pyro.sample("u", self.guide.q_u(self.guide.d(x)))
            y = pyro.sample("y", self.model.p_y(u))
            z = pyro.sample("z", self.model.p_z(y, u))
            return pyro.sample("x", self.model.p_x(y, z))

    def generative_reconstruct(self, x: Tensor, **sampling: Any) -> dict[str, Tensor]:
        """x by way of u alone, the rest drawn anew; arguments as of :meth:`reconstruct`."""
        self.check_images(x)
        return self.draw(self.generative_reconstruction, x, **sampling)

    def recombine(self, structure: Tensor, detail: Tensor, **sampling: Any) -> dict[str, Tensor]:
        """u of some images with z of others of the same shape; arguments as of reconstruct."""

        def program(structure: Tensor, detail: Tensor) -> None:
            with images_plate(structure):
                u = pyro.sample("u", self.guide.q_u(self.guide.d(structure)))
                y = pyro.sample("y", self.model.p_y(u))
                z = pyro.sample("z", self.guide.q_z(detail))
                pyro.sample("x", self.model.p_x(y, z))

        self.check_images(structure, detail, names=("structure", "detail"))
        return self.draw(program, structure, detail, **sampling)

    def super_resolution(self, y: Tensor) -> Tensor:
        """The program of :meth:`super_resolve`."""
        with images_plate(y):
            y = pyro.sample("y", dist.Delta(y, event_dim=3))
            u = pyro.sample("u", self.guide.q_u(y))
            z = pyro.sample("z", self.model.p_z(y, u))
            return pyro.sample("x", self.model.p_x(y, z))

    def super_resolve(self, y: Tensor, samples: int = 1, **sampling: Any) -> dict[str, Tensor]:
        """Images x given y, with d(x) = y if :attr:`is_consistent`.

        Args:
            y: images (B, c, h, w) on the grid k/255.
            samples: outputs for each, S; their noise is tied to y's index.

        Returns:
            By site: x (S, B, C, H, W), and y, z, u likewise.
        """
        self.check_lower(y)
        return self.draw(self.super_resolution, y, samples=samples, **sampling)

    def restoration(self, o: Tensor, kind: InputKind) -> Tensor:
        """The program of :meth:`restore`, with y sampled at Y_TEMPERATURE."""
        assert self.restorer is not None
        kinds = to_device(kind.numbers(self.guide.d.factor), o.device).to(o.dtype)
        kinds = kinds.expand(len(o), -1)
        with images_plate(o):
            y = pyro.sample("y", self.restorer(o, kinds).with_temperature(Y_TEMPERATURE))
            u = pyro.sample("u", self.guide.q_u(y))
            z = pyro.sample("z", self.model.p_z(y, u))
            return pyro.sample("x", self.model.p_x(y, z))

    def restore(
        self, o: Tensor, kind: InputKind = InputKind(), samples: int = 1, **sampling: Any
    ) -> dict[str, Tensor]:
        """As :meth:`super_resolve`, from damaged inputs o (B, c, h, w) of a known kind."""
        if self.restorer is None:
            raise UserError("this model was not trained on damaged inputs: use super_resolve")
        self.check_lower(o)
        return self.draw(partial(self.restoration, kind=kind), o, samples=samples, **sampling)

    def initialize(self, x: Tensor) -> None:
        super().initialize(x)
        if self.restorer is not None:
            self.restorer.initialize(self.guide.d(x), self.config.init_scale)

    def check_lower(self, y: Tensor) -> None:
        """Refuse a y that does not fit the networks."""
        self.check_precision()
        size = None if self.config.any_size else sizes_of(self.config).lower[1:]
        check_images(y, "y", self.lower_channels, self.lower_multiple, size)
