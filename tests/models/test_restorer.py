"""p(y|o) and the point estimate of x given o."""

import pytest
import torch
from torch import Tensor

from srvae_pyro.config import ModelConfig, Residual
from srvae_pyro.models import make_model
from srvae_pyro.models.restorer import FACTORS, InputKind, Restorer, numbers_of
from srvae_pyro.networks import initializing
from srvae_pyro.pixels import to_levels
from tests.builders import refused, smallest

KINDS = [
    InputKind(),
    InputKind.exact(),
    InputKind("bicubic", noise=0.0, table=0.0),
    InputKind(noise=7.0, table=21.5, subsampled=True),
    InputKind(webp=True),
]


def inputs(count: int = 5, side: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, side, side), generator=generator) / 255


@pytest.fixture(scope="module", params=[False, True], ids=["", "scaled"])
def restorer(request: pytest.FixtureRequest) -> Restorer:
    torch.manual_seed(0)
    made = Restorer(ModelConfig(restorer=Residual(6, 2, scaled=request.param)))
    with torch.no_grad(), initializing(made, 0.1):
        made(inputs(), numbers_of(KINDS, 2)).log_prob(inputs())
        for block in made.estimate.blocks:  # as if learnt
            block.second.weight.mul_(10)
    return made.eval()


def test_samples_are_scored_and_start_near_the_input(restorer: Restorer) -> None:
    o = inputs()
    p_y = restorer(o, numbers_of(KINDS, 2))
    y = p_y.sample()
    assert torch.equal(to_levels(y) / 255, y)
    score = p_y.log_prob(y)
    assert score.shape == (5,)
    assert score.isfinite().all()
    # An untrained p(y|o) expects an image near o, not near gray.
    assert (p_y.mean - o).abs().mean() < 0.1 < (o - 0.5).abs().mean()


def test_inputs_do_not_share_anything(restorer: Restorer) -> None:
    o, kinds = inputs(), numbers_of(KINDS, 2)
    y = restorer(o, kinds).sample()
    together = restorer(o, kinds).log_prob(y)
    for index in range(5):
        one = slice(index, index + 1)
        alone = restorer(o[one], kinds[one]).log_prob(y[one])
        torch.testing.assert_close(alone, together[one], rtol=1e-4, atol=1e-2)


def test_p_y_leaves_the_point_estimate_alone(restorer: Restorer) -> None:
    o, kinds = inputs(), numbers_of(KINDS, 2)
    estimate, p_y = restorer.both(o, kinds, 2)
    for given in (restorer(o, kinds), p_y):
        restorer.zero_grad()
        given.log_prob(o).sum().backward()
        learnt = {name for name, p in restorer.named_parameters() if p.grad is not None}
        assert learnt
        assert not any(name.startswith("estimate.") for name in learnt)
    restorer.zero_grad()
    torch.testing.assert_close(estimate, restorer.estimate(o, kinds, 2))
    torch.testing.assert_close(p_y.log_prob(o), restorer(o, kinds).log_prob(o))


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_one_kind_folded_in_changes_nothing(
    restorer: Restorer, kind: InputKind, factor: int
) -> None:
    o = inputs(2)
    expected = restorer.estimate(o, kind.numbers(factor).expand(2, -1), factor)
    assert expected.shape == (2, 3, 8 * factor, 8 * factor)
    found = restorer.estimate.folded(kind, factor)(o)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    average = torch.nn.functional.avg_pool2d(found, factor)
    assert torch.allclose(average, o, atol=1e-5) == kind.trusted or factor == 1


def test_kinds_differ_in_what_the_networks_see() -> None:
    every = [kind.numbers(factor) for kind in KINDS for factor in FACTORS]
    assert len({tuple(numbers.tolist()) for numbers in every}) == len(every)
    assert len({numbers.shape for numbers in every}) == 1


def test_a_repeated_input_is_restored_as_its_copies(restorer: Restorer) -> None:
    o = inputs(1)
    kinds = numbers_of(KINDS[:1], 2).expand(3, -1)
    y = restorer(o, kinds[:1]).mode
    once = restorer(o.repeat(3, 1, 1, 1), kinds).log_prob(y)
    repeated = restorer(o.expand(3, -1, -1, -1), kinds).log_prob(y)
    torch.testing.assert_close(repeated.expand(3), once, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("d", ["grayscale", "downscale2"])
def test_a_restorer_needs_a_y_of_averages(d: str) -> None:
    with refused("`restorer` needs an srVAE with `transform=average2`"):
        make_model(smallest(d=d, restorer=Residual(6, 2)))
