"""Likelihood over a set of images: ELBO terms, importance sampling, the histogram baseline."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from srvae_pyro.config import Precision
from srvae_pyro.evaluation.arguments import EvaluateArguments
from srvae_pyro.evaluation.measures import Measure, Result, Task, columns
from srvae_pyro.inference.decoding import Decode, ImageNoise
from srvae_pyro.inference.elbo import ElboTerms, TermsELBO
from srvae_pyro.inference.importance import Estimator, estimates, evaluations_at_once
from srvae_pyro.inference.refinement import refined_at_once
from srvae_pyro.inference.statistics import bits_per_dim, standard_error
from srvae_pyro.models import ImageModel
from srvae_pyro.models.shapes import sizes_of
from srvae_pyro.networks import cached_weights
from srvae_pyro.pixels import to_unit
from srvae_pyro.system.console import Bar
from srvae_pyro.system.device import autocast, exact_float32, to_device
from srvae_pyro.system.parallel import ProcessGroup


def histogram_nats(train: Tensor, test: Tensor, prior_weight: float = 100.0) -> float:
    """Negative log-likelihood, nats an image, by an independent histogram for each dimension.

    Frequencies of ``train`` are smoothed by the channel's, which count for ``prior_weight`` images.
    """
    # train is uint8 (N, C, H, W), test (M, C, H, W).
    channels, dims = train.shape[1], train[0].numel()
    counts = torch.zeros(dims, 256)
    at_once = max(2**23 // dims, 1)  # int64 takes eight times the memory
    for part in train.split(at_once):
        flat = part.reshape(len(part), dims).T.long()  # (D, N)
        counts.scatter_add_(1, flat, torch.ones(1).expand_as(flat))
    pooled = counts.reshape(channels, -1, 256).sum(dim=1) + 1
    pooled = (pooled / pooled.sum(dim=1, keepdim=True)).repeat_interleave(dims // channels, dim=0)
    log = counts.add_(pooled.mul_(prior_weight)).div_(len(train) + prior_weight).log_()
    total = 0.0
    for part in test.split(at_once):
        scores = log.gather(1, part.reshape(len(part), dims).T.long())  # (D, M)
        total += scores.sum(dtype=torch.float64).item()
    return -total / len(test)


@dataclass
class Sweep:
    """This process's share of a set of images; iterating yields batches and moves the bar."""

    images: Tensor  # uint8 (N, C, H, W)
    indices: Tensor  # in the whole set, (N); their noise is tied to them
    batch_size: int
    bar: Bar
    counted: int = 0  # images of a batch that the bar shows already

    def __iter__(self) -> Iterator[tuple[Tensor, list[int]]]:
        batches = zip(
            self.images.split(self.batch_size), self.indices.split(self.batch_size), strict=True
        )
        for images, indices in batches:
            self.counted = 0
            yield images, indices.tolist()
            self.done(len(images) - self.counted)

    def done(self, count: int) -> None:
        self.counted += count
        self.bar.update(count)


@contextmanager
def sweep(
    images: Tensor,
    indices: Tensor | None = None,
    *,
    batch_size: int,
    group: ProcessGroup,
    progress: bool = False,
) -> Iterator[Sweep]:
    """This process's share of uint8 images (N, C, H, W) in batches, with exact float32."""
    share = group.share(len(images))
    indices = (torch.arange(len(images)) if indices is None else indices)[share]
    images = images[share]
    with exact_float32(), Bar(total=len(images), unit="image", disable=not progress) as bar:
        yield Sweep(images, indices, batch_size, bar)


def gathered(batches: list[dict[str, Tensor]], group: ProcessGroup) -> dict[str, Tensor]:
    """Values of all images of all processes by name, (N) each, on the CPU."""
    return {
        name: group.joined(torch.cat([values[name] for values in batches])) for name in batches[0]
    }


UNRELIABLE_K = 0.7  # Pareto k above which importance weights have no finite variance to speak of


@dataclass(frozen=True)
class LikelihoodResult(Result):
    nats: float  # negative log-likelihood, mean nats an image
    bits_per_dim: float
    standard_error: float | None  # of bits_per_dim; a single image or photograph has none
    photographs: int | None  # how many the images are cut from, if from a few
    elbo_bits_per_dim: float  # from the same samples
    effective_samples: float  # as the following ones, the mean over the images
    pareto_k: float | None
    pareto_k_above_threshold: float | None  # share of the images whose k is above 0.7
    samples: int
    estimator: Estimator  # that was used: a VAE has pairs only
    precision: Precision
    seed: int
    at_once: int  # evaluations of the networks
    seconds: float
    refine: int = 0  # gradient steps
    kept: int = 0  # images whose refined q had no higher ELBO, and was not used

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)
        if self.photographs is None:
            del values["photographs"]
        if not self.refine:
            del values["refine"], values["kept"]
        names = {"pareto_k_above_threshold": f"pareto_k_above_{UNRELIABLE_K}"}
        return {names.get(name, name): value for name, value in values.items()}

    def table(self, others: Mapping[str, Any] | None = None) -> str:
        encoders = (others or {}).get(Likelihood.name)
        if self.refine:
            return _refinement_table(encoders, self) if encoders else ""
        if self.pareto_k is None:
            return ""
        share = 100 * (self.pareto_k_above_threshold or 0)
        return (
            f"importance weights: {self.effective_samples:.1f} effective of {self.samples} "
            f"samples, Pareto k {self.pareto_k:.2f} on average, above {UNRELIABLE_K} for "
            f"{share:.0f}% of the images: the nll is an upper bound that more samples would lower"
        )


