"""KID's estimate: unbiased, also for pairs, with a standard error that repeated draws have."""

import itertools
import math
from collections.abc import Callable

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


def moments(mean_a: Tensor, mean_b: Tensor) -> float:
    """E (x.y / D + 1)^3 of x ~ N(mean_a, I) and y ~ N(mean_b, I), by the moments of x.y."""
    size = len(mean_a)
    a, b, dot = (float((p * q).sum()) for p, q in ((mean_a,) * 2, (mean_b,) * 2, (mean_a, mean_b)))
    second = size + a + b + dot**2
    third = dot**3 + 3 * dot * (a + b + size) + 6 * dot
    return 1 + 3 * dot / size + 3 * second / size**2 + third / size**3


def of_normals(mean_a: Tensor, mean_b: Tensor) -> float:
    """The squared discrepancy of two normals with unit variances."""
    return moments(mean_a, mean_a) + moments(mean_b, mean_b) - 2 * moments(mean_a, mean_b)


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


def test_the_estimate_is_unbiased() -> None:
    """The mean over all samples of 3 and 3 that can be drawn from populations of 3 and 2."""
    a, b = torch.randn(3, 2), torch.randn(2, 2) + 1
    kernels = [polynomial_kernel(x, y).mean().item() for x, y in ((a, a), (b, b), (a, b))]
    expected = kernels[0] + kernels[1] - 2 * kernels[2]
    found = [
        distance(a[list(i)], b[list(j)])
        for i in itertools.product(range(3), repeat=3)
        for j in itertools.product(range(2), repeat=3)
    ]
    assert sum(found) / len(found) == pytest.approx(expected, rel=1e-9)


def test_the_estimate_of_pairs_is_unbiased() -> None:
    """The same for pairs that depend on each other, where the other estimate is too low."""
    a = torch.randn(3, 2)
    b = a + 0.5
    kernels = [polynomial_kernel(x, y).mean().item() for x, y in ((a, a), (b, b), (a, b))]
    expected = kernels[0] + kernels[1] - 2 * kernels[2]
    samples = [list(i) for i in itertools.product(range(3), repeat=3)]
    found = [distance(a[i], b[i], paired=True) for i in samples]
    assert sum(found) / len(found) == pytest.approx(expected, rel=1e-9)
    low = [distance(a[i], b[i]) for i in samples]
    assert sum(low) / len(low) < expected - 0.1


def test_halves_of_one_set_are_at_distance_0_and_shifted_ones_at_that_of_the_normals() -> None:
    whole = FeatureSet(torch.randn(3000, 16))
    one, other = whole.every_other(0), whole.every_other(1)
    same = kernel_distance(one, other)
    assert abs(same.value) < 4 * same.standard_error
    values = []
    for shift in (0.2, 0.4, 0.8):
        mean = torch.full((16,), shift)
        found = kernel_distance(FeatureSet(one.features + mean), other)
        expected = of_normals(mean, torch.zeros(16))
        assert abs(found.value - expected) < 4 * found.standard_error
        assert found.standard_error < 0.2 * expected
        values.append(found.value)
    assert same.value < values[0] < values[1] < values[2]


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
    calls = []
    kernel = polynomial_kernel

    def counted(a: Tensor, b: Tensor) -> Tensor:
        calls.append((a, b))
        return kernel(a, b)

    monkeypatch.setattr(module, "polynomial_kernel", counted)
    for _ in range(3):
        kernel_distance(FeatureSet(torch.randn(10, 4)), real)
    # Of each other set with itself, 2 with the diagonal, and with the real ones; theirs once.
    assert len(calls) == 3 * 3 + 2
    assert real.subset(torch.arange(10)) is real
