"""Two calls at once, in threads of one process, give what each gives alone."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from srvae_pyro.inference.decoding import Decode, ImageNoise
from srvae_pyro.inference.elbo import TermsELBO
from srvae_pyro.models import SRVAE
from srvae_pyro.system.device import exact_float32
from tests.builders import initialized, make_images

Results = dict[str, Tensor]


@pytest.fixture
def model() -> SRVAE:
    exact = {"d": "average2", "likelihood": "groups", "latent_likelihood": "pyramid"}
    return initialized(make_images(4), **exact)


def terms(model: SRVAE, x: Tensor, seed: int) -> Results:
    with Decode(noise=ImageNoise(seed, range(len(x)))):
        return TermsELBO().terms(model.model, model.guide, x).named()


def test_calls_at_once_do_not_mix(model: SRVAE) -> None:
    x = make_images(3)
    y = model.guide.d(x)
    calls: list[Callable[[int], Results]] = [
        lambda seed: model.generate(3, seed=seed, temperature=0.5),
        lambda seed: model.super_resolve(y, samples=2, seed=seed),
        lambda seed: model.super_resolve(y, decode="mode", seed=seed),
        lambda seed: model.reconstruct(x, seed=seed),
        lambda seed: model.interpolate(x[:1], x[1:2], steps=3, seed=seed),
        lambda seed: {"log_p": model.log_likelihood(x, samples=3, seed=seed)},
        lambda seed: terms(model, x, seed),
    ]
    jobs = [(call, seed) for seed in range(4) for call in calls]
    alone = [call(seed) for call, seed in jobs]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda job: job[0](job[1]), jobs))
    for one, other in zip(alone, together, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            torch.testing.assert_close(other[name], value, rtol=0, atol=0)


def test_a_call_that_fails_ends_its_turn(model: SRVAE) -> None:
    with pytest.raises(ValueError, match="asks for noise"), Decode(noise=ImageNoise(0, range(2))):
        model.model(count=3)
    with ThreadPoolExecutor(1) as other:
        assert len(other.submit(model.generate, 2).result(timeout=60)["x"]) == 2


def test_float32_stays_exact_until_the_last_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    first, second = exact_float32(), exact_float32()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not torch.backends.cudnn.allow_tf32
    second.__exit__(None, None, None)
    assert torch.backends.cudnn.allow_tf32
