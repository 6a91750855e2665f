"""Distributions: mixtures of discretised logistics, the pyramid, RealNVP transforms and priors."""

from srvae_pyro.distributions.image_distribution import ImageDistribution
from srvae_pyro.distributions.logistic_mixture import DiscretizedLogisticMixture
from srvae_pyro.distributions.pixel_groups import ConsistentGroups
from srvae_pyro.distributions.priors import (
    Conditional,
    MixturePrior,
    Prior,
    RealNVPPrior,
    StandardPrior,
)
from srvae_pyro.distributions.pyramid import Pyramid
from srvae_pyro.distributions.realnvp import AffineCoupling, OnFirstHalf, RealNVP, Squeeze
from srvae_pyro.distributions.truncated_mixture import TruncatedMixture

__all__ = [
    "AffineCoupling",
    "Conditional",
    "ConsistentGroups",
    "DiscretizedLogisticMixture",
    "ImageDistribution",
    "MixturePrior",
    "OnFirstHalf",
    "Prior",
    "Pyramid",
    "RealNVP",
    "RealNVPPrior",
    "Squeeze",
    "StandardPrior",
    "TruncatedMixture",
]
