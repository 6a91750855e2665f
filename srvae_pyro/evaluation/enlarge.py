"""A picture of any size enlarged by a srVAE, whole or in overlapping tiles.

The picture is y itself: y -> u ~ q(u|y) -> z ~ p(z|y,u) -> x ~ p(x|y,z). The networks are
convolutions, but their channel attention averages over all that they see and their borders are
padded with zeros, so a tile's answer is not exactly the whole's. Tiles therefore overlap: what lies
next to a tile's border is left out and the rest blended with linear weights, and all tiles cut
their noise from one field, so that blending does not average it away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from srvae_pyro.errors import UserError
from srvae_pyro.evaluation.tiles import spans
from srvae_pyro.inference.decoding import Decode, Decoding
from srvae_pyro.inference.noise import Noise, TileNoise
from srvae_pyro.models import SRVAE, ImageModel
from srvae_pyro.models.transforms import Downscale
from srvae_pyro.networks import cached_weights
from srvae_pyro.pixels import to_unit
from srvae_pyro.system.memory import peak_bytes
from srvae_pyro.talk import Bar

__all__ = [
    "Enlarger",
    "Spread",
    "answers",
    "enlarging",
    "factor_of",
    "lower_multiple",
    "lr_psnr",
    "passes_for",
    "psnr",
    "shrunk",
]

CAP = 100.0  # dB: what an exact picture counts; one level wrong in a 32x32 picture is below 90
SAFETY = 2.0  # measured: a process grows by 1.7 to 1.9 times what its tensors take
TILES = (8, 256)  # multiples of what the networks need: smallest tile; pixels: largest if chosen


def enlarging(model: ImageModel) -> SRVAE:
    """The model, if it is one that enlarges.

    Raises:
        UserError: it is not; says why.
    """
    if not isinstance(model, SRVAE):
        raise UserError(
            "this run is a one-level VAE, which has no y to enlarge: give the run of a srVAE"
        )
    transform = model.guide.d
    if not isinstance(transform, Downscale):
        raise UserError(
            f"this srVAE's y is a {transform.name} picture as large as x, so it does not enlarge: "
            "give a run with --transform downscale2 or downscale4"
        )
    return model


def factor_of(model: SRVAE) -> int:
    """How many times larger x is than y."""
    transform = model.guide.d
    assert isinstance(transform, Downscale)
    return transform.factor


def passes_for(model: SRVAE, factor: int) -> int:
    """How often the model enlarges for ``factor``, which is a power of its own.

    Raises:
        UserError: it is not one.
    """
    own = factor_of(model)
    for passes in range(1, 4):
        if own**passes == factor:
            return passes
    possible = ", ".join(str(own**passes) for passes in range(1, 4))
    raise UserError(
        f"--factor {factor}: this model enlarges {own} times, so the factor is one of {possible}"
    )


def lower_multiple(model: SRVAE) -> int:
    """What y's height and width must be multiples of, as ``SRVAE.check_lower`` has it."""
    return model.config.multiple(model.lower_stages)


@torch.no_grad()
@cached_weights()
def answers(
    model: SRVAE,
    y: Tensor,
    decode: Decoding = "sample",
    temperature: float = 1.0,
    image_temperature: float = 1.0,
    noise: Noise | None = None,
) -> Tensor:
    """One answer x (B, C, H, W) for each y (B, c, h, w) of any size, by the model's own program.

    Unlike by ``SRVAE.super_resolve`` each network runs once; what p(u) demands of y's size does not
    hold here.
    """
    with Decode(decode, temperature, image_temperature, noise):
        return model.super_resolution(y.to(model.device))


