"""Upscale an image of any size by a srVAE, whole or in overlapping tiles.

The image is y itself: y -> u ~ q(u|y) -> z ~ p(z|y,u) -> x ~ p(x|y,z). The networks are
convolutions, but their channel attention averages over all that they see and their borders are
padded with zeros, so a tile's output is not exactly the whole's. Tiles therefore overlap: what lies
next to a tile's border is left out and the rest blended with linear weights, and all tiles cut
their noise from one field, so that blending does not average it away.

If outputs are consistent with y in every pixel, they are not blended, which would spoil that, but
cut in the middle of the overlap between two pixels of y; only expectations and estimates
are blended, and then rounded within each block so that they agree.

Of the outputs only a strip, as high as a tile, is ever in floats (``strips.py``).
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
from srvae_pyro.distributions.block_averages import project_to_consistent
from srvae_pyro.errors import UserError
from srvae_pyro.inference.decoding import Decode, Decoding, Noise, TileNoise
from srvae_pyro.inference.importance_weights import condition_on_y
from srvae_pyro.models import SRVAE, ImageModel
from srvae_pyro.models.base import images_plate
from srvae_pyro.models.transforms import Downscale
from srvae_pyro.networks import cached_weights
from srvae_pyro.pixels import luma, to_unit
from srvae_pyro.system.device import autocast, peak_bytes, to_device
from srvae_pyro.upscaling.tiling import Canvas, Grid, Levels, MemoryCanvas, Span, strips

ROWS = 64  # of the input at a time


def is_consistent(model: SRVAE) -> bool:
    """Whether every x that the model draws for a y has d(x) = y."""
    return model.config.is_consistent


def consistent_output(x: Tensor, y: Tensor, passes: int = 1) -> Tensor:
    """An image near x that becomes y if averaged ``passes`` times.

    What lies between x and y is settled first: the average of x that is consistent with y.

    Args:
        x: levels that need not be whole, (..., C, 2**passes h, 2**passes w).
        y: uint8 levels (..., C, h, w).
        passes: how often x is halved to become y.

    Returns:
        uint8, of x's shape.
    """
    if passes > 1:
        halved = F.avg_pool2d(x.flatten(0, -3), 2).unflatten(0, x.shape[:-2])
        y = consistent_output(halved, y, passes - 1)
    out = torch.empty(x.shape, dtype=torch.uint8)
    # A few rows of a colour at a time: it takes many times the image's memory.
    for colour in range(y.shape[-3]):
        for start in range(0, y.shape[-2], ROWS):
            rows = slice(2 * start, 2 * (start + ROWS))
            part = y[..., colour : colour + 1, start : start + ROWS, :]
            near = project_to_consistent(x[..., colour : colour + 1, rows, :], part)
            out[..., colour : colour + 1, rows, :] = near.to(torch.uint8)
    return out


def gray_output(x: Tensor, y: Tensor) -> Tensor:
    """The luma of an output (3, H, W) to a gray y (3, h, w), consistent with y: gray, (3, H, W).

    The luma of blocks that agree in every colour is at most two levels a pixel from agreeing.
    """
    return consistent_output(luma(x), y[:1]).expand_as(x)


def rounded(x: Tensor, model: SRVAE, y: Tensor, passes: int = 1) -> Tensor:
    """Levels x (..., C, H, W) as uint8, consistent with y (..., C, h, w) if the model's do."""
    if is_consistent(model):
        return consistent_output(x, y, passes)
    return x.round().clamp(0, 255).to(torch.uint8)


UpscaleDecoding = Literal[Decoding, "estimate"]


def check_decoding(
    model: SRVAE, decode: UpscaleDecoding, temperature: float, image_temperature: float
) -> None:
    """Refuse what makes no sense.

    Raises:
        UserError: there is no such decoding, not of this model, or not at this temperature.
    """
    Decode("mean" if decode == "estimate" else decode, temperature, image_temperature)
    if decode == "estimate" and not model.has_point_estimate:
        raise UserError(
            "this model makes no estimate of x beside its distribution: --decode mean is its "
            "expectation"
        )
    if decode == "estimate" and temperature > 0:
        raise UserError(
            "an estimate has no temperature: leave it out, or take another decoding than estimate"
        )


