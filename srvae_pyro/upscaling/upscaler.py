"""Upscale an image of any size by an srVAE, whole or in overlapping tiles.

The image is y itself: y -> u ~ q(u|y) -> z ~ p(z|y,u) -> x ~ p(x|y,z). The networks are
convolutions, but their channel attention averages over all that they see and their borders are
padded with zeros, so a tile's output is not exactly the whole's. Tiles therefore overlap: what lies
next to a tile's border is left out and the rest blended with linear weights, and all tiles cut
their noise from one field, so that blending does not average it away.

Outputs that are consistent with y are not blended, which would spoil that, but cut in the middle of
the overlap between two pixels of y; only expectations and estimates are blended, and then rounded
within each block so that they are consistent.

Of the outputs only a strip, as high as a tile, is ever in floats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor

from srvae_pyro.config import Precision
from srvae_pyro.distributions.block_averages import PAIRS, Block
from srvae_pyro.errors import UserError
from srvae_pyro.inference.decoding import Decode, Noise, TileNoise
from srvae_pyro.inference.importance_weights import condition_on_y
from srvae_pyro.models import SRVAE, ImageModel, super_resolves
from srvae_pyro.models.base import images_plate
from srvae_pyro.models.restorer import FACTORS, InputKind, PointEstimate
from srvae_pyro.models.transforms import names_of
from srvae_pyro.networks import cached_weights
from srvae_pyro.pixels import luma, to_unit
from srvae_pyro.system.cli import check_arguments
from srvae_pyro.system.device import autocast, choose_precision, peak_bytes, to_device
from srvae_pyro.upscaling.arguments import UpscaleDecoding, UpscaleOptions
from srvae_pyro.upscaling.photographs import Photograph
from srvae_pyro.upscaling.point_estimate import estimated_rows
from srvae_pyro.upscaling.tiling import Canvas, Grid, Levels, MemoryCanvas, Span

EXACT = InputKind.exact()
UNKNOWN = InputKind()
ROWS = 64  # of the input at a time


def consistent_output(x: Tensor, y: Tensor, passes: int = 1, block: Block = PAIRS) -> Tensor:
    """An image near x that becomes y if its blocks are averaged ``passes`` times.

    x has levels that need not be whole, (..., C, f**passes h, f**passes w), and y uint8 levels
    (..., C, h, w).
    """
    if passes > 1:
        halved = F.avg_pool2d(x.float().flatten(0, -3), block.factor).unflatten(0, x.shape[:-2])
        y = consistent_output(halved, y, passes - 1, block)
    out = torch.empty(x.shape, dtype=torch.uint8)
    # A few rows of a colour at a time: it takes many times the image's memory.
    for colour in range(y.shape[-3]):
        for start in range(0, y.shape[-2], ROWS):
            rows = slice(block.factor * start, block.factor * (start + ROWS))
            part = y[..., colour : colour + 1, start : start + ROWS, :]
            near = block.project(x[..., colour : colour + 1, rows, :], part)
            out[..., colour : colour + 1, rows, :] = near.to(torch.uint8)
    return out


def gray_output(x: Tensor, y: Tensor, passes: int = 1, block: Block = PAIRS) -> Tensor:
    """The luma of an output (3, H, W) to a gray y (3, h, w), consistent with y: gray, (3, H, W).

    The luma of blocks that are consistent in every colour is at most two levels a pixel from it.
    """
    return consistent_output(luma(x), y[:1], passes, block).expand_as(x)


def rounded(x: Tensor, y: Tensor, model: SRVAE, passes: int = 1) -> Tensor:
    """Levels x (..., C, H, W) as uint8, consistent with y (..., C, h, w) if the model's do."""
    if model.is_consistent:
        return consistent_output(x, y, passes, model.guide.d.block or PAIRS)
    return x.round().clamp(0, 255).to(torch.uint8)


def check_decoding(
    model: SRVAE, decode: UpscaleDecoding, temperature: float, image_temperature: float
) -> None:
    """Refuse a decoding that does not exist, not for this model, or not at this temperature."""
    Decode("mean" if decode == "estimate" else decode, temperature, image_temperature)
    if decode == "estimate" and not (model.has_point_estimate or model.restorer):
        raise UserError("this model has no point estimate of x: use `decode=mean`, its expectation")
    if decode == "estimate" and temperature > 0:
        raise UserError(
            "`temperature` does not apply to a point estimate: leave it out, or choose another "
            "`decode`"
        )


