"""The training objective: the negative ELBO, with KL_z weighted or partly free."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from srvae_pyro.inference.elbo import ElboTerms, TermsELBO
from srvae_pyro.models import ImageModel

__all__ = ["Objective", "weighted_loss"]


class Objective(nn.Module):
    """The loss as a module, so that ``DistributedDataParallel`` can wrap it.

    Args:
        model: the model.
        elbo: computes the ELBO's terms.
        free_nats, average: see :func:`weighted_loss`.
    """

    def __init__(
        self,
        model: ImageModel,
        elbo: TermsELBO,
        free_nats: float = 0.0,
        average: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.average = average
        self.model = model
        self.elbo = elbo
        self.free_nats = free_nats

    def forward(self, x: Tensor, weight: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of images x (B, C, H, W); the terms and their ``total``, (B) each; nats.

        Args:
            x: the images, in [0, 1].
            weight: of KL_z.
        """
        terms = self.elbo.terms(self.model.model, self.model.guide, x)
        loss = weighted_loss(terms, weight, self.free_nats, self.average)
        return loss, {**terms.named(), "total": terms.total}


def weighted_loss(
    terms: ElboTerms,
    weight: float = 1.0,
    free_nats: float = 0.0,
    average: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The mean loss of a batch, nats an image; by default the negative ELBO.

    Args:
        terms: of the ELBO.
        weight: factor on KL_z (Sonderby et al., Ladder Variational Autoencoders, 2016,
            arXiv:1602.02282).
        free_nats: nats an image of KL_z that cost nothing, shared evenly by z's channels; each
            channel's mean KL over the batch counts from its share on (Kingma et al., Improved
            Variational Inference with Inverse Autoregressive Flow, 2016, arXiv:1606.04934,
            appendix C.8). Without effect where KL_z has no closed form.
        average: over the processes that share the batch, so that a channel is free in all or none.
    """
    loss = torch.zeros(())
    for term in terms.reconstruction.values():
        loss = term.mean() + loss
    for site, term in terms.kl.items():
        if site != "z":
            loss = loss + term.mean()
        elif free_nats > 0 and site in terms.detailed_kl:
            channels = terms.detailed_kl[site].sum(dim=(-2, -1)).mean(dim=0)
            share = channels.new_tensor(free_nats / len(channels))
            batch = channels.detach() if average is None else average(channels.detach())
            loss = loss + weight * torch.where(batch > share, channels, share).sum()
        else:
            loss = loss + weight * term.mean()
    return loss
