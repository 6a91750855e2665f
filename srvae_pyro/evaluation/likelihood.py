"""The importance-sampled likelihood of a set of images."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from srvae_pyro.config import Precision
from srvae_pyro.evaluation.sweep import gathered, sweep
from srvae_pyro.inference.importance import Estimator, estimates, evaluations_at_once
from srvae_pyro.inference.means import bits_per_dim, standard_error
from srvae_pyro.inference.refinement import refined_at_once
from srvae_pyro.models import SRVAE, ImageModel
from srvae_pyro.networks import cached_weights
from srvae_pyro.pixels import to_unit
from srvae_pyro.system.device import autocast, exact_float32, sent
from srvae_pyro.system.parallel import Group

__all__ = ["LikelihoodResult", "evaluate_likelihood"]

UNRELIABLE_K = 0.7  # Pareto k above which importance weights have no finite variance to speak of


@dataclass(frozen=True)
class LikelihoodResult:
    """The likelihood of a set of images; None where a number is not finite.

    Attributes:
        nats: negative log-likelihood, mean nats an image.
        bits_per_dim: the same in bits a dimension.
        standard_error: of ``bits_per_dim``; None for a single image or photograph.
        photographs: how many photographs the images are cut from, if from a few.
        elbo_bits_per_dim: the negative ELBO from the same samples.
        effective_samples: mean over the images, from 1 to ``samples``.
        pareto_k: mean over the images.
        pareto_k_above_threshold: share of the images whose k is above 0.7.
        samples: importance samples an image.
        estimator: the one that was used: a VAE has pairs only.
        precision: of the networks.
        seed: of the noise.
        at_once: evaluations of the networks at a time.
        seconds: what it took.
        refine: gradient steps by which each image's q was improved first.
        kept: images whose q is the encoder's all the same, as its ELBO was not below.
    """

    nats: float
    bits_per_dim: float
    standard_error: float | None
    photographs: int | None
    elbo_bits_per_dim: float
    effective_samples: float
    pareto_k: float | None
    pareto_k_above_threshold: float | None
    samples: int
    estimator: Estimator
    precision: Precision
    seed: int
    at_once: int
    seconds: float
    refine: int = 0
    kept: int = 0

    @classmethod
    def of(
        cls, per_image: dict[str, Tensor], unit: float, photographs: Tensor | None, **settings: Any
    ) -> LikelihoodResult:
        """Means over the images, beside the settings.

        Args:
            per_image: what :class:`~srvae_pyro.inference.importance.LikelihoodEstimate` has, for
                all images, (N) each.
            unit: a nat an image in bits a dimension.
            photographs: the indices of the photographs that the images are cut from, (N), if any.
            settings: the other attributes.
        """
        log_likelihood, k = per_image["log_likelihood"], per_image["pareto_k"]
        error = standard_error(log_likelihood, photographs)
        above = (k > UNRELIABLE_K).double().mean().item()
        return cls(
            nats=-log_likelihood.mean().item(),
            bits_per_dim=-unit * log_likelihood.mean().item(),
            standard_error=None if error is None else _finite(unit * error),
            photographs=None if photographs is None else len(photographs.unique()),
            elbo_bits_per_dim=-unit * per_image["elbo"].mean().item(),
            effective_samples=per_image["effective_samples"].mean().item(),
            pareto_k=_finite(k.mean().item()),
            pareto_k_above_threshold=above if k.isfinite().all() else None,
            kept=int((~per_image["improved"]).sum()) if settings["refine"] else 0,
            **settings,
        )

    def to_json(self) -> dict[str, Any]:
        """For files, where the threshold is in the name, and what there is not is left out."""
        values = asdict(self)
        if self.photographs is None:
            del values["photographs"]
        if not self.refine:
            del values["refine"], values["kept"]
        names = {"pareto_k_above_threshold": f"pareto_k_above_{UNRELIABLE_K}"}
        return {names.get(name, name): value for name, value in values.items()}


@cached_weights()
def evaluate_likelihood(
    model: ImageModel,
    images: Tensor,
    device: torch.device,
    samples: int,
    *,
    estimator: Estimator = "product",
    refine: int = 0,
    seed: int = 0,
    indices: Tensor | None = None,
    memory_gb: float = 4.0,
    precision: Precision = "fp32",
    progress: bool = False,
    group: Group = Group(),
    photographs: Tensor | None = None,
) -> LikelihoodResult:
    """Negative log-likelihood of uint8 images (N, C, H, W) by importance sampling.

    Args:
        model: the model.
        images: the images.
        device: where the model is.
        samples: importance samples an image.
        estimator: see :mod:`srvae_pyro.inference.importance`.
        refine: gradient steps by which each image's q is improved before it is sampled from; see
            :mod:`srvae_pyro.inference.refinement`.
        seed: of the noise.
        indices: the images' indices, to which their noise is tied; 0 and on if not given.
        memory_gb: gigabytes that tensors may take.
        precision: of the networks; all else is in float32 or float64.
        progress: whether to show a bar with the bits/dim so far.
        group: the processes that share the images, all of which get the result.
        photographs: the indices of the photographs that the images are cut from, (N); each is one
            of its own if not given.
    """
    began = time.monotonic()
    channels, height, width = images.shape[1:]
    unit = bits_per_dim(1.0, (channels, height, width))
    values: list[dict[str, Tensor]] = []
    with autocast(precision, device):
        with exact_float32():
            first = to_unit(images[:1].to(device))
            at_once = evaluations_at_once(model, first, samples, memory_gb)
            step = max(at_once // samples, 1)
            if refine:
                step = refined_at_once(model, first, memory_gb)
        options: Any = {"estimator": estimator, "steps": refine, "seed": seed, "at_once": at_once}
        with sweep(images, indices, batch_size=step, group=group, progress=progress) as batches:
            for batch, batch_indices in batches:
                x = to_unit(sent(batch, device))
                for estimate in estimates(model, x, samples, images=batch_indices, **options):
                    values.append(vars(estimate))
                    so_far = -unit * torch.cat([v["log_likelihood"] for v in values]).mean()
                    batches.bar.set_postfix_str(f"{so_far:.3f} bits/dim", refresh=False)
                    batches.done(len(estimate.elbo))
    return LikelihoodResult.of(
        gathered(values, group),
        unit,
        photographs,
        samples=samples,
        estimator=estimator if isinstance(model, SRVAE) else "paired",
        precision=precision,
        seed=seed,
        at_once=at_once,
        seconds=time.monotonic() - began,
        refine=refine,
    )


def _finite(value: float) -> float | None:
    """Itself, or None for nan and infinity, which JSON does not have."""
    return value if math.isfinite(value) else None