def default_decoding(model: SRVAE) -> UpscaleDecoding:
    """How one output is decoded by default: the point estimate if the model has learnt one."""
    return "estimate" if model.restorer or has_learnt_estimate(model) else "mean"


def has_learnt_estimate(model: SRVAE) -> bool:
    """Whether p(x|y,z) predicts x from y alone, and has learnt to."""
    run = model.run_config
    trained = run is None or run.model.restorer is not None or run.training.estimate_weight > 0
    return model.has_point_estimate and trained


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
    kind: InputKind = EXACT,
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
    if not kind.trusted:  # each has a y of its own
        for noise in noises:
            with Decode(decode, temperature, image_temperature, noise):
                x = model.restoration(y, kind)
            yield x
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
    """The model, if it is an srVAE whose y is a downscaled x; others are refused."""
    if len(model.levels) == 1:
        raise UserError(
            "this run is a one-level VAE, which has no y to upscale: use the run of an srVAE"
        )
    if not super_resolves(model):
        raise UserError(f"a {type(model).__name__} has no super_resolution, so it does not upscale")
    transform = model.guide.d
    if transform.factor == 1:
        raise UserError(
            f"this srVAE's y is a {transform.name} image as large as x, so it does not upscale: "
            f"give a run with `transform={names_of(lambda d: d.factor > 1)}`"
        )
    return model


def passes_for(model: SRVAE, factor: int) -> int:
    """How often the model upscales for ``factor``, which must be a power of its own."""
    factors = _powers(model)
    if factor not in factors:
        raise UserError(
            f"`factor={factor}`: this model upscales by {factors[0]}, so the factor is one of "
            f"{', '.join(map(str, factors_of(model)))}"
        )
    return factors.index(factor) + 1


def factors_of(model: SRVAE) -> list[int]:
    """The factors that outputs can be enlarged by."""
    return sorted({*_powers(model), *(FACTORS if model.restorer else ())})


def _powers(model: SRVAE) -> list[int]:
    """The factors of one pass, of two and so on."""
    return [model.guide.d.factor**passes for passes in range(1, MOST_PASSES + 1)]


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


