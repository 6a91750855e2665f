"""The deterministic, discrete y = d(x) that the srVAE's lower level models.

They compute on the levels 0..255 as integers (or on floats that hold such integers exactly), so y
does not depend on the device, the batch, the memory format, autocast or the order of a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srvae_pyro.distributions.block_averages import Block
from srvae_pyro.errors import UserError
from srvae_pyro.pixels import luma, to_levels, to_unit

__all__ = [
    "TRANSFORMS",
    "BlockAverage",
    "Downscale",
    "Grayscale",
    "Sketch",
    "Transform",
    "make_transform",
    "names_of",
]

Shape = tuple[int, int, int]


class Transform(nn.Module):
    """A deterministic map d from images x to images y, both on the grid k/255 of [0, 1].

    Called on x (..., C, H, W), float32 or float64, any leading batch shape, it gives y
    (..., c, h, w) in x's precision. y carries no gradient: d is discrete.

    References:
        Gatopoulos, Stol and Tomczak, Super-resolution Variational Auto-Encoders, 2020,
        arXiv:2006.05218, section 3.

    Attributes:
        name: what :func:`make_transform` calls it.
        factor: how many times smaller the sides of y are than those of x.
        block: whose rounded averages y is, if it is: then a likelihood can be consistent.
    """

    name: str
    factor: int = 1
    block: Block | None = None

    def output_shape(self, shape: Sequence[int]) -> Shape:
        """The shape (c, h, w) of y for an x of ``shape`` (C, H, W)."""
        raise NotImplementedError

    def of_levels(self, levels: Tensor) -> Tensor:
        """d itself, int32 levels (..., C, H, W) to levels (..., c, h, w) of any type."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        self.output_shape(x.shape[-3:])
        y = self.of_levels(to_levels(x))
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        return to_unit(y, dtype).contiguous()

    def lift(self, y: Tensor, shape: Sequence[int]) -> Tensor:
        """y (..., c, h, w) brought to the height and width that end ``shape``: (..., c, H, W)."""
        return y

    def extra_repr(self) -> str:
        return repr(self.name)


class Downscale(Transform):
    """x made smaller by an integer factor, antialiased: (C, H, W) to (C, H/factor, W/factor).

    The triangle filter of Pillow's ``Image.resize(..., Image.BILINEAR)`` (support ``factor``,
    weights renormalised at the borders, rows first and rounded to 8 bits, then columns), in the
    same fixed-point arithmetic: its result is Pillow's, level for level, for images up to twice
    as high as wide. Of higher ones Pillow filters the columns first, which here and there rounds to
    another level; here all are treated alike.
    """

    def __init__(self, factor: int = 2) -> None:
        super().__init__()
        if factor < 2:
            raise UserError(f"cannot downscale by {factor}: the factor is an integer of at least 2")
        self.factor = factor
        self.name = f"downscale{factor}"

    def output_shape(self, shape: Sequence[int]) -> Shape:
        channels, height, width = shape
        if height % self.factor or width % self.factor or not height or not width:
            near = [max(round(size / self.factor), 1) * self.factor for size in (height, width)]
            raise UserError(
                f"cannot downscale images of {height}x{width} by {self.factor}: height and width "
                f"must be multiples of {self.factor}, such as {near[0]}x{near[1]}"
            )
        return channels, height // self.factor, width // self.factor

    def of_levels(self, levels: Tensor) -> Tensor:
        rows = _shrink_last(levels, self.factor)
        return _shrink_last(rows.transpose(-1, -2), self.factor).transpose(-1, -2)

    def lift(self, y: Tensor, shape: Sequence[int]) -> Tensor:
        """y (..., c, h, w) upsampled to the height and width that end ``shape``: bilinear."""
        height, width = shape[-2:]
        flat = y.reshape(-1, *y.shape[-3:])
        flat = F.interpolate(flat, (height, width), mode="bilinear", align_corners=False)
        return flat.reshape(*y.shape[:-2], height, width)


class BlockAverage(Downscale):
    """The rounded average of blocks of pixels: (C, H, W) to (C, H/factor, W/factor).

    For 2, 4 and so on level for level Pillow's ``Image.reduce(factor)``: (a + b + c + d + 2) >> 2.
    Each pixel of x counts in one of y, so the x of a y can be counted, block by block. y is lifted
    bilinearly as for other downscalings: a pixel of y stands in the middle of its block.
    """

    def __init__(self, factor: int = 2) -> None:
        super().__init__(factor)
        self.block: Block = Block(factor)
        self.name = f"average{factor}"

    def of_levels(self, levels: Tensor) -> Tensor:
        return self.block.average(levels)


