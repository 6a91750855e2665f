"""How the networks for damaged inputs learn, beside an srVAE that stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srvae_pyro.config import Precision
from srvae_pyro.data.degradations import EXAMPLES, Pairs, degraded, example
from srvae_pyro.drawing.grids import grid
from srvae_pyro.models.restorer import Restorer, numbers_of
from srvae_pyro.pixels import to_levels, to_unit
from srvae_pyro.system.device import autocast, stream, to_device
from srvae_pyro.system.parallel import ProcessGroup
from srvae_pyro.upscaling.quality import psnr

FIGURE = ("bicubic", "jpeg75", "noise15")  # which examples are drawn
BITS = float(np.log2(np.e))


class RestorationObjective(nn.Module):
    """The loss of pairs made of crops, a module for ``DistributedDataParallel`` to wrap.

    Absolute errors of the point estimate, levels a value, and -log p(y|o), nats a value. They share
    no parameter, so neither needs a weight.

    Args:
        restorer: the networks.
        generator: of the inputs; a run's, so that resuming repeats them.
    """

    def __init__(self, restorer: Restorer, generator: torch.Generator) -> None:
        super().__init__()
        self.restorer = restorer
        self.generator = generator

    def forward(
        self, x: Tensor, kl_weights: Mapping[str, float] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of crops x (B, C, S, S) in [0, 1], and its terms by image, (B) each.

        ``re_y`` and ``total`` are nats of y given o, ``error_x`` levels.
        """
        seed = int(torch.randint(2**62, (), generator=self.generator))
        pairs = degraded(to_levels(x).to(torch.uint8), np.random.default_rng(seed))
        estimate, nats = outputs(self.restorer, pairs, x.device)
        errors = _errors(estimate, pairs)
        values = pairs.y[0].numel()
        loss = errors.mean() + nats.mean() / values
        nats = nats.detach()
        # The total is told as bits a value of x, and these are of y.
        total = nats * (x[0].numel() / values)
        return loss, {"re_y": nats, "error_x": errors.detach(), "total": total}


def restorer_of(model: nn.Module) -> Restorer:
    """The networks for damaged inputs of a model that has them."""
    restorer = getattr(model, "restorer", None)
    assert isinstance(restorer, Restorer)
    return restorer


def outputs(restorer: Restorer, pairs: Pairs, device: torch.device) -> tuple[Tensor, Tensor]:
    """The point estimates of x in [0, 1], and -log p(y|o), nats, (B)."""
    y, o = (to_unit(to_device(levels, device)) for levels in (pairs.y, pairs.o))
    kinds = to_device(numbers_of(pairs.kinds, pairs.factor), device)
    estimate, p_y = restorer.both(o, kinds, pairs.factor)
    return estimate, -p_y.log_prob(y)


def _errors(estimate: Tensor, pairs: Pairs) -> Tensor:
    """Mean absolute errors of each image, levels, (B)."""
    x = to_unit(to_device(pairs.x, estimate.device))
    return 255 * (estimate - x).abs().mean((-3, -2, -1))


@torch.no_grad()
def restoration_figure(restorer: Restorer, x: Tensor) -> Tensor:
    """Rows of examples: inputs, their point estimates, and the images x (B, C, H, W) in [0, 1]."""
    levels, rows = to_levels(x).to(torch.uint8), []
    device = next(restorer.parameters()).device
    for name in FIGURE:
        pairs = example(name, levels, [stream(i, *name.encode()) for i in range(len(x))])
        o = to_unit(to_device(pairs.o, device))
        kinds = to_device(numbers_of(pairs.kinds, pairs.factor), device)
        estimate = restorer.estimate(o, kinds, pairs.factor)
        size = pairs.x.shape[-2:]
        rows += [F.interpolate(o, size).cpu(), estimate.float().clamp(0, 1).cpu()]
    side = min(min(row.shape[-2:]) for row in rows)
    rows = [row[..., :side, :side] for row in (*rows, x.cpu())]
    return grid(torch.cat(rows), columns=len(x))


@torch.no_grad()
def restoration_scores(
    restorer: Restorer,
    images: Tensor,
    *,
    batch_size: int = 8,
    precision: Precision = "fp32",
    group: ProcessGroup = ProcessGroup(),
) -> dict[str, Any]:
    """PSNR of the point estimate for examples of inputs, dB, and bits of y given o.

    Args:
        restorer: the networks.
        images: uint8 (N, C, H, W); each input depends on its index alone.
        batch_size: images at a time.
        precision: of the networks.
        group: the processes that share the images.

    Returns:
        ``psnr_NAME`` by example, ``bits_per_dim`` and ``nats`` an image over all examples, and
        ``loss``, as in training.
    """
    device = next(restorer.parameters()).device
    share = group.share(len(images))
    sums = torch.zeros(len(EXAMPLES) + 3, dtype=torch.float64)
    for start in range(share.start, share.stop, batch_size):
        indices = range(start, min(start + batch_size, share.stop))
        for column, name in enumerate(EXAMPLES):
            pairs = example(
                name,
                images[indices.start : indices.stop],
                [stream(index, *name.encode()) for index in indices],
            )
            with autocast(precision, device):
                estimate, nats = outputs(restorer, pairs, device)
            levels = estimate.mul(255).round().clamp(0, 255).to("cpu", torch.uint8)
            values = pairs.y[0].numel()
            sums[column] += psnr(levels, pairs.x).double().sum()
            sums[-3] += nats.double().sum().cpu()
            sums[-2] += nats.double().sum().cpu() / values
            sums[-1] += _errors(estimate, pairs).double().sum().cpu()
    sums = group.sum(sums.to(group.device)).cpu() if group.size > 1 else sums
    means = (sums / len(images)).tolist()
    nats_per_value = means[-2] / len(EXAMPLES)
    return {
        **{f"psnr_{name}": value for name, value in zip(EXAMPLES, means, strict=False)},
        "bits_per_dim": nats_per_value * BITS,
        "nats": means[-3] / len(EXAMPLES),
        "loss": means[-1] / len(EXAMPLES) + nats_per_value,
        "images": len(images),
    }
