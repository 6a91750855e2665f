"""The priors of latents, as what puts cells of their grid on a stack."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from srvae_pyro.compression.flow import FlowCode
from srvae_pyro.compression.latents import STEP, as_array, as_tensor, pop_normal, push_normal
from srvae_pyro.compression.stack import CATEGORICAL, Stack
from srvae_pyro.distributions import MixturePrior, RealNVPPrior, StandardPrior
from srvae_pyro.errors import UserError

__all__ = ["MixtureCode", "NormalCode", "PriorCode", "RealNVPCode", "prior_code"]

Cells = NDArray[np.int64]


class PriorCode:
    """A prior of a latent, pictures (n, C, H, W) of cells of STEP units.

    Attributes:
        location: of the grid's cell 0; 0 or broadcast with the latent.
        scale: of its unit.
    """

    location: Tensor | float = 0.0
    scale: Tensor | float = 1.0

    def values(self, cells: Tensor) -> Tensor:
        """The latents in these cells, float64."""
        return self.location + self.scale * (STEP * cells.double())

    def push(self, stack: Stack, cells: Tensor) -> None:
        """Put cells, whole numbers (n, C, H, W), on the stack."""
        raise NotImplementedError

    def pop(self, stack: Stack, shape: tuple[int, int, int, int]) -> Tensor:
        """The inverse of :meth:`push`, for cells of that shape."""
        raise NotImplementedError


class NormalCode(PriorCode):
    """A normal of a mean and a scale for each element, a standard normal in its own units.

    Args:
        like: has the device.
        location: means, (B, C, H, W); 0 if not given.
        scale: standard deviations likewise; 1 if not given.
    """

    def __init__(
        self, like: Tensor, location: Tensor | float = 0.0, scale: Tensor | float = 1.0
    ) -> None:
        self.like, self.location, self.scale = like, location, scale

    def push(self, stack: Stack, cells: Tensor) -> None:
        flat = as_cells(cells)
        push_normal(stack, flat, *_standard(len(flat)))

    def pop(self, stack: Stack, shape: tuple[int, int, int, int]) -> Tensor:
        cells = pop_normal(stack, *_standard(int(np.prod(shape))))
        return as_tensor(cells, self.like, shape)


class MixtureCode(PriorCode):
    """A mixture of normals: the component is drawn given u by bits that come back, then coded.

    Args:
        prior: the mixture.
    """

    def __init__(self, prior: MixturePrior) -> None:
        self.prior = prior
        mixture = prior()
        normals = mixture.component_distribution
        self.log_weights = mixture.mixture_distribution.logits.double()
        self.means = normals.mean.double()
        self.scales = normals.stddev.double()
        # In cells, (K, C * H * W), off whose grid last bits do not matter.
        self.middles = np.round(as_array(self.means / STEP) * 16).reshape(len(self.means), -1) / 16
        scales = np.round(as_array(self.scales / STEP) * 64).reshape(len(self.means), -1) / 64
        self.widths = np.maximum(scales, 1 / 64)

    def _given(self, cells: Tensor) -> NDArray[np.float64]:
        """The components' probabilities given u, (n, K + 1), the last none."""
        u = self.values(cells).unsqueeze(1)
        densities = torch.distributions.Normal(self.means, self.scales, validate_args=False)
        scores = self.log_weights + densities.log_prob(u).flatten(2).sum(-1)
        # Rounded, and one that is impossible added: the coder takes no table of one value.
        return _with_none(torch.round(scores.softmax(-1) * 2**20) / 2**20 + 2.0**-24)

    def _prior(self, count: int) -> NDArray[np.float64]:
        return _with_none(self.log_weights.softmax(-1).expand(count, -1))

    def push(self, stack: Stack, cells: Tensor) -> None:
        component = stack.pop(CATEGORICAL, self._given(cells))
        chosen = np.minimum(component, len(self.middles) - 1)
        middle, width = self.middles[chosen].reshape(-1), self.widths[chosen].reshape(-1)
        push_normal(stack, as_cells(cells), middle, width)
        stack.push(component, CATEGORICAL, self._prior(len(cells)))

    def pop(self, stack: Stack, shape: tuple[int, int, int, int]) -> Tensor:
        component = stack.pop(CATEGORICAL, self._prior(shape[0]))
        chosen = np.minimum(component, len(self.middles) - 1)
        middle, width = self.middles[chosen].reshape(-1), self.widths[chosen].reshape(-1)
        cells = as_tensor(pop_normal(stack, middle, width), self.prior.anchor, shape)
        stack.push(component, CATEGORICAL, self._given(cells))
        return cells


@dataclass
class RealNVPCode(PriorCode):
    """A flow: its couplings on the grid, and its base.

    Args:
        prior: the flow's.
    """

    prior: RealNVPPrior

    def __post_init__(self) -> None:
        self.flow = FlowCode(self.prior.flow)
        self.base = NormalCode(self.prior.anchor)

    def push(self, stack: Stack, cells: Tensor) -> None:
        self.base.push(stack, self.flow.to_base(stack, cells))

    def pop(self, stack: Stack, shape: tuple[int, int, int, int]) -> Tensor:
        return self.flow.from_base(stack, self.base.pop(stack, shape))


def prior_code(prior: nn.Module) -> PriorCode:
    """The code of a prior.

    Raises:
        UserError: it is of another kind than the package's.
    """
    match prior:
        case StandardPrior():
            return NormalCode(prior.anchor)
        case MixturePrior():
            return MixtureCode(prior)
        case RealNVPPrior():
            return RealNVPCode(prior)
    raise UserError(f"compress has no code for the prior {type(prior).__name__}")


def as_cells(cells: Tensor) -> Cells:
    """Whole numbers (n), flattened."""
    flat: Cells = cells.long().cpu().reshape(-1).numpy()
    return flat


def _standard(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of a standard normal, in cells."""
    return np.zeros(count), np.full(count, 1 / STEP)


def _with_none(table: Tensor) -> NDArray[np.float64]:
    padded: NDArray[np.float64] = nn.functional.pad(table, (0, 1)).cpu().numpy()
    return padded
