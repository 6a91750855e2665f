"""The training objective: the negative ELBO, its KL terms weighted or partly free."""

from __future__ import annotations

import torch
from torch import Tensor

from srvae_pyro.evaluation.elbo import ElboTerms

__all__ = ["weighted_loss"]


def weighted_loss(
    terms: ElboTerms, weights: dict[str, float], free_nats: dict[str, float]
) -> Tensor:
    """The mean loss of a batch, nats an image; with no weights and nothing free the negative ELBO.

    Args:
        terms: the ELBO's.
        weights: factor on the KL of a site, 1 where none is given (Sonderby et al., Ladder
            Variational Autoencoders, 2016, arXiv:1602.02282).
        free_nats: nats an image of a site's KL that cost nothing, shared evenly by its channels;
            each channel's mean KL over the batch counts from its share on (Kingma et al.,
            Improved Variational Inference with Inverse Autoregressive Flow, 2016,
            arXiv:1606.04934, appendix C.8). For sites whose KL is known in closed form.
    """
    loss = torch.zeros(())
    for term in terms.reconstruction.values():
        loss = term.mean() + loss
    for name, term in terms.kl.items():
        weight, free = weights.get(name, 1.0), free_nats.get(name, 0.0)
        if free > 0 and name in terms.detailed_kl:
            channels = terms.detailed_kl[name].sum(dim=(-2, -1)).mean(dim=0)
            loss = loss + weight * channels.clamp(min=free / len(channels)).sum()
        else:
            loss = loss + weight * term.mean()
    return loss