class Grayscale(Transform):
    """The luma of a colour image: (3, H, W) to (1, H, W).

    ITU-R 601-2 in 16-bit fixed point, level for level Pillow's ``Image.convert("L")``.
    """

    name = "grayscale"

    def output_shape(self, shape: Sequence[int]) -> Shape:
        channels, height, width = shape
        if channels != 3:
            raise UserError(
                f"the transform grayscale needs images of 3 channels, not {channels}: "
                f"choose {names_of(lambda d: not isinstance(d, Grayscale))}"
            )
        return 1, height, width

    def of_levels(self, levels: Tensor) -> Tensor:
        return luma(levels)


class Sketch(Transform):
    """An image's edges as pencil on paper: (1 or 3, H, W) to (1, H, W).

    White minus half the magnitude of the luma's Sobel gradient, so that an upright edge between
    two levels is drawn with twice their difference, down to black. Borders are replicated.
    """

    name = "sketch"

    def output_shape(self, shape: Sequence[int]) -> Shape:
        channels, height, width = shape
        if channels not in (1, 3):
            raise UserError(f"the transform sketch needs images of 1 or 3 channels, not {channels}")
        return 1, height, width

    def of_levels(self, levels: Tensor) -> Tensor:
        gray = luma(levels) if levels.shape[-3] == 3 else levels
        flat = gray.reshape(-1, *gray.shape[-3:]).float()
        padded = F.pad(flat, (1, 1, 1, 1), mode="replicate")
        across = padded[..., 2:] - padded[..., :-2]
        down = padded[..., 2:, :] - padded[..., :-2, :]
        across = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
        down = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
        # At most 2 * 1020^2 < 2^24: exact in float32, and the square root is correctly rounded.
        strokes = torch.floor(0.5 * torch.sqrt(across**2 + down**2) + 0.5)
        return (255 - strokes).clamp_min(0).reshape(gray.shape)


_PRECISION = 22  # bits of the filter's weights: the most that keep the sums below 2^31


@lru_cache(maxsize=64)
def _triangle(size: int, factor: int, device: torch.device) -> Tensor:
    """Weights (size/factor, 2*factor), int32 in units of 2^-22, of each output's inputs."""
    outputs = torch.arange(size // factor, dtype=torch.float64)[:, None]
    inputs = outputs * factor - factor // 2 + torch.arange(2 * factor)
    distance = (inputs + 0.5 - (outputs + 0.5) * factor).abs() / factor
    weights = (1 - distance).clamp_min(0) * ((inputs >= 0) & (inputs < size))
    weights = weights / weights.sum(dim=1, keepdim=True)
    return (weights * 2**_PRECISION + 0.5).to(torch.int32).to(device)


def _shrink_last(levels: Tensor, factor: int) -> Tensor:
    """int32 levels (..., W) filtered and rounded to (..., W/factor)."""
    weights = _triangle(levels.shape[-1], factor, levels.device)
    windows = F.pad(levels, (factor // 2, factor - factor // 2)).unfold(-1, 2 * factor, factor)
    sums = (windows * weights).sum(dim=-1, dtype=torch.int32)
    return (sums + 2 ** (_PRECISION - 1)) >> _PRECISION


TRANSFORMS: dict[str, Callable[[], Transform]] = {
    "downscale2": lambda: Downscale(2),
    "downscale4": lambda: Downscale(4),
    "average2": BlockAverage,
    "grayscale": Grayscale,
    "sketch": Sketch,
}


def make_transform(name: str) -> Transform:
    """The transform called ``name`` in :data:`TRANSFORMS`."""
    if name not in TRANSFORMS:
        close = get_close_matches(name, TRANSFORMS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UserError(f"there is no transform {name!r}: {hint}There are {', '.join(TRANSFORMS)}")
    return TRANSFORMS[name]()


def names_of(suits: Callable[[Transform], bool]) -> str:
    """The names in :data:`TRANSFORMS` of those that suit, in words: "a, b or c"."""
    *names, last = (name for name, make in TRANSFORMS.items() if suits(make()))
    return f"{', '.join(names)} or {last}" if names else last