def default_decoding(model: SRVAE) -> UpscaleDecoding:
    """How one output is decoded if nothing is asked for: as is nearest to the truth.

    That is the estimate, of a model that makes one, unless it was trained to make none.
    """
    run = model.run_config
    taught = run is None or run.training.estimate_weight > 0
    return "estimate" if model.has_point_estimate and taught else "mean"


@torch.no_grad()
@cached_weights()
def upscale_batch(
    model: SRVAE,
    y: Tensor,
    decode: UpscaleDecoding = "sample",
    temperature: float = 1.0,
    image_temperature: float = 1.0,
    noise: Noise | None = None,
) -> Tensor:
    """One output x (B, C, H, W) for each y (B, c, h, w) of any size, by the model's own program.

    Unlike by ``SRVAE.super_resolve`` each network runs once; what p(u) demands of y's size does not
    hold here. ``estimate`` is what p(x|y,z) estimates of y alone, without u, z and chance.
    """
    if decode == "estimate":
        return _estimate(model, to_device(y, model.device))
    with Decode(decode, temperature, image_temperature, noise):
        return model.super_resolution(to_device(y, model.device))


def upscale_samples(
    model: SRVAE,
    y: Tensor,
    noises: Iterable[Noise],
    decode: UpscaleDecoding = "sample",
    temperature: float = 1.0,
    image_temperature: float = 1.0,
) -> Iterator[Tensor]:
    """Outputs to the same y, one for each noise, with what sees y alone computed once.

    That is q(u|y), and of p(z|y,u) and p(x|y,z) what they make of y. Each is, to the bit, the one
    that :func:`upscale_batch` gives with its noise. To be called without autograd.
    """
    y = to_device(y, model.device)
    if decode == "estimate":
        estimate = _estimate(model, y)
        for _ in noises:
            yield estimate.clone()
        return
    q_u: Any = model.guide.q_u(y)
    p_z, p_x = (condition_on_y(network, y) for network in (model.model.p_z, model.model.p_x))

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


def upscaling_model(model: ImageModel) -> SRVAE:
    """The model, if it is one that upscales: a srVAE whose y is a downscaled x.

    Raises:
        UserError: it is not; says why.
    """
    if not isinstance(model, SRVAE):
        raise UserError(
            "this run is a one-level VAE, which has no y to upscale: give the run of a srVAE"
        )
    transform = model.guide.d
    if not isinstance(transform, Downscale):
        raise UserError(
            f"this srVAE's y is a {transform.name} image as large as x, so it does not upscale: "
            "give a run with --transform downscale2, downscale4 or average2"
        )
    return model


def passes_for(model: SRVAE, factor: int) -> int:
    """How often the model upscales for ``factor``, which is a power of its own.

    Raises:
        UserError: it is not one.
    """
    model_factor = model.guide.d.factor
    factors = [model_factor**passes for passes in range(1, MOST_PASSES + 1)]
    if factor not in factors:
        raise UserError(
            f"--factor {factor}: this model upscales {model_factor} times, so the factor is one of "
            f"{', '.join(map(str, factors))}"
        )
    return factors.index(factor) + 1


def downscaled(model: SRVAE, x: Tensor, passes: int = 1) -> Tensor:
    """d(x), ``passes`` times, of uint8 levels (..., C, H, W): uint8 levels (..., C, h, w)."""
    for _ in range(passes):
        # A colour at a time: its integer arithmetic takes many times the image's memory.
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
SAFETY = 2.0  # times them is reserved; small images fit into the rest
SMALLEST_TILE = 8  # pixels a side, times the multiple that the networks need
MEASURED = 32  # pixels a side, at least, of the image on which memory is measured
LARGEST_TILE = 512  # pixels a side of tiles that --memory-gb decides on
OFF_THE_GRID = ("mean", "estimate")  # whose outputs are rounded once they are put together
STRIP_BYTES = 10  # for each value of a strip: floats, those carried on, levels, and copies of these


