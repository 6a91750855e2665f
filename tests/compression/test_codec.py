"""Models as codes: images come back, and cost what the ELBO says."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from srvae_pyro.compression.ans import MismatchError
from srvae_pyro.compression.codec import Codec, batches_of, padded
from srvae_pyro.errors import UserError
from srvae_pyro.inference.elbo import TermsELBO
from srvae_pyro.models import ImageModel
from srvae_pyro.pixels import to_unit
from tests.builders import initialized

KINDS: list[dict[str, Any]] = [
    {"model": "vae", "p_u": "standard", "latent_likelihood": "independent"},
    {"p_u": "mixture", "d": "downscale2", "likelihood": "independent", "guide_z_sees_y": True},
    {"p_u": "realnvp", "d": "average2", "likelihood": "groups", "latent_likelihood": "pyramid"},
    {"p_u": "realnvp", "d": "sketch", "likelihood": "independent"},
]


def smooth(count: int, height: int = 16, width: int = 16, seed: int = 0) -> Tensor:
    """Images, uint8 (N, 3, H, W), that are not all noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = 255 * torch.rand(count, 3, 3, 3, generator=generator)
    x = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    x = x + 3 * torch.randn(x.shape, generator=generator)
    return x.round().clamp(0, 255).to(torch.uint8)


def made(x: Tensor, **settings: Any) -> ImageModel:
    return initialized(to_unit(x), **settings)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))
def test_images_are_decoded_exactly_at_the_elbos_rate(kind: dict[str, Any]) -> None:
    x = smooth(7)
    model = made(x, **kind)
    codec = Codec(model, group=3)
    chains = codec.encode(list(x))
    assert len(chains) == (1 if model.config.model == "vae" else 2)
    sizes = [(16, 16)] * 7
    again = codec.decode([chain.words for chain in chains], sizes)
    assert torch.equal(torch.stack(again), x)
    if model.config.model == "srvae":
        y = torch.stack(codec.preview(chains[0].words, sizes))
        assert torch.equal(y, torch.round(255 * model.guide.d(to_unit(x))).to(torch.uint8))
    else:
        with pytest.raises(UserError, match="a VAE has no y"):
            codec.preview(chains[0].words, sizes)
    net = sum(32 * (len(chain.words) - chain.start_words) for chain in chains)
    elbo, double = TermsELBO(analytic_kl=True), codec.model
    with torch.no_grad():
        draws = [
            elbo.terms(double.model, double.guide, to_unit(x, torch.float64)).total.sum()
            for _ in range(10)
        ]
    assert net == pytest.approx(torch.stack(draws).mean().item() / math.log(2), rel=0.01)


def test_sizes_may_differ_and_need_not_suit_the_networks() -> None:
    model = made(smooth(4), **KINDS[2])
    sizes = [(16, 16), (9, 21), (16, 16), (1, 3), (16, 13)]
    x = [smooth(1, *size, seed=i)[0] for i, size in enumerate(sizes)]
    codec = Codec(model, group=2)
    words = [chain.words for chain in codec.encode(x)]
    again = codec.decode(words, sizes)
    assert all(torch.equal(a, b) for a, b in zip(again, x, strict=True))
    lower = codec.preview(words[0], sizes)
    assert [tuple(y.shape[1:]) for y in lower] == [(8, 8), (5, 11), (8, 8), (1, 2), (8, 7)]


def test_a_mixture_prior_has_one_size() -> None:
    codec = Codec(made(smooth(4), **KINDS[1]))
    with pytest.raises(UserError, match="takes images of 16x16 only, and one is 24x16"):
        codec.encode(list(smooth(1, 24, 16)))


def test_other_weights_or_bits_are_noticed() -> None:
    x = smooth(3)
    model = made(x, **KINDS[0])
    codec = Codec(model)
    (chain,) = codec.encode(list(x))
    damaged = chain.words.copy()
    damaged[len(damaged) // 2] ^= 1 << 7
    with pytest.raises(MismatchError):
        codec.decode([damaged], [(16, 16)] * 3)
    for parameter in model.parameters():
        parameter.data *= 1.001
    with pytest.raises(MismatchError):
        Codec(model).decode([chain.words], [(16, 16)] * 3)


def test_a_model_of_bad_numbers_codes_nothing() -> None:
    model = made(smooth(4), **KINDS[0])
    codec = Codec(model)
    next(codec.model.guide.parameters()).data.fill_(math.nan)  # as if they overflowed
    with pytest.raises(UserError, match=r"the model cannot code these images: .* not finite"):
        codec.encode(list(smooth(2)))
    name, weights = next(model.guide.named_parameters())
    weights.data.fill_(math.nan)
    with pytest.raises(UserError, match=f"weights guide.{name} are not finite: train"):
        Codec(model)


def test_batches_follow_from_the_sizes_alone() -> None:
    sizes = [(16, 16), (30, 16), (15, 16), (32, 16), (9, 9), (400, 400), *[(16, 16)] * 15]
    batches = batches_of(sizes, 16, group=5)
    assert [(b.indices, b.height, b.width) for b in batches] == [
        *(((i,), 16, 16) for i in (0, 2, 4)),  # the next half as many as there are, and so on
        ((6,), 16, 16),
        ((7, 8), 16, 16),
        ((9, 10, 11), 16, 16),
        ((12, 13, 14, 15), 16, 16),
        ((16, 17, 18, 19, 20), 16, 16),
        ((1, 3), 32, 16),
        ((5,), 400, 400),
    ]
    image = torch.arange(6).reshape(1, 2, 3)
    assert padded(image, 3, 4).tolist() == [[[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5]]]
