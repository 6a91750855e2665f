"""The importance-sampled likelihood over a set of pictures."""

from __future__ import annotations

import time
from typing import Any, Literal

import torch
from torch import Tensor

from srvae_pyro.evaluation.terms import bits_per_dim, standard_error
from srvae_pyro.inference.importance import (
    Estimator,
    estimate_log_likelihood,
    evaluations_at_once,
)
from srvae_pyro.models import SRVAE, ImageModel
from srvae_pyro.networks import cached_weights
from srvae_pyro.parallel import Group
from srvae_pyro.pixels import to_unit
from srvae_pyro.runtime import exact_float32
from srvae_pyro.talk import Bar

__all__ = ["evaluate_likelihood"]

UNRELIABLE_K = 0.7  # Pareto k above which importance weights have no finite variance to speak of


@cached_weights()
def evaluate_likelihood(
    model: ImageModel,
    images: Tensor,
    device: torch.device,
    samples: int,
    *,
    estimator: Estimator = "product",
    seed: int = 0,
    numbers: Tensor | None = None,
    memory_gb: float = 4.0,
    precision: Literal["fp32", "bf16"] = "fp32",
    progress: bool = False,
    group: Group | None = None,
    photographs: Tensor | None = None,
) -> dict[str, Any]:
    """Negative log-likelihood of uint8 images (N, C, H, W) by importance sampling.

    Args:
        model: the model.
        images: the images.
        device: where the model is.
        samples: importance samples an image.
        estimator: see :mod:`srvae_pyro.inference.importance`.
        seed: of the noise.
        numbers: the images' numbers, to which their noise is tied; 0 and on if not given.
        memory_gb: gigabytes that tensors may take.
        precision: of the networks; all else is in float32 or float64.
        progress: whether to show a bar with the bits/dim so far.
        group: the processes that share the images, all of which get the result.
        photographs: the numbers of the photographs that the images are cut from, (N); each is one
            of its own if not given.

    Returns:
        ``nats`` an image, ``bits_per_dim`` and its ``standard_error`` over the images, or over so
        many ``photographs``;
        ``elbo_bits_per_dim`` from the same samples; the means of ``effective_samples`` and
        ``pareto_k``; ``pareto_k_above_0.7``, a share of the images; ``seconds``; and the settings.
    """
    start = time.monotonic()
    group = group or Group()
    mine = group.share(len(images))
    numbers = (torch.arange(len(images)) if numbers is None else numbers)[mine]
    images = images[mine]
    shape = (images.shape[1], images.shape[2], images.shape[3])
    unit = bits_per_dim(1.0, shape)
    parts = []
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    with (
        exact_float32(),
        autocast,
        Bar(total=len(images), unit="image", disable=not progress) as bar,
    ):
        at_once = evaluations_at_once(model, to_unit(images[:1].to(device)), samples, memory_gb)
        step = max(at_once // samples, 1)
        for chunk, own in zip(images.split(step), numbers.split(step), strict=True):
            estimate = estimate_log_likelihood(
                model,
                to_unit(chunk.to(device)),
                samples,
                estimator=estimator,
                seed=seed,
                images=own.tolist(),
                at_once=at_once,
            )
            parts.append(estimate)
            seen = torch.cat([part.log_likelihood for part in parts])
            bar.set_postfix_str(f"{-unit * seen.mean():.3f} bits/dim", refresh=False)
            bar.update(len(chunk))
    per_image = {
        name: group.joined(torch.cat([getattr(part, name) for part in parts]))
        for name in vars(parts[0])
    }
    likelihood, k = per_image["log_likelihood"], per_image["pareto_k"]
    error = standard_error(likelihood, photographs)
    return {
        "nats": -likelihood.mean().item(),
        "bits_per_dim": -unit * likelihood.mean().item(),
        "standard_error": None if error is None else _finite(unit * error),
        **({} if photographs is None else {"photographs": len(photographs.unique())}),
        "elbo_bits_per_dim": -unit * per_image["elbo"].mean().item(),
        "effective_samples": per_image["effective_samples"].mean().item(),
        "pareto_k": _finite(k.mean().item()),
        f"pareto_k_above_{UNRELIABLE_K}": _finite((k > UNRELIABLE_K).double().mean().item())
        if k.isfinite().all()
        else None,
        "samples": samples,
        "estimator": estimator if isinstance(model, SRVAE) else "paired",
        "precision": precision,
        "seed": seed,
        "at_once": at_once,
        "seconds": time.monotonic() - start,
    }


def _finite(value: float) -> float | None:
    """Itself, or None for nan and infinity, which JSON does not have."""
    return value if abs(value) < float("inf") else None
