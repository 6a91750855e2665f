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

__all__ = ["Decode", "FromNoise", "GlobalNoise", "ImageNoise", "Noise", "TileNoise", "noise_of"]

Source = Callable[[np.random.Generator, Sequence[int]], np.ndarray]


class Noise(Protocol):
    """A source of random numbers for a program's sites."""

    def normal(self, site: str, like: Tensor) -> Tensor:
        """Standard normal noise of ``like``'s shape, type and device."""
        ...

    def uniform(self, site: str, like: Tensor) -> Tensor:
        """Noise uniform in [0, 1) likewise."""
        ...


class GlobalNoise:
    """PyTorch's global generator."""

    def normal(self, site: str, like: Tensor) -> Tensor:
        return torch.randn_like(like)

    def uniform(self, site: str, like: Tensor) -> Tensor:
        return torch.rand_like(like)


class _SeededNoise:
    """Noise from generators of NumPy, drawn on the CPU."""

    def normal(self, site: str, like: Tensor) -> Tensor:
        return self._draw(lambda g, shape: g.standard_normal(shape, np.float32), site, like)

    def uniform(self, site: str, like: Tensor) -> Tensor:
        return self._draw(lambda g, shape: g.random(shape, np.float32), site, like)

    def _draw(self, source: Source, site: str, like: Tensor) -> Tensor:
        raise NotImplementedError


class ImageNoise(_SeededNoise):
    """Noise that depends on the seed, the image's number and the site's name alone.

    It is the same in any batch and on any device. ``dim`` is the images' dimension, from the right.
    """

    def __init__(self, seed: int | Sequence[int], images: Sequence[int], dim: int = -4) -> None:
        self.seed = tuple(seed) if isinstance(seed, Sequence) else (int(seed),)
        self.images = list(images)
        self.dim = dim

    def _draw(self, source: Source, site: str, like: Tensor) -> Tensor:
        if like.dim() < -self.dim or like.shape[self.dim] != len(self.images):
            raise ValueError(
                f"site {site} asks for noise of shape {tuple(like.shape)}, of which dimension "
                f"{self.dim} is not that of {len(self.images)} images"
            )
        shape = list(like.shape)
        del shape[self.dim + like.dim()]
        draws = [source(stream(*self.seed, n, *site.encode()), shape) for n in self.images]
        drawn = torch.from_numpy(np.stack(draws, axis=self.dim)).to(like.dtype)
        return to_device(drawn, like.device)


class TileNoise(_SeededNoise):
    """A tile of an infinite noise field; overlapping tiles see the same values.

    The field's blocks depend on the seed, the site's name and their place alone.

    Args:
        numbers: the field's seed: integers of at least 0.
        top: the tile's first row, in the image's pixels.
        height: its rows, from which a site's resolution follows.
    """

    BLOCK = 64  # pixels a side, at the site's resolution

    def __init__(self, numbers: Sequence[int], top: int, left: int, height: int) -> None:
        self.numbers = tuple(numbers)
        self.top, self.left, self.height = top, left, height

    def _draw(self, source: Source, site: str, like: Tensor) -> Tensor:
        channels, height, width = like.shape[-3:]
        top, left = (offset * height // self.height for offset in (self.top, self.left))
        rows, columns = _blocks(top, height, self.BLOCK), _blocks(left, width, self.BLOCK)
        field = like.new_empty((channels, height, width), device="cpu")
        for row in rows:
            for column in columns:
                generator = stream(*self.numbers, row, column, *site.encode())
                block = torch.from_numpy(source(generator, (channels, self.BLOCK, self.BLOCK)))
                down, across = row * self.BLOCK - top, column * self.BLOCK - left
                target = field[
                    :, max(down, 0) : down + self.BLOCK, max(across, 0) : across + self.BLOCK
                ]
                block = block[:, max(-down, 0) :, max(-across, 0) :]
                target.copy_(block[:, : target.shape[1], : target.shape[2]])
        return to_device(field, like.device).expand_as(like)


def _blocks(start: int, count: int, size: int) -> range:
    """The blocks that pixels ``start`` to ``start + count`` are in."""
    return range(start // size, (start + count - 1) // size + 1)


_PROGRAMS = threading.RLock()


@contextmanager
def turn() -> Iterator[None]:
    """One thread at a time runs programs; turns of one thread nest. Also a decorator.

    Pyro has one stack of handlers and plates for all threads of a process.
    """
    with _PROGRAMS:
        yield


class Handler(Messenger):
    """A Pyro effect handler that takes a :func:`turn`."""

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

    It draws images (:class:`~srvae_pyro.distributions.ImageDistribution`) and latents that are
    normal, flows of a normal or mixtures of normals; other sites are left to Pyro.

    Args:
        decoding: ``sample`` draws pixels from the likelihood; ``mode`` takes the likeliest
            component's location, as in the published images; ``mean`` takes the expectation of x,
            not on the grid, given the location of y, as networks have learnt from images on it.
        temperature: factor on the standard deviations of latents, or of a flow's base.
        image_temperature: of the likelihoods that are sampled from.
        noise: the source of draws; PyTorch's global generator if not given.
        y_temperature: of y, instead of ``image_temperature``.
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
        if isinstance(fn, dist.MixtureSameFamily):
            fn = self._component(name, fn)  # components keep their chances
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
    """A Pyro effect handler that computes latents from noise by site, as of :func:`noise_of`."""

    def __init__(self, noise: dict[str, Tensor]) -> None:
        super().__init__()
        self.noise = noise

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.noise and not msg["done"]:
            msg["value"] = from_noise(msg["fn"], self.noise[msg["name"]])
            msg["done"] = True


def from_noise(fn: Any, noise: Tensor, temperature: float = 1.0) -> Tensor:
    """A latent's draw (..., C, H, W) from standard normal noise; of a mixture the noise itself."""
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
    """The base of transformed and independent distributions."""
    while isinstance(fn, dist.Independent | dist.TransformedDistribution):
        fn = fn.base_dist
    return fn


def _is_random(fn: Any) -> bool:
    """Whether a site is random: not a plate, nor a Delta."""
    return isinstance(fn, TorchDistributionMixin) and not isinstance(fn, dist.Delta)
