"""The standard error of means over images that are independent, or cut from a few photographs."""

import pytest
import torch

from srvae_pyro.inference.statistics import standard_error


def test_of_independent_images_it_is_the_usual_one() -> None:
    values = torch.randn(40, dtype=torch.float64) + 1000
    usual = values.std().item() / 40**0.5
    assert standard_error(values) == pytest.approx(usual)
    assert standard_error(values, torch.randperm(40)) == pytest.approx(usual)


def test_of_photographs_with_as_many_images_it_is_that_of_their_means() -> None:
    values, photographs = torch.randn(60, dtype=torch.float64), torch.arange(60) % 4
    means = torch.stack([values[photographs == n].mean() for n in range(4)])
    found = standard_error(values, photographs)
    assert found == pytest.approx(means.std().item() / 4**0.5)
    # The same images ten times over say nothing more.
    assert standard_error(values.repeat(10), photographs.repeat(10)) == pytest.approx(found)


def test_it_is_how_far_means_scatter_when_photographs_are_drawn_anew() -> None:
    sizes = torch.tensor([3, 30, 12, 5, 50, 20, 8, 40, 15, 25])  # images of each photograph
    photographs = torch.arange(10).repeat_interleave(sizes)
    level = torch.randn(4000, 10, dtype=torch.float64)[:, photographs]
    values = level + 0.5 * torch.randn(4000, len(photographs), dtype=torch.float64)
    scatter = values.mean(dim=1).std().item()
    errors = torch.tensor([standard_error(each, photographs) or 0.0 for each in values])
    assert errors.square().mean().sqrt().item() == pytest.approx(scatter, rel=0.12)
    taken_for_independent = values.std(dim=1).mean().item() / len(photographs) ** 0.5
    assert taken_for_independent < scatter / 3


def test_one_image_or_photograph_has_none() -> None:
    assert standard_error(torch.ones(1)) is None
    assert standard_error(torch.randn(9), torch.full((9,), 3)) is None
