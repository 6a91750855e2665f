"""The evidence lower bound as a differentiable loss, with its terms."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor
from torch.distributions import kl_divergence

from srvae_pyro.errors import UserError
from srvae_pyro.inference.decoding import turn
from srvae_pyro.pixels import LAST_LEVEL

__all__ = ["ElboTerms", "TermsELBO"]


@dataclass
class ElboTerms:
    """The negative ELBO's terms by site, each of the batch shape, in nats an image.

    ``reconstruction["x"]`` is RE_x = -log p(x|..), ``kl["z"]`` is KL_z and so on (Table 1 of the
    paper). On request ``detailed_kl`` has the closed-form KL of each latent element, and ``means``
    normal latents' posterior means. Not part of the ELBO are ``errors``: the sums of absolute
    differences in levels from a distribution's point ``estimate``.
    """

    reconstruction: dict[str, Tensor]
    kl: dict[str, Tensor]
    detailed_kl: dict[str, Tensor]
    means: dict[str, Tensor] = field(default_factory=dict)
    errors: dict[str, Tensor] = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        """The negative ELBO, nats an image."""
        return sum([*self.reconstruction.values(), *self.kl.values()], torch.zeros(()))

    def named(self) -> dict[str, Tensor]:
        """``{"re_x": ..., "re_y": ..., "kl_z": ..., "kl_u": ...}``."""
        terms = {f"re_{name}": term for name, term in self.reconstruction.items()}
        return terms | {f"kl_{name}": term for name, term in self.kl.items()}


class TermsELBO(Trace_ELBO):
    """``Trace_ELBO`` with its terms from the same pass, and no synchronisation at each site.

    The guide must sample the model's latents, reparametrised, and nothing that the model lacks.

    Args:
        analytic_kl: take the KL of two normals in closed form, with less variance.
        detailed_kl: return that KL element by element, and the posteriors' means.

    Example:
        >>> from srvae_pyro import SRVAE
        >>> from srvae_pyro.presets import preset
        >>> net, x = SRVAE(preset("quickstart")[0]), torch.zeros(2, 3, 32, 32)
        >>> terms = TermsELBO(analytic_kl=True).terms(net.model, net.guide, x)
        >>> list(terms.named()), terms.total.shape
        (['re_y', 're_x', 'kl_u', 'kl_z'], torch.Size([2]))
    """

    def __init__(
        self, *, analytic_kl: bool = False, detailed_kl: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.analytic_kl = analytic_kl
        self.detailed_kl = detailed_kl

    @turn()
    def terms(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> ElboTerms:
        """The terms, differentiable, one entry an image, averaged over particles."""
        collected: list[ElboTerms] = []
        for model_trace, guide_trace in self._get_traces(model, guide, args, kwargs):
            _check_sites(model_trace, guide_trace)
            terms = ElboTerms({}, {}, {})
            for name, site in model_trace.nodes.items():
                if site["type"] != "sample":
                    continue
                q = None if site["is_observed"] else guide_trace.nodes[name]
                if q is None or isinstance(_unwrapped(q["fn"]), dist.Delta):
                    terms.reconstruction[name] = -site["log_prob"]
                    estimate = getattr(_unwrapped(site["fn"]), "estimate", None)
                    if estimate is not None:
                        off = (site["value"] - estimate).abs().sum(dim=(-3, -2, -1))
                        terms.errors[name] = LAST_LEVEL * off
                    continue
                elements = None
                plain = q["mask"] is site["mask"] is None and q["scale"] == site["scale"]
                if plain and (self.analytic_kl or self.detailed_kl):
                    elements = _elementwise_kl(q["fn"], site["fn"], site["scale"])
                if elements is not None and self.detailed_kl:
                    terms.detailed_kl[name] = elements
                if self.detailed_kl and isinstance(normal := _unwrapped(q["fn"]), dist.Normal):
                    terms.means[name] = normal.mean
                if elements is not None and self.analytic_kl:
                    terms.kl[name] = elements.sum(dim=(-3, -2, -1))
                else:
                    terms.kl[name] = q["log_prob"] - site["log_prob"]
            collected.append(terms)
        return _average(collected)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The negative ELBO summed over the images, nats."""
        return self.terms(model, guide, *args, **kwargs).total.sum()

    @torch.no_grad()
    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The same as a number."""
        return self.differentiable_loss(model, guide, *args, **kwargs).item()

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The same as a number, with gradients; ``SVI`` calls it."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return loss.item()


def _check_sites(model_trace: Any, guide_trace: Any) -> None:
    """Refuse a pair for which the terms would not be those of ``Trace_ELBO``."""
    drawn = guide_trace.stochastic_nodes
    for name in model_trace.stochastic_nodes:
        if name not in drawn:
            raise UserError(f"the guide does not sample {name}")
    for name in drawn:
        if name not in model_trace:
            raise UserError(f"there is no term for the guide's {name}: use Trace_ELBO")
        if not guide_trace.nodes[name]["fn"].has_rsample:
            raise UserError(f"{name} is not reparametrised in the guide: use Trace_ELBO")


def _unwrapped(fn: Any) -> Any:
    while isinstance(fn, dist.Independent):
        fn = fn.base_dist
    return fn


def _elementwise_kl(q: Any, p: Any, scale: float) -> Tensor | None:
    q, p = _unwrapped(q), _unwrapped(p)
    if isinstance(q, dist.Normal) and isinstance(p, dist.Normal):
        return kl_divergence(q, p) * scale if scale != 1 else kl_divergence(q, p)
    return None


def _average(collected: list[ElboTerms]) -> ElboTerms:
    def mean(kind: str, event: int) -> dict[str, Tensor]:
        out = {}
        for name in getattr(collected[0], kind):
            value = torch.stack([getattr(terms, kind)[name] for terms in collected]).mean(0)
            # Vectorised particles are further batch dimensions on the left.
            particles = value.dim() - event - 1
            out[name] = value.mean(dim=tuple(range(particles))) if particles > 0 else value
        return out

    kinds = {"reconstruction": 0, "kl": 0, "detailed_kl": 3, "means": 3, "errors": 0}
    return ElboTerms(**{kind: mean(kind, event) for kind, event in kinds.items()})
