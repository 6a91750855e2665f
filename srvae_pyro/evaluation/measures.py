"""The results of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field

from srvae_pyro.evaluation.coding import CodingResult
from srvae_pyro.evaluation.elbo_terms import ElboResult
from srvae_pyro.evaluation.fid import Distances
from srvae_pyro.evaluation.kid import KidResult
from srvae_pyro.evaluation.likelihood import LikelihoodResult
from srvae_pyro.evaluation.super_resolution import SuperResolutionResult

__all__ = ["Measures"]


@dataclass
class Measures:
    """What has been measured of a model; None for what was not asked for, or not yet.

    Attributes:
        elbo: always the first.
        likelihood: by importance sampling.
        refined: the same after each image's q has been refined.
        distances: FID and KID by the split of the real pictures, ``test`` or ``train``.
        kid: in EfficientNet-Lite0's features.
        super_resolution: of a srVAE that enlarges, by each factor.
        compression: bytes of the pictures by bits-back coding.
    """

    elbo: ElboResult
    likelihood: LikelihoodResult | None = None
    refined: LikelihoodResult | None = None
    distances: dict[str, Distances] = field(default_factory=dict)
    kid: KidResult | None = None
    super_resolution: list[SuperResolutionResult] = field(default_factory=list)
    compression: CodingResult | None = None
