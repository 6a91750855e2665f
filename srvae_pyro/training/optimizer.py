"""Muon: updates of matrices with all singular values alike, and Adamax for other parameters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Muon", "check_optimizer", "orthogonalized"]

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Newton and Schulz's iteration, by Jordan et al.
ITERATIONS = 5
MOMENTUM = 0.95
SCALE = 0.2  # updates are as large as Adam's usually are, by Liu et al.
SMALLEST = 8  # rows and columns of a matrix


def orthogonalized(matrices: Tensor) -> Tensor:
    """Matrices (N, rows, columns) with the same singular vectors and singular values near 1.

    A singular value becomes 0.7 to 1.2, or stays small if it is below a thousandth of the
    matrix's norm. The iteration runs on X X^T, which is smaller than X.

    References:
        Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024,
        https://kellerjordan.github.io/posts/muon.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-12)
    a, b, c = COEFFICIENTS
    gram = x @ x.mT
    product = eye = torch.eye(gram.shape[-1], dtype=x.dtype, device=x.device).expand_as(gram)
    for _ in range(ITERATIONS):
        # X <- (a + b G + c G^2) X, with G = X X^T; all of these commute.
        polynomial = a * eye + b * gram + c * gram @ gram
        product = polynomial @ product
        gram = polynomial @ gram @ polynomial
    x = product @ x
    return x.mT if tall else x


class Muon(torch.optim.Adamax):
    """Orthogonalised momentum for the weights of convolutions, Adamax for all else.

    A weight is a matrix of output channels by the rest. The root mean square of its update is
    ``SCALE`` times the learning rate, so that both kinds of parameters share one.

    Args:
        parameters: to learn.
        lr: learning rate.
        betas: of Adamax.
        eps: of Adamax.

    References:
        Jordan et al., as of :func:`orthogonalized`; Liu et al., Muon is Scalable for LLM Training,
        2025, arXiv:2502.16982, section 2.2.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(parameters, lr=lr, betas=betas, eps=eps)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all parameters. The matrices' gradients are gone afterwards."""
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None and is_matrix(parameter):
                    by_shape[parameter.shape].append(parameter)
            for same in by_shape.values():
                self._update(same, group["lr"])
        super().step(closure)

    def _update(self, parameters: list[Tensor], lr: float) -> None:
        """Matrices of one shape, together."""
        gradients, momenta = [], []
        for parameter in parameters:
            assert parameter.grad is not None
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros(())
                state["exp_avg"] = torch.zeros_like(parameter)
            state["step"] += 1
            gradients.append(parameter.grad)
            momenta.append(state["exp_avg"])
            parameter.grad = None
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        nesterov = torch._foreach_lerp(gradients, momenta, MOMENTUM)
        updates = orthogonalized(torch.stack(nesterov).flatten(2))
        rate = lr * SCALE * max(updates.shape[-2:]) ** 0.5
        steps = [update.view_as(p) for update, p in zip(updates, parameters, strict=True)]
        torch._foreach_add_(parameters, steps, alpha=-rate)


def is_matrix(parameter: Tensor) -> bool:
    """Whether it is a convolution's weight, and not one of few channels."""
    if parameter.dim() != 4:
        return False
    return min(parameter.shape[0], parameter[0].numel()) >= SMALLEST


def check_optimizer(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """A ValueError if an optimiser's state is another one's, which PyTorch does not check."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, values in state["state"].items():
        if not (isinstance(index, int) and 0 <= index < len(parameters)):
            raise ValueError(f"its optimiser has a parameter {index!r}")
        matrix = isinstance(optimizer, Muon) and is_matrix(parameters[index])
        if set(values) != {"step", "exp_avg"} | (set() if matrix else {"exp_inf"}):
            raise ValueError("another optimiser trained it")
        for name, value in values.items():
            if isinstance(value, Tensor) and value.dim() and value.shape != parameters[index].shape:
                raise ValueError(f"its optimiser's {name} of parameter {index} has another shape")
