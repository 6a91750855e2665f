"""Noise with a stream of its own for every image."""

import pytest
import torch

from srvae_pyro.inference.decoding import ImageNoise
from srvae_pyro.system.device import stream, torch_seed


def test_an_images_noise_does_not_depend_on_its_batch() -> None:
    like = torch.zeros(3, 2, 4, 4)
    whole = ImageNoise(0, [4, 5, 6]).normal("z", like)
    for row, number in enumerate((4, 5, 6)):
        alone = ImageNoise(0, [number]).normal("z", like[:1])
        assert torch.equal(alone[0], whole[row])
    shuffled = ImageNoise(0, [6, 4, 5]).normal("z", like)
    assert torch.equal(shuffled, whole[[2, 0, 1]])


def test_seeds_numbers_and_sites_have_streams_of_their_own() -> None:
    like = torch.zeros(1, 2, 4, 4)
    draws = [
        ImageNoise(seed, [number]).normal(site, like)
        for seed in (0, 1, (1, 0), (1, 1), (0, 1))
        for number in (0, 1, 2**33)
        for site in ("u", "z")
    ]
    assert len(torch.cat(draws).unique(dim=0)) == 30
    correlations = torch.corrcoef(torch.cat(draws).flatten(1)).fill_diagonal_(0)
    assert correlations.abs().max() < 0.8  # of 32 numbers: 0.18 is one standard deviation


def test_streams_count_all_bits_of_what_they_are_for() -> None:
    # By 32 bits of a hash these two images of seed 0 had the same z, as 4 other pairs of 200,000.
    first, second = ImageNoise(0, [101918, 158011]).normal("z", torch.zeros(2, 1, 4, 4))
    assert not torch.equal(first, second)
    firsts = {stream(0, n, *b"z").bit_generator.state["state"]["state"] for n in range(20_000)}
    assert len({state % 2**64 for state in firsts}) == 20_000
    keys = [(0, *b"weights"), (0, *b"noise"), (0, 1, *b"noise"), (2**32, *b"noise"), (2**33,), (2,)]
    assert len({torch_seed(*key) for key in keys}) == len(keys)
    assert torch_seed(3, *b"noise") == torch_seed(3, *b"noise") >= 0


@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (2, 1, 2, 2), (5, 1, 1, 2, 2), (1, 2, 2), (2,)])
def test_a_shape_without_the_images_is_an_error(shape: tuple[int, ...]) -> None:
    for dim in (-4, -5):
        with pytest.raises(ValueError, match=r"site z asks for noise of shape .* 3 images"):
            ImageNoise(0, [0, 1, 2], dim).normal("z", torch.zeros(shape))


def test_the_images_dimension() -> None:
    like = torch.zeros(5, 3, 1, 2, 2)  # samples, images, event
    draw = ImageNoise(0, [0, 1, 2]).uniform("x", like)
    assert draw.shape == like.shape
    assert torch.equal(draw[:, 1], ImageNoise(0, [1]).uniform("x", like[:, :1])[:, 0])
    first = ImageNoise(0, range(5), dim=-5).normal("x", like)
    assert torch.equal(first[2], ImageNoise(0, [2], dim=-5).normal("x", like[:1])[0])


@pytest.mark.parametrize(
    ("kind", "mean", "std"), [("normal", 0.0, 1.0), ("uniform", 0.5, 12**-0.5)]
)
def test_distributions(kind: str, mean: float, std: float) -> None:
    noise = ImageNoise(3, range(100))
    draw = getattr(noise, kind)("x", torch.zeros(100, 3, 20, 20, dtype=torch.float64))
    assert draw.dtype == torch.float64
    assert draw.mean().item() == pytest.approx(mean, abs=0.01)
    assert draw.std().item() == pytest.approx(std, abs=0.01)
    assert draw.mean(dim=(1, 2, 3)).std().item() == pytest.approx(std / 1200**0.5, rel=0.3)
