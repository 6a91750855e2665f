"""Distributions: mixtures of discretised logistics, RealNVP transforms and the priors."""

from srvae_pyro.distributions.consistent import ConsistentMixture
from srvae_pyro.distributions.images import ImageDistribution
from srvae_pyro.distributions.logistic_mixture import DiscretizedLogisticMixture
from srvae_pyro.distributions.priors import MixturePrior, Prior, RealNVPPrior, StandardPrior
from srvae_pyro.distributions.realnvp import AffineCoupling, OnFirstHalf, RealNVP, Squeeze

__all__ = [
    "AffineCoupling",
    "ConsistentMixture",
    "DiscretizedLogisticMixture",
    "ImageDistribution",
    "MixturePrior",
    "OnFirstHalf",
    "Prior",
    "RealNVP",
    "RealNVPPrior",
    "Squeeze",
    "StandardPrior",
]
