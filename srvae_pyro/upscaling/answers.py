"""Super-resolution of y of any size: one answer x for each, or several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from srvae_pyro.errors import UserError
from srvae_pyro.inference.decoding import Decode, Decoding, Noise
from srvae_pyro.inference.importance_weights import given_lower
from srvae_pyro.models import SRVAE
from srvae_pyro.models.base import images_plate
from srvae_pyro.networks import cached_weights
from srvae_pyro.system.device import sent

__all__ = ["Answering", "answers", "check_answering", "one_answer", "several_answers"]

Answering = Literal[Decoding, "estimate"]


def check_answering(
    model: SRVAE, decode: Answering, temperature: float, image_temperature: float
) -> None:
    """Refuse what makes no sense.

    Raises:
        UserError: there is no such decoding, not of this model, or not at this temperature.
    """
    Decode("mean" if decode == "estimate" else decode, temperature, image_temperature)
    if decode == "estimate" and not model.estimates:
        raise UserError(
            "this model makes no estimate of x beside its distribution: --decode mean is its "
            "expectation"
        )
    if decode == "estimate" and temperature > 0:
        raise UserError(
            "an estimate has no temperature: leave it out, or take another decoding than estimate"
        )


def one_answer(model: SRVAE) -> Answering:
    """How one answer is decoded if nothing is asked for: as is nearest to the truth.

    That is the estimate, of a model that makes one, unless it was trained to make none.
    """
    run = model.run_config
    taught = run is None or run.training.estimate_weight > 0
    return "estimate" if model.estimates and taught else "mean"


@torch.no_grad()
@cached_weights()
def answers(
    model: SRVAE,
    y: Tensor,
    decode: Answering = "sample",
    temperature: float = 1.0,
    image_temperature: float = 1.0,
    noise: Noise | None = None,
) -> Tensor:
    """One answer x (B, C, H, W) for each y (B, c, h, w) of any size, by the model's own program.

    Unlike by ``SRVAE.super_resolve`` each network runs once; what p(u) demands of y's size does not
    hold here. ``estimate`` is what p(x|y,z) estimates of y alone, without u, z and chance.
    """
    if decode == "estimate":
        return _estimate(model, sent(y, model.device))
    with Decode(decode, temperature, image_temperature, noise):
        return model.super_resolution(sent(y, model.device))


def several_answers(
    model: SRVAE,
    y: Tensor,
    noises: Iterable[Noise],
    decode: Answering = "sample",
    temperature: float = 1.0,
    image_temperature: float = 1.0,
) -> Iterator[Tensor]:
    """Answers to the same y, one for each noise, with what sees y alone computed once.

    That is q(u|y), and of p(z|y,u) and p(x|y,z) what they make of y. Each is, to the bit, the one
    that :func:`answers` gives with its noise. To be called without autograd.
    """
    y = sent(y, model.device)
    if decode == "estimate":
        estimate = _estimate(model, y)
        for _ in noises:
            yield estimate.clone()
        return
    q_u: Any = model.guide.q_u(y)
    p_z, p_x = (given_lower(network, y) for network in (model.model.p_z, model.model.p_x))

    def program() -> Tensor:
        with images_plate(y):
            pyro.sample("y", dist.Delta(y, event_dim=3))
            u = pyro.sample("u", q_u)
            z = pyro.sample("z", p_z(u))
            x: Tensor = pyro.sample("x", p_x(z))
            return x

    for noise in noises:
        with Decode(decode, temperature, image_temperature, noise):
            x = program()
        yield x  # outside of the handler, which would else be the caller's too


def _estimate(model: SRVAE, y: Tensor) -> Tensor:
    p_x: Any = model.model.p_x
    estimate: Tensor = p_x.estimate(y)
    return estimate