def _refinement_table(encoders: LikelihoodResult, refined: LikelihoodResult) -> str:
    heads = ["samples from q", "-ELBO (bits/dim)", "nll (bits/dim)"]
    heads += [f"effective of {refined.samples}", "Pareto k", f"above {UNRELIABLE_K}"]
    rows = [heads]
    names = ("of the encoder", f"refined by {refined.refine} steps")
    for name, result in zip(names, (encoders, refined), strict=True):
        k, share = result.pareto_k, result.pareto_k_above_threshold
        cells = [f"{result.elbo_bits_per_dim:.4f}", f"{result.bits_per_dim:.4f}"]
        cells += [f"{result.effective_samples:.2f}", "-" if k is None else f"{k:.2f}"]
        rows.append([name, *cells, "-" if share is None else f"{share:.0%}"])
    elbo = encoders.elbo_bits_per_dim - refined.elbo_bits_per_dim
    nll = encoders.bits_per_dim - refined.bits_per_dim
    text = columns(rows, left=1)
    text += f"\nrefining lowers the negative ELBO by {elbo:.4f} and the nll by {nll:.4f} bits/dim, "
    text += f"in {refined.seconds:.0f} s"
    if refined.kept:
        text += f"; for {refined.kept:,} of the images it does not, and the encoder's q is kept"
    return text


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
    group: ProcessGroup = ProcessGroup(),
    photographs: Tensor | None = None,
) -> LikelihoodResult:
    """Negative log-likelihood of uint8 images (N, C, H, W) by importance sampling.

    Noise is tied to the ``indices`` (N), 0 to N - 1 by default; errors are clustered by
    ``photographs`` (N). Every process of the group gets the result.
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
                x = to_unit(to_device(batch, device))
                for estimate in estimates(model, x, samples, images=batch_indices, **options):
                    values.append(vars(estimate))
                    so_far = -unit * torch.cat([v["log_likelihood"] for v in values]).mean()
                    batches.bar.set_postfix_str(f"{so_far:.3f} bits/dim", refresh=False)
                    batches.done(len(estimate.elbo))
    per_image = gathered(values, group)
    log_likelihood, k = per_image["log_likelihood"], per_image["pareto_k"]
    error = standard_error(log_likelihood, photographs)
    above = (k > UNRELIABLE_K).double().mean().item()
    return LikelihoodResult(
        nats=-log_likelihood.mean().item(),
        bits_per_dim=-unit * log_likelihood.mean().item(),
        standard_error=None if error is None else _finite(unit * error),
        photographs=None if photographs is None else len(photographs.unique()),
        elbo_bits_per_dim=-unit * per_image["elbo"].mean().item(),
        effective_samples=per_image["effective_samples"].mean().item(),
        pareto_k=_finite(k.mean().item()),
        pareto_k_above_threshold=above if k.isfinite().all() else None,
        samples=samples,
        estimator=estimator if len(model.levels) == 2 else "paired",
        precision=precision,
        seed=seed,
        at_once=at_once,
        seconds=time.monotonic() - began,
        refine=refine,
        kept=int((~per_image["improved"]).sum()) if refine else 0,
    )


@dataclass
class Likelihood(Measure):
    """The negative log-likelihood by importance sampling."""

    name: ClassVar[str] = "likelihood"
    importance_samples: int
    estimator: Estimator
    memory_gb: float
    seed: int
    precision: Precision

    @classmethod
    def is_requested(cls, arguments: EvaluateArguments) -> bool:
        return not arguments.elbo_only

    def run(self, task: Task) -> Iterator[LikelihoodResult]:
        yield evaluate_likelihood(
            task.model,
            task.selection.images,
            task.group.device,
            self.importance_samples,
            estimator=self.estimator,
            refine=getattr(self, "refine", 0),
            seed=self.seed,
            memory_gb=self.memory_gb,
            precision=self.precision,
            **task.options,
        )


@dataclass
class RefinedLikelihood(Likelihood):
    """The same after each image's q has been improved."""

    name: ClassVar[str] = "refined_likelihood"
    refine: int

    @classmethod
    def is_requested(cls, arguments: EvaluateArguments) -> bool:
        return arguments.refine > 0


