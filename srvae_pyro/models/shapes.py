"""Which image sizes suit a model, and the shapes of y and of the latents that follow."""

from __future__ import annotations

from dataclasses import dataclass

from srvae_pyro.config import ModelConfig
from srvae_pyro.errors import UserError
from srvae_pyro.models.pixel_groups import is_consistent
from srvae_pyro.models.transforms import Transform, make_transform, names_of

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Sizes:
    """Shapes (channels, height, width) that follow from a model's config."""

    transform: Transform
    lower: Shape  # of y
    lower_stages: int  # how often y's resolution is halved towards z
    u_stages: int  # how often it is halved towards u
    latent: Shape  # of z
    lower_latent: Shape  # of u
    multiple: int  # of which x's height and width must be multiples
    lower_multiple: int  # likewise y's


def sizes_of(config: ModelConfig) -> Sizes:
    """Check the image's shape against the networks and derive the others."""
    channels = config.image_shape[0]
    if channels not in (1, 3):
        raise UserError(f"images need 1 or 3 channels, not {channels}")
    transform = make_transform(config.d)
    _check_likelihoods(config, transform)
    if config.model == "vae":
        if config.u_stages is not None:
            raise UserError("`u_stages` needs an srVAE: the VAE has no u")
        multiple = _checked(config, config.stages)
        latent = _halved(config, config.image_shape, config.stages)
        shape = config.image_shape
        stages = config.stages
        return Sizes(transform, shape, stages, stages, latent, latent, multiple, multiple)
    # Networks halve and double, so the factor must be a power of 2; the likelihoods take any.
    factor = transform.factor
    halvings = factor.bit_length() - 1
    lower_stages = config.stages - halvings
    u_stages = config.u_stages
    if u_stages is None:
        u_stages = max(lower_stages, 0) + (config.latent_likelihood == "pyramid")
    multiple = _checked(config, max(halvings + u_stages, 2 if config.restorer else 0))
    lower = transform.output_shape(config.image_shape)
    if 2**halvings != factor or lower_stages < 0:
        raise UserError(
            f"a y {factor} times smaller than x does not suit {config.stages} halvings: "
            f"use at least {halvings} stages and a power of 2"
        )
    return Sizes(
        transform,
        lower,
        lower_stages,
        u_stages,
        latent=_halved(config, config.image_shape, config.stages),
        lower_latent=_halved(config, lower, u_stages),
        multiple=multiple,
        lower_multiple=multiple // factor,
    )


def _check_likelihoods(config: ModelConfig, transform: Transform) -> None:
    if is_consistent(config) and config.model == "vae":
        raise UserError(f"`likelihood={config.likelihood}` needs an srVAE: the VAE has no y")
    if is_consistent(config) and transform.block is None:
        averages = names_of(lambda d: d.block is not None)
        raise UserError(
            f"`likelihood={config.likelihood}` needs `transform={averages}`, not {config.d}"
        )
    if config.restorer and (config.model == "vae" or transform.block is None):
        averages = names_of(lambda d: d.block is not None)
        raise UserError(f"`restorer` needs an srVAE with `transform={averages}`")
    for name, size, used in (
        ("groups", config.groups, config.likelihood == "groups"),
        ("pyramid", config.pyramid, config.latent_likelihood == "pyramid"),
    ):
        if used and size.estimate and not size.shared:
            raise UserError(
                f"model.{name}.estimate is made by shared blocks: set model.{name}.shared too, or "
                f"model.{name}.estimate=false"
            )


def _halved(config: ModelConfig, shape: Shape, stages: int) -> Shape:
    return config.latent_channels, shape[1] >> stages, shape[2] >> stages


def _checked(config: ModelConfig, stages: int) -> int:
    """What the sides of x must be multiples of for so many halvings."""
    _, height, width = config.image_shape
    multiple = max(config.multiple(stages), 2**config.stages)  # both are powers of 2
    if height % multiple or width % multiple:
        below = max(min(height, width) // multiple, 1) * multiple
        raise UserError(
            f"images of {height}x{width} do not suit {max(stages, config.stages)} halvings and the "
            f"{config.p_u} prior: height and width must be multiples of {multiple}, "
            f"such as {below} or {below + multiple}"
        )
    return multiple
