"""Inputs as people have them: copies of crops made smaller, with noise or compression."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from srvae_pyro.distributions.block_averages import PAIRS, Block
from srvae_pyro.models.restorer import InputKind, Reduction

T = TypeVar("T")

FILTERS: dict[str, Image.Resampling] = {
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "bilinear": Image.Resampling.BILINEAR,
}
SUBSAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}  # Pillow's numbers
# How often, in per cent, each is drawn.
REDUCTIONS: dict[Reduction, int] = {
    "average": 40,
    "bicubic": 27,
    "lanczos": 16,
    "bilinear": 8,
    "blurred": 9,
}
DAMAGES = {"none": 45, "noise": 19, "jpeg": 24, "noise and jpeg": 8, "webp": 4}
DAMAGES_ONLY = {"none": 2, "noise": 38, "jpeg": 42, "noise and jpeg": 14, "webp": 4}  # factor 1
FACTORS = {2: 55, 4: 27, 1: 10, 3: 8}
TOLD = {"reduction": 0.65, "noise": 0.65, "compression": 0.75}  # how often the networks know
SIDE = 48  # pixels a side of an input, at most


@dataclass(frozen=True)
class Pairs:
    """Inputs and what they are copies of.

    Attributes:
        factor: of the images to the inputs.
        x: images, uint8 (B, C, factor h, factor w).
        y: their rounded averages, (B, C, h, w); the inputs without damage.
        o: inputs, (B, C, h, w).
        kinds: what the networks are told of each input.
    """

    factor: int
    x: Tensor
    y: Tensor
    o: Tensor
    kinds: list[InputKind]


def degraded(crops: Tensor, random: np.random.Generator) -> Pairs:
    """Inputs made of crops, uint8 (B, C, S, S), all by the same factor, which is drawn too.

    A factor's pairs are cut from the crops' middle: at most SIDE pixels a side of the input.
    """
    factor = _draw(FACTORS, random)
    side = min(SIDE, crops.shape[-1] // factor // 2 * 2)
    start = (crops.shape[-1] - factor * side) // 2
    window = slice(start, start + factor * side)
    x = crops[..., window, window].cpu()
    inputs = [_input(image, factor, random) for image in x]
    o = torch.stack([levels for levels, _ in inputs])
    return Pairs(factor, x, averaged(x, factor), o, [kind for _, kind in inputs])


# Inputs of known kinds, to score by: the factor, and what becomes of the average.
EXAMPLES: dict[str, tuple[int, InputKind]] = {
    "average": (2, InputKind.exact()),
    "bicubic": (2, InputKind("bicubic", noise=0.0, table=0.0)),
    "jpeg75": (2, InputKind(noise=0.0, subsampled=True)),
    "noise15": (2, InputKind(noise=15.0, table=0.0)),
    "average-x4": (4, InputKind.exact()),
}


def example(name: str, x: Tensor, randoms: Sequence[np.random.Generator]) -> Pairs:
    """The inputs that EXAMPLES names, of images x, uint8 (B, C, H, W), each with its generator."""
    factor, kind = EXAMPLES[name]
    height, width = (side // (2 * factor) * 2 * factor for side in x.shape[-2:])
    x = x[..., :height, :width].cpu()
    inputs, kinds = [], []
    for levels, random in zip(x, randoms, strict=True):
        image = reduced(_image_of(levels), factor, kind.reduction or "average", random)
        if kind.noise:
            image = noisy(image, kind.noise, random)
        if name == "jpeg75":
            image, table = as_jpeg(image, 75, "4:2:0")
            kind = replace(kind, table=table)
        inputs.append(_levels_of(image))
        kinds.append(kind)
    return Pairs(factor, x, averaged(x, factor), torch.stack(inputs), kinds)


def averaged(x: Tensor, factor: int) -> Tensor:
    """Rounded averages of factor x factor pixels, uint8; of 4 twice those of 2, as d does it."""
    y = x.int()
    for block in [Block(3)] if factor == 3 else [PAIRS] * (factor.bit_length() - 1):
        y = block.average(y)
    return y.to(torch.uint8)


def _input(x: Tensor, factor: int, random: np.random.Generator) -> tuple[Tensor, InputKind]:
    """One input, uint8 (C, h, w), and what is told of it."""
    reduction: Reduction = _draw(REDUCTIONS, random)
    damage = _draw(DAMAGES if factor > 1 else DAMAGES_ONLY, random)
    image = reduced(_image_of(x), factor, reduction, random)
    noise, table, subsampled = 0.0, 0.0, False
    if "noise" in damage:
        noise = 25 * random.random() ** 1.3
        image = noisy(image, noise, random, signal=random.random() < 0.25)
    if "jpeg" in damage:
        if random.random() < 0.1:  # twice
            image, _ = as_jpeg(image, int(random.integers(40, 98)), "4:2:0")
        subsampling = _draw({"4:2:0": 70, "4:4:4": 25, "4:2:2": 5}, random)
        image, table = as_jpeg(image, int(random.integers(30, 99)), subsampling)
        subsampled = subsampling != "4:4:4"
    if damage == "webp":
        image = as_webp(image, int(random.integers(40, 98)))
    told = {name: bool(random.random() < share) for name, share in TOLD.items()}
    exact = damage == "none" and reduction == "average" and factor > 1
    if exact and told["reduction"]:
        return _levels_of(image), InputKind.exact()
    return _levels_of(image), InputKind(
        reduction if told["reduction"] and factor > 1 else None,
        noise if told["noise"] else None,
        table if told["compression"] else None,
        subsampled,
        damage == "webp" and told["compression"],
    )


def reduced(
    image: Image.Image, factor: int, reduction: Reduction, random: np.random.Generator
) -> Image.Image:
    """The image made smaller; "average" is the rounded average that d(x) is."""
    width, height = image.width // factor, image.height // factor
    if factor == 1:
        return image
    if reduction == "average":
        return _image_of(averaged(torch.from_numpy(_channels_first(image)), factor))
    if reduction == "blurred":
        image = image.filter(ImageFilter.GaussianBlur(factor * random.uniform(0.3, 0.5)))
        reduction = "bicubic" if random.random() < 0.5 else "bilinear"
    return image.resize((width, height), FILTERS[reduction])


def noisy(
    image: Image.Image, noise: float, random: np.random.Generator, signal: bool = False
) -> Image.Image:
    """With normal noise of so many levels, with ``signal`` more where the image is brighter.

    Every fifth time the same in all colours.
    """
    levels = np.asarray(image, float)
    spread = noise * np.sqrt(0.25 + 1.5 * levels / 255) if signal else noise
    shape = levels.shape if random.random() < 0.8 else (*levels.shape[:2], *[1] * (levels.ndim - 2))
    levels = np.rint(levels + spread * random.standard_normal(shape, np.float32))
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


def as_jpeg(image: Image.Image, quality: int, subsampling: str) -> tuple[Image.Image, float]:
    """The image as JPEG keeps it, and the mean of its luma quantisation table."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling=SUBSAMPLINGS[subsampling])
    again = Image.open(file)
    return again.convert(image.mode), luma_table(again)


def luma_table(image: Image.Image) -> float:
    """The mean of an opened JPEG's luma quantisation table; 0 of other images."""
    tables: Mapping[int, Sequence[int]] = getattr(image, "quantization", None) or {}
    return float(np.mean(tables[min(tables)])) if tables else 0.0


def as_webp(image: Image.Image, quality: int) -> Image.Image:
    """The image as lossy WebP keeps it."""
    file = io.BytesIO()
    image.save(file, "WEBP", quality=quality, method=1)
    return Image.open(file).convert(image.mode)


def _draw(shares: Mapping[T, int], random: np.random.Generator) -> T:
    names, weights = list(shares), np.array(list(shares.values()), float)
    return names[int(random.choice(len(names), p=weights / weights.sum()))]


def _image_of(levels: Tensor) -> Image.Image:
    """An image (C, H, W) of uint8 levels, for Pillow."""
    array = levels.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def _channels_first(image: Image.Image) -> np.ndarray:
    array = np.array(image)
    return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0).copy()


def _levels_of(image: Image.Image) -> Tensor:
    return torch.from_numpy(_channels_first(image))
