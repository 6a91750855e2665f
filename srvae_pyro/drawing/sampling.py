"""From a command's flags to how it draws."""

from __future__ import annotations

from typing import Protocol

from srvae_pyro.errors import UserError
from srvae_pyro.inference.decoding import Decode, Decoding
from srvae_pyro.inference.operations import Sampling
from srvae_pyro.models import SRVAE, ImageModel

__all__ = ["SamplingArguments", "for_model", "sampling_of"]


class SamplingArguments(Protocol):
    """The arguments of a command that draws, each as in :class:`Sampling`; no decode: sample."""

    @property
    def decode(self) -> Decoding | None: ...
    @property
    def temperature(self) -> float: ...
    @property
    def image_temperature(self) -> float: ...
    @property
    def y_temperature(self) -> float | None: ...
    @property
    def seed(self) -> int: ...


def sampling_of(arguments: SamplingArguments, *models: ImageModel) -> Sampling:
    """How to draw from the models, before anything is drawn or written.

    Raises:
        UserError: it cannot be so, or y has a temperature and none of the models a y.
    """
    temperature, of_images = arguments.temperature, arguments.image_temperature
    of_y = arguments.y_temperature
    decode = arguments.decode or "sample"
    Decode(decode, temperature, of_images, y_temperature=of_y)  # refuses what is wrong
    if of_y is not None and not any(isinstance(m, SRVAE) for m in models):
        raise UserError("--y-temperature is the srVAE's: a VAE has no y; say --image-temperature")
    return {
        "decode": decode,
        "temperature": temperature,
        "image_temperature": of_images,
        "y_temperature": of_y,
        "seed": arguments.seed,
    }


def for_model(sampling: Sampling, model: ImageModel) -> Sampling:
    """What of it goes for a model: for a VAE beside a srVAE no temperature of y."""
    return sampling if isinstance(model, SRVAE) else {**sampling, "y_temperature": None}
