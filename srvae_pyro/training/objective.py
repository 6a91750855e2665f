"""The training objective: the negative ELBO, with KLs weighted, KL_z partly free, u detached."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from srvae_pyro.inference.elbo import ElboTerms, TermsELBO
from srvae_pyro.models import ImageModel, LowerVAE

__all__ = ["Objective", "detached", "weighted_loss"]


class Objective(nn.Module):
    """The loss as a module, so that ``DistributedDataParallel`` can wrap it.

    Args:
        model: a model and guide pair.
        elbo: computes the ELBO's terms.
        free_nats, average: see :func:`weighted_loss`.
        detach_u: whether p(z|y,u) takes u as it is, see :func:`detached`.
        estimate_weight: what each level costs, beside the ELBO, by which a value of an estimate of
            x is wrong: least absolute errors.
    """

    def __init__(
        self,
        model: ImageModel | LowerVAE,
        elbo: TermsELBO,
        free_nats: float = 0.0,
        average: Callable[[Tensor], Tensor] | None = None,
        detach_u: bool = False,
        estimate_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.average = average
        self.model = model
        self.elbo = elbo
        self.free_nats = free_nats
        self.detach_u = detach_u
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
        model, guide = self.model.model, self.model.guide
        with detached(model.get_submodule("p_z"), 1) if self.detach_u else nullcontext():
            terms = self.elbo.terms(model, guide, x)
        loss = weighted_loss(terms, kl_weights, self.free_nats, self.average)
        told = terms.named()
        for name, error in terms.errors.items():
            told[f"error_{name}"] = error / x[0].numel()
            if self.estimate_weight > 0:
                loss = loss + self.estimate_weight * error.mean()
        return loss, {**told, "total": terms.total}


def weighted_loss(
    terms: ElboTerms,
    kl_weights: Mapping[str, float] | None = None,
    free_nats: float = 0.0,
    average: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The mean loss of a batch, nats an image; by default the negative ELBO.

    Args:
        terms: of the ELBO.
        kl_weights: factors on KL_z and KL_u by site, 1 where none is given (Sonderby et al., Ladder
            Variational Autoencoders, 2016, arXiv:1602.02282).
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
        weight = (kl_weights or {}).get(site, 1.0)
        if site == "z" and free_nats > 0 and site in terms.detailed_kl:
            channels = terms.detailed_kl[site].sum(dim=(-2, -1)).mean(dim=0)
            # Not new_tensor, which a GPU would have to wait for.
            share = channels.new_full((), free_nats / len(channels))
            batch = channels.detach() if average is None else average(channels.detach())
            loss = loss + weight * torch.where(batch > share, channels, share).sum()
        else:
            loss = loss + weight * term.mean()
    return loss


@contextmanager
def detached(conditional: nn.Module, argument: int) -> Iterator[None]:
    """Within it a conditional takes one of what it is given as it is, without a gradient to it.

    Of p(z|y,u) and u: the program's line ``z = sample("z", p_z(y, u))`` stays, the loss keeps its
    value and p(z|y,u) learns as before, but KL_z does not shape u. Sharper to this end than a
    weight on KL_z, which is also the gradient of p(z|y,u) and q(z|x).

    Args:
        conditional: a network that returns a distribution.
        argument: the number of the argument, from 0.
    """

    def detach(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(v.detach() if i == argument else v for i, v in enumerate(given))

    hook = conditional.register_forward_pre_hook(detach)
    try:
        yield
    finally:
        hook.remove()
