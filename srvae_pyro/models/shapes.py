"""What follows from the shape of a model's images: of y, of the latents; which sizes suit."""

from __future__ import annotations

from dataclasses import dataclass

from srvae_pyro.config import ModelConfig
from srvae_pyro.errors import UserError
from srvae_pyro.models.transforms import Transform, make_transform

__all__ = ["Sizes", "sizes_of"]


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
    if config.likelihood == "exact" and (config.d != "average2" or config.model == "vae"):
        raise UserError(
            "--likelihood exact is the srVAE's: the VAE has no y"
            if config.model == "vae"
            else f"--likelihood exact needs --transform average2, not {config.d}"
        )
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
