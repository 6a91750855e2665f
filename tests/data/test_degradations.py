"""Pairs of images and inputs."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from srvae_pyro.data.degradations import (
    EXAMPLES,
    SIDE,
    as_jpeg,
    averaged,
    degraded,
    example,
    noisy,
    reduced,
)
from srvae_pyro.models.restorer import InputKind
from srvae_pyro.models.transforms import make_transform
from srvae_pyro.pixels import to_levels, to_unit


def crops(count: int = 6, side: int = 144) -> Tensor:
    """Smooth images, uint8 (count, 3, side, side)."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, side // 8, side // 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, scale_factor=8, mode="bilinear")
    return (255 * smooth).to(torch.uint8)


def test_pairs_repeat_by_their_generator_and_have_every_kind() -> None:
    x, kinds, factors = crops(), set(), set()
    for seed in range(40):
        pairs = degraded(x, np.random.default_rng(seed))
        factors.add(pairs.factor)
        assert pairs.o.shape == pairs.y.shape
        assert pairs.o.shape[-1] <= SIDE
        assert pairs.x.shape[-1] == pairs.factor * pairs.y.shape[-1]
        assert torch.equal(pairs.y, averaged(pairs.x, pairs.factor))
        for o, y, kind in zip(pairs.o, pairs.y, pairs.kinds, strict=True):
            kinds.add((kind.trusted, bool(kind.noise), bool(kind.table), kind.webp))
            assert not kind.trusted or torch.equal(o, y)
            assert (o.float() - y.float()).abs().mean() < 40
    again = degraded(x, np.random.default_rng(39))
    assert torch.equal(again.o, pairs.o)
    assert again.kinds == pairs.kinds
    assert factors == {1, 2, 3, 4}
    assert len(kinds) >= 5


def test_averages_are_those_of_the_model() -> None:
    x, d = crops(2, 32), make_transform("average2")
    once = to_levels(d(to_unit(x)))
    assert torch.equal(averaged(x, 2).int(), once)
    assert torch.equal(averaged(x, 4).int(), to_levels(d(to_unit(once))))
    blocks = torch.nn.functional.avg_pool2d(x[..., :30, :30].float(), 3)
    assert (averaged(x[..., :30, :30], 3).float() - blocks).abs().max() <= 0.5


def test_noise_and_compression_are_what_they_are_called() -> None:
    gray = Image.new("RGB", (96, 96), (128, 128, 128))
    random = np.random.default_rng(0)
    for _ in range(4):
        spread = np.asarray(noisy(gray, 10, random), float).std()
        assert spread == pytest.approx(10, rel=0.1)
    _, table = as_jpeg(gray, 50, "4:2:0")
    assert table == pytest.approx(57.6, abs=0.1)  # the mean of ITU-T T.81's table K.1
    assert as_jpeg(gray, 90, "4:4:4")[1] < table
    assert reduced(gray, 3, "lanczos", random).size == (32, 32)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_depend_on_their_own_generator_alone(name: str) -> None:
    x = crops(3, 50)
    pairs = example(name, x, [np.random.default_rng(i) for i in range(3)])
    alone = example(name, x[1:2], [np.random.default_rng(1)])
    assert torch.equal(alone.o, pairs.o[1:2])
    assert pairs.o.shape[-1] % 2 == 0
    kind = pairs.kinds[0]
    assert kind.trusted == torch.equal(pairs.o, pairs.y) == (kind == InputKind.exact())
