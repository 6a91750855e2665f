"""The training objective: the negative ELBO with weighted KLs, and the estimate's errors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from srvae_pyro.inference.elbo import ElboTerms, TermsELBO
from srvae_pyro.models import ImageModel, LowerVAE

__all__ = ["Objective", "weighted_loss"]


class Objective(nn.Module):
    """The loss as a module, so that ``DistributedDataParallel`` can wrap it.

    Args:
        model: a model and guide pair.
        elbo: computes the ELBO's terms.
        estimate_weight: what each level costs, beside the ELBO, by which a value of an estimate of
            x is wrong: least absolute errors.
    """

    def __init__(
        self,
        model: ImageModel | LowerVAE,
        elbo: TermsELBO,
        estimate_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.elbo = elbo
        self.estimate_weight = estimate_weight

    def forward(
        self, x: Tensor, kl_weights: Mapping[str, float] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of images x (B, C, H, W); the terms and their ``total``, (B) each; nats.

        With ``error_x``, levels, the mean absolute error of an estimate if one is made.

        Args:
            x: the images, in [0, 1].
            kl_weights: see :func:`weighted_loss`.
        """
        terms = self.elbo.terms(self.model.model, self.model.guide, x)
        loss = weighted_loss(terms, kl_weights)
        told = terms.named()
        for name, error in terms.errors.items():
            told[f"error_{name}"] = error / x[0].numel()
            if self.estimate_weight > 0:
                loss = loss + self.estimate_weight * error.mean()
        return loss, {**told, "total": terms.total}


def weighted_loss(terms: ElboTerms, kl_weights: Mapping[str, float] | None = None) -> Tensor:
    """The mean loss of a batch, nats an image; by default the negative ELBO.

    Args:
        terms: of the ELBO.
        kl_weights: factors on KL_z and KL_u by site, 1 where none is given (Sonderby et al., Ladder
            Variational Autoencoders, 2016, arXiv:1602.02282).
    """
    loss = torch.zeros(())
    for term in terms.reconstruction.values():
        loss = term.mean() + loss
    for site, term in terms.kl.items():
        loss = loss + (kl_weights or {}).get(site, 1.0) * term.mean()
    return loss
