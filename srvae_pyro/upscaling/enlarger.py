"""Enlarge a picture of any size by a srVAE, whole or in overlapping tiles.

The picture is y itself: y -> u ~ q(u|y) -> z ~ p(z|y,u) -> x ~ p(x|y,z). The networks are
convolutions, but their channel attention averages over all that they see and their borders are
padded with zeros, so a tile's answer is not exactly the whole's. Tiles therefore overlap: what lies
next to a tile's border is left out and the rest blended with linear weights, and all tiles cut
their noise from one field, so that blending does not average it away.

Of a model whose answers agree with y in every pixel the pixels are not blended, which would spoil
that, but cut in the middle of the overlap between two pixels of y; only expectations are blended,
and then rounded within each block so that they agree.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from srvae_pyro.errors import UserError
from srvae_pyro.inference.decoding import Decode, Decoding
from srvae_pyro.inference.noise import Noise, TileNoise
from srvae_pyro.models import SRVAE
from srvae_pyro.networks import cached_weights
from srvae_pyro.pixels import to_unit
from srvae_pyro.system.console import Bar
from srvae_pyro.system.memory import peak_bytes
from srvae_pyro.upscaling.agreement import gray_answer, is_exact, rounded
from srvae_pyro.upscaling.answers import answers
from srvae_pyro.upscaling.tiles import spans

__all__ = ["Enlarger"]

SAFETY = 2.0  # measured: a process grows by 1.7 to 1.9 times what its tensors take
SMALLEST_TILE = 8  # pixels a side, times the multiple that the networks need
LARGEST_TILE = 256  # pixels a side of tiles that --memory-gb decides on


@dataclass
class Enlarger:
    """Enlarges pictures by a model.

    Args:
        model: the srVAE; its transform is a downscaling.
        decode: draw the pixels, or take the likeliest component's mean or the expectation.
        temperature: factor on the standard deviations of the latents.
        image_temperature: the same of the pixels, if sampled.
        seed: of all noise. An answer depends on it, the sample's index, the picture and the tiles.
        tile: pixels of y a side; 0: always whole; None: whole if ``memory_gb`` allows, else as
            large as it allows.
        memory_gb: gigabytes for the networks.
        progress: whether to show a bar of the tiles.
    """

    model: SRVAE
    decode: Decoding = "mode"
    temperature: float = 0.0
    image_temperature: float = 1.0
    seed: int = 0
    tile: int | None = None
    memory_gb: float = 4.0
    progress: bool = False

    def __post_init__(self) -> None:
        Decode(self.decode, self.temperature, self.image_temperature)  # refuses what makes no sense
        if self.seed < 0:
            raise UserError(f"--seed must be at least 0, not {self.seed}")
        if not 0 < self.memory_gb < math.inf:
            raise UserError(f"--memory-gb must be above 0, not {self.memory_gb}")
        multiple = self.model.lower_multiple
        smallest = SMALLEST_TILE * multiple
        if self.tile and (self.tile < smallest or self.tile % multiple):
            near = max(round(self.tile / multiple) * multiple, smallest)
            raise UserError(
                f"--tile {self.tile}: a tile's side is a multiple of {multiple} and at least "
                f"{smallest}, such as {near}; 0 is the whole picture"
            )

    @cached_weights()
    def __call__(
        self, picture: Tensor, passes: int = 1, sample: int = 0, gray: bool = False
    ) -> Tensor:
        """A picture (c, h, w) of uint8 levels enlarged ``passes`` times: uint8 (C, H, W).

        Args:
            picture: of the channels that the model's y has, of any size.
            passes: how often, each time by the model's factor.
            sample: index of the answer.
            gray: whether an answer that agrees with the picture is to be as gray as it.

        Raises:
            UserError: not even a small tile fits into the memory allowed.
        """
        for index in range(passes):
            x = self._once(picture, (self.seed, sample, index))
            # Gray before the next pass, whose answer agrees with what it is given.
            made_gray = gray and len(x) == 3 and is_exact(self.model)
            picture = gray_answer(x, picture) if made_gray else x
        return picture

    @cached_property
    @cached_weights()
    def bytes_per_pixel(self) -> float:
        """Memory that the networks take for each pixel of y, measured on a small picture."""
        side = SMALLEST_TILE * self.model.lower_multiple
        y = to_unit(torch.full((1, self.model.lower_channels, side, side), 128))
        noise = TileNoise((0,), 0, 0, side)
        self._answer(y, noise)  # weights that are computed once must not count: tiles would differ
        taken = peak_bytes(lambda: self._answer(y, noise))
        return SAFETY * taken / side**2

    def tile_for(self, height: int, width: int) -> int:
        """Pixels a side of the tiles for a y of such a size; 0: whole.

        Raises:
            UserError: not even a small tile fits into the memory allowed.
        """
        if self.tile is not None:
            return 0 if self.tile >= max(height, width) else self.tile
        pixels = self.memory_gb * 1e9 / self.bytes_per_pixel
        if height * width <= pixels:
            return 0
        multiple = self.model.lower_multiple
        side = min(int(math.sqrt(pixels)), LARGEST_TILE) // multiple * multiple
        if side < SMALLEST_TILE * multiple:
            need = (SMALLEST_TILE * multiple) ** 2 * self.bytes_per_pixel / 1e9
            raise UserError(
                f"--memory-gb {self.memory_gb:g} is too little: give at least {need:.2g}"
            )
        return side

    def _answer(self, y: Tensor, noise: Noise) -> Tensor:
        return answers(self.model, y, self.decode, self.temperature, self.image_temperature, noise)

    def _once(self, picture: Tensor, stream: tuple[int, int, int]) -> Tensor:
        """The picture enlarged by the model's factor, with noise of that stream."""
        factor, multiple = self.model.guide.d.factor, self.model.lower_multiple
        height, width = picture.shape[-2:]
        # NumPy reflects as often as it takes, also a picture of one pixel.
        pads = ((0, 0), (0, -height % multiple), (0, -width % multiple))
        y = torch.from_numpy(np.pad(picture.numpy(), pads, mode="reflect"))
        side = self.tile_for(*y.shape[-2:])
        rows = spans(y.shape[-2], side or y.shape[-2], multiple)
        columns = spans(y.shape[-1], side or y.shape[-1], multiple)
        tiles = list(itertools.product(rows, columns))
        out = torch.zeros(len(picture), factor * y.shape[-2], factor * y.shape[-1])
        cut = is_exact(self.model) and self.decode != "mean"
        shown = self.progress and len(tiles) > 1
        with Bar(total=len(tiles), unit="tile", leave=False, disable=not shown) as bar:
            for row, column in tiles:
                part = to_unit(y[None, :, row.pixels, column.pixels])
                noise = TileNoise(stream, row.start, column.start, row.stop - row.start)
                x = self._answer(part, noise)[0].cpu()
                x *= row.weights(factor, cut)[:, None] * column.weights(factor, cut)
                out[:, row.enlarged(factor), column.enlarged(factor)] += x
                bar.update()
        out = out[:, : factor * height, : factor * width].mul_(255)
        if self.decode == "mean":
            return rounded(out, self.model, picture)
        return out.round_().clamp_(0, 255).to(torch.uint8)
