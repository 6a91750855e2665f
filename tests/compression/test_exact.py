"""Arithmetic that has the same bits on every machine."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from srvae_pyro.compression.codec import Codec
from srvae_pyro.compression.exact import SameEverywhere
from srvae_pyro.config import Residual
from srvae_pyro.errors import UserError
from srvae_pyro.models.base import save_pretrained
from tests.builders import initialized, make_images

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "elu": F.elu,
    "log": lambda x: torch.log(x.abs() + 1e-9),
    "square": lambda x: x**2,
    "sum": lambda x: x.sum((0, 2), keepdim=True),
    "all": lambda x: x.sum(),
    "mean": lambda x: x.mean(-1),
    "softmax": lambda x: x.softmax(1),
    "log_softmax": lambda x: x.log_softmax(0),
    "logsumexp": lambda x: x.logsumexp((0, 2)),
    "norm": lambda x: torch._weight_norm(x, x[:1, :, :1], 1),
    "first norm": lambda x: torch._weight_norm(x, x[:, :1, :1], 0),
    "bilinear": lambda x: F.interpolate(x[None], scale_factor=4.0, mode="bilinear"),
    "scaled": lambda x: torch.sub(torch.add(x, x.flip(0), alpha=3), x, alpha=0.1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@torch.no_grad()
def test_functions_are_those_that_they_stand_for(name: str) -> None:
    torch.manual_seed(0)
    x = 5 * torch.randn(3, 7, 50, dtype=torch.float64)
    x[0, 0, :4] = torch.tensor([0.0, -0.0, 40.0, -40.0])
    with SameEverywhere():
        found = FUNCTIONS[name](x)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, FUNCTIONS[name](x), rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_far_numbers_and_none_at_all() -> None:
    far = torch.tensor([-1e9, -700.0, 0.0, torch.nan], dtype=torch.float64)
    with SameEverywhere():
        exp, place = torch.exp(far), F.elu_(far.clone())
        assert torch.zeros(0, 3).double().sum(0).tolist() == [0, 0, 0]
    assert exp[0] == exp[1] > 0
    assert exp[2] == 1
    assert exp[3].isnan()
    assert place[:3].tolist() == [-1, -1, 0]


@torch.no_grad()
def test_sums_do_not_depend_on_their_order() -> None:
    """Which libraries choose by the processor's instructions."""
    torch.manual_seed(1)
    x, weight = torch.randn(2, 96, 9, 9).double(), torch.randn(5, 96, 3, 3).double()
    weight[0] *= 1e-6
    order = torch.randperm(96)
    with SameEverywhere():
        found = F.conv2d(x, weight, padding=1)
        shuffled = F.conv2d(x[:, order], weight[:, order], padding=1)
        columns = F.unfold(x, 3, padding=1)
        product = (weight.flatten(1) @ columns[0]).reshape(5, 9, 9)
        up = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
        shuffled_up = F.conv_transpose2d(x[:, order], weight.transpose(0, 1)[order], stride=2)
    assert torch.equal(found, shuffled)
    assert torch.equal(up, shuffled_up)
    plain = F.conv2d(x, weight, padding=1)
    assert not torch.equal(plain, F.conv2d(x[:, order], weight[:, order], padding=1))
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-3)
    torch.testing.assert_close(product, plain[0], rtol=0, atol=1e-3)


@torch.no_grad()
def test_what_differs_between_machines_is_refused() -> None:
    x = torch.rand(4, 4).double()
    for what in (torch.lgamma, lambda x: x.cumsum(0), lambda x: x**3, lambda x: F.elu(x, 2.0)):
        with pytest.raises(UserError, match="compress"), SameEverywhere():
            what(x)
    with SameEverywhere():  # whole numbers are exact
        assert torch.arange(5).cumsum(0)[-1] == 10
        assert not torch.mm(1e-320 * x, 1e-300 * x).any()
        assert torch.mm(0 * x, x).tolist() == [[0.0] * 4] * 4
    with pytest.raises(ValueError, match="not finite"), SameEverywhere():
        torch.mm(x / 0, x)


WRITE = """
import sys, torch
from srvae_pyro.compression.codec import Codec
from srvae_pyro.models import load
codec = Codec(load(sys.argv[1]), 2)
generator = torch.Generator().manual_seed(0)
images = torch.randint(0, 256, (3, 3, 16, 16), generator=generator).to(torch.uint8)
with open(sys.argv[2], "wb") as file:
    for chain in codec.encode(list(images)):
        file.write(chain.words.tobytes())
"""
OLDER = {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
OLDER["OMP_NUM_THREADS"] = "2"  # and with more threads, whose sums have other orders


def test_older_instructions_write_the_same_bytes(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"p_u": "realnvp", "d": "average2", "likelihood": "groups"}
    settings |= dict.fromkeys(("groups", "pyramid"), Residual(4, 1, 1, estimate=True))
    model = initialized(make_images(8), latent_likelihood="pyramid", **settings)
    save_pretrained(model, tmp_path / "run")
    command = [sys.executable, "-c", WRITE, str(tmp_path / "run"), str(tmp_path / "written")]
    subprocess.run(command, env={**os.environ, **OLDER}, check=True, timeout=600)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (3, 3, 16, 16), generator=generator).to(torch.uint8)
    chains = Codec(model, 2).encode(list(x))
    assert (tmp_path / "written").read_bytes() == b"".join(c.words.tobytes() for c in chains)
