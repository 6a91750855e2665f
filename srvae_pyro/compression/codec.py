"""A model as a code: images to chains of bits and back.

The srVAE's images are in two chains: in the first u and y of all of them, in the second z and x
given these. So the first alone gives every y. The VAE has one chain, of z and x.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

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
    """The batches of images of these heights and widths, which follow from nothing else.

    The first is one image, and none has more than half the area of those before it: the latents of
    a batch are drawn by bits that these have left, so that a chain starts with few. Sides are
    padded to multiples of ``multiple``; a batch has at most ``group`` images.
    """
    alike: dict[tuple[int, int], list[int]] = {}
    for index, size in enumerate(sizes):
        height, width = (-(-side // multiple) * multiple for side in size)
        alike.setdefault((height, width), []).append(index)
    batches, area = [], 0
    for (height, width), indices in sorted(alike.items()):
        own = height * width
        while indices:
            count = max(min(group, PIXELS // own, area // (2 * own)), 1)
            batches.append(Batch(tuple(indices[:count]), height, width))
            indices = indices[count:]
            area += count * own
    return batches


def padded(image: Tensor, height: int, width: int) -> Tensor:
    """Levels (C, h, w) repeated at the right and below to the size."""
    rows = torch.arange(height).clamp_max(image.shape[-2] - 1)
    columns = torch.arange(width).clamp_max(image.shape[-1] - 1)
    return image[:, rows][:, :, columns]


Given = Callable[[Tensor], ImageDistribution]
Encoder = Callable[[Tensor], Independent]


class BitsBack:
    """Puts latents and images on stacks, and takes them off, by networks of a dtype in a mode."""

    def __init__(self, dtype: torch.dtype, mode: SameEverywhere | None = None) -> None:
        self.dtype, self.mode = dtype, mode

    def image(self, levels: Tensor) -> Tensor:
        """Levels as an image in [0, 1], in the networks' precision."""
        return to_unit(levels, self.dtype)

    def put(
        self,
        stack: Stack,
        prior: PriorCode,
        posterior: Independent,
        likelihood: Given,
        levels: Tensor,
    ) -> Tensor:
        """Draw a latent by bits of the stack, code an image given it, and it by its prior."""
        q = _on_grid(posterior, prior)
        cells = as_tensor(q.pop(stack), levels, (len(levels), *posterior.event_shape))
        latent = prior.values(cells).to(self.dtype)
        put = Put()
        code_image(likelihood(latent), partial(self._code, put), levels)
        put.push(stack)
        prior.push(stack, cells)
        return latent

    def take(
        self,
        stack: Stack,
        prior: PriorCode,
        posterior: Encoder,
        likelihood: Given,
        shape: tuple[int, int, int, int],
    ) -> tuple[Tensor, Tensor]:
        """The inverse of :meth:`put`, for a latent of that shape: the levels, and the latent."""
        cells = prior.pop(stack, shape)
        latent = prior.values(cells).to(self.dtype)
        levels = code_image(likelihood(latent), partial(self._code, Take(stack)), None)
        _on_grid(posterior(self.image(levels)), prior).push(stack, as_cells(cells))
        return levels, latent

    def _code(self, code: Code, pixels: TruncatedMixture, levels: Tensor | None) -> Tensor:
        """A factor. Tables are the same everywhere without the mode, which would take longer."""
        with self.mode.paused() if self.mode else nullcontext():
            return code_levels(code, pixels, levels)


def _normal(distribution: object) -> Normal:
    """The normal that an encoder gives."""
    normal = getattr(distribution, "base_dist", distribution)
    if not isinstance(normal, torch.distributions.Normal):
        raise UserError(f"compress has no code for a latent's {type(normal).__name__}")
    return normal


def conditional(distribution: object) -> NormalCode:
    """p(z|y,u) as the code of a prior."""
    normal = _normal(distribution)
    return NormalCode(normal.loc, normal.loc.double(), normal.scale.double())


def _on_grid(posterior: Independent, prior: PriorCode) -> Posterior:
    """The posterior in cells of the prior's grid."""
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
    """What the chains hold, in their order."""
    return ["u and y", "z and x"] if isinstance(model, SRVAE) else ["z and x"]