@dataclass
class Upscaler:
    """Upscales images by a model.

    Args:
        model: the srVAE; its transform is a downscaling.
        options: how. An output depends on the seed, the sample's index, the image and the tiles;
            it is consistent with the image in any precision.
        progress: called with the number of pixels made, of each pass, after each tile.

    Raises:
        UserError: the model does not upscale so.
    """

    model: SRVAE
    options: UpscaleOptions = field(default_factory=UpscaleOptions)
    progress: Callable[[int], object] = lambda _: None

    def __post_init__(self) -> None:
        options, model = self.options, self.model
        check_arguments(options)
        factor = model.guide.d.factor if options.factor is None else options.factor
        restorer = self.restorer = model.restorer
        if options.input not in ("auto", "average") and restorer is None:
            raise UserError(
                f"`input={options.input}`: this run was trained on averages alone; use one "
                "trained with `inputs=damaged`"
            )
        self.factor = factor
        self.passes = 0 if restorer and factor in (1, 3) else passes_for(model, factor)
        several, temperature = options.samples > 1, options.temperature
        # A given temperature is for a decoding that has one.
        one = "mean" if temperature else default_decoding(model)
        if restorer and factor in (1, 3) and (several or options.decode not in (None, "estimate")):
            raise UserError(
                f"`factor={factor}` has one output, the point estimate: for several outputs or "
                "another `decode` choose 2, 4 or 8"
            )
        self.decode: UpscaleDecoding = options.decode or ("sample" if several else one)
        if temperature is None:
            temperature = 1.0 if several or self.decode == "sample" else 0.0
        self.temperature = temperature
        if several and self.decode != "sample" and temperature == 0:
            raise UserError(
                f"`decode={self.decode}` at temperature 0 has one output: leave out `samples`, or "
                "use a `temperature` above 0"
            )
        if options.tile is not None and self._in_one_pass(EXACT if self.trusts_inputs else UNKNOWN):
            raise UserError(
                "`tile` does not apply to the point estimate: a smaller `memory_gb` makes its "
                "tiles smaller"
            )
        precision = options.precision
        if precision == "auto":
            fast = restorer is not None and self.decode == "estimate"
            precision = choose_precision("auto", model.device) if fast else "fp32"
        self.precision: Precision = precision
        self._how = (self.decode, temperature, options.image_temperature)
        check_decoding(model, *self._how)
        multiple, tile = model.lower_multiple, options.tile
        smallest = SMALLEST_TILE * multiple
        if tile and (tile < smallest or tile % multiple):
            near = max(round(tile / multiple) * multiple, smallest)
            raise UserError(
                f"`tile={tile}`: a tile's side is a multiple of {multiple} and at least "
                f"{smallest}, such as {near}; 0 is the whole image"
            )

    @property
    def trusts_inputs(self) -> bool:
        """Whether inputs are exact averages, with which outputs are consistent."""
        return self.restorer is None or self.options.input == "average"

    def kind_of(self, photograph: Photograph) -> InputKind:
        """What is known of an input, by ``input``, its file and its pixels."""
        if self.trusts_inputs:
            return EXACT
        kind = InputKind.named(self.options.input)
        if self.options.input == "unknown":
            return kind
        return replace(photograph.kind, reduction=kind.reduction)

    def __call__(
        self, image: Tensor, sample: int = 0, gray: bool = False, kind: InputKind = EXACT
    ) -> Tensor:
        """An image (c, h, w) of uint8 levels upscaled: uint8 (C, H, W).

        Args:
            image: of the channels that the model's y has, of any size.
            sample: index of the output.
            gray: whether the image is gray, as the output is then.
            kind: what is known of the image.

        Raises:
            UserError: not even a small tile fits into the memory allowed.
        """
        output = MemoryCanvas.blank(self.shape_of(image.shape))
        self.upscale(MemoryCanvas(image), [output], sample, gray, kind)
        return output.levels

    def shape_of(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """The shape (C, H, W) of an output to an image (c, h, w)."""
        channels, height, width = shape
        return channels, self.factor * height, self.factor * width

    @torch.no_grad()
    @cached_weights()
    def upscale(
        self,
        image: Levels,
        outputs: Sequence[Canvas],
        first: int = 0,
        gray: bool = False,
        kind: InputKind = EXACT,
    ) -> None:
        """Write one or several outputs to an image (c, h, w), each as :meth:`__call__` has it.

        Of all outputs together what sees y alone is computed once a tile, or more often if
        ``memory_gb`` does not allow the strips of all. Further passes upscale each output by
        itself.

        Args:
            image: its levels.
            outputs: where they are written, of the shape that :meth:`shape_of` gives.
            first: index of the first of the outputs; the others follow.
            gray: as of a call.
            kind: as of a call.

        Raises:
            UserError: not even a small tile fits into the memory allowed.
        """
        factor = self.model.guide.d.factor
        if self.restorer is not None and self._in_one_pass(kind):
            self._estimate(self.restorer.estimate, image, outputs, gray, kind)
            return

        def upscale_from(
            image: Levels, outputs: Sequence[Canvas], samples: Sequence[int], index: int
        ) -> None:
            streams = [(self.options.seed, sample, index) for sample in samples]
            now = EXACT if index else kind  # an output is the next pass's exact average
            if index == self.passes - 1:
                self._once(image, outputs, streams, gray, now, last=True)
                return
            channels, height, width = image.shape
            shape = (channels, factor * height, factor * width)
            between = [output.like(shape) for output in outputs]
            self._once(image, between, streams, gray, now, last=False)
            for canvas, output, sample in zip(between, outputs, samples, strict=True):
                upscale_from(canvas, [output], [sample], index + 1)

        upscale_from(image, outputs, range(first, first + len(outputs)), 0)

    def pixels(self, pixels: int) -> int:
        """How many pixels are made of an image of so many for each output, in all passes."""
        if self.restorer is not None and self.decode == "estimate":
            return pixels * (self.factor**2 + (16 if self.factor not in FACTORS else 0))
        square = self.model.guide.d.factor**2
        return sum(pixels * square ** (n + 1) for n in range(self.passes))

    def _in_one_pass(self, kind: InputKind) -> bool:
        """Whether outputs are the restorer's estimates, not those that belong to p(x|y,z)."""
        once = kind.trusted and self.factor == self.model.guide.d.factor
        by_likelihood = once and has_learnt_estimate(self.model)
        return self.restorer is not None and self.decode == "estimate" and not by_likelihood

    def _estimate(
        self,
        network: PointEstimate,
        image: Levels,
        outputs: Sequence[Canvas],
        gray: bool,
        kind: InputKind,
    ) -> None:
        """Point estimates in one pass; of eight times, twice that of four times."""
        factor, rest = (self.factor, 1) if self.factor in FACTORS else (4, self.factor // 4)
        channels, height, width = image.shape
        shape = (channels, factor * height, factor * width)
        between = outputs if rest == 1 else [outputs[0].like(shape)]
        estimate = network.folded(kind, factor).to(memory_format=torch.channels_last).eval()
        passes = factor.bit_length() - 1 if kind.trusted and factor in (2, 4) else 0
        rows = estimated_rows(
            estimate, image, self.options.memory_gb, self.precision, self.progress
        )
        for part, x in rows:
            if passes:
                y = image.rows(part.start, part.stop)
                levels = rounded(x, y, self.model, passes)
                levels = gray_output(levels, y, passes) if gray else levels
            else:
                levels = x.round_().clamp_(0, 255).to(torch.uint8)
                if gray and len(levels) == 3:
                    levels = luma(levels).to(torch.uint8).expand_as(levels)
            for output in between:
                output.append(levels)
        if rest > 1:
            again = replace(self.options, factor=rest, decode="estimate", samples=1)
            clean = kind if kind.trusted else InputKind(noise=0.0, table=0.0)
            Upscaler(self.model, again, self.progress).upscale(between[0], outputs, 0, gray, clean)

    @cached_property
    def network_bytes(self) -> float:
        """Memory reserved for the networks for each pixel of y, measured on a small image."""
        # Two multiples take 5% more for each pixel than many do; one takes 20% more.
        side = max(MEASURED, 2 * self.model.lower_multiple)
        y = to_unit(torch.full((1, self.model.lower_channels, side, side), 128))
        noise = TileNoise((0,), 0, 0, side)
        with cached_weights(), autocast(self.precision, self.model.device):
            # Weights that are computed once must not count: tiles would differ.
            upscale_batch(self.model, y, *self._how, noise)
            taken = peak_bytes(lambda: upscale_batch(self.model, y, *self._how, noise))
        return SAFETY * taken / side**2

    def need(self, height: int, width: int, side: int = 0, samples: int = 1) -> float:
        """Bytes that a y of such a size and strips of its outputs take, in tiles or whole."""
        channels, factor = self.model.lower_channels, self.model.guide.d.factor
        networks = self.network_bytes * (side**2 if side else height * width)
        image = (channels + 1) * height * width  # with its transparency
        values = samples * channels * factor**2 * (side or height) * width
        return max(networks, GROWTH / SAFETY * networks + image + STRIP_BYTES * values)

    def tile_for(self, height: int, width: int) -> int:
        """Pixels a side of the tiles for a y of such a size, as memory allows; 0: whole."""
        if self.options.tile is not None:
            return 0 if self.options.tile >= max(height, width) else self.options.tile
        allowed = self.options.memory_gb * 1e9
        if self.need(height, width) <= allowed:
            return 0
        multiple = self.model.lower_multiple
        smallest = SMALLEST_TILE * multiple
        for side in range(LARGEST_TILE // multiple * multiple, smallest - 1, -multiple):
            if self.need(height, width, side) <= allowed:
                return side
        need = self.need(height, width, smallest)
        raise UserError(
            f"`memory_gb={self.options.memory_gb:g}` is too little: use at least {at_least(need)}"
        )

    def _at_once(self, grid: Grid, most: int) -> int:
        """Of how many outputs, 1 to ``most``, strips fit into the memory allowed."""
        height, width = len(grid.down), len(grid.across)
        side = self.tile_for(height, width)
        allowed = self.options.memory_gb * 1e9
        more = (n for n in range(2, most + 1) if self.need(height, width, side, n) > allowed)
        return next(more, most + 1) - 1

    def _once(
        self,
        image: Levels,
        outputs: Sequence[Canvas],
        streams: Sequence[tuple[int, int, int]],
        gray: bool,
        kind: InputKind,
        last: bool,
    ) -> None:
        """One pass: outputs larger by the model's factor, as many at once as memory allows."""
        _, height, width = image.shape
        grid = Grid.of(height, width, self.model.lower_multiple, self.tile_for)
        step = self._at_once(grid, len(outputs)) if len(outputs) > 1 else 1
        for start in range(0, len(outputs), step):
            part = slice(start, start + step)
            for rows, strips in self._strips(image, grid, streams[part], kind):
                lr = image.rows(rows.start, rows.stop)
                for x, output in zip(strips, outputs[part], strict=True):
                    output.append(self._in_levels(x, lr, gray, last, kind.trusted))

    def _strips(
        self,
        image: Levels,
        grid: Grid,
        streams: Sequence[tuple[int, int, int]],
        kind: InputKind,
    ) -> Iterator[tuple[range, Tensor]]:
        """Rows of an image, and its outputs (count, C, n, W) in [0, 1] there.

        Rows that no later tile reaches are yielded at once. The strips are parts of one tensor:
        each holds until the next is requested.
        """
        factor, (channels, height, width) = self.model.guide.d.factor, image.shape
        cut = self.model.is_consistent and self.decode not in OFF_THE_GRID
        tall, wide = grid.rows[0].stop - grid.rows[0].start, len(grid.across)
        sums = torch.zeros(len(streams), channels, factor * tall, factor * wide)
        row_ends = [*(min(row.start, height) for row in grid.rows[1:]), height]
        column_ends = [*(min(column.start, width) for column in grid.columns[1:]), width]
        for row, end in zip(grid.rows, row_ends, strict=True):
            places = grid.down[row.pixels]
            top = int(places.min())
            source = image.rows(top, int(places.max()) + 1)[:, places - top]
            for column, right in zip(grid.columns, column_ends, strict=True):
                tile = to_unit(source[None][..., grid.across[column.pixels]])
                weights = row.weights(factor, cut)[:, None] * column.weights(factor, cut)
                for total, x in zip(
                    sums, self._tile(tile, row, column, streams, kind), strict=True
                ):
                    x *= weights
                    total[..., column.upscaled(factor)] += x
                    self.progress(factor**2 * (end - row.start) * (right - column.start))
            done = factor * (end - row.start)
            yield range(row.start, end), sums[:, :, :done, : factor * width]
            carried = sums[:, :, done:].clone()
            sums[:, :, : carried.shape[2]] = carried
            sums[:, :, carried.shape[2] :] = 0

    def _tile(
        self,
        y: Tensor,
        row: Span,
        column: Span,
        streams: Sequence[tuple[int, int, int]],
        kind: InputKind,
    ) -> Iterator[Tensor]:
        """The outputs (C, ...) for a tile (1, c, ...) in [0, 1], each with noise of its stream."""
        places = (row.start, column.start, row.stop - row.start)
        noises = (TileNoise(stream, *places) for stream in streams)
        outputs = upscale_samples(self.model, y, noises, *self._how, kind)
        for _ in streams:
            with autocast(self.precision, self.model.device):
                x = next(outputs)
            yield x[0].cpu()

    def _in_levels(self, x: Tensor, y: Tensor, gray: bool, last: bool, exact: bool) -> Tensor:
        """A strip of an output (C, n, W) in [0, 1], which is changed, as levels.

        y has the image's rows (c, n / factor, w).
        """
        x.mul_(255)
        if self.decode in OFF_THE_GRID and exact:
            levels = rounded(x, y, self.model)
        else:
            levels = x.round_().clamp_(0, 255).to(torch.uint8)
        if not gray or len(levels) == 1:
            return levels
        if self.model.is_consistent and exact:
            # Before the next pass, which is consistent with it.
            return gray_output(levels, y, block=self.model.guide.d.block or PAIRS)
        one = last or self.model.is_consistent  # its next pass takes one channel for all
        return luma(levels).to(torch.uint8).expand_as(levels) if one else levels


def at_least(need: float) -> str:
    """Gigabytes that suffice for so many bytes."""
    digits = 1 - math.floor(math.log10(need / 1e9))
    return f"{math.ceil(need / 1e9 * 10**digits) / 10**digits:g}"
