"""The settings of sampling, for the operations in Python and for the flags of the commands.

Operations take the fields of :class:`Sampling` as keywords, ``model.generate(16, seed=0)`` or
``model.generate(16, **vars(sampling))``. Without a seed they draw from PyTorch's generator; with
one it stays as it was. The expectation (``mean``) is not on the grid k/255; the srVAE's y is then
drawn as by ``mode``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from srvae_pyro.checked import Above, AtLeast
from srvae_pyro.system.cli import option

Decoding = Literal["sample", "mode", "mean"]


@dataclass(frozen=True)
class Temperatures:
    """How much generated images vary."""

    temperature: Annotated[float, AtLeast(0)] = 1.0
    """factor on the standard deviations of the latents; below 1: more typical, less varied"""
    image_temperature: Annotated[float, Above(0)] = 1.0
    """the same for the pixels that are sampled"""
    y_temperature: Annotated[float | None, Above(0), option("X", "as --image-temperature")] = None
    """the same for the pixels of the srVAE's y"""


@dataclass(frozen=True)
class Sampling(Temperatures):
    """How images are drawn."""

    decode: Decoding = "sample"
    """draw each pixel, take the likeliest component's mean, or the expectation"""
    seed: Annotated[int, AtLeast(0)] = 0
    """of all noise; image i of a seed is the same whatever the batch size"""