class Codec:
    """A model in the arithmetic that it codes with, which is a copy.

    What is written depends on ``group``, the images a batch at most. ``arithmetic`` is that of the
    networks; what follows from their outputs is in float64 always.

    Example:
        >>> from srvae_pyro.presets import preset
        >>> model = SRVAE(preset("quickstart")[0])
        >>> images = list(torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8))
        >>> codec = Codec(model)
        >>> chains = codec.encode(images)
        >>> again = codec.decode([chain.words for chain in chains], [(32, 32)] * 3)
        >>> all(torch.equal(a, b) for a, b in zip(again, images))
        True
    """

    def __init__(self, model: ImageModel, group: int = 16, arithmetic: Arithmetic = "fp64") -> None:
        if not isinstance(model, SRVAE | VAE):
            raise UserError(f"compress has no code for a {type(model).__name__}")
        self.group, self.arithmetic = group, arithmetic
        dtype = torch.float64 if arithmetic == "fp64" else torch.float32
        self.model: SRVAE | VAE = copy.deepcopy(model).to(dtype).eval()
        for name, tensor in self.model.state_dict().items():
            if not tensor.isfinite().all():
                raise UserError(f"the model's weights {name} are not finite: train the model again")
        self.device = next(self.model.parameters()).device
        self.mode = SameEverywhere() if arithmetic == "fp64" else None
        self.bits_back = BitsBack(dtype, self.mode)

    def encode(self, images: Sequence[Tensor], done: Progress = lambda _: None) -> list[Chain]:
        """The chains of images, uint8 (C, h, w) each, of any sizes that the model takes."""
        stacks = [Stack() for _ in chain_names(self.model)]
        batches = self._batches([(len(image[0]), len(image[0, 0])) for image in images])
        with self._coding():
            for batch in batches:
                parts = [padded(images[i], batch.height, batch.width) for i in batch.indices]
                levels = torch.stack(parts).to(self.device).long()
                try:
                    self._encode(stacks, levels)
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
        """The images, uint8 (C, h, w), of these heights and widths.

        Raises:
            MismatchError: the chains are not what this model and this machine would have made.
            UserError: they are too short for any such images, or memory does not suffice.
        """
        self._check_lengths(chains, sizes)
        try:
            lower = self._decode_first(chains[0], sizes, done)
            if isinstance(self.model, VAE):
                images = [image for image, _ in lower]
            else:
                images = self._decode_second(self.model, chains[1], sizes, lower, done)
        except (ValueError, OverflowError) as error:  # from numbers that make no sense
            raise MismatchError(str(error)) from None
        return [p[:, :h, :w].contiguous() for p, (h, w) in zip(images, sizes, strict=True)]

    def preview(
        self,
        chain: NDArray[np.uint32],
        sizes: Sequence[tuple[int, int]],
        done: Progress = lambda _: None,
    ) -> list[Tensor]:
        """Every y, uint8 (c, h, w), from the srVAE's first chain; errors are :meth:`decode`'s."""
        if not isinstance(self.model, SRVAE):
            raise UserError("a VAE has no y: --preview is the srVAE's")
        self._check_lengths([chain], sizes)
        try:
            lower = self._decode_first(chain, sizes, done)
        except (ValueError, OverflowError) as error:
            raise MismatchError(str(error)) from None
        parts = zip(lower, sizes, strict=True)
        return [_of_image(self.model, y, size) for (y, _), size in parts]

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
                    f"{batch.width}x{batch.height} pixels take {need / 1e9:,.0f} GB of memory at "
                    f"least, and there are {memory / 1e9:.1f}"
                )
        return batches

    def _check_lengths(
        self, chains: Sequence[NDArray[np.uint32]], sizes: Sequence[tuple[int, int]]
    ) -> None:
        """Refuse chains that cannot hold the latents of the batch that is decoded first."""
        *_, batch = self._batches(sizes)
        shapes = self._sizes(batch)
        if isinstance(self.model, VAE):
            latents, prior = [shapes.latent], self.model.model.p_z
        else:
            latents, prior = [shapes.lower_latent, shapes.latent], self.model.model.p_u
        for number, (words, shape) in enumerate(zip(chains, latents, strict=False)):
            if number == 0 and isinstance(prior, MixturePrior):
                continue  # has scales of its own
            if len(words) * WORD < LEAST_BITS * len(batch.indices) * math.prod(shape):
                raise UserError(
                    f"it is too short for images of {batch.width}x{batch.height} pixels"
                )

    @contextmanager
    def _coding(self) -> Iterator[None]:
        """Within it arithmetic repeats itself to the bit, and weights are normalised once."""
        mode = self.mode or nullcontext()
        with torch.no_grad(), cached_weights(), reproducible(self.device), mode:
            yield

    def _sizes(self, batch: Batch) -> Sizes:
        channels = self.model.config.image_shape[0]
        shape = (channels, batch.height, batch.width)
        return sizes_of(replace(self.model.config, image_shape=shape))

    def _encode(self, stacks: list[Stack], levels: Tensor) -> None:
        model = self.model
        x = self.bits_back.image(levels)
        if isinstance(model, VAE):
            prior = prior_code(model.model.p_z)
            self.bits_back.put(stacks[0], prior, model.guide.q_z(x), model.model.p_x, levels)
            return
        y_levels = to_levels(model.guide.d(x)).long()
        y = self.bits_back.image(y_levels)
        u = self.bits_back.put(
            stacks[0],
            prior_code(model.model.p_u),
            model.guide.q_u(y),
            model.model.p_y,
            y_levels,
        )
        prior = conditional(model.model.p_z(y, u))
        given = _given_both(model, y)
        self.bits_back.put(stacks[1], prior, model.guide.q_z(x), given, levels)

    def _decode_first(
        self, words: NDArray[np.uint32], sizes: Sequence[tuple[int, int]], done: Progress
    ) -> list[tuple[Tensor, Tensor]]:
        """Of each image the image that the first chain gives, uint8, and its latent."""
        model, stack = self.model, Stack(words)
        found: dict[int, tuple[Tensor, Tensor]] = {}
        with self._coding():
            for batch in reversed(self._batches(sizes)):
                shapes = self._sizes(batch)
                parts = (
                    (model.model.p_z, model.guide.q_z, model.model.p_x, shapes.latent)
                    if isinstance(model, VAE)
                    else (model.model.p_u, model.guide.q_u, model.model.p_y, shapes.lower_latent)
                )
                prior, posterior, likelihood, shape = parts
                levels, latent = self.bits_back.take(
                    stack, prior_code(prior), posterior, likelihood, (len(batch.indices), *shape)
                )
                images = levels.to(torch.uint8).cpu()
                found |= dict(zip(batch.indices, zip(images, latent, strict=True), strict=True))
                done(len(batch.indices))
        _check_end(stack)
        return [found[index] for index in range(len(sizes))]

    def _decode_second(
        self,
        model: SRVAE,
        words: NDArray[np.uint32],
        sizes: Sequence[tuple[int, int]],
        lower: list[tuple[Tensor, Tensor]],
        done: Progress,
    ) -> list[Tensor]:
        """Each x, uint8 and padded, from the second chain and each y and u."""
        stack, found = Stack(words), dict[int, Tensor]()
        with self._coding():
            for batch in reversed(self._batches(sizes)):
                y_levels = torch.stack([lower[index][0] for index in batch.indices])
                y = self.bits_back.image(y_levels.to(self.device).long())
                u = torch.stack([lower[index][1] for index in batch.indices])
                levels, _ = self.bits_back.take(
                    stack,
                    conditional(model.model.p_z(y, u)),
                    model.guide.q_z,
                    _given_both(model, y),
                    (len(batch.indices), *self._sizes(batch).latent),
                )
                found |= dict(zip(batch.indices, levels.to(torch.uint8).cpu(), strict=True))
                done(len(batch.indices))
        _check_end(stack)
        return [found[index] for index in range(len(sizes))]


def lower_of(model: ImageModel, images: Sequence[Tensor]) -> list[Tensor]:
    """The y of each image, uint8, as a preview shows it; none of a VAE's."""
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
    """The part of the y of a padded image that is of the image itself, of that height and width."""
    height, width = (-(-side // model.guide.d.factor) for side in size)
    return y[:, :height, :width].contiguous()


def _given_both(model: SRVAE, y: Tensor) -> Given:
    """p(x|y, .) as a function of z."""
    return lambda z: model.model.p_x(y, z)


def _check_end(stack: Stack) -> None:
    """Refuse a stack that does not end as it started."""
    if not stack.is_at_start():
        raise MismatchError("what is left is not what there was to start with")
