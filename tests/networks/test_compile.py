"""What ``--compile`` makes of the networks."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from srvae_pyro.config import Dense, Residual
from srvae_pyro.inference.elbo import TermsELBO
from srvae_pyro.models import ImageModel, make_model
from srvae_pyro.networks import (
    CouplingNetwork,
    Decoder,
    Encoder,
    PlainNetwork,
    ResidualFeatures,
    ResidualNetwork,
    WeightNormalized,
    checkpoint_blocks,
    compile_networks,
    initializing,
)
from tests.builders import make_images, tiny

# Of what depends on the size alone, which is then computed at each call.
pytestmark = pytest.mark.filterwarnings("ignore:.*functools.lru_cache:UserWarning")


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    """No compiled code of earlier tests, and PyTorch's own limit, here and afterwards."""
    torch._dynamo.reset()
    limit = torch._dynamo.config.cache_size_limit
    yield
    torch._dynamo.config.cache_size_limit = limit
    torch._dynamo.reset()


def inputs_of(model: ImageModel, x: Tensor, *kinds: type) -> dict[nn.Module, tuple[Tensor, ...]]:
    """What networks of these kinds are given while images are scored."""
    seen: dict[nn.Module, tuple[Tensor, ...]] = {}
    networks = [module for module in model.modules() if isinstance(module, kinds)]
    hooks = [
        n.register_forward_pre_hook(lambda n, given: seen.update({n: given})) for n in networks
    ]
    with torch.no_grad():
        TermsELBO().terms(model.model, model.guide, x)
    for hook in hooks:
        hook.remove()
    assert set(seen) == set(networks)
    return seen


@pytest.mark.parametrize("checkpoint", [False, True])
def test_each_network_is_one_graph(checkpoint: bool) -> None:
    settings = {"stages": 1, "guide_z_sees_y": True, "p_z_from_u": Dense(2, 1, 1)}
    groups = Residual(4, 1, 1, estimate=True)
    settings |= {"d": "average2", "likelihood": "groups", "groups": groups}
    small = dict.fromkeys(("q_u", "p_y", "q_z", "p_z_from_y", "p_x_from_z"), Dense(2, 1))
    model, x = make_model(tiny(**settings, **small)), make_images(2)
    model.initialize(x)
    checkpoint_blocks(model, checkpoint)
    networks = inputs_of(
        model, x, Encoder, Decoder, PlainNetwork, ResidualNetwork, ResidualFeatures
    )
    # Of the couplings, and with checkpoints, one stands for all.
    networks |= dict([inputs_of(model, x, CouplingNetwork).popitem()])
    if checkpoint:
        networks = dict([networks.popitem()])
    for network, given in networks.items():
        found = torch._dynamo.explain(network)(*given)
        assert (found.graph_break_count, found.graph_count) == (0, 1), found.break_reasons


def test_all_networks_are_compiled_and_only_for_steps() -> None:
    """Ten of them, where PyTorch would leave all after the eighth as they are."""
    networks = nn.ModuleList(PlainNetwork(2, 2, Dense(growth, 1)) for growth in range(1, 11))
    x, counter = torch.randn(4, 2, 8, 8), CompileCounter()
    assert len(networks) > torch._dynamo.config.cache_size_limit
    compile_networks(networks, backend=counter)
    with initializing(networks):
        for network in networks:
            network(x)
    assert all(bool(m.initialized) for m in networks.modules() if isinstance(m, WeightNormalized))
    assert counter.frame_count == 0
    for _ in range(2):
        for network in networks:
            network(x)
        assert counter.frame_count == len(networks)
