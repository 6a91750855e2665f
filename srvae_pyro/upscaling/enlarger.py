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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor

from srvae_pyro.config import Precision
from srvae_pyro.distributions.block_averages import agreeing
from srvae_pyro.errors import UserError
from srvae_pyro.inference.decoding import Decode, Decoding, Noise, TileNoise
from srvae_pyro.inference.importance_weights import given_lower
from srvae_pyro.models import SRVAE, ImageModel
from srvae_pyro.models.base import images_plate
from srvae_pyro.models.transforms import Downscale
from srvae_pyro.networks import cached_weights
from srvae_pyro.pixels import luma, to_unit
from srvae_pyro.system.device import autocast, peak_bytes, sent
from srvae_pyro.upscaling.tiling import Canvas, Grid, Levels, MemoryCanvas, Span, strips

ROWS = 64  # of the question at a time


def is_exact(model: SRVAE) -> bool:
    """Whether every x that the model draws for a y has d(x) = y."""
    return model.config.agrees


def agreeing_answer(x: Tensor, y: Tensor, passes: int = 1) -> Tensor:
    """A picture near x that becomes y if averaged ``passes`` times.

    What lies between x and y is settled first: the average of x that agrees with y.

    Args:
        x: levels that need not be whole, (..., C, 2**passes h, 2**passes w).
        y: uint8 levels (..., C, h, w).
        passes: how often x is halved to become y.

    Returns:
        uint8, of x's shape.
    """
    if passes > 1:
        halved = F.avg_pool2d(x.flatten(0, -3), 2).unflatten(0, x.shape[:-2])
        y = agreeing_answer(halved, y, passes - 1)
    out = torch.empty(x.shape, dtype=torch.uint8)
    # A few rows of a colour at a time: it takes many times the picture's memory.
    for colour in range(y.shape[-3]):
        for start in range(0, y.shape[-2], ROWS):
            rows = slice(2 * start, 2 * (start + ROWS))
            part = y[..., colour : colour + 1, start : start + ROWS, :]
            near = agreeing(x[..., colour : colour + 1, rows, :], part)
            out[..., colour : colour + 1, rows, :] = near.to(torch.uint8)
    return out


def gray_answer(x: Tensor, y: Tensor) -> Tensor:
    """The luma of an answer (3, H, W) to a gray y (3, h, w), in agreement with y: gray, (3, H, W).

    The luma of blocks that agree in every colour is at most two levels a pixel from agreeing.
    """
    return agreeing_answer(luma(x), y[:1]).expand_as(x)


def rounded(x: Tensor, model: SRVAE, y: Tensor, passes: int = 1) -> Tensor:
    """Levels x (..., C, H, W) as uint8, in agreement with y (..., C, h, w) if the model's do."""
    if is_exact(model):
        return agreeing_answer(x, y, passes)
    return x.round().clamp(0, 255).to(torch.uint8)


Answering = Literal[Decoding, "estimate"]


def check_answering(
    model: SRVAE, decode: Answering, temperature: float, image_temperature: float
) -> None:
    """Refuse what makes no sense.

    Raises:
        UserError: there is no such decoding, not of this model, or not at this temperature.
    """
    Decode("mean" if decode == "estimate" else decode, temperature, image_temperature)
    if decode == "estimate" and not model.estimates:
        raise UserError(
            "this model makes no estimate of x beside its distribution: --decode mean is its "
            "expectation"
        )
    if decode == "estimate" and temperature > 0:
        raise UserError(
            "an estimate has no temperature: leave it out, or take another decoding than estimate"
        )


def one_answer(model: SRVAE) -> Answering:
    """How one answer is decoded if nothing is asked for: as is nearest to the truth.

    That is the estimate, of a model that makes one, unless it was trained to make none.
    """
    run = model.run_config
    taught = run is None or run.training.estimate_weight > 0
    return "estimate" if model.estimates and taught else "mean"


