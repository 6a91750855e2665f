"""A model as a code: images to chains of bits and back.

The srVAE has two chains: u and y of all images, then z and x given these; so the first alone gives
every y. The VAE has one, of z and x.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pyro.distributions import Independent, Normal
from torch import Tensor

from srvae_pyro.compression.ans import (
    LEAST_BITS,
    STEP,
    WORD,
    MismatchError,
    Posterior,
    Stack,
    as_array,
    as_tensor,
)
from srvae_pyro.compression.exact import SameEverywhere, reproducible
from srvae_pyro.compression.pixels import Code, Put, Take, code_image, code_levels
from srvae_pyro.compression.priors import NormalCode, PriorCode, as_cells, prior_code
from srvae_pyro.distributions import ImageDistribution, MixturePrior, TruncatedMixture
from srvae_pyro.errors import UserError
from srvae_pyro.models import SRVAE, VAE, ImageModel
from srvae_pyro.models.shapes import Sizes, sizes_of
from srvae_pyro.networks import cached_weights
from srvae_pyro.pixels import to_levels, to_unit
from srvae_pyro.system.device import process_memory

PIXELS = 1 << 16  # that a batch has at most, if it has more than one image


@dataclass(frozen=True)
class Batch:
    """Images coded together: their indices, and the size that they are padded to."""

    indices: tuple[int, ...]
    height: int
    width: int


def batches_of(sizes: Sequence[tuple[int, int]], multiple: int, group: int) -> list[Batch]:
    """The batches of images of these heights and widths, sides padded to ``multiple``.

    The first is one image, and others of several images have at most half the area of those before:
    latents are drawn by bits that these have left, so that a chain starts with few.
    """
    alike: dict[tuple[int, int], list[int]] = {}
    for index, size in enumerate(sizes):
        height, width = (-(-side // multiple) * multiple for side in size)
        alike.setdefault((height, width), []).append(index)
    batches, area = [], 0
    for (height, width), indices in sorted(alike.items()):
        area_each = height * width
        while indices:
            count = max(min(group, PIXELS // area_each, area // (2 * area_each)), 1)
            batches.append(Batch(tuple(indices[:count]), height, width))
            indices = indices[count:]
            area += count * area_each
    return batches


def padded(image: Tensor, height: int, width: int) -> Tensor:
    """Levels (C, h, w) repeated at the right and below to the size."""
    rows = torch.arange(height).clamp_max(image.shape[-2] - 1)
    columns = torch.arange(width).clamp_max(image.shape[-1] - 1)
    return image[:, rows][:, :, columns]


class Coding(NamedTuple):
    """What codes a latent and an image of a batch."""

    prior: PriorCode
    posterior: Callable[[Tensor], Independent]  # of an image
    likelihood: Callable[[Tensor], ImageDistribution]  # of a latent
    latent_shape: tuple[int, int, int]


def _normal(distribution: object) -> Normal:
    normal = getattr(distribution, "base_dist", distribution)
    if not isinstance(normal, torch.distributions.Normal):
        raise UserError(f"compress cannot code a latent's {type(normal).__name__}")
    return normal


def conditional(distribution: object) -> NormalCode:
    """p(z|y,u) as the code of a prior."""
    normal = _normal(distribution)
    return NormalCode(normal.loc, normal.loc.double(), normal.scale.double())


def _on_grid(posterior: Independent, prior: PriorCode) -> Posterior:
    normal = _normal(posterior)
    mean = (normal.loc.double() - prior.location) / prior.scale / STEP
    std = normal.scale.double() / prior.scale / STEP
    return Posterior(as_array(mean), as_array(std))


Arithmetic = Literal["fp64", "fp32"]
Progress = Callable[[int], None]
# Bytes that coding takes for a pixel of a batch, measured of small models: 1,600 to 7,000.
PIXEL_BYTES = 1000


@dataclass(frozen=True)
class Chain:
    """A chain of bits: its words, uint32, and how many it starts with, whatever the images."""

    words: NDArray[np.uint32]
    start_words: int

    @property
    def bytes(self) -> int:
        return self.words.nbytes

    @property
    def start_bytes(self) -> int:
        return self.start_words * self.words.itemsize


def chain_names(model: ImageModel) -> list[str]:
    return [f"{latent} and {image}" for latent, image in model.levels]


class Codec:
    """A model in the arithmetic that it codes with, a copy; ``group`` is the images a batch at
    most.

    ``arithmetic`` is that of the networks; everything after them is in float64.
    """

    def __init__(self, model: ImageModel, group: int = 16, arithmetic: Arithmetic = "fp64") -> None:
        if not isinstance(model, SRVAE | VAE):
            raise UserError(
                f"compress cannot code a {type(model).__name__}, only an SRVAE or a VAE"
            )
        self.group, self.arithmetic = group, arithmetic
        dtype = torch.float64 if arithmetic == "fp64" else torch.float32
        self.model: SRVAE | VAE = copy.deepcopy(model).to(dtype).eval()
        for name, tensor in self.model.state_dict().items():
            if not tensor.isfinite().all():
                raise UserError(f"the model's weights {name} are not finite: train the model again")
        self.device = next(self.model.parameters()).device
        self.mode = SameEverywhere() if arithmetic == "fp64" else None
        self.dtype = dtype

    def encode(self, images: Sequence[Tensor], done: Progress = lambda _: None) -> list[Chain]:
        """The chains of images, uint8 (C, h, w) each, of any sizes that the model takes."""
        stacks = [Stack() for _ in chain_names(self.model)]
        batches = self._batches([(len(image[0]), len(image[0, 0])) for image in images])
        with self._coding():
            for batch in batches:
                parts = [padded(images[i], batch.height, batch.width) for i in batch.indices]
                levels = torch.stack(parts).to(self.device).long()
                try:
                    self._encode(stacks, levels, batch)
                except UserError:
                    raise
                except (MismatchError, ValueError) as error:
                    reason = str(error).splitlines()[0]
                    raise UserError(f"the model cannot code these images: {reason}") from None
                done(len(batch.indices))
        return [Chain(stack.words(), stack.start_words) for stack in stacks]

    def decode(
        self,
        chains: Sequence[NDArray[np.uint32]],
        sizes: Sequence[tuple[int, int]],
        done: Progress = lambda _: None,
    ) -> list[Tensor]:
        """The images, uint8 (C, h, w); a MismatchError if the chains are not this machine's."""
        self._check_lengths(chains, sizes)
        images = self._decode(chains[0], sizes, self._first, done)
        if isinstance(self.model, SRVAE):
            images = self._decode(
                chains[1], sizes, partial(self._second, dict(enumerate(images))), done
            )
        pairs = zip(images, sizes, strict=True)
        return [x[:, :h, :w].contiguous() for (x, _), (h, w) in pairs]

    def preview(
        self,
        chain: NDArray[np.uint32],
        sizes: Sequence[tuple[int, int]],
        done: Progress = lambda _: None,
    ) -> list[Tensor]:
        """Every y, uint8 (c, h, w), from the srVAE's first chain."""
        if not isinstance(self.model, SRVAE):
            raise UserError("--preview needs an srVAE: a VAE has no y")
        self._check_lengths([chain], sizes)
        lower = self._decode(chain, sizes, self._first, done)
        return [_of_image(self.model, y, s) for (y, _), s in zip(lower, sizes, strict=True)]

    def _batches(self, sizes: Sequence[tuple[int, int]]) -> list[Batch]:
        config = self.model.config
        for height, width in sizes:
            if not config.any_size and (height, width) != config.image_shape[1:]:
                raise UserError(
                    f"the mixture prior takes images of {config.image_shape[1]}x"
                    f"{config.image_shape[2]} only, and one is {height}x{width}"
                )
        batches = batches_of(sizes, self.model.multiple, self.group)
        memory = process_memory()
        for batch in batches:
            need = PIXEL_BYTES * len(batch.indices) * batch.height * batch.width
            if need > memory:
                raise UserError(
                    f"{batch.width}x{batch.height} pixels need at least {need / 1e9:,.0f} GB of "
                    f"memory, and {memory / 1e9:.1f} GB are available"
                )
        return batches

    def _check_lengths(
        self, chains: Sequence[NDArray[np.uint32]], sizes: Sequence[tuple[int, int]]
    ) -> None:
        """Refuse chains that cannot hold the latents of the batch that is decoded first."""
        *_, batch = self._batches(sizes)
        shapes, has_y = self._sizes(batch), len(self.model.levels) > 1
        latents = [shapes.lower_latent, shapes.latent] if has_y else [shapes.latent]
        prior = self.model.model.p_u if isinstance(self.model, SRVAE) else self.model.model.p_z
        for index, (words, shape) in enumerate(zip(chains, latents, strict=False)):
            if index == 0 and isinstance(prior, MixturePrior):
                continue  # has scales of its own
            if len(words) * WORD < LEAST_BITS * len(batch.indices) * math.prod(shape):
                raise UserError(
                    f"it is too short for images of {batch.width}x{batch.height} pixels"
                )

    @contextmanager
    def _coding(self) -> Iterator[None]:
        """Arithmetic that repeats itself to the bit, with weights normalised once."""
        mode = self.mode or nullcontext()
        with torch.no_grad(), cached_weights(), reproducible(self.device), mode:
            yield

    def _sizes(self, batch: Batch) -> Sizes:
        channels = self.model.config.image_shape[0]
        shape = (channels, batch.height, batch.width)
        return sizes_of(replace(self.model.config, image_shape=shape))

    def _first(self, batch: Batch) -> Coding:
        """Codes y and u, or x and z of a VAE."""
        model, shapes = self.model, self._sizes(batch)
        if isinstance(model, VAE):
            p, q = model.model, model.guide
            return Coding(prior_code(p.p_z), q.q_z, p.p_x, shapes.latent)
        prior = prior_code(model.model.p_u)
        return Coding(prior, model.guide.q_u, model.model.p_y, shapes.lower_latent)

    def _second(self, lower: Mapping[int, tuple[Tensor, Tensor]], batch: Batch) -> Coding:
        """Codes x and z given the y and u of each image."""
        assert isinstance(self.model, SRVAE)
        p, pairs = self.model.model, [lower[index] for index in batch.indices]
        y = to_unit(torch.stack([y for y, _ in pairs]).to(self.device).long(), self.dtype)
        prior = conditional(p.p_z(y, torch.stack([u for _, u in pairs])))
        return Coding(prior, self.model.guide.q_z, partial(p.p_x, y), self._sizes(batch).latent)

    def _encode(self, stacks: list[Stack], levels: Tensor, batch: Batch) -> None:
        if isinstance(self.model, VAE):
            self._put(stacks[0], self._first(batch), levels)
            return
        y = to_levels(self.model.guide.d(to_unit(levels, self.dtype))).long()
        u = self._put(stacks[0], self._first(batch), y)
        pairs = dict(zip(batch.indices, zip(y, u, strict=True), strict=True))
        self._put(stacks[1], self._second(pairs, batch), levels)

    def _put(self, stack: Stack, coding: Coding, levels: Tensor) -> Tensor:
        """Draw a latent by bits of the stack, then push the image given it, and it by its prior."""
        q = _on_grid(coding.posterior(to_unit(levels, self.dtype)), coding.prior)
        cells = as_tensor(q.pop(stack), levels, (len(levels), *coding.latent_shape))
        latent = coding.prior.values(cells).to(self.dtype)
        put = Put()
        code_image(coding.likelihood(latent), partial(self._code, put), levels)
        put.push(stack)
        coding.prior.push(stack, cells)
        return latent

    def _take(self, stack: Stack, coding: Coding, count: int) -> tuple[Tensor, Tensor]:
        """The inverse of :meth:`_put`: the levels and the latent of so many images."""
        prior = coding.prior
        cells = prior.pop(stack, (count, *coding.latent_shape))
        latent = prior.values(cells).to(self.dtype)
        levels = code_image(coding.likelihood(latent), partial(self._code, Take(stack)), None)
        posterior = coding.posterior(to_unit(levels, self.dtype))
        _on_grid(posterior, prior).push(stack, as_cells(cells))
        return levels, latent

    def _code(self, code: Code, pixels: TruncatedMixture, levels: Tensor | None) -> Tensor:
        """A factor. Its tables are the same everywhere without the mode, which is slow."""
        with self.mode.paused() if self.mode else nullcontext():
            return code_levels(code, pixels, levels)

    def _decode(
        self,
        words: NDArray[np.uint32],
        sizes: Sequence[tuple[int, int]],
        coding: Callable[[Batch], Coding],
        done: Progress,
    ) -> list[tuple[Tensor, Tensor]]:
        """The image, uint8 and padded, and the latent of each that a chain holds."""
        stack, decoded = Stack(words), dict[int, tuple[Tensor, Tensor]]()
        try:
            with self._coding():
                for batch in reversed(self._batches(sizes)):
                    levels, latent = self._take(stack, coding(batch), len(batch.indices))
                    pairs = zip(levels.to(torch.uint8).cpu(), latent, strict=True)
                    decoded |= dict(zip(batch.indices, pairs, strict=True))
                    done(len(batch.indices))
        except (ValueError, OverflowError) as error:  # from numbers that make no sense
            raise MismatchError(str(error)) from None
        if not stack.is_at_start():
            raise MismatchError("what is left is not what there was to start with")
        return [decoded[index] for index in range(len(sizes))]


def lower_of(model: ImageModel, images: Sequence[Tensor]) -> list[Tensor]:
    """The y of each image, uint8, as a preview shows it; none for a VAE."""
    if not isinstance(model, SRVAE):
        return []
    lower = []
    for image in images:
        height, width = image.shape[-2:]
        sides = (-(-side // model.multiple) * model.multiple for side in (height, width))
        y = to_levels(model.guide.d(to_unit(padded(image, *sides)))).to(torch.uint8)
        lower.append(_of_image(model, y, (height, width)))
    return lower


def _of_image(model: SRVAE, y: Tensor, size: tuple[int, int]) -> Tensor:
    """The part of a padded image's y that belongs to the image of this size."""
    height, width = (-(-side // model.guide.d.factor) for side in size)
    return y[:, :height, :width].contiguous()
