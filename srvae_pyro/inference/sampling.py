"""The settings of sampling: keywords of the operations, ``model.generate(16, seed=0)``, and flags.

Without a seed operations draw from PyTorch's generator; with one its state stays.
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
    """factor that scales the deviations of the latents; below 1: more typical, less varied"""
    image_temperature: Annotated[float, Above(0)] = 1.0
    """the same for sampled pixels"""
    y_temperature: Annotated[float | None, Above(0), option("X", "as --image-temperature")] = None
    """the same for sampled pixels of the srVAE's y"""


@dataclass(frozen=True)
class Sampling(Temperatures):
    """How images are drawn."""

    decode: Decoding = "sample"
    """sample: draw each pixel; mode: the likeliest component's mean; mean: the expectation"""
    seed: Annotated[int, AtLeast(0)] = 0
    """random seed; image i of a seed does not depend on the batch size"""