@torch.no_grad()
@cached_weights()
def answers(
    model: SRVAE,
    y: Tensor,
    decode: Answering = "sample",
    temperature: float = 1.0,
    image_temperature: float = 1.0,
    noise: Noise | None = None,
) -> Tensor:
    """One answer x (B, C, H, W) for each y (B, c, h, w) of any size, by the model's own program.

    Unlike by ``SRVAE.super_resolve`` each network runs once; what p(u) demands of y's size does not
    hold here. ``estimate`` is what p(x|y,z) estimates of y alone, without u, z and chance.
    """
    if decode == "estimate":
        return _estimate(model, sent(y, model.device))
    with Decode(decode, temperature, image_temperature, noise):
        return model.super_resolution(sent(y, model.device))


def several_answers(
    model: SRVAE,
    y: Tensor,
    noises: Iterable[Noise],
    decode: Answering = "sample",
    temperature: float = 1.0,
    image_temperature: float = 1.0,
) -> Iterator[Tensor]:
    """Answers to the same y, one for each noise, with what sees y alone computed once.

    That is q(u|y), and of p(z|y,u) and p(x|y,z) what they make of y. Each is, to the bit, the one
    that :func:`answers` gives with its noise. To be called without autograd.
    """
    y = sent(y, model.device)
    if decode == "estimate":
        estimate = _estimate(model, y)
        for _ in noises:
            yield estimate.clone()
        return
    q_u: Any = model.guide.q_u(y)
    p_z, p_x = (given_lower(network, y) for network in (model.model.p_z, model.model.p_x))

    def program() -> Tensor:
        with images_plate(y):
            pyro.sample("y", dist.Delta(y, event_dim=3))
            u = pyro.sample("u", q_u)
            z = pyro.sample("z", p_z(u))
            x: Tensor = pyro.sample("x", p_x(z))
            return x

    for noise in noises:
        with Decode(decode, temperature, image_temperature, noise):
            x = program()
        yield x  # outside of the handler, which would else be the caller's too


def _estimate(model: SRVAE, y: Tensor) -> Tensor:
    p_x: Any = model.model.p_x
    estimate: Tensor = p_x.estimate(y)
    return estimate


MOST_PASSES = 3


def enlarging(model: ImageModel) -> SRVAE:
    """The model, if it is one that enlarges: a srVAE whose y is a downscaled x.

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
            "give a run with --transform downscale2, downscale4 or average2"
        )
    return model


def passes_for(model: SRVAE, factor: int) -> int:
    """How often the model enlarges for ``factor``, which is a power of its own.

    Raises:
        UserError: it is not one.
    """
    model_factor = model.guide.d.factor
    factors = [model_factor**passes for passes in range(1, MOST_PASSES + 1)]
    if factor not in factors:
        raise UserError(
            f"--factor {factor}: this model enlarges {model_factor} times, so the factor is one of "
            f"{', '.join(map(str, factors))}"
        )
    return factors.index(factor) + 1


def downscaled(model: SRVAE, x: Tensor, passes: int = 1) -> Tensor:
    """d(x), ``passes`` times, of uint8 levels (..., C, H, W): uint8 levels (..., C, h, w)."""
    for _ in range(passes):
        # A colour at a time: its integer arithmetic takes many times the picture's memory.
        colours = [model.guide.d.of_levels(c.int()) for c in x.split(1, dim=-3)]
        x = torch.cat([colour.to(torch.uint8) for colour in colours], dim=-3)
    return x


def downscaled_rows(model: SRVAE, x: Levels, start: int, stop: int, passes: int = 1) -> Tensor:
    """Some rows of :func:`downscaled`, without the whole of x in memory."""
    if passes == 0:
        return x.rows(start, stop)
    factor = model.guide.d.factor
    # A row of d(x) is made of the rows of x that it stands for and of some next to them, at most
    # as many as stand for one more on each side.
    first, last = max(start - 1, 0), min(stop + 1, x.shape[1] // factor**passes)
    part = downscaled_rows(model, x, factor * first, factor * last, passes - 1)
    return downscaled(model, part)[..., start - first : stop - first, :]


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
