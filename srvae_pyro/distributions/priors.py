"""Priors of a latent: modules that, called, return a Pyro distribution on events (C, H, W)."""

from __future__ import annotations

from typing import Any, Protocol

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from srvae_pyro.distributions.realnvp import RealNVP
from srvae_pyro.errors import UserError


class Conditional(Protocol):
    """A network that returns a distribution: ``p_y(u)`` is p(y|u), ``p_u()`` is p(u)."""

    def __call__(self, *given: Any) -> dist.TorchDistribution: ...


class Prior(nn.Module):
    """A distribution p(u) on events of ``shape`` (C, H, W)."""

    anchor: Tensor

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape
        # Follows the module's device and precision, even without parameters.
        self.register_buffer("anchor", torch.zeros(()), persistent=False)

    def standard_normal(self, size: tuple[int, int] | None) -> dist.TorchDistribution:
        shape = self.shape if size is None else (self.shape[0], *size)
        return dist.Normal(self.anchor, torch.ones_like(self.anchor)).expand(shape).to_event(3)

    def forward(self, size: tuple[int, int] | None = None) -> dist.TorchDistribution:
        """The distribution, on events of the shape's channels and ``size`` if that is given."""
        raise NotImplementedError


class StandardPrior(Prior):
    """p(u) = N(0, 1) on events of ``shape`` (C, H, W).

    Example:
        >>> p_u = StandardPrior((4, 8, 8))
        >>> p_u().sample((2,)).shape
        torch.Size([2, 4, 8, 8])
    """

    def forward(self, size: tuple[int, int] | None = None) -> dist.TorchDistribution:
        return self.standard_normal(size)


class RealNVPPrior(Prior):
    r"""p(u) as a standard normal carried through RealNVP.

    .. math:: p(u) = p(v) \, \prod_i |\det \partial f_i / \partial v_{i-1}|^{-1}

    References:
        The srVAE paper, equations 2 and 3; Dinh et al. 2016, arXiv:1605.08803.

    Example:
        >>> p_u = RealNVPPrior((4, 8, 8), growth=8, steps=1)
        >>> u = p_u().sample((2,))
        >>> u.shape, p_u().log_prob(u).shape
        (torch.Size([2, 4, 8, 8]), torch.Size([2]))
        >>> p_u((6, 10)).event_shape
        torch.Size([4, 6, 10])
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        growth: int = 64,
        steps: int = 5,
        *,
        attention: bool = True,
    ) -> None:
        super().__init__(shape)
        if shape[1] % 2 or shape[2] % 2:
            raise ValueError(f"RealNVP needs an even height and width, not {shape[1]}x{shape[2]}")
        self.flow = RealNVP(shape[0], growth, steps, attention=attention)

    def forward(self, size: tuple[int, int] | None = None) -> dist.TorchDistribution:
        return dist.TransformedDistribution(self.standard_normal(size), self.flow())


class MixturePrior(Prior):
    r"""p(u) as a mixture of normals with diagonal covariances over the whole event.

    .. math:: p(u) = \sum_k \pi_k \, \mathcal N(u \mid \mu_k, \operatorname{diag} \sigma_k^2)

    Example:
        >>> p_u = MixturePrior((4, 8, 8), components=10)
        >>> u = p_u().sample((2,))
        >>> u.shape, p_u().log_prob(u).shape
        (torch.Size([2, 4, 8, 8]), torch.Size([2]))
    """

    def __init__(self, shape: tuple[int, int, int], components: int = 100) -> None:
        super().__init__(shape)
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(torch.randn(components, *shape).mul_(0.5))
        self.log_scales = nn.Parameter(torch.zeros(components, *shape))

    def forward(self, size: tuple[int, int] | None = None) -> dist.TorchDistribution:
        if size is not None and size != self.shape[1:]:
            raise UserError(
                f"the mixture prior is tied to {self.shape[1]}x{self.shape[2]}, not "
                f"{size[0]}x{size[1]}; the realnvp and standard priors take any size"
            )
        scales = self.log_scales.clamp(-5.0, 5.0).exp()
        return dist.MixtureSameFamily(
            dist.Categorical(logits=self.logits), dist.Normal(self.means, scales).to_event(3)
        )
