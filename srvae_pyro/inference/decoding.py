"""How sites are drawn: by chance, at a temperature or the mode, with a noise stream per image."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, Self, get_args

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine.messenger import Messenger
from torch import Tensor

from srvae_pyro.distributions import ImageDistribution
from srvae_pyro.errors import UserError
from srvae_pyro.inference.sampling import Decoding
from srvae_pyro.system.device import stream, to_device

__all__ = [
    "Decode",
    "FromNoise",
    "GlobalNoise",
    "ImageNoise",
    "Noise",
    "TileNoise",
    "noise_of",
]

Source = Callable[[np.random.Generator, Sequence[int]], np.ndarray]


class Noise(Protocol):
    """Where a program's draws come from."""

    def normal(self, site: str, like: Tensor) -> Tensor:
        """Standard normal noise for the site, of ``like``'s shape, type and device."""
        ...

    def uniform(self, site: str, like: Tensor) -> Tensor:
        """Noise uniform in [0, 1) likewise."""
        ...


def _normal(own: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    return own.standard_normal(tuple(shape), dtype=np.float32)


def _uniform(own: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    return own.random(tuple(shape), dtype=np.float32)


class GlobalNoise:
    """PyTorch's global generator."""

    def normal(self, site: str, like: Tensor) -> Tensor:
        return torch.randn_like(like)

    def uniform(self, site: str, like: Tensor) -> Tensor:
        return torch.rand_like(like)


class ImageNoise:
    """Noise that depends on the seed, the image's number and the site's name alone.

    Image i has the same noise whatever batch it is in, on any device: it is drawn on the CPU.

    Args:
        seed: at least 0; or several integers, such as a seed and a sample's index.
        dim: the images' dimension, from the right.
    """

    def __init__(
        self,
        seed: int | Sequence[int],
        images: Sequence[int],
        dim: int = -4,
    ) -> None:
        self.seed = (seed,) if isinstance(seed, int) else tuple(seed)
        self.images = list(images)
        self.dim = dim

    def normal(self, site: str, like: Tensor) -> Tensor:
        return self._draw(_normal, site, like)

    def uniform(self, site: str, like: Tensor) -> Tensor:
        return self._draw(_uniform, site, like)

    def _draw(self, source: Source, site: str, like: Tensor) -> Tensor:
        if like.dim() < -self.dim or like.shape[self.dim] != len(self.images):
            raise ValueError(
                f"site {site} asks for noise of shape {tuple(like.shape)}, of which dimension "
                f"{self.dim} is not that of {len(self.images)} images"
            )
        shape = list(like.shape)
        del shape[self.dim + like.dim()]
        own = [source(stream(*self.seed, n, *site.encode()), shape) for n in self.images]
        drawn = torch.from_numpy(np.stack(own, axis=self.dim)).to(like.dtype)
        return to_device(drawn, like.device)


class TileNoise:
    """A tile of an infinite noise field; overlapping tiles see the same values.

    The field is made of blocks that depend on the seed, the site's name and the block's place
    alone, so it is never held as a whole. Drawn on the CPU.

    Args:
        numbers: the field's: integers such as a seed and a sample's index, each at least 0.
        top: the tile's first row in the image, in the image's pixels.
        height: its rows, by which a site's resolution is known.
    """

    BLOCK = 64  # pixels a side, at the site's resolution

    def __init__(self, numbers: Sequence[int], top: int, left: int, height: int) -> None:
        self.numbers = tuple(numbers)
        self.top = top
        self.left = left
        self.height = height

    def normal(self, site: str, like: Tensor) -> Tensor:
        return self._draw(_normal, site, like)

    def uniform(self, site: str, like: Tensor) -> Tensor:
        return self._draw(_uniform, site, like)

    def _draw(self, source: Source, site: str, like: Tensor) -> Tensor:
        channels, height, width = like.shape[-3:]
        top, left = (offset * height // self.height for offset in (self.top, self.left))
        rows, columns = _blocks(top, height, self.BLOCK), _blocks(left, width, self.BLOCK)
        field = like.new_empty((channels, height, width), device="cpu")
        for row in rows:
            for column in columns:
                own = stream(*self.numbers, row, column, *site.encode())
                block = torch.from_numpy(source(own, (channels, self.BLOCK, self.BLOCK)))
                down, across = row * self.BLOCK - top, column * self.BLOCK - left
                target = field[
                    :, max(down, 0) : down + self.BLOCK, max(across, 0) : across + self.BLOCK
                ]
                block = block[:, max(-down, 0) :, max(-across, 0) :]
                target.copy_(block[:, : target.shape[1], : target.shape[2]])
        return to_device(field, like.device).expand_as(like)


def _blocks(start: int, count: int, size: int) -> range:
    """The numbers of the blocks that pixels ``start`` to ``start + count`` are in."""
    return range(start // size, (start + count - 1) // size + 1)


_PROGRAMS = threading.RLock()


@contextmanager
def turn() -> Iterator[None]:
    """Within it no other thread is in a turn; turns of one thread nest. Also a decorator.

    Handlers and plates are on a stack that belongs to the process: a program that runs in another
    thread would be handled by those of this one.
    """
    with _PROGRAMS:
        yield


class Handler(Messenger):
    """A Pyro effect handler with which a turn begins, and that ends with it."""

    def __enter__(self) -> Self:
        _PROGRAMS.acquire()
        try:
            super().__enter__()
        except BaseException:
            _PROGRAMS.release()
            raise
        return self

    def __exit__(self, *raised: Any) -> Any:
        try:
            return super().__exit__(*raised)
        finally:
            _PROGRAMS.release()


class Decode(Handler):
    """A Pyro effect handler that changes how unobserved sites are drawn.

    That of images (:class:`~srvae_pyro.distributions.ImageDistribution`) and of latents that are
    normal, a flow of a normal or a mixture of normals; others are left to Pyro.

    Args:
        decoding: ``sample`` draws an image's pixels from the likelihood; ``mode`` takes the
            likeliest component's location, colour by colour (what the published images show),
            which need not be the likeliest level, as 0 and 255 have the tails; ``mean`` takes the
            expectation, which is not on the grid, for the image x, and the location for the images
            below it: the networks above them have learnt from images on the grid only, and an
            expectation over many y is blurred as no y is.
        temperature: of the latents: standard deviations of the normals, and of the flow's base, are
            multiplied by it.
        image_temperature: of the likelihoods that are sampled from.
        noise: where the draws come from; PyTorch's global generator if not given.
        y_temperature: instead of ``image_temperature`` for y, if given.
    """

    def __init__(
        self,
        decoding: Decoding = "sample",
        temperature: float = 1.0,
        image_temperature: float = 1.0,
        noise: Noise | None = None,
        y_temperature: float | None = None,
    ) -> None:
        super().__init__()
        if y_temperature is None:
            y_temperature = image_temperature
        if decoding not in get_args(Decoding):
            raise UserError(
                f"decode must be one of {', '.join(get_args(Decoding))}, not {decoding!r}"
            )
        if not 0 <= temperature < math.inf:
            raise UserError(f"temperature must be at least 0 and finite, not {temperature}")
        of_images = {"image_temperature": image_temperature, "y_temperature": y_temperature}
        for name, value in of_images.items():
            if not 0 < value < math.inf:
                raise UserError(f"{name} must be above 0 and finite, not {value}")
        self.decoding = decoding
        self.temperature = temperature
        self.image_temperature, self.y_temperature = image_temperature, y_temperature
        self.noise = noise or GlobalNoise()

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"] or msg["value"] is not None:
            return
        fn = msg["fn"]
        if isinstance(fn, ImageDistribution):
            msg["value"] = self._image(msg["name"], fn)
            msg["done"] = True
        elif isinstance(_bottom_of(fn), dist.Normal | dist.MixtureSameFamily):
            msg["value"] = self._latent(msg["name"], fn)
            msg["done"] = True
        elif self.temperature != 1 and _is_random(fn):
            raise UserError(
                f"a temperature needs latents that are normal, which {msg['name']} is not"
            )

    def _image(self, name: str, fn: ImageDistribution) -> Tensor:
        if self.decoding != "sample":
            return fn.mean if self.decoding == "mean" and name == "x" else fn.location
        temperature = self.y_temperature if name == "y" else self.image_temperature
        if temperature != 1:
            fn = fn.with_temperature(temperature)
        return fn.icdf_sample(self.noise.uniform(name, fn.uniform_noise))

    def _latent(self, name: str, fn: Any) -> Tensor:
        """A draw with its spread multiplied by the temperature."""
        if isinstance(fn, dist.MixtureSameFamily):
            # The component keeps its chance; its own spread shrinks.
            fn = self._component(name, fn)
        base = _bottom_of(fn)
        mean = base.mean.expand(fn.batch_shape + base.mean.shape[len(fn.batch_shape) :])
        return from_noise(fn, self.noise.normal(name, mean), self.temperature)

    def _component(self, name: str, fn: Any) -> dist.TorchDistribution:
        """One of a mixture's normals for each element of the batch."""
        normal = fn.component_distribution.base_dist
        like = normal.mean.new_empty(()).expand(*fn.batch_shape, 1, 1, 1)
        choice = self.noise.uniform(f"{name} component", like)
        cumulative = fn.mixture_distribution.probs.cumsum(-1)[..., :-1]
        index = (choice[..., 0, 0] >= cumulative).sum(-1)[..., None, None, None, None]
        mean = normal.mean.take_along_dim(index, -4).squeeze(-4)
        return dist.Normal(mean, normal.stddev.take_along_dim(index, -4).squeeze(-4)).to_event(3)


class FromNoise(Handler):
    """A Pyro effect handler that makes latents of given noise."""

    def __init__(self, noise: dict[str, Tensor]) -> None:
        super().__init__()
        self.noise = noise

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.noise and not msg["done"]:
            msg["value"] = from_noise(msg["fn"], self.noise[msg["name"]])
            msg["done"] = True


def from_noise(fn: Any, noise: Tensor, temperature: float = 1.0) -> Tensor:
    """The draw (..., C, H, W) of a latent's distribution that standard normal noise makes.

    Of a mixture, where more than one draw is made by the same noise, the noise itself.
    """
    if isinstance(fn, dist.MixtureSameFamily):
        return noise
    if isinstance(fn, dist.TransformedDistribution):
        value = from_noise(fn.base_dist, noise, temperature)
        for transform in fn.transforms:
            value = transform(value)
        return value
    if isinstance(fn, dist.Independent):
        return from_noise(fn.base_dist, noise, temperature)
    return fn.mean + temperature * fn.stddev * noise


def noise_of(fn: Any, value: Tensor) -> Tensor:
    """The inverse of :func:`from_noise` at temperature 1."""
    if isinstance(fn, dist.MixtureSameFamily):
        return value
    if isinstance(fn, dist.TransformedDistribution):
        for transform in reversed(fn.transforms):
            value = transform.inv(value)
        return noise_of(fn.base_dist, value)
    if isinstance(fn, dist.Independent):
        return noise_of(fn.base_dist, value)
    return (value - fn.mean) / fn.stddev


def _bottom_of(fn: Any) -> Any:
    """What a distribution is a transformation of, or is made of independent ones of."""
    while isinstance(fn, dist.Independent | dist.TransformedDistribution):
        fn = fn.base_dist
    return fn


def _is_random(fn: Any) -> bool:
    """Whether a site's distribution is one of chance; not of a plate, nor a Delta."""
    return isinstance(fn, TorchDistributionMixin) and not isinstance(fn, dist.Delta)
