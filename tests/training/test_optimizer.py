"""Muon: orthogonalised updates of matrices, Adamax for the rest."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from srvae_pyro.training.optimizer import SCALE, Muon, orthogonalized


@pytest.mark.parametrize("shape", [(3, 8, 40), (3, 40, 8), (1, 16, 16)])
def test_orthogonalised_matrices_keep_their_singular_vectors(shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(shape, generator=generator)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    result = orthogonalized(matrices)
    inner = left.mT @ result @ right.mT
    found = inner.diagonal(dim1=-2, dim2=-1)
    large = values / values.norm(dim=-1, keepdim=True) > 0.02
    assert float(found[large].min()) > 0.6
    assert float(found.max()) < 1.25
    torch.testing.assert_close(inner, torch.diag_embed(found), atol=1e-4, rtol=0)
    # The size of the gradient does not matter.
    torch.testing.assert_close(orthogonalized(1e4 * matrices), result, atol=1e-4, rtol=0)


def test_degenerate_matrices_give_finite_updates() -> None:
    nothing, one = torch.zeros(1, 8, 9), torch.ones(1, 8, 9)
    assert torch.equal(orthogonalized(nothing), nothing)
    assert bool(orthogonalized(one).isfinite().all())


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 3, 1))


def learn(network: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        x = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()


def test_only_weights_of_many_channels_are_orthogonalised() -> None:
    network, other = layers(), layers()
    learn(network, Muon(network.parameters(), lr=0.01), 1)
    learn(other, torch.optim.Adamax(other.parameters(), lr=0.01), 1)
    same = {
        name: torch.equal(ours, theirs)
        for (name, ours), theirs in zip(network.named_parameters(), other.parameters(), strict=True)
    }
    assert {name for name, equal in same.items() if not equal} == {"0.weight", "2.weight"}


def test_updates_of_matrices_are_as_large_as_the_rate_says() -> None:
    network = layers()
    before = [parameter.clone() for parameter in network.parameters()]
    learn(network, Muon(network.parameters(), lr=0.01), 1)
    first, _, second, *_ = (
        after - start for after, start in zip(network.parameters(), before, strict=True)
    )
    for update in (first, second):
        size = float(update.detach().square().mean().sqrt()) / (SCALE * 0.01)
        assert 0.3 < size < 1.2, size  # less if the gradient has few large singular values


def test_muon_goes_on_from_its_state_to_the_bit() -> None:
    whole, parts = layers(), layers()
    learn(whole, Muon(whole.parameters(), lr=0.01), 4)
    learn(parts, first := Muon(parts.parameters(), lr=0.01), 4)
    state = copy.deepcopy(first.state_dict())
    again = copy.deepcopy(parts)
    second = Muon(again.parameters(), lr=0.01)
    second.load_state_dict(state)
    for network, optimizer in ((parts, first), (again, second)):
        learn(network, optimizer, 3)
    assert all(map(torch.equal, parts.parameters(), again.parameters()))
    assert not all(map(torch.equal, parts.parameters(), whole.parameters()))
