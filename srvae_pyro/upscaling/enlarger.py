"""Enlarge a picture of any size by a srVAE, whole or in overlapping tiles.

The picture is y itself: y -> u ~ q(u|y) -> z ~ p(z|y,u) -> x ~ p(x|y,z). The networks are
convolutions, but their channel attention averages over all that they see and their borders are
padded with zeros, so a tile's answer is not exactly the whole's. Tiles therefore overlap: what lies
next to a tile's border is left out and the rest blended with linear weights, and all tiles cut
their noise from one field, so that blending does not average it away.

Of a model whose answers agree with y in every pixel the pixels are not blended, which would spoil
that, but cut in the middle of the overlap between two pixels of y; only expectations and estimates
are blended, and then rounded within each block so that they agree.

Of the answers only a strip, as high as a tile, is ever in floats (``strips.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from srvae_pyro.config import Precision
from srvae_pyro.errors import UserError
from srvae_pyro.inference.decoding import TileNoise
from srvae_pyro.models import SRVAE
from srvae_pyro.networks import cached_weights
from srvae_pyro.pixels import to_unit
from srvae_pyro.system.device import autocast, peak_bytes
from srvae_pyro.upscaling.agreement import gray_answer, is_exact, rounded
from srvae_pyro.upscaling.answers import (
    Answering,
    answers,
    check_answering,
    several_answers,
)
from srvae_pyro.upscaling.canvas import Canvas, Levels, MemoryCanvas
from srvae_pyro.upscaling.strips import Grid, strips
from srvae_pyro.upscaling.tiles import Span

__all__ = ["Enlarger", "at_least"]

GROWTH = 1.9  # measured: a process grows by 1.7 to 1.9 times what its networks' tensors take
SAFETY = 2.0  # times them is reserved; small pictures fit into the rest
SMALLEST_TILE = 8  # pixels a side, times the multiple that the networks need
MEASURED = 32  # pixels a side, at least, of the picture on which memory is measured
LARGEST_TILE = 512  # pixels a side of tiles that --memory-gb decides on
OFF_THE_GRID = ("mean", "estimate")  # whose answers are rounded once they are put together
STRIP_BYTES = 10  # for each value of a strip: floats, those carried on, levels, and copies of these


def _same(rows: Tensor) -> Tensor:
    return rows


def _untold(_: int) -> None:
    pass


@dataclass
class Enlarger:
    """Enlarges pictures by a model.

    Args:
        model: the srVAE; its transform is a downscaling.
        decode: draw the pixels, or take the likeliest component's mean, the expectation, or the
            estimate of a model that makes one.
        temperature: factor on the standard deviations of the latents.
        image_temperature: the same of the pixels, if sampled.
        seed: of all noise. An answer depends on it, the sample's index, the picture and the tiles.
        tile: pixels of y a side; 0: always whole; None: whole if ``memory_gb`` allows, else as
            large as it allows.
        memory_gb: gigabytes for the networks, the picture and the strips of answers.
        precision: of the networks; answers agree with the picture in any.
    """

    model: SRVAE
    decode: Answering = "mean"
    temperature: float = 0.0
    image_temperature: float = 1.0
    seed: int = 0
    tile: int | None = None
    memory_gb: float = 4.0
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        check_answering(self.model, self.decode, self.temperature, self.image_temperature)
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
        answer = MemoryCanvas.blank(self.shape_of(picture.shape, passes))
        self.enlarge(MemoryCanvas(picture), [answer], passes, sample, gray=gray)
        return answer.levels

    def shape_of(self, shape: Sequence[int], passes: int = 1) -> tuple[int, int, int]:
        """The shape (C, H, W) of an answer to a picture (c, h, w)."""
        factor = self.model.guide.d.factor**passes
        channels, height, width = shape
        return channels, factor * height, factor * width

    @torch.no_grad()
    @cached_weights()
    def enlarge(
        self,
        picture: Levels,
        answers: Sequence[Canvas],
        passes: int = 1,
        first: int = 0,
        *,
        gray: bool = False,
        finish: Callable[[Tensor], Tensor] = _same,
        made: Callable[[int], object] = _untold,
        scratch: Callable[[Sequence[int]], Canvas] = MemoryCanvas.blank,
    ) -> None:
        """Write one or several answers to a picture, each as :meth:`__call__` has it.

        Of all answers together what sees y alone is computed once a tile, or more often where
        ``memory_gb`` does not allow the strips of all. Further passes enlarge each answer by
        itself.

        Args:
            picture: levels (c, h, w).
            answers: where they are written, of the shape that :meth:`shape_of` gives.
            passes: how often, each time by the model's factor.
            first: index of the first of the answers; the others follow.
            gray: as of a call.
            finish: what is done to the rows of an answer, uint8 (C, n, W), before they are written.
            made: told how many pixels have been made, of each pass.
            scratch: makes canvases of a shape for what lies between two passes.

        Raises:
            UserError: not even a small tile fits into the memory allowed.
        """

        def larger(
            picture: Levels, answers: Sequence[Canvas], samples: Sequence[int], index: int
        ) -> None:
            streams = [(self.seed, sample, index) for sample in samples]
            if index == passes - 1:
                self._once(picture, answers, streams, gray, finish, made)
                return
            between = [scratch(self.shape_of(picture.shape)) for _ in answers]
            self._once(picture, between, streams, gray, _same, made)
            for number, canvas in enumerate(between):
                own = slice(number, number + 1)
                larger(canvas, answers[own], samples[own], index + 1)

        larger(picture, answers, range(first, first + len(answers)), 0)

    @cached_property
    def network_bytes(self) -> float:
        """Memory reserved for the networks for each pixel of y, measured on a small picture."""
        # Two multiples take 5% more for each pixel than many do; one takes 20% more.
        side = max(MEASURED, 2 * self.model.lower_multiple)
        y = to_unit(torch.full((1, self.model.lower_channels, side, side), 128))
        how = (self.decode, self.temperature, self.image_temperature)
        noise = TileNoise((0,), 0, 0, side)
        with cached_weights(), autocast(self.precision, self.model.device):
            # Weights that are computed once must not count: tiles would differ.
            answers(self.model, y, *how, noise)
            taken = peak_bytes(lambda: answers(self.model, y, *how, noise))
        return SAFETY * taken / side**2

    def need(self, height: int, width: int, side: int = 0, samples: int = 1) -> float:
        """Bytes that a y of such a size and strips of its answers take, in tiles or whole."""
        channels, factor = self.model.lower_channels, self.model.guide.d.factor
        networks = self.network_bytes * (side**2 if side else height * width)
        picture = (channels + 1) * height * width  # with its transparency
        values = samples * channels * factor**2 * (side or height) * width
        return max(networks, GROWTH / SAFETY * networks + picture + STRIP_BYTES * values)

    def tile_for(self, height: int, width: int) -> int:
        """Pixels a side of the tiles for a y of such a size; 0: whole.

        Raises:
            UserError: not even a small tile fits into the memory allowed.
        """
        if self.tile is not None:
            return 0 if self.tile >= max(height, width) else self.tile
        allowed = self.memory_gb * 1e9
        if self.need(height, width) <= allowed:
            return 0
        multiple = self.model.lower_multiple
        smallest = SMALLEST_TILE * multiple
        for side in range(LARGEST_TILE // multiple * multiple, smallest - 1, -multiple):
            if self.need(height, width, side) <= allowed:
                return side
        need = self.need(height, width, smallest)
        raise UserError(
            f"--memory-gb {self.memory_gb:g} is too little: give at least {at_least(need)}"
        )

    def _at_once(self, grid: Grid, most: int) -> int:
        """Of how many answers, 1 to ``most``, strips fit into the memory allowed."""
        height, width = len(grid.down), len(grid.across)
        side = self.tile_for(height, width)
        allowed = self.memory_gb * 1e9
        more = (n for n in range(2, most + 1) if self.need(height, width, side, n) > allowed)
        return next(more, most + 1) - 1

    def _once(
        self,
        picture: Levels,
        answers: Sequence[Canvas],
        streams: Sequence[tuple[int, int, int]],
        gray: bool,
        finish: Callable[[Tensor], Tensor],
        made: Callable[[int], object],
    ) -> None:
        """Answers larger by the model's factor, each with noise of its stream.

        As many at once as memory allows.
        """
        factor, (_, height, width) = self.model.guide.d.factor, picture.shape
        grid = Grid.of(height, width, self.model.lower_multiple, self.tile_for)
        cut = is_exact(self.model) and self.decode not in OFF_THE_GRID
        step = self._at_once(grid, len(answers)) if len(answers) > 1 else 1
        for start in range(0, len(answers), step):
            some = slice(start, start + step)

            def enlarged(
                part: Tensor, row: Span, column: Span, some: slice = some
            ) -> Iterator[Tensor]:
                places = (row.start, column.start, row.stop - row.start)
                noises = (TileNoise(stream, *places) for stream in streams[some])
                how = (self.decode, self.temperature, self.image_temperature)
                made_of_it = several_answers(self.model, part, noises, *how)
                for _ in streams[some]:
                    with autocast(self.precision, self.model.device):
                        x = next(made_of_it)
                    yield x[0].cpu()

            count = len(streams[some])
            for rows, parts in strips(picture, grid, factor, count, cut, enlarged, made):
                question = picture.rows(rows.start, rows.stop)
                for x, answer in zip(parts, answers[some], strict=True):
                    answer.append(finish(self._in_levels(x, question, gray)))

    def _in_levels(self, x: Tensor, y: Tensor, gray: bool) -> Tensor:
        """A strip of an answer (C, n, W) in [0, 1], which is changed, as levels.

        Args:
            x: the strip.
            y: the picture's rows (c, n / factor, w).
            gray: as of a call; before the next pass, whose answer agrees with what it is given.
        """
        x.mul_(255)
        if self.decode in OFF_THE_GRID:
            levels = rounded(x, self.model, y)
        else:
            levels = x.round_().clamp_(0, 255).to(torch.uint8)
        if gray and len(levels) == 3 and is_exact(self.model):
            return gray_answer(levels, y)
        return levels


def at_least(need: float) -> str:
    """Gigabytes that suffice for so many bytes, as they are given on the command line."""
    digits = 1 - math.floor(math.log10(need / 1e9))
    return f"{math.ceil(need / 1e9 * 10**digits) / 10**digits:g}"
