"""What an image's own pixels say about its noise, and whether it has been a JPEG.

Telling the restorer what an input has been through is worth more than a longer training: it does
not have to guess. Noise may be None, unknown, where the pixels leave it open.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from torch import Tensor

from srvae_pyro.models.restorer import InputKind

MOST = 512  # pixels a side that are looked at, in the image's middle
BLOCK = 8  # pixels a side of a JPEG's blocks
# The example table of luminance of ITU-T T.81, annex K; most others are about a multiple of it.
EXAMPLE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
# The orthonormal discrete cosine transform of 8 values.
COSINES = np.cos(np.pi / 16 * np.outer(np.arange(8), np.arange(1, 16, 2))) / 2
COSINES[0] /= math.sqrt(2)
ORDER = np.add(*np.indices(EXAMPLE.shape))  # of frequencies; the average has 0
MOST_STEP = 121
COARSER = 1.3  # traces count beside a file's own table if they are that much coarser
FEWEST = 12  # coefficients that are not rounded to 0, to find a step by
FEWEST_BLOCKS = 32  # also of patches
FEWEST_STEPS = 3  # frequencies that show one
ROUNDING = 0.29  # standard deviation that rounding to levels adds to a coefficient
DARK, BRIGHT = 5, 250  # outside of these noise is cut off
PATCH = 8  # pixels a side of the patches that noise is measured in


def inspected(levels: Tensor, file: InputKind = InputKind(table=0.0)) -> InputKind:
    """What the pixels of an image tell beside its file: noise, unless unknown, and a JPEG's table.

    Args:
        levels: uint8 (C, H, W).
        file: what the file it was read from tells of its compression.
    """
    pixels = _middle(levels.cpu().numpy()).astype(np.float64)
    weights = (0.299, 0.587, 0.114) if len(pixels) == 3 else (1.0,)
    luma = np.tensordot(weights, pixels, 1)
    blocks = _blocks(luma, BLOCK)
    blocks = blocks[(blocks.max((1, 2)) < 254.5) & (blocks.min((1, 2)) > 0.5)]  # not cut off
    if len(blocks) < FEWEST_BLOCKS:
        return file
    coefficients = COSINES @ (blocks - 128) @ COSINES.T
    traces = jpeg_table(coefficients)
    if traces > COARSER * (file.table or 0):  # saved again, with finer steps or in another format
        # Most JPEGs have fewer pixels of chroma, and pixels do not tell.
        file = InputKind(table=traces, subsampled=True)
    if file.table:
        return replace(file, noise=noise_before_jpeg(coefficients, file.table))
    if file.webp or file.table is None:
        return file  # other compressions smooth noise away, so pixels do not tell
    return replace(file, noise=noise_level(pixels))


def jpeg_table(coefficients: np.ndarray) -> float:
    """The mean of the luma quantisation table that left its traces in the coefficients; 0: none.

    A coefficient of a JPEG is a multiple of its frequency's step, but for the rounding to levels.
    The step is the largest q for which cos(2 pi c / q) is near 1 for the c that are not near 0.
    Several frequencies must show a step.

    References:
        Fan and de Queiroz, Identification of bitmap compression history, 2003.

    Args:
        coefficients: of the 8x8 blocks' discrete cosine transform, (N, 8, 8).
    """
    ratios = []
    for row, column in np.argwhere((ORDER > 0) & (ORDER <= 4)):
        sizes = np.sort(np.abs(coefficients[:, row, column]))
        step = 0
        for q in range(2, MOST_STEP + 1):
            large = sizes[np.searchsorted(sizes, q / 2) :]
            if len(large) < FEWEST:
                break
            blur = math.exp(-2 * (math.pi * ROUNDING / q) ** 2)
            agreement = np.cos(2 * np.pi * large / q).mean() / blur
            # Without a step the mean has a standard deviation of 1 / sqrt(2 n).
            if agreement > max(0.6, 6 / math.sqrt(2 * len(large))):
                step = q
        if step:
            ratios.append(step / EXAMPLE[row, column])
    if len(ratios) < FEWEST_STEPS:
        return 0.0
    return float(np.median(ratios) * EXAMPLE.mean())


def noise_level(pixels: np.ndarray) -> float | None:
    """The standard deviation of noise, in levels; 0 if there is none, None if texture may hide it.

    Noise is everywhere and texture is not: the response to second differences is compared between
    the smoothest patches, the smooth and the median ones.

    References:
        Immerkaer, Fast noise variance estimation, 1996, for the filter.

    Args:
        pixels: levels (C, H, W).
    """
    quantiles = np.zeros(3)
    for channel in pixels:
        response = np.diff(np.diff(channel, 2, axis=0), 2, axis=1) / 6
        patches, of_levels = _blocks(response, PATCH), _blocks(channel[1:-1, 1:-1], PATCH)
        inside = (of_levels.max((1, 2)) < BRIGHT) & (of_levels.min((1, 2)) > DARK)
        if inside.sum() < FEWEST_BLOCKS:
            return None
        spread = np.sqrt((patches[inside] ** 2).mean((1, 2)))
        quantiles += np.quantile(spread, (0.02, 0.1, 0.5)) / len(pixels)
    smoothest, smooth, median = quantiles
    if smooth < 1 or smooth > 1.25 * smoothest or median > 1.85 * smooth:
        return 0.0
    if smooth < 1.22 * smoothest and median < 1.75 * smooth:
        return float(smooth / 0.82)  # of noise alone a tenth of the patches is below that share
    return None


def noise_before_jpeg(coefficients: np.ndarray, table: float) -> float | None:
    """0 if a tenth of a JPEG's blocks have too few coefficients for noise; else None.

    Args:
        coefficients: as of :func:`jpeg_table`.
        table: mean of the luma quantisation table.
    """
    high = ORDER >= 3
    steps = np.maximum(table / EXAMPLE.mean() * EXAMPLE[high], 1.5)
    kept = (np.abs(coefficients[:, high]) > steps / 2).mean(1)
    return 0.0 if np.quantile(kept, 0.1) < 0.6 / math.sqrt(table) else None


def _middle(levels: np.ndarray) -> np.ndarray:
    """The middle of an image (C, H, W), from a multiple of 8 on, where a JPEG's blocks begin."""
    parts: list[slice] = []
    for side in levels.shape[-2:]:
        start = max(side - MOST, 0) // 2 // BLOCK * BLOCK
        parts.append(slice(start, start + MOST))
    return levels[:, parts[0], parts[1]]


def _blocks(plane: np.ndarray, side: int) -> np.ndarray:
    """(H, W) cut into (N, side, side), without what is over."""
    height, width = (length // side * side for length in plane.shape)
    cut = plane[:height, :width].reshape(height // side, side, width // side, side)
    return cut.swapaxes(1, 2).reshape(-1, side, side)
