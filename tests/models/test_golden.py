"""The published networks: their sizes, and their figures with weights from seeded generators.

How the weights are filled and the inputs drawn: each network's tensors are counted in the order in
which data meets them and drawn in float64 from a generator of their own.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from srvae_pyro.config import Dense, ModelConfig
from srvae_pyro.distributions import DiscretizedLogisticMixture
from srvae_pyro.models import SRVAE, VAE
from srvae_pyro.networks import ChannelGain, WeightNormalized

SRVAE_SIZES = {
    "p_u": 11_411_876,
    "q_u": 3_934_912,
    "p_z": 6_428_516,
    "q_z": 3_027_986,
    "p_y": 4_354_140,
    "p_x": 10_115_140,
    "total": 39_272_570,
}
VAE_SIZES = {"p_z": 11_411_876, "q_z": 10_414_802, "p_x": 12_449_686, "total": 34_276_364}
RELATIVE = 1e-9


class Published:
    """A published model with the golden weights in float64, and its golden figures."""

    def __init__(self, name: str) -> None:
        path = Path(__file__).parents[1] / "golden" / f"{name}.json"
        self.golden: dict[str, Any] = json.loads(path.read_text())
        if name == "srvae":
            srvae = SRVAE(ModelConfig())
            self.model: nn.Module = srvae
            # In the order in which they are filled.
            self.networks: dict[str, nn.Module] = {
                "q_u": srvae.guide.q_u,
                "p_y": srvae.model.p_y,
                "q_z": srvae.guide.q_z,
                "p_z": srvae.model.p_z,
                "p_x": srvae.model.p_x,
                "p_u": srvae.model.p_u,
            }
        else:
            vae = VAE(ModelConfig(model="vae", q_z=Dense(16, 8), p_x_from_z=Dense(128, 6)))
            self.model = vae
            self.networks = {
                "q_z": vae.guide.q_z,
                "p_x": vae.model.p_x,
                "p_z": vae.model.p_z,
            }
        self.model.double()
        for i, (name, network) in enumerate(self.networks.items(), 1):
            fill(network, i, self.golden["shapes"][name])


@torch.no_grad()
def fill(network: nn.Module, i: int, shapes: list[list[int]]) -> None:
    layers = [m for m in network.modules() if isinstance(m, WeightNormalized | ChannelGain)]
    assert [list(layer.direction.shape) for layer in layers] == shapes
    for k, layer in enumerate(layers):
        g = torch.Generator().manual_seed(10_000 * i + k)

        def normal(like: Tensor, g: torch.Generator = g) -> Tensor:
            return torch.randn(like.shape, generator=g, dtype=torch.float64)

        layer.direction.copy_(normal(layer.direction))
        layer.gain.copy_(1 + 0.1 * normal(layer.gain))
        if isinstance(layer, WeightNormalized):
            layer.bias.copy_(0.1 * normal(layer.bias))


@pytest.fixture(scope="module", params=["srvae", "vae"])
def published(request: pytest.FixtureRequest) -> Iterator[Published]:
    with torch.no_grad():
        yield Published(request.param)


def levels(seed: int, *shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed))


def normal(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def inputs() -> dict[str, Tensor]:
    return {
        "x": (levels(1, 2, 3, 32, 32) / 255).double(),
        "y": levels(2, 2, 3, 16, 16).double() / 255,
        "u": normal(3, 2, 16, 8, 8),
        "z": normal(4, 2, 16, 8, 8),
    }


def check(outputs: Tensor, figures: dict[str, Any]) -> None:
    flat = outputs.flatten()
    assert list(outputs.shape) == figures["shape"]
    assert flat.sum().item() == pytest.approx(figures["sum"], rel=RELATIVE)
    assert flat.abs().sum().item() == pytest.approx(figures["abs"], rel=RELATIVE)
    assert flat[:12].tolist() == pytest.approx(figures["first"], rel=RELATIVE)
    assert flat[-4:].tolist() == pytest.approx(figures["last"], rel=RELATIVE)


def test_parameter_counts(published: Published) -> None:
    networks = published.networks | {"total": published.model}
    counts = {k: sum(p.numel() for p in network.parameters()) for k, network in networks.items()}
    assert counts == (SRVAE_SIZES if "p_u" in networks else VAE_SIZES)


def test_posteriors_and_conditional_prior(published: Published) -> None:
    values = inputs()
    given = {"q_u": "y", "q_z": "x", "p_z": "yu"}
    names = [name for name in given if name in published.golden]
    assert names == (["q_u", "q_z", "p_z"] if "q_u" in published.networks else ["q_z"])
    for name in names:
        normal = published.networks[name](*(values[k] for k in given[name])).base_dist
        for outputs, figures in zip(
            (normal.loc, 2 * normal.scale.log()), published.golden[name], strict=True
        ):
            check(outputs, figures)


def test_likelihoods(published: Published) -> None:
    values = inputs()
    is_srvae = "p_y" in published.networks
    given = {"p_y": "u", "p_x": "yz"} if is_srvae else {"p_x": "z"}
    for name, names in given.items():
        network = published.networks[name]
        check(network.parameters_of(*(values[k] for k in names)), published.golden[name])


def test_prior(published: Published) -> None:
    latent = "u" if "p_u" in published.networks else "z"
    log_prob = published.networks[f"p_{latent}"]().log_prob(inputs()[latent])
    expected = published.golden[f"log_p_{latent}"]
    assert log_prob.tolist() == pytest.approx(expected, rel=RELATIVE)


@pytest.mark.parametrize(("name", "spread", "seed"), [("dmol", 1.5, 5), ("dmol_wide", 6.0, 7)])
def test_mixture_likelihood(published: Published, name: str, spread: float, seed: int) -> None:
    """The published formula approximates rare bins, so the exact masses agree less closely."""
    likelihood = DiscretizedLogisticMixture.from_channels(spread * normal(seed, 2, 100, 8, 8))
    log_prob = likelihood.log_prob(levels(6, 2, 3, 8, 8).double() / 255)
    assert log_prob.tolist() == pytest.approx(published.golden[name], rel=3e-5)