def _same(rows: Tensor) -> Tensor:
    return rows


def _untold(_: int) -> None:
    pass


@dataclass
class Upscaler:
    """Upscales images by a model.

    Args:
        model: the srVAE; its transform is a downscaling.
        decode: draw the pixels, or take the likeliest component's mean, the expectation, or the
            estimate of a model that makes one.
        temperature: factor on the standard deviations of the latents.
        image_temperature: the same of the pixels, if sampled.
        seed: of all noise. An output depends on it, the sample's index, the image and the tiles.
        tile: pixels of y a side; 0: always whole; None: whole if ``memory_gb`` allows, else as
            large as it allows.
        memory_gb: gigabytes for the networks, the image and the strips of outputs.
        precision: of the networks; outputs are consistent with the image in any.
    """

    model: SRVAE
    decode: UpscaleDecoding = "mean"
    temperature: float = 0.0
    image_temperature: float = 1.0
    seed: int = 0
    tile: int | None = None
    memory_gb: float = 4.0
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        check_decoding(self.model, self.decode, self.temperature, self.image_temperature)
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
                f"{smallest}, such as {near}; 0 is the whole image"
            )

    def __call__(
        self, image: Tensor, passes: int = 1, sample: int = 0, gray: bool = False
    ) -> Tensor:
        """An image (c, h, w) of uint8 levels upscaled ``passes`` times: uint8 (C, H, W).

        Args:
            image: of the channels that the model's y has, of any size.
            passes: how often, each time by the model's factor.
            sample: index of the output.
            gray: whether an output that is consistent with the image is to be as gray as it.

        Raises:
            UserError: not even a small tile fits into the memory allowed.
        """
        output = MemoryCanvas.blank(self.shape_of(image.shape, passes))
        self.upscale(MemoryCanvas(image), [output], passes, sample, gray=gray)
        return output.levels

    def shape_of(self, shape: Sequence[int], passes: int = 1) -> tuple[int, int, int]:
        """The shape (C, H, W) of an output to an image (c, h, w)."""
        factor = self.model.guide.d.factor**passes
        channels, height, width = shape
        return channels, factor * height, factor * width

    @torch.no_grad()
    @cached_weights()
    def upscale(
        self,
        image: Levels,
        outputs: Sequence[Canvas],
        passes: int = 1,
        first: int = 0,
        *,
        gray: bool = False,
        finish: Callable[[Tensor], Tensor] = _same,
        made: Callable[[int], object] = _untold,
        scratch: Callable[[Sequence[int]], Canvas] = MemoryCanvas.blank,
    ) -> None:
        """Write one or several outputs to an image, each as :meth:`__call__` has it.

        Of all outputs together what sees y alone is computed once a tile, or more often where
        ``memory_gb`` does not allow the strips of all. Further passes upscale each output by
        itself.

        Args:
            image: levels (c, h, w).
            outputs: where they are written, of the shape that :meth:`shape_of` gives.
            passes: how often, each time by the model's factor.
            first: index of the first of the outputs; the others follow.
            gray: as of a call.
            finish: what is done to the rows of an output, uint8 (C, n, W), before they are written.
            made: told how many pixels have been made, of each pass.
            scratch: makes canvases of a shape for what lies between two passes.

        Raises:
            UserError: not even a small tile fits into the memory allowed.
        """

        def upscale_from(
            image: Levels, outputs: Sequence[Canvas], samples: Sequence[int], index: int
        ) -> None:
            streams = [(self.seed, sample, index) for sample in samples]
            if index == passes - 1:
                self._once(image, outputs, streams, gray, finish, made)
                return
            between = [scratch(self.shape_of(image.shape)) for _ in outputs]
            self._once(image, between, streams, gray, _same, made)
            for number, canvas in enumerate(between):
                own = slice(number, number + 1)
                upscale_from(canvas, outputs[own], samples[own], index + 1)

        upscale_from(image, outputs, range(first, first + len(outputs)), 0)

    @cached_property
    def network_bytes(self) -> float:
        """Memory reserved for the networks for each pixel of y, measured on a small image."""
        # Two multiples take 5% more for each pixel than many do; one takes 20% more.
        side = max(MEASURED, 2 * self.model.lower_multiple)
        y = to_unit(torch.full((1, self.model.lower_channels, side, side), 128))
        how = (self.decode, self.temperature, self.image_temperature)
        noise = TileNoise((0,), 0, 0, side)
        with cached_weights(), autocast(self.precision, self.model.device):
            # Weights that are computed once must not count: tiles would differ.
            upscale_batch(self.model, y, *how, noise)
            taken = peak_bytes(lambda: upscale_batch(self.model, y, *how, noise))
        return SAFETY * taken / side**2

    def need(self, height: int, width: int, side: int = 0, samples: int = 1) -> float:
        """Bytes that a y of such a size and strips of its outputs take, in tiles or whole."""
        channels, factor = self.model.lower_channels, self.model.guide.d.factor
        networks = self.network_bytes * (side**2 if side else height * width)
        image = (channels + 1) * height * width  # with its transparency
        values = samples * channels * factor**2 * (side or height) * width
        return max(networks, GROWTH / SAFETY * networks + image + STRIP_BYTES * values)

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
        """Of how many outputs, 1 to ``most``, strips fit into the memory allowed."""
        height, width = len(grid.down), len(grid.across)
        side = self.tile_for(height, width)
        allowed = self.memory_gb * 1e9
        more = (n for n in range(2, most + 1) if self.need(height, width, side, n) > allowed)
        return next(more, most + 1) - 1

    def _once(
        self,
        image: Levels,
        outputs: Sequence[Canvas],
        streams: Sequence[tuple[int, int, int]],
        gray: bool,
        finish: Callable[[Tensor], Tensor],
        made: Callable[[int], object],
    ) -> None:
        """Outputs larger by the model's factor, each with noise of its stream.

        As many at once as memory allows.
        """
        factor, (_, height, width) = self.model.guide.d.factor, image.shape
        grid = Grid.of(height, width, self.model.lower_multiple, self.tile_for)
        cut = is_consistent(self.model) and self.decode not in OFF_THE_GRID
        step = self._at_once(grid, len(outputs)) if len(outputs) > 1 else 1
        for start in range(0, len(outputs), step):
            some = slice(start, start + step)

            def upscaled(
                part: Tensor, row: Span, column: Span, some: slice = some
            ) -> Iterator[Tensor]:
                places = (row.start, column.start, row.stop - row.start)
                noises = (TileNoise(stream, *places) for stream in streams[some])
                how = (self.decode, self.temperature, self.image_temperature)
                made_of_it = upscale_samples(self.model, part, noises, *how)
                for _ in streams[some]:
                    with autocast(self.precision, self.model.device):
                        x = next(made_of_it)
                    yield x[0].cpu()

            count = len(streams[some])
            for rows, parts in strips(image, grid, factor, count, cut, upscaled, made):
                lr = image.rows(rows.start, rows.stop)
                for x, output in zip(parts, outputs[some], strict=True):
                    output.append(finish(self._in_levels(x, lr, gray)))

    def _in_levels(self, x: Tensor, y: Tensor, gray: bool) -> Tensor:
        """A strip of an output (C, n, W) in [0, 1], which is changed, as levels.

        Args:
            x: the strip.
            y: the image's rows (c, n / factor, w).
            gray: as of a call; before the next pass, whose output is consistent with its input.
        """
        x.mul_(255)
        if self.decode in OFF_THE_GRID:
            levels = rounded(x, self.model, y)
        else:
            levels = x.round_().clamp_(0, 255).to(torch.uint8)
        if gray and len(levels) == 3 and is_consistent(self.model):
            return gray_output(levels, y)
        return levels


def at_least(need: float) -> str:
    """Gigabytes that suffice for so many bytes, as they are given on the command line."""
    digits = 1 - math.floor(math.log10(need / 1e9))
    return f"{math.ceil(need / 1e9 * 10**digits) / 10**digits:g}"