def shrunk(model: SRVAE, x: Tensor, passes: int = 1) -> Tensor:
    """d(x), ``passes`` times, of uint8 levels (..., C, H, W): uint8 levels."""
    for _ in range(passes):
        # A colour at a time: its integer arithmetic takes many times the picture's memory.
        colours = [model.guide.d.of_levels(c.int()) for c in x.split(1, dim=-3)]
        x = torch.cat([colour.to(torch.uint8) for colour in colours], dim=-3)
    return x


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of uint8 pictures (..., C, H, W), one each: (...).

    Of the mean squared error over pixels and colours; equal pictures count as 100 dB.
    """
    error = (a.float() - b.float()).square().mean(dim=(-3, -2, -1), dtype=torch.float64)
    return (10 * torch.log10(255**2 / error)).clamp_max(CAP)


def lr_psnr(model: SRVAE, x: Tensor, y: Tensor, passes: int = 1) -> float:
    """How well an answer agrees with its question: the PSNR of d(x) against y, in dB."""
    return psnr(shrunk(model, x, passes), y).item()


class Spread:
    """Mean and standard deviation of answers, pixel by pixel, from their sums alone."""

    def __init__(self) -> None:
        self.count = 0
        self.sum = self.squares = torch.zeros((), dtype=torch.int32)

    def add(self, x: Tensor) -> None:
        """Take in an answer, uint8 (C, H, W)."""
        levels = x.int()
        self.count += 1
        self.sum = self.sum + levels
        self.squares = self.squares + levels.square()

    def pictures(self) -> tuple[Tensor, Tensor, float]:
        """The mean (C, H, W), the deviation's map (1, H, W), and what its white is, in levels.

        The deviation is the root of the variance (that of a sample, over count - 1) averaged over
        the colours; the map is scaled to its largest value.
        """
        mean = self.sum.double() / self.count
        variance = (self.squares - mean * self.sum) / max(self.count - 1, 1)
        deviation = variance.clamp_min(0).mean(dim=0, keepdim=True).sqrt()
        white = deviation.max().item()
        scaled = (deviation * (255 / white if white else 0)).round().to(torch.uint8)
        return mean.round().to(torch.uint8), scaled, white


@dataclass
class Enlarger:
    """Enlarges pictures by a model.

    Args:
        model: the srVAE; its transform is a downscaling.
        decode: draw the pixels, or take the likeliest component's mean or the expectation.
        temperature: factor on the standard deviations of the latents.
        image_temperature: the same of the pixels, if sampled.
        seed: of all noise. An answer depends on it, the sample's number, the picture and the tiles.
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
        multiple = lower_multiple(self.model)
        smallest = TILES[0] * multiple
        if self.tile and (self.tile < smallest or self.tile % multiple):
            near = max(round(self.tile / multiple) * multiple, smallest)
            raise UserError(
                f"--tile {self.tile}: a tile's side is a multiple of {multiple} and at least "
                f"{smallest}, such as {near}; 0 is the whole picture"
            )

    @cached_weights()
    def __call__(self, picture: Tensor, passes: int = 1, sample: int = 0) -> Tensor:
        """A picture (c, h, w) of uint8 levels enlarged ``passes`` times: uint8 (C, H, W).

        Args:
            picture: of the channels that the model's y has, of any size.
            passes: how often, each time by the model's factor.
            sample: number of the answer.

        Raises:
            UserError: not even a small tile fits into the memory allowed.
        """
        for number in range(passes):
            picture = self._once(picture, (self.seed, sample, number))
        return picture

    @cached_property
    @cached_weights()
    def bytes_per_pixel(self) -> float:
        """Memory that the networks take for each pixel of y, measured on a small picture."""
        side = TILES[0] * lower_multiple(self.model)
        y = torch.full((1, self.model.lower_channels, side, side), 0.5)
        noise = TileNoise((0,), 0, 0, side)
        self._answer(y, noise)  # weights that are computed once must not count: tiles would differ
        taken = peak_bytes(lambda: self._answer(y, noise))
        return SAFETY * taken / side**2

    def tile_for(self, height: int, width: int) -> int:
        """The side of the tiles for a picture of such a size; 0: whole."""
        if self.tile is not None:
            return 0 if self.tile >= max(height, width) else self.tile
        pixels = self.memory_gb * 1e9 / self.bytes_per_pixel
        if height * width <= pixels:
            return 0
        multiple = lower_multiple(self.model)
        side = min(int(math.sqrt(pixels)), TILES[1]) // multiple * multiple
        if side < TILES[0] * multiple:
            need = (TILES[0] * multiple) ** 2 * self.bytes_per_pixel / 1e9
            raise UserError(
                f"--memory-gb {self.memory_gb:g} is too little: give at least {need:.2g}"
            )
        return side

    def _answer(self, y: Tensor, noise: Noise) -> Tensor:
        how = (self.decode, self.temperature, self.image_temperature)
        return answers(self.model, y, *how, noise)

    def _once(self, picture: Tensor, numbers: tuple[int, int, int]) -> Tensor:
        """The picture enlarged by the model's factor."""
        factor, multiple = factor_of(self.model), lower_multiple(self.model)
        height, width = picture.shape[-2:]
        # NumPy reflects as often as it takes, also a picture of one pixel.
        pads = ((0, 0), (0, -height % multiple), (0, -width % multiple))
        y = torch.from_numpy(np.pad(picture.numpy(), pads, mode="reflect"))
        side = self.tile_for(*y.shape[-2:])
        rows = spans(y.shape[-2], side or y.shape[-2], multiple)
        columns = spans(y.shape[-1], side or y.shape[-1], multiple)
        out = torch.zeros(len(picture), factor * y.shape[-2], factor * y.shape[-1])
        shown = self.progress and len(rows) * len(columns) > 1
        with Bar(
            total=len(rows) * len(columns), unit="tile", leave=False, disable=not shown
        ) as bar:
            for row in rows:
                for column in columns:
                    part = to_unit(y[None, :, row.pixels, column.pixels])
                    noise = TileNoise(numbers, row.start, column.start, row.stop - row.start)
                    x = self._answer(part, noise)[0].cpu()
                    x *= row.weights(factor)[:, None] * column.weights(factor)
                    out[:, row.enlarged(factor), column.enlarged(factor)] += x
                    bar.update()
        out = out[:, : factor * height, : factor * width]
        return out.mul_(255).round_().clamp_(0, 255).to(torch.uint8)
