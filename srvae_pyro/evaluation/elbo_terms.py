"""The ELBO's terms averaged over a set of images, and how many latent units are in use."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from srvae_pyro.config import Precision
from srvae_pyro.evaluation.sweep import gathered, sweep
from srvae_pyro.inference.decoding import Decode
from srvae_pyro.inference.elbo import ElboTerms, TermsELBO
from srvae_pyro.inference.means import bits_per_dim, standard_error
from srvae_pyro.inference.noise import ImageNoise
from srvae_pyro.models import ImageModel
from srvae_pyro.models.shapes import sizes_of
from srvae_pyro.networks import cached_weights
from srvae_pyro.pixels import to_unit
from srvae_pyro.system.device import autocast, sent
from srvae_pyro.system.parallel import Group

__all__ = ["ActiveUnits", "ElboResult", "LatentUnits", "evaluate_elbo"]


@dataclass(frozen=True)
class LatentUnits:
    """How many elements of a latent carry something.

    Attributes:
        units: all of them.
        active: those whose posterior mean varies from image to image, by a variance above 0.01
            (Burda et al. 2016, arXiv:1509.00519, section 5.1).
        kl: a posterior can vary by following p(z|y,u), so these are those whose KL from the prior
            is above 0.01 nats on average; None where it has no closed form.
    """

    units: int
    active: int
    kl: int | None = None


@dataclass(frozen=True)
class ElboResult:
    """The ELBO of a set of images.

    Attributes:
        terms: ``re_x``, ``kl_z`` and so on, mean nats an image.
        nats: the negative ELBO, their sum.
        bits_per_dim: the same in bits a dimension of x.
        standard_error: of ``bits_per_dim``; None for a single image or photograph.
        photographs: how many photographs the images are cut from, if from a few.
        y_bits_per_dim: the bound on y's own likelihood, bits a dimension of y (srVAE).
        units: by latent, if counted.
    """

    terms: dict[str, float]
    nats: float
    bits_per_dim: float
    standard_error: float | None
    photographs: int | None = None
    y_bits_per_dim: float | None = None
    units: dict[str, LatentUnits] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All in one level, for files."""
        values: dict[str, Any] = {
            **self.terms,
            "nats": self.nats,
            "bits_per_dim": self.bits_per_dim,
            "standard_error": self.standard_error,
        }
        if self.photographs is not None:
            values["photographs"] = self.photographs
        if self.y_bits_per_dim is not None:
            values["y_bits_per_dim"] = self.y_bits_per_dim
        for latent, counts in self.units.items():
            values[f"units_{latent}"] = counts.units
            values[f"active_units_{latent}"] = counts.active
            if counts.kl is not None:
                values[f"kl_units_{latent}"] = counts.kl
        return values


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
    indices: Tensor | None = None,
    precision: Precision = "fp32",
    progress: bool = False,
    group: Group = Group(),
    units: bool = False,
    photographs: Tensor | None = None,
) -> ElboResult:
    """The ELBO's terms on uint8 images (N, C, H, W), averaged over them.

    KL divergences of two normals in closed form. Every image has its own noise, so the result does
    not depend on the batch size.

    Args:
        model: the model.
        images: the images.
        device: where the model is.
        samples: draws of the latents for each image, which are averaged over.
        batch_size: images times samples at a time.
        seed: of the noise.
        indices: the images' indices, to which their noise is tied; 0 and on if not given.
        precision: of the networks.
        progress: whether to show a bar.
        group: the processes that share the images, all of which get the result.
        units: whether to count the latents' units too.
        photographs: the indices of the photographs that the images are cut from, (N); each is one
            of its own if not given.
    """
    elbo = TermsELBO(
        analytic_kl=True,
        num_particles=samples,
        vectorize_particles=samples > 1,
        max_plate_nesting=1,
        detailed_kl=units,
    )
    active_units = ActiveUnits()
    values: list[dict[str, Tensor]] = []
    step = max(batch_size // samples, 1)
    with sweep(images, indices, batch_size=step, group=group, progress=progress) as batches:
        for batch, batch_indices in batches:
            noise = Decode(noise=ImageNoise(seed, batch_indices))
            with noise, autocast(precision, device):
                terms = elbo.terms(model.model, model.guide, to_unit(sent(batch, device)))
            named = {**terms.named(), "nats": terms.total}
            values.append({name: value.double() for name, value in named.items()})
            active_units.add(terms)
    counts = active_units.read(len(images), group)
    return _summary(gathered(values, group), model, photographs, counts)


class ActiveUnits:
    """Counts the active units of the latents (Burda et al. 2015), from sums over images."""

    THRESHOLD = 0.01  # of a variance, and of nats

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, terms: ElboTerms) -> None:
        """Add some images' terms."""
        for name, mean in terms.means.items():
            values = [mean.double(), mean.double().square()]
            if name in terms.detailed_kl:
                values.append(terms.detailed_kl[name].double())
            total = torch.stack([value.sum(0) for value in values])
            self.sums[name] = self.sums[name] + total if name in self.sums else total

    def read(self, images: int, group: Group) -> dict[str, LatentUnits]:
        """The counts by latent, for so many images that a group's processes added together."""
        counts = {}
        for name, sums in self.sums.items():
            mean, square, *kl = group.sum(sums) / images
            active = int((square - mean**2 > self.THRESHOLD).sum())
            with_kl = int((kl[0] > self.THRESHOLD).sum()) if kl else None
            counts[name] = LatentUnits(mean.numel(), active, with_kl)
        return counts


def _summary(
    per_image: dict[str, Tensor],
    model: ImageModel,
    photographs: Tensor | None,
    units: dict[str, LatentUnits],
) -> ElboResult:
    """Means of values over images, (N) each, and what follows from them."""
    terms = {name: value.mean().item() for name, value in per_image.items()}
    nats = terms.pop("nats")
    shape = model.config.image_shape
    error = standard_error(per_image["nats"], photographs)
    y_bits_per_dim = None
    if "re_y" in terms:
        lower_shape = sizes_of(model.config).lower
        y_bits_per_dim = bits_per_dim(terms["re_y"] + terms["kl_u"], lower_shape)
    return ElboResult(
        terms,
        nats,
        bits_per_dim(nats, shape),
        None if error is None else bits_per_dim(error, shape),
        None if photographs is None else len(photographs.unique()),
        y_bits_per_dim,
        units,
    )
