"""Averages of the ELBO's terms over pictures."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from srvae_pyro.inference.decoding import Decode
from srvae_pyro.inference.elbo import ElboTerms, TermsELBO
from srvae_pyro.inference.noise import ImageNoise
from srvae_pyro.models import ImageModel
from srvae_pyro.models.shapes import sizes_of
from srvae_pyro.networks import cached_weights
from srvae_pyro.parallel import Group
from srvae_pyro.pixels import to_unit
from srvae_pyro.runtime import exact_float32
from srvae_pyro.talk import Bar

__all__ = [
    "RunningMean",
    "Units",
    "bits_per_dim",
    "evaluate_elbo",
    "spread",
    "spread_numbers",
    "standard_error",
]


def bits_per_dim(nats: float, shape: tuple[int, int, int]) -> float:
    """Nats an image of ``shape`` (C, H, W) as bits a dimension (paper, section 4.1)."""
    return nats / (math.prod(shape) * math.log(2))


class RunningMean:
    """Means of named values over steps, summed on the device and read once."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        """Take in tensors: a scalar, or one value an image."""
        for name, value in values.items():
            total = value.detach().sum(dtype=torch.float64)
            self.sums[name] = self.sums[name] + total if name in self.sums else total
            self.counts[name] = self.counts.get(name, 0) + value.numel()

    def read(self, over: Callable[[Tensor], Tensor] = lambda sums: sums) -> dict[str, float]:
        """The means, and start anew; ``over`` adds up the sums of several processes."""
        if not self.sums:
            return {}
        sums = torch.stack(list(self.sums.values()))
        counts = torch.tensor(list(self.counts.values()), dtype=sums.dtype, device=sums.device)
        totals = over(torch.cat([sums, counts])).view(2, -1)
        means = dict(zip(self.sums, (totals[0] / totals[1]).tolist(), strict=True))
        self.sums, self.counts = {}, {}
        return means


def spread_numbers(total: int, count: int | None) -> Tensor:
    """``count`` of the numbers below ``total``, evenly spaced, the same ones always; None: all.

    Pictures are often sorted by class, so the first ones would be of one kind.
    """
    if count is None or count >= total:
        return torch.arange(total)
    return torch.linspace(0, total - 1, count, dtype=torch.float64).round().long()


def spread(images: Tensor, count: int | None) -> Tensor:
    """As many of the images, see :func:`spread_numbers`."""
    return images if count is None else images[spread_numbers(len(images), count)]


def standard_error(values: Tensor, photographs: Tensor | None = None) -> float | None:
    """The standard error of the mean of one value a picture, (N).

    Pictures cut from one photograph are alike, and more of them say little more. So their
    deviations from the mean are added up before they are squared, for each of G photographs:

        se^2  =  G / (G - 1)  sum_g (sum_{i in g} (v_i - mean))^2  /  N^2

    which is the usual standard error where every picture is a photograph of its own.

    References:
        Liang and Zeger, Longitudinal data analysis using generalized linear models, 1986,
        Biometrika 73(1).

    Args:
        values: the values.
        photographs: the number of the photograph that each picture is cut from, (N).

    Returns:
        It, or None where there is one photograph or picture only, which says nothing of others.
    """
    sums = values.double() - values.double().mean()
    if photographs is not None:
        groups, own = photographs.to(sums.device).unique(return_inverse=True)
        sums = sums.new_zeros(len(groups)).index_add(0, own, sums)
    if len(sums) < 2:
        return None
    variance = len(sums) / (len(sums) - 1) * sums.square().sum() / len(values) ** 2
    return variance.sqrt().item()


@torch.no_grad()
@cached_weights()
def evaluate_elbo(
    model: ImageModel,
    images: Tensor,
    device: torch.device,
    *,
    samples: int = 1,
    batch_size: int = 100,
    seed: int = 0,
    numbers: Tensor | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    progress: bool = False,
    group: Group | None = None,
    units: bool = False,
    photographs: Tensor | None = None,
) -> dict[str, Any]:
    """The ELBO's terms on uint8 images (N, C, H, W): mean nats an image, total, and bits/dim.

    KL divergences of two normals in closed form. Every image has its own noise, so the result does
    not depend on the batch size.

    Args:
        model: the model.
        images: the images.
        device: where the model is.
        samples: draws of the latents for each image, which are averaged over.
        batch_size: images times samples at a time.
        seed: of the noise.
        numbers: the images' numbers, to which their noise is tied; 0 and on if not given.
        precision: of the networks.
        progress: whether to show a bar.
        group: the processes that share the images, all of which get the result.
        units: whether to count the latents' units too.
        photographs: the numbers of the photographs that the images are cut from, (N); each is one
            of its own if not given.

    Returns:
        ``re_x``, ``kl_z`` and so on and ``nats``, their sum; ``bits_per_dim`` and its
        ``standard_error`` (see :func:`standard_error`) over the images, or over so many
        ``photographs``; for the srVAE ``y_bits_per_dim``, the bound on y's own
        likelihood a dimension of y. With ``units``, see :class:`Units`.
    """
    elbo = TermsELBO(
        analytic_kl=True,
        num_particles=samples,
        vectorize_particles=samples > 1,
        max_plate_nesting=1,
        detailed_kl=units,
    )
    counted = Units()
    group = group or Group()
    mine = group.share(len(images))
    numbers = (torch.arange(len(images)) if numbers is None else numbers)[mine]
    images = images[mine]
    found: dict[str, list[Tensor]] = {}
    step = max(batch_size // samples, 1)
    with exact_float32(), Bar(total=len(images), unit="image", disable=not progress) as bar:
        for chunk, own in zip(images.split(step), numbers.split(step), strict=True):
            x = to_unit(chunk.to(device))
            noise = Decode(noise=ImageNoise(seed, own.tolist()))
            with noise, torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                terms = elbo.terms(model.model, model.guide, x)
            for name, values in {**terms.named(), "nats": terms.total}.items():
                found.setdefault(name, []).append(values.double())
            counted.add(terms)
            bar.update(len(x))
    per_image = {name: group.joined(torch.cat(parts)) for name, parts in found.items()}
    summary = _summary(per_image, model, photographs)
    return summary | counted.read(len(per_image["nats"]), group)


class Units:
    """Counts the elements of the latents that carry something, over images.

    ``units_z`` are all of them. ``active_units_z`` are those whose posterior mean varies from image
    to image, by a variance above 0.01 (Burda et al. 2016, arXiv:1509.00519, section 5.1). A
    posterior can do so by following p(z|y,u), so ``kl_units_z`` are those whose KL from the prior
    is above 0.01 nats on average, where it has a closed form.
    """

    THRESHOLD = 0.01

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, terms: ElboTerms) -> None:
        """Take in some images' terms."""
        for name, mean in terms.means.items():
            values = [mean.double(), mean.double().square()]
            if name in terms.detailed_kl:
                values.append(terms.detailed_kl[name].double())
            total = torch.stack([value.sum(0) for value in values])
            self.sums[name] = self.sums[name] + total if name in self.sums else total

    def read(self, images: int, group: Group) -> dict[str, float]:
        """The counts, for a number of images that a group's processes have taken in together."""
        out: dict[str, float] = {}
        for name, sums in self.sums.items():
            mean, square, *kl = group.sum(sums) / images
            out[f"units_{name}"] = mean.numel()
            out[f"active_units_{name}"] = int((square - mean**2 > self.THRESHOLD).sum())
            for each in kl:
                out[f"kl_units_{name}"] = int((each > self.THRESHOLD).sum())
        return out


def _summary(
    per_image: dict[str, Tensor], model: ImageModel, photographs: Tensor | None
) -> dict[str, Any]:
    """Means of the terms over images, (N) each, and what follows from them."""
    values: dict[str, Any] = {name: each.mean().item() for name, each in per_image.items()}
    shape = model.config.image_shape
    values["bits_per_dim"] = bits_per_dim(values["nats"], shape)
    error = standard_error(per_image["nats"], photographs)
    values["standard_error"] = None if error is None else bits_per_dim(error, shape)
    if photographs is not None:
        values["photographs"] = len(photographs.unique())
    if "re_y" in values:
        lower = bits_per_dim(values["re_y"] + values["kl_u"], sizes_of(model.config).lower)
        values["y_bits_per_dim"] = lower
    return values
