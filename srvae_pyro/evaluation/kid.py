"""KID in EfficientNet-Lite0's features: generated against real pictures, x and y apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from srvae_pyro.data.splits import evenly_spaced, evenly_spaced_indices
from srvae_pyro.drawing.generate import chunks
from srvae_pyro.errors import UserError
from srvae_pyro.evaluation.kernel_distance import FeatureSet, kernel_distance
from srvae_pyro.evaluation.lite_features import NEAREST, Neighbours, neighbours
from srvae_pyro.evaluation.selection import Selection
from srvae_pyro.inference.operations import Sampling
from srvae_pyro.models import SRVAE, ImageModel
from srvae_pyro.pixels import to_levels, to_unit
from srvae_pyro.system.console import Bar
from srvae_pyro.system.parallel import Group

__all__ = [
    "KID_KEY",
    "KID_NAME",
    "Features",
    "KidResult",
    "KidRow",
    "check_selection",
    "evaluate_kid",
]

KID_NAME = "KID, EfficientNet-Lite0 features"  # never KID alone, which is Inception's
KID_KEY = "kid_efficientnet_lite0"  # in files
FEWEST = 3  # pictures a set, for the jackknife

Features = Callable[[Tensor], Tensor]  # uint8 (B, C, H, W), C = 1 or 3, to (B, D) on the CPU
Pictures = Callable[[range], dict[str, Tensor]]  # indices to uint8 (B, C, H, W) by site
Sets = dict[str, FeatureSet]  # by site, x and perhaps y


@dataclass(frozen=True)
class KidRow:
    """How far one set of pictures is from real ones.

    Attributes:
        kid: the squared maximum mean discrepancy; unbiased, so it can be below 0.
        standard_error: over the pictures of both sets; None where the real ones are crops of a few
            photographs, which are alike.
        pictures: how many.
        real: how many real ones they are compared with.
        neighbours: precision, recall, density and coverage, where they were asked for.
    """

    kid: float
    standard_error: float | None
    pictures: int
    real: int
    neighbours: Neighbours | None = None

    def to_json(self) -> dict[str, Any]:
        """All in one level, for files."""
        values = asdict(self)
        overlap = values.pop("neighbours") or {}
        return {**values, **overlap}


@dataclass(frozen=True)
class KidResult:
    """What has been measured so far.

    Attributes:
        rows: by what was compared with real pictures of its size, in the order of the table.
        samples: how many pictures were to be generated.
        seconds: what it took.
    """

    rows: dict[str, KidRow]
    samples: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """For files: the rows by their names beside the settings."""
        rows = {name: row.to_json() for name, row in self.rows.items()}
        settings = {"name": KID_NAME, "samples": self.samples, "nearest": NEAREST}
        return {**settings, "seconds": self.seconds, **rows}


def check_selection(selection: Selection) -> None:
    """Refuse too few pictures.

    Raises:
        UserError: there are.
    """
    count = len(selection.images)
    if count < FEWEST:
        raise UserError(
            f"--kid compares with at least {FEWEST} real pictures, not {count}: "
            "give a larger --limit"
        )


def evaluate_kid(
    model: ImageModel,
    selection: Selection,
    features: Features,
    decodings: Mapping[str, Sampling],
    *,
    samples: int,
    batch_size: int = 100,
    progress: bool = False,
    group: Group = Group(),
) -> Iterator[KidResult | None]:
    """All rows so far, each time that there are more.

    Of x, or of y against d of the real pictures:

    - ``real x``: training pictures; where these are measured or there are none, half of the
      pictures against the other half. The distance of a model without fault.
    - ``x``: generated; picture i of a seed is the one that ``generate`` draws.
    - ``x given a real y`` (srVAE, as the next): z from p(z|y,u), u from q(u|y).
    - ``x given a reconstructed y``: y from p(y|u) too. Here ``reconstructed y`` is measured.

    A picture that was made from a real one is compared with all real ones but that. The rows share
    the real pictures, so they differ by less noise than their standard errors say.

    Args:
        model: the model.
        selection: the real pictures, 3 or more.
        features: the network.
        decodings: how to draw, by what a row is called after it; each with a seed.
        samples: how many pictures to generate, 3 or more; as many are made from real pictures, or
            are training pictures, evenly spaced, or all if there are fewer.
        batch_size: pictures at a time.
        progress: whether to show a bar for each set.
        group: the processes that share the pictures; the first one does the rest, and the others
            get None.
    """
    began = time.monotonic()
    clustered = selection.photographs is not None
    rows: dict[str, KidRow] = {}

    def extract(pictures: Pictures, count: int, label: str) -> Sets:
        return _extract(pictures, features, count, batch_size, label, progress, group)

    for compared in _compared(model, selection, extract, decodings, samples):
        if not group.main:
            yield None
            continue
        for site, made in compared.made.items():
            rows[compared.name.format(site)] = _row(
                made, compared.real[site], compared.paired, clustered, site == "x"
            )
        yield KidResult(dict(rows), samples, time.monotonic() - began)


@dataclass(frozen=True)
class _Compared:
    """Sets to compare; in the name the site takes the place of ``{}``."""

    name: str
    made: Sets
    real: Sets
    paired: bool = False


def _compared(
    model: ImageModel,
    selection: Selection,
    extract: Callable[[Pictures, int, str], Sets],
    decodings: Mapping[str, Sampling],
    samples: int,
) -> Iterator[_Compared]:
    """What :func:`evaluate_kid` compares, in the table's order."""
    images = selection.images
    real = extract(_real(model, images), len(images), "real pictures")
    others = _training_pictures(selection, samples)
    if len(others) >= FEWEST:
        made = extract(_real(model, others), len(others), "training pictures")
        yield _Compared("real {}, training pictures", made, real)
    elif len(images) >= 2 * FEWEST:
        even, odd = ({k: own.every_other(first) for k, own in real.items()} for first in (0, 1))
        yield _Compared("real {}, one half to the other", even, odd)
    chosen = evenly_spaced_indices(len(images), samples)
    own_real = {site: own.subset(chosen) for site, own in real.items()}
    sources = images[chosen], selection.indices[chosen].tolist()
    for decode, sampling in decodings.items():
        made = extract(_generated(model, sampling), samples, f"generated, {decode}")
        yield _Compared(f"{{}}, {decode}", made, real)
        if isinstance(model, SRVAE):
            given = _given_real_y(model, *sources, sampling)
            made = extract(given, len(chosen), f"x given a real y, {decode}")
            yield _Compared(f"{{}} given a real y, {decode}", made, own_real, paired=True)
            given = _given_own_u(model, *sources, sampling)
            made = extract(given, len(chosen), f"x given a reconstructed y, {decode}")
            x, y = {"x": made["x"]}, {"y": made["y"]}
            yield _Compared(f"{{}} given a reconstructed y, {decode}", x, own_real, paired=True)
            yield _Compared(f"reconstructed {{}}, {decode}", y, own_real, paired=True)


