"""The training objective: the negative ELBO, its KL terms weighted or partly free."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from srvae_pyro.inference.elbo import ElboTerms, TermsELBO
from srvae_pyro.models import ImageModel

__all__ = ["Objective", "weighted_loss"]


class Objective(nn.Module):
    """The ELBO as a module, which is what ``DistributedDataParallel`` goes around.

    Args:
        model: whose ELBO.
        elbo: computes it.
        free_nats: see :func:`weighted_loss`; for z.
        average: likewise.
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
        """The loss of images (B, C, H, W) with KL_z weighted, nats; each image's terms, total."""
        terms = self.elbo.terms(self.model.model, self.model.guide, x)
        loss = weighted_loss(terms, {"z": weight}, {"z": self.free_nats}, self.average)
        return loss, {**terms.named(), "total": terms.total}


def weighted_loss(
    terms: ElboTerms,
    weights: dict[str, float],
    free_nats: dict[str, float],
    average: Callable[[Tensor], Tensor] | None = None,
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
        average: over the processes that share the batch, whose channels cost or not together.
    """
    loss = torch.zeros(())
    for term in terms.reconstruction.values():
        loss = term.mean() + loss
    for name, term in terms.kl.items():
        weight, free = weights.get(name, 1.0), free_nats.get(name, 0.0)
        if free > 0 and name in terms.detailed_kl:
            channels = terms.detailed_kl[name].sum(dim=(-2, -1)).mean(dim=0)
            least = channels.new_tensor(free / len(channels))
            seen = channels.detach() if average is None else average(channels.detach())
            loss = loss + weight * torch.where(seen > least, channels, least).sum()
        else:
            loss = loss + weight * term.mean()
    return loss
