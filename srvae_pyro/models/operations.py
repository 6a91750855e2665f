"""What people do with a model: generate, reconstruct, interpolate, by Pyro's Predictive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro.infer import Predictive
from torch import Tensor, nn

from srvae_pyro.distributions import DiscretizedLogisticMixture
from srvae_pyro.errors import UserError
from srvae_pyro.models.decoding import Decode, Decoding, base_of
from srvae_pyro.networks import cached_weights
from srvae_pyro.noise import GlobalNoise, ImageNoise, Noise

if TYPE_CHECKING:
    from srvae_pyro.config import ModelConfig

__all__ = ["Operations", "check_images", "image_noise", "joined", "slerp"]


class Operations(nn.Module):
    """The operations of both models.

    Each returns the values of the model's sites by name: images x (and y) on the grid k/255,
    latents z (and u). What they have in common:

    - ``decode``: draw the pixels (``sample``), take the likeliest component's mean (``mode``), or
      the expectation (``mean``), which is not on the grid; with ``mean`` the srVAE's y is its mode.
    - ``temperature``: factor on the standard deviations of the latents; ``image_temperature``: the
      same of the likelihoods that are sampled from.
    - ``seed``: image i of a seed has the same noise in every call, whatever the batch; without one
      PyTorch's generator is drawn from.
    - ``batch_size``: images at a time.
    """

    model: nn.Module
    guide: nn.Module
    config: ModelConfig

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def check_images(self, x: Tensor, name: str = "x") -> None:
        """Refuse images (B, C, H, W) that the networks cannot take or would misread.

        Raises:
            UserError: their shape, type or values do not suit; says what would.
        """
        config = self.config
        multiple = config.multiple(config.stages)
        channels, *size = config.image_shape
        check_images(x, name, channels, multiple, size if config.p_u == "mixture" else None)

    @torch.no_grad()
    @cached_weights()
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
            decode: see :class:`Operations`.
            temperature: see there.
            image_temperature: see there.
            seed: see there.
            first: number of the first image, where a seed is given.
            batch_size: images at a time.

        Returns:
            By site: x (n, C, H, W) and the others, (n, ...) each.
        """
        if count < 1 or batch_size < 1:
            raise UserError("count and batch_size must be at least 1")
        chunks = []
        for start in range(0, count, batch_size):
            number = min(batch_size, count - start)
            # One image a sample: Predictive's trial runs then cost one image each.
            predictive = Predictive(self.model, num_samples=number, parallel=True)
            noise = image_noise(seed, first + start, number, dim=-5, tried=True)
            with Decode(decode, temperature, image_temperature, noise):
                chunks.append(predictive())
        return joined([{k: v.squeeze(1) for k, v in chunk.items()} for chunk in chunks], dim=0)

    @torch.no_grad()
    @cached_weights()
    def reconstruct(
        self,
        x: Tensor,
        *,
        decode: Decoding = "sample",
        temperature: float = 1.0,
        image_temperature: float = 1.0,
        seed: int | None = None,
        batch_size: int = 64,
    ) -> dict[str, Tensor]:
        """x decoded from its own latents: x -> q(..|x) -> p(x|..), y = d(x) unchanged.

        Args:
            x: images (B, C, H, W) on the grid k/255.
            decode: see :class:`Operations`, as for the other arguments.

        Returns:
            By site: x (B, C, H, W) and the others.

        Raises:
            UserError: these are no images for this model; says what would be.
        """
        self.check_images(x)
        how = (decode, temperature, image_temperature)
        return self._from_guide(x, lambda x: partial(self.guide, x), how, seed, batch_size)

    def generative_reconstruct(self, x: Tensor, **options: Any) -> dict[str, Tensor]:
        """See :meth:`SRVAE.generative_reconstruct`; the one-level VAE has no y."""
        raise UserError("a VAE has no y to generate from: generative reconstruction is the srVAE's")

    def super_resolve(self, y: Tensor, samples: int = 1, **options: Any) -> dict[str, Tensor]:
        """See :meth:`SRVAE.super_resolve`; the one-level VAE has no y."""
        raise UserError("a VAE has no y to start from: super-resolution is the srVAE's")

    @torch.no_grad()
    @cached_weights()
    def interpolate(
        self,
        a: Tensor,
        b: Tensor,
        steps: int,
        *,
        decode: Decoding = "sample",
        temperature: float = 1.0,
        image_temperature: float = 1.0,
        seed: int | None = None,
        batch_size: int = 64,
    ) -> dict[str, Tensor]:
        """From images a to images b by way of their latents.

        The latents of both are carried to where they are standard normal: u through the flow, z of
        the srVAE to (z - mean) / std of p(z|y,u). There they are interpolated spherically, and the
        model generates from what lies between, y too: at the ends y is drawn from p(y|u), so x
        resembles a and b without being their reconstruction. A mixture prior has no such space:
        its latent is interpolated itself.

        Args:
            a: images (B, C, H, W) on the grid k/255.
            b: as many.
            steps: images on the way, both ends counted.
            decode: see :class:`Operations`, as for the other arguments; ``temperature`` is of the
                latents of a and b; pair i has the same pixel noise all along.

        Returns:
            By site: x (steps, B, C, H, W) and the others.

        Raises:
            UserError: these are no images for this model, or do not pair up.
        """
        if steps < 2:
            raise UserError(f"an interpolation has at least 2 steps, not {steps}")
        for name, x in (("a", a), ("b", b)):
            self.check_images(x, name)
        if a.shape != b.shape:
            raise UserError(f"images of shape {tuple(a.shape)} and {tuple(b.shape)} do not pair up")
        ends = []
        for number, x in enumerate((a, b)):
            noise = None
            if seed is not None:
                noise = ImageNoise((seed, number, *b"end"), range(len(x)))
            with Decode(temperature=temperature, noise=noise):
                ends.append(self._base(x.to(self.device)))
        path = torch.linspace(0, 1, steps).tolist()
        between = {
            name: torch.stack([slerp(ends[0][name], ends[1][name], t) for t in path]).flatten(0, 1)
            for name in ends[0]
        }
        pixels = list(range(len(a))) * steps
        chunks = []
        for start in range(0, steps * len(a), batch_size):
            part = slice(start, start + batch_size)
            values = {name: value[part] for name, value in between.items()}
            own = GlobalNoise() if seed is None else ImageNoise(seed, pixels[part])
            count = len(next(iter(values.values())))
            with Decode(decode, 1.0, image_temperature, _Given(values, own)):
                given = {k[1:]: v for k, v in values.items() if k.startswith("=")}
                chunks.append(self._predict(None, count, _latent_size(self, a), given=given))
        flat = joined([{k: v.squeeze(0) for k, v in c.items()} for c in chunks], dim=0)
        return {name: value.unflatten(0, (steps, len(a))) for name, value in flat.items()}

    @cached_weights()
    def log_likelihood(
        self, x: Tensor, samples: int = 500, *, seed: int = 0, memory_gb: float = 4.0
    ) -> Tensor:
        """log p(x) by importance sampling, all pairs: a lower bound in expectation, nats.

        Args:
            x: images (B, C, H, W) on the grid k/255.
            samples: importance samples an image.
            seed: of their noise.
            memory_gb: gigabytes that tensors may take.

        Returns:
            (B,), float64 on the CPU. :mod:`srvae_pyro.evaluation.likelihood` has more: the other
            estimator, and how far to trust the numbers.

        Raises:
            UserError: these are no images for this model, or memory does not suffice.
        """
        from srvae_pyro.evaluation.likelihood import estimate_log_likelihood, evaluations_at_once

        self.check_images(x)
        if samples < 1:
            raise UserError(f"importance samples must be at least 1, not {samples}")
        x = x.to(self.device)
        at_once = evaluations_at_once(self, x, samples, memory_gb)
        step = max(at_once // samples, 1)
        parts = [
            estimate_log_likelihood(
                self,
                x[start : start + step],
                samples,
                seed=seed,
                images=range(start, min(start + step, len(x))),
                at_once=at_once,
            ).log_likelihood
            for start in range(0, len(x), step)
        ]
        return torch.cat(parts)

    def _from_guide(
        self,
        x: Tensor,
        guide: Callable[[Tensor], Callable[[], Any]],
        how: tuple[Decoding, float, float],
        seed: int | None,
        batch_size: int,
    ) -> dict[str, Tensor]:
        """The model's sites (B, ...) for images x, those that the guide has from the guide."""
        if batch_size < 1:
            raise UserError("batch_size must be at least 1")
        chunks = []
        for start in range(0, len(x), batch_size):
            images = x[start : start + batch_size].to(self.device)
            with Decode(*how, image_noise(seed, start, len(images))):
                size = _latent_size(self, images)
                chunks.append(self._predict(guide(images), len(images), size))
        return joined([{k: v.squeeze(0) for k, v in c.items()} for c in chunks], dim=0)

    def _predict(
        self,
        guide: Callable[[], Any] | None,
        count: int,
        size: tuple[int, int],
        samples: int = 1,
        given: dict[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """All sites (samples, count, ...) of the model, ``guide``'s samples where it has any."""
        model = pyro.condition(self.model, given) if given else self.model
        return Predictive(
            lambda: model(None, count, size),
            guide=guide,
            num_samples=samples,
            parallel=True,
            return_sites=_sites(self.model),
        )()

    def _base(self, x: Tensor) -> dict[str, Tensor]:
        """The noise that makes each latent of x, by site; the latent under "=site" if none does."""
        guide = pyro.poutine.trace(self.guide).get_trace(x)
        model = pyro.poutine.trace(pyro.poutine.replay(self.model, trace=guide)).get_trace(x)
        base = {}
        for name in _sites(self.model):
            site = model.nodes[name]
            if isinstance(site["fn"], DiscretizedLogisticMixture):
                continue
            noise = base_of(site["fn"], site["value"])
            base[name if noise is not None else f"={name}"] = (
                site["value"] if noise is None else noise
            )
        return base


def check_images(
    x: Tensor, name: str, channels: int, multiple: int, size: Sequence[int] | None = None
) -> None:
    """Refuse images that are not (B, C, H, W), floating point within [0, 1], with B at least 1.

    Args:
        x: the images.
        name: what to call them.
        channels: C.
        multiple: what height and width are multiples of.
        size: height and width, if there is no choice.

    Raises:
        UserError: the shape, type or values do not suit; says what would.
    """
    if x.dim() != 4 or x.shape[1] != channels:
        alone = f"; one image is {name}[None]" if x.dim() == 3 else ""
        raise UserError(
            f"{name} has shape {tuple(x.shape)}: give images (B, {channels}, h, w){alone}"
        )
    if not len(x):
        raise UserError(f"{name} has no images: give at least 1")
    height, width = x.shape[-2:]
    if height % multiple or width % multiple or not height or not width:
        raise UserError(
            f"{name} of {height}x{width}: its height and width must be multiples of {multiple}"
        )
    if size is not None and [height, width] != list(size):
        raise UserError(
            f"{name} of {height}x{width}: the mixture prior takes {size[0]}x{size[1]} only"
        )
    if not x.is_floating_point() or not bool(((x >= 0) & (x <= 1)).all()):
        raise UserError(f"{name} must be floating point within [0, 1]; divide uint8 levels by 255")


class _Given:
    """Noise whose normal draws are given by site."""

    def __init__(self, values: dict[str, Tensor], others: Noise) -> None:
        self.values = values
        self.others = others

    def normal(self, site: str, like: Tensor) -> Tensor:
        return self.values[site].expand_as(like)

    def uniform(self, site: str, like: Tensor) -> Tensor:
        return self.others.uniform(site, like)


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Spherical interpolation between events (..., C, H, W), t from 0 at a to 1 at b.

    Keeps what is between as far from the origin as normal noise is (White 2016, arXiv:1609.04468).
    """
    flat_a, flat_b = a.flatten(-3), b.flatten(-3)
    cosine = torch.cosine_similarity(flat_a, flat_b, dim=-1).clamp(-1, 1)[..., None, None, None]
    angle = torch.arccos(cosine)
    sine = torch.sin(angle)
    # Parallel: the straight line, to which the sphere's path tends.
    straight = sine < 1e-4
    safe = torch.where(straight, torch.ones_like(sine), sine)
    weight_a = torch.where(straight, 1 - t * torch.ones_like(sine), ((1 - t) * angle).sin() / safe)
    weight_b = torch.where(straight, t * torch.ones_like(sine), (t * angle).sin() / safe)
    return weight_a * a + weight_b * b


def _latent_size(model: Operations, x: Tensor) -> tuple[int, int]:
    """Height and width of the latents of images x."""
    factor = 2**model.config.stages
    return x.shape[-2] // factor, x.shape[-1] // factor


def _sites(model: Any) -> tuple[str, ...]:
    """The names of a program's sites, from the top image down."""
    return ("x", "z", "y", "u") if hasattr(model, "p_u") else ("x", "z")


def image_noise(seed: int | None, first: int, count: int, **options: Any) -> Noise | None:
    """The noise of images ``first`` and on of a seed; without a seed, PyTorch's generator."""
    return None if seed is None else ImageNoise(seed, range(first, first + count), **options)


def joined(chunks: list[dict[str, Tensor]], dim: int) -> dict[str, Tensor]:
    """The chunks' values, site by site, in one tensor each."""
    return {name: torch.cat([chunk[name] for chunk in chunks], dim=dim) for name in chunks[0]}