def _training_pictures(selection: Selection, samples: int) -> Tensor:
    """Real pictures beside the selected ones, uint8 (N, C, H, W); none if these may be the same."""
    if selection.split in ("train", "all"):
        return selection.images[:0]
    return evenly_spaced(selection.data.train.in_memory(samples), samples)


def _row(made: FeatureSet, real: FeatureSet, paired: bool, clustered: bool, of_x: bool) -> KidRow:
    """How far a set is from a real one."""
    found = kernel_distance(made, real, paired=paired)
    return KidRow(
        found.value,
        None if clustered else found.standard_error,
        len(made),
        len(real),
        neighbours(real.features, made.features) if of_x and not paired else None,
    )


def _extract(
    pictures: Pictures,
    features: Features,
    count: int,
    batch_size: int,
    label: str,
    progress: bool,
    group: Group,
) -> Sets:
    """Features of pictures 0 to ``count - 1``, by site, in every process."""
    share = group.share(count)
    parts: dict[str, list[Tensor]] = {}
    with Bar(
        total=share.stop - share.start, desc=label, unit="picture", disable=not progress
    ) as bar:
        for chunk in chunks(range(share.start, share.stop), batch_size):
            for site, images in pictures(chunk).items():
                parts.setdefault(site, []).append(features(images))
            bar.update(len(chunk))
    return {site: FeatureSet(group.joined(torch.cat(part))) for site, part in parts.items()}


def _real(model: ImageModel, images: Tensor) -> Pictures:
    """Real pictures, uint8 (N, C, H, W), and of a srVAE their y."""

    def pictures(indices: range) -> dict[str, Tensor]:
        x = images[indices.start : indices.stop]
        if not isinstance(model, SRVAE):
            return {"x": x}
        return {"x": x, "y": _levels(model.guide.d(model.prepared(to_unit(x))))}

    return pictures


def _generated(model: ImageModel, sampling: Sampling) -> Pictures:
    """Pictures of the model, and their y."""

    def pictures(indices: range) -> dict[str, Tensor]:
        at_once: Sampling = {**sampling, "batch_size": len(indices)}
        sites = model.generate(len(indices), first=indices.start, **at_once)
        return {site: _levels(sites[site]) for site in ("x", "y") if site in sites}

    return pictures


def _given_real_y(model: SRVAE, images: Tensor, noise: list[int], sampling: Sampling) -> Pictures:
    """x drawn for the y of real pictures, uint8 (N, C, H, W), with the noise of these indices."""

    def pictures(indices: range) -> dict[str, Tensor]:
        own = slice(indices.start, indices.stop)
        y = model.guide.d(model.prepared(to_unit(images[own])))
        at_once = {**sampling, "batch_size": len(indices), "indices": noise[own]}
        return {"x": _levels(model.draw(model.super_resolution, y, **at_once)["x"])}

    return pictures


def _given_own_u(model: SRVAE, images: Tensor, noise: list[int], sampling: Sampling) -> Pictures:
    """y and x drawn for the u of real pictures; see :func:`_given_real_y`."""

    def pictures(indices: range) -> dict[str, Tensor]:
        own = slice(indices.start, indices.stop)
        at_once = {**sampling, "batch_size": len(indices), "indices": noise[own]}
        program = model.generative_reconstruction
        sites = model.draw(program, to_unit(images[own]), **at_once)
        return {site: _levels(sites[site]) for site in ("x", "y")}

    return pictures


def _levels(images: Tensor) -> Tensor:
    """Images on the grid k/255 as a PNG holds them."""
    return to_levels(images).to(torch.uint8)