def _finite(value: float) -> float | None:
    """The value, or None for nan and infinity, which JSON lacks."""
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class LatentUnits:
    """Active elements of a latent (Burda et al. 2016, arXiv:1509.00519, section 5.1)."""

    units: int
    active: int
    kl: int | None = None  # if it has a closed form


@dataclass(frozen=True)
class ElboResult(Result):
    terms: dict[str, float]  # re_x, kl_z and so on, mean nats an image
    nats: float  # the negative ELBO, their sum
    bits_per_dim: float
    standard_error: float | None  # of bits_per_dim; a single image or photograph has none
    photographs: int | None = None  # how many the images are cut from, if from a few
    y_bits_per_dim: float | None = None  # the bound on y's own likelihood, bits a dimension of y
    units: dict[str, LatentUnits] = field(default_factory=dict)  # by latent, if counted

    def to_json(self) -> dict[str, Any]:
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

    def table(self, others: Mapping[str, Any] | None = None) -> str:
        error = "" if self.standard_error is None else f" ± {self.standard_error:.4f}"
        line = f"negative ELBO: {self.bits_per_dim:.4f}{error} bits/dim{over_photographs(self)}"
        if self.y_bits_per_dim is not None:
            line += f"; y alone (RE_y + KL_u, per dimension of y): {self.y_bits_per_dim:.4f}"
        lines = [line]
        for latent, counts in sorted(self.units.items(), reverse=True):
            line = f"{latent}: {counts.active} of {counts.units} units active"
            line += " (variance of the posterior mean above 0.01)"
            if counts.kl is not None:
                line += f", {counts.kl} with a KL above 0.01 nats"
            lines.append(line)
        return "\n".join(lines)


def over_photographs(result: ElboResult | LikelihoodResult) -> str:
    if result.standard_error is None or result.photographs is None:
        return ""
    return f" over {result.photographs} photographs"


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
    group: ProcessGroup = ProcessGroup(),
    units: bool = False,
    photographs: Tensor | None = None,
) -> ElboResult:
    """The ELBO's terms on uint8 images (N, C, H, W), averaged over them.

    KL divergences of normals in closed form; ``units`` counts the latents' active units; the rest
    is as in :func:`evaluate_likelihood`.
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
                terms = elbo.terms(model.model, model.guide, to_unit(to_device(batch, device)))
            named = {**terms.named(), "nats": terms.total}
            values.append({name: value.double() for name, value in named.items()})
            active_units.add(terms)
    counts = active_units.read(len(images), group)
    per_image = gathered(values, group)
    means = {name: value.mean().item() for name, value in per_image.items()}
    nats = means.pop("nats")
    shape = model.config.image_shape
    error = standard_error(per_image["nats"], photographs)
    y_bits_per_dim = None
    if len(model.levels) == 2:
        latent, image = model.levels[0]
        lower_shape = sizes_of(model.config).lower
        y_bits_per_dim = bits_per_dim(means[f"re_{image}"] + means[f"kl_{latent}"], lower_shape)
    return ElboResult(
        means,
        nats,
        bits_per_dim(nats, shape),
        None if error is None else bits_per_dim(error, shape),
        None if photographs is None else len(photographs.unique()),
        y_bits_per_dim,
        counts,
    )


@dataclass
class Elbo(Measure):
    name: ClassVar[str] = "elbo"
    elbo_samples: int
    batch_size: int
    seed: int
    precision: Precision

    @classmethod
    def is_requested(cls, arguments: EvaluateArguments) -> bool:
        return True

    def run(self, task: Task) -> Iterator[ElboResult]:
        yield evaluate_elbo(
            task.model,
            task.selection.images,
            task.group.device,
            samples=self.elbo_samples,
            batch_size=self.batch_size,
            seed=self.seed,
            precision=self.precision,
            units=True,
            **task.options,
        )


class ActiveUnits:
    """Counts the active units of the latents from sums over images."""

    THRESHOLD = 0.01  # of a variance, and of nats

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, terms: ElboTerms) -> None:
        for name, mean in terms.means.items():
            values = [mean.double(), mean.double().square()]
            if name in terms.detailed_kl:
                values.append(terms.detailed_kl[name].double())
            total = torch.stack([value.sum(0) for value in values])
            self.sums[name] = self.sums[name] + total if name in self.sums else total

    def read(self, images: int, group: ProcessGroup) -> dict[str, LatentUnits]:
        """The counts by latent, for so many images of all processes."""
        counts = {}
        for name, sums in self.sums.items():
            mean, square, *kl = group.sum(sums) / images
            active = int((square - mean**2 > self.THRESHOLD).sum())
            with_kl = int((kl[0] > self.THRESHOLD).sum()) if kl else None
            counts[name] = LatentUnits(mean.numel(), active, with_kl)
        return counts
