"""KID's estimate: unbiased, also for pairs, with a standard error that repeated draws have."""

import itertools
import math
from collections.abc import Callable
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from srvae_pyro.evaluation import kid as module
from srvae_pyro.evaluation.kid import FeatureSet, kernel_distance, polynomial_kernel


def distance(a: Tensor, b: Tensor, paired: bool = False) -> float:
    return kernel_distance(FeatureSet(a), FeatureSet(b), paired=paired).value


def by_definition(a: Tensor, b: Tensor, paired: bool) -> float:
    """The averages over pairs of images, pair by pair."""

    def kernel(x: Tensor, y: Tensor) -> float:
        return (sum(p * q for p, q in zip(x.tolist(), y.tolist(), strict=True)) / len(x) + 1) ** 3

    def average(x: Tensor, y: Tensor, same: bool) -> float:
        pairs = [
            kernel(x[i], y[j])
            for i, j in itertools.product(range(len(x)), range(len(y)))
            if i != j or not same
        ]
        return sum(pairs) / len(pairs)

    return average(a, a, True) + average(b, b, True) - 2 * average(a, b, paired)


@pytest.fixture(params=[2, 1000])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(module, "BLOCK", request.param)
    size: int = request.param
    return size


@pytest.mark.parametrize(("n", "m", "paired"), [(3, 5, False), (7, 4, False), (5, 5, True)])
def test_the_estimate_and_its_error_are_those_of_the_definition(
    block: int, n: int, m: int, paired: bool
) -> None:
    a, b = torch.randn(n, 6), torch.randn(m, 6) + 0.5
    found = kernel_distance(FeatureSet(a), FeatureSet(b), paired=paired)
    assert found.value == pytest.approx(by_definition(a, b, paired), rel=1e-6)

    def without(x: Tensor, i: int) -> Tensor:
        return torch.cat([x[:i], x[i + 1 :]])

    if paired:
        left = [[by_definition(without(a, i), without(b, i), True) for i in range(n)]]
    else:
        left = [
            [by_definition(without(a, i), b, False) for i in range(n)],
            [by_definition(a, without(b, i), False) for i in range(m)],
        ]
    variance = 0.0
    for estimates in left:
        mean = sum(estimates) / len(estimates)
        factor = (len(estimates) - 1) / len(estimates)
        variance += factor * sum((estimate - mean) ** 2 for estimate in estimates)
    assert found.standard_error == pytest.approx(math.sqrt(variance), rel=1e-5)


@pytest.mark.parametrize("paired", [False, True])
def test_the_estimate_is_unbiased(paired: bool) -> None:
    """The mean over all samples of 3 and 3 that can be drawn; of pairs the other is too low."""
    a = torch.randn(3, 2)
    b = a + 0.5 if paired else torch.randn(2, 2) + 1
    kernels = [polynomial_kernel(x, y).mean().item() for x, y in ((a, a), (b, b), (a, b))]
    expected = kernels[0] + kernels[1] - 2 * kernels[2]
    of_a, of_b = ([list(i) for i in itertools.product(range(len(x)), repeat=3)] for x in (a, b))
    samples = list(zip(of_a, of_b, strict=True) if paired else itertools.product(of_a, of_b))
    found = [distance(a[i], b[j], paired) for i, j in samples]
    assert sum(found) / len(found) == pytest.approx(expected, rel=1e-9)
    if paired:
        low = [distance(a[i], b[j]) for i, j in samples]
        assert sum(low) / len(low) < expected - 0.1


def independent(shift: float) -> Callable[[], tuple[Tensor, Tensor]]:
    return lambda: (torch.randn(40, 6) + shift, torch.randn(60, 6))


def pairs(shift: float) -> Callable[[], tuple[Tensor, Tensor]]:
    def draw() -> tuple[Tensor, Tensor]:
        b = torch.randn(50, 6)
        return 0.8 * b + 0.6 * torch.randn(50, 6) + shift, b

    return draw


@pytest.mark.parametrize(
    ("draw", "paired", "least", "most"),
    [
        (independent(0.7), False, 0.85, 1.2),
        (pairs(0.7), True, 0.85, 1.2),
        (independent(0.0), False, 1.0, 1.6),  # about sqrt(2): there is no term of first order
        (pairs(0.0), True, 1.0, 1.6),
    ],
)
def test_the_standard_error_is_that_of_repeated_draws(
    draw: Callable[[], tuple[Tensor, Tensor]], paired: bool, least: float, most: float
) -> None:
    found = []
    for _ in range(600):
        a, b = draw()
        found.append(kernel_distance(FeatureSet(a), FeatureSet(b), paired=paired))
    values = torch.tensor([estimate.value for estimate in found], dtype=torch.float64)
    errors = torch.tensor([estimate.standard_error for estimate in found], dtype=torch.float64)
    ratio = (errors.square().mean().sqrt() / values.std()).item()
    assert least < ratio < most


def test_sets_that_cannot_be_compared() -> None:
    for n, m, paired in ((2, 5, False), (5, 2, False), (4, 5, True)):
        with pytest.raises(ValueError, match="at least 3 each"):
            distance(torch.randn(n, 4), torch.randn(m, 4), paired)


def test_a_sets_own_kernel_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    real = FeatureSet(torch.randn(10, 4))
    counted = Mock(side_effect=polynomial_kernel)
    monkeypatch.setattr(module, "polynomial_kernel", counted)
    for _ in range(3):
        kernel_distance(FeatureSet(torch.randn(10, 4)), real)
    # Of each other set with itself, 2 with the diagonal, and with the real ones; theirs once.
    assert counted.call_count == 3 * 3 + 2
    assert real.subset(torch.arange(10)) is real
