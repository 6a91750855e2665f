"""RealNVP: inverses, log-determinants, copies, and no stale outputs."""

import copy
import pickle
from collections.abc import Callable

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.distributions.transforms import ComposeTransform, Transform

from srvae_pyro.distributions import AffineCoupling, OnFirstHalf, RealNVP, RealNVPPrior, Squeeze
from srvae_pyro.distributions.realnvp import checkerboard_mask
from srvae_pyro.networks import ChannelGain, CouplingNetwork, WeightNormalized

SHAPE = (4, 4, 4)


def shaken(module: nn.Module) -> nn.Module:
    """With gains and biases that are neither all alike nor so large that errors blow up."""
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, WeightNormalized):
                layer.gain.uniform_(0.3, 0.8)
                layer.bias.normal_(std=0.2)
            elif isinstance(layer, ChannelGain):
                layer.gain.uniform_(-1.0, 1.0)
    return module


def coupling(pattern: str, reverse: bool, channels: int = SHAPE[0]) -> AffineCoupling:
    network = CouplingNetwork(channels if pattern == "checkerboard" else channels // 2, 4, 2)
    return AffineCoupling(shaken(network.double()), pattern, reverse)


def flow() -> ComposeTransform:
    return ComposeTransform(shaken(RealNVP(SHAPE[0], 4, 2).double())())


TRANSFORMS: dict[str, Callable[[], Transform]] = {
    "checkerboard": lambda: coupling("checkerboard", False),
    "checkerboard, reversed": lambda: coupling("checkerboard", True),
    "channels": lambda: coupling("channels", False),
    "channels, reversed": lambda: coupling("channels", True),
    "squeeze": Squeeze,
    "squeeze, alternative": lambda: Squeeze(alternative=True),
    "unsqueeze": lambda: Squeeze(undo=True),
    "unsqueeze, alternative": lambda: Squeeze(alternative=True, undo=True),
    "first half": lambda: OnFirstHalf(
        [coupling("checkerboard", False, 2), coupling("channels", True, 2)]
    ),
    "whole": flow,
}
COUPLINGS = [name for name in TRANSFORMS if name.startswith(("checkerboard", "channels"))]


def to_single(transform: Transform) -> None:
    for part in getattr(transform, "parts", [transform]):
        if isinstance(part, AffineCoupling):
            part.network.float()
        elif isinstance(part, OnFirstHalf):
            to_single(part.part)


def log_determinant(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    jacobian = torch.autograd.functional.jacobian(function, x)
    return torch.linalg.slogdet(jacobian.reshape(x.numel(), x.numel())).logabsdet


@pytest.mark.parametrize("name", TRANSFORMS)
def test_inverse(name: str) -> None:
    transform = TRANSFORMS[name]()
    x = torch.randn(3, *SHAPE, dtype=torch.float64)
    y = transform(x)
    assert not torch.equal(y.flatten(), x.flatten())
    torch.testing.assert_close(transform.inv(y), x, atol=1e-10, rtol=0)
    torch.testing.assert_close(transform(transform.inv(x)), x, atol=1e-10, rtol=0)
    to_single(transform)
    x = x.float()
    torch.testing.assert_close(transform.inv(transform(x)), x, atol=1e-4, rtol=0)
    torch.testing.assert_close(transform(transform.inv(x)), x, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_log_determinant_is_that_of_autograds_jacobian(name: str) -> None:
    transform = TRANSFORMS[name]()
    x = torch.randn(*SHAPE, dtype=torch.float64)
    y = transform(x)
    expected = log_determinant(transform, x).detach()
    assert (expected.abs() > 1e-3) == ("squeeze" not in name)
    outputs = (
        transform.log_abs_det_jacobian(x, y),
        transform.log_abs_det_jacobian(transform.inv(y), y),
        -transform.inv.log_abs_det_jacobian(y, x),
    )
    for output in outputs:
        assert output.shape == ()
        torch.testing.assert_close(output.detach(), expected, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(log_determinant(transform.inv, y), -expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", COUPLINGS)
def test_coupling_keeps_the_part_that_it_looks_at(name: str) -> None:
    transform = TRANSFORMS[name]()
    x = torch.randn(2, *SHAPE, dtype=torch.float64)
    rows, columns = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    if "checkerboard" in name:
        kept = ((rows + columns) % 2 == 1).expand(SHAPE)
    else:
        kept = (torch.arange(4) >= 2)[:, None, None].expand(SHAPE)
    if "reversed" in name:
        kept = ~kept
    y = transform(x)
    same = (y == x).all(dim=0)
    assert torch.equal(same, kept)
    # The scale and shift do not depend on what is changed.
    other = torch.where(kept, x, x + 1.0)
    slope = transform(other) - y
    again = transform(torch.where(kept, x, x + 2.0)) - y
    torch.testing.assert_close(again, 2 * slope)


def test_squeeze_stacks_each_channels_square() -> None:
    x = torch.arange(2 * 16.0).reshape(2, 4, 4)
    squeezed = Squeeze().inv(x)
    assert squeezed.shape == (8, 2, 2)
    assert torch.equal(squeezed[:4, 0, 1], x[0, 0:2, 2:4].flatten())
    assert torch.equal(squeezed[4:, 1, 0], x[1, 2:4, 0:2].flatten())


def test_alternative_squeeze_parts_a_checkerboards_colours() -> None:
    board = checkerboard_mask(4, 6, reverse=True, like=torch.zeros(())).expand(3, 4, 6)
    squeezed = Squeeze(alternative=True).inv(board)
    assert squeezed.shape == (12, 2, 3)
    assert squeezed[:6].eq(1).all()
    assert squeezed[6:].eq(0).all()


def test_prior_changes_both_halves_of_each_scale() -> None:
    """No element goes through the flow unchanged, whatever its place."""
    transform = flow()
    x = torch.randn(1, *SHAPE, dtype=torch.float64)
    assert (transform(x) != x).all()


@pytest.fixture
def prior() -> RealNVPPrior:
    return shaken(RealNVPPrior(SHAPE, 4, 2)).double()


def some_u(*batch: int) -> Tensor:
    return torch.randn(*batch, *SHAPE, dtype=torch.float64)


def test_density_is_the_bases_times_the_determinant(prior: RealNVPPrior) -> None:
    density = prior()
    assert density.event_shape == SHAPE
    u = density.sample()
    whole = ComposeTransform(density.transforms)
    v = whole.inv(u)
    expected = dist.Normal(0.0, 1.0).log_prob(v).sum() + log_determinant(whole.inv, u)
    torch.testing.assert_close(density.log_prob(u), expected, atol=1e-9, rtol=1e-9)


def test_sample_is_differentiable_in_the_parameters(prior: RealNVPPrior) -> None:
    prior().rsample((3,)).square().sum().backward()
    heads = [p for name, p in prior.named_parameters() if name.endswith("head.bias")]
    assert len(heads) == 10
    assert all(p.grad is not None and p.grad.any() for p in heads)


def test_gradient_reaches_the_latent(prior: RealNVPPrior) -> None:
    u = some_u(1).requires_grad_()
    (gradient,) = torch.autograd.grad(prior().log_prob(u).sum(), u)
    step = 1e-6 * torch.randn_like(u)
    with torch.no_grad():
        change = prior().log_prob(u + step) - prior().log_prob(u - step)
    torch.testing.assert_close(change.sum(), 2 * (gradient * step).sum(), rtol=1e-5, atol=0)


def test_a_distribution_follows_changed_parameters(prior: RealNVPPrior) -> None:
    held, u = prior(), some_u(3)
    sampled = held.sample((3,))
    before = held.log_prob(u).detach(), held.log_prob(sampled).detach()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    for value, old in zip((u, sampled), before, strict=True):
        now = held.log_prob(value)
        assert not torch.equal(now, old)
        assert torch.equal(now, prior().log_prob(value))


@pytest.mark.parametrize("name", COUPLINGS)
def test_a_cached_log_determinant_is_of_its_own_pair(name: str) -> None:
    transform = TRANSFORMS[name]()
    y, other = some_u(2), some_u(2)
    expected = transform.log_abs_det_jacobian(transform.inv(other), other)
    other_x = transform.inv(other).clone()
    transform.inv(y)
    assert torch.equal(transform.log_abs_det_jacobian(other_x, other), expected)


def test_distribution_can_be_copied_after_scoring(prior: RealNVPPrior) -> None:
    density, u = prior(), some_u(2)
    score = density.log_prob(u)
    ComposeTransform(density.transforms).inv(u)  # whose log-determinants nobody asks for
    other = pickle.loads(pickle.dumps(copy.deepcopy(density)))
    assert torch.equal(other.log_prob(u), score)


@pytest.mark.parametrize("size", [(2, 2), (6, 2), (8, 8)])
def test_other_sizes(prior: RealNVPPrior, size: tuple[int, int]) -> None:
    density = prior(size).expand((3,))
    u = density.sample((2,))
    assert u.shape == (2, 3, 4, *size)
    whole = ComposeTransform(density.transforms)
    torch.testing.assert_close(whole(whole.inv(u)), u, atol=1e-9, rtol=0)
    assert density.log_prob(u).shape == (2, 3)


def test_odd_sizes_are_refused(prior: RealNVPPrior) -> None:
    with pytest.raises(ValueError, match=r"even height and width.*5x4"):
        RealNVPPrior((4, 5, 4))
    with pytest.raises(ValueError, match=r"even height and width.*4x3"):
        prior((4, 3)).sample()
