"""FID and KID in Inception features, by the library torch-fidelity."""

from __future__ import annotations

import hashlib
import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from http.client import HTTPException
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from srvae_pyro.data.splits import evenly_spaced
from srvae_pyro.drawing.generate import check_sampling, chunks
from srvae_pyro.errors import UserError
from srvae_pyro.evaluation.arguments import Pixels
from srvae_pyro.evaluation.measures import Measure, Result, Task
from srvae_pyro.inference.sampling import Sampling
from srvae_pyro.models import ImageModel
from srvae_pyro.pixels import to_levels
from srvae_pyro.system.console import Bar
from srvae_pyro.system.device import THREADS, exact_float32
from srvae_pyro.system.parallel import ProcessGroup

INCEPTION = "inception-v3-compat"  # torch-fidelity's name of the network behind published FIDs
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
KID_SUBSET_SIZE = 1000  # torch-fidelity's default, as is the seed
KID_SEED = 2020
FID_IMAGES = {"test": 10_000, "train": 50_000}  # as in the paper, section 4.1

ImageSource = Callable[[range], dict[str, Tensor]]  # indices to uint8 (B, C, H, W) by site


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fidelity(name: str) -> Any:
    """A module of torch-fidelity, an optional extra."""
    try:
        return importlib.import_module(f"torch_fidelity.{name}")
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"FID needs torch-fidelity ({reason}): pip install 'srvae-pyro[fid]'"
        ) from None


def find_weights(path: Path | None = None) -> Path:
    """The weights of torch-fidelity's Inception, checked: a file, or its cached download."""
    url: str = fidelity("feature_extractor_inceptionv3").URL_INCEPTION_V3
    if path is None:
        path = _downloaded(url)
    elif not path.is_file():
        raise UserError(f"fid_weights: there is no file {path}: get it from {url}")
    if sha256_of(path) != INCEPTION_SHA256:
        _check_weights(path)
        warnings.warn(
            f"{path} is not the file {url}: FID and KID cannot be compared with published ones",
            stacklevel=1,
        )
    return path


def _downloaded(url: str) -> Path:
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=INCEPTION_SHA256)
    except (OSError, RuntimeError, HTTPException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"cannot download the Inception weights for FID ({reason}): get {url} elsewhere and "
            f"put it at {path}, or name its place as fid_weights"
        ) from None
    return path


def _check_weights(path: Path) -> None:
    """Refuse a file that is no such network: torch-fidelity unpickles without restrictions."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle makes PyTorch raise almost anything
        raise UserError(
            f"{path} cannot be read as weights alone: remove it, or name another file as "
            "fid_weights"
        ) from error
    last = state.get("fc.weight") if isinstance(state, dict) else None
    # torchvision's Inception, which is easily mistaken for it, has 1000 classes.
    if not isinstance(last, Tensor) or last.shape != (1008, 2048):
        raise UserError(
            f"{path} does not hold the weights of torch-fidelity's Inception: remove it, or name "
            "another file as fid_weights"
        )


class FeatureExtractor:
    """A network registered with torch-fidelity, made when it is first used."""

    def __init__(
        self,
        name: str = INCEPTION,
        weights: Path | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.name = name
        self.weights = find_weights(weights) if name == INCEPTION else weights
        self.device = device

    @cached_property
    def network(self) -> Any:
        """Takes uint8 (B, 3, H, W) to a tuple of one (B, D)."""
        utils = fidelity("utils")
        # KID's layer too.
        layer = utils.resolve_feature_layer_for_metric("fid", feature_extractor=self.name)
        path = None if self.weights is None else str(self.weights)
        try:
            network = utils.create_feature_extractor(
                self.name, [layer], cuda=False, feature_extractor_weights_path=path, verbose=False
            )
        except RuntimeError as error:  # of load_state_dict
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path} does not hold the weights of {self.name}: {reason}") from None
        return network.to(self.device)

    def __call__(self, images: Tensor) -> Tensor:
        """Features (B, D) on the CPU of uint8 images (B, C, H, W), C = 1 or 3."""
        THREADS.fit()
        with exact_float32():  # the same numbers on every device
            (features,) = self.network(as_colours(images.to(self.device)))
        return features.cpu()


def as_colours(images: Tensor) -> Tensor:
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            "the network takes uint8 images (B, 1, H, W) or (B, 3, H, W), not "
            f"{images.dtype} of shape {tuple(images.shape)}"
        )
    return images.expand(-1, 3, -1, -1)


def features_of(
    images_at: ImageSource,
    indices: range,
    features: Callable[[Tensor], Tensor],
    *,
    batch_size: int = 100,
    label: str = "images",
    progress: bool = False,
) -> dict[str, Tensor]:
    """Features (N, D) on the CPU of the images of these indices, by site."""
    parts: dict[str, list[Tensor]] = {}
    with Bar(total=len(indices), desc=label, unit="image", disable=not progress) as bar:
        for chunk in chunks(indices, batch_size):
            for site, images in images_at(chunk).items():
                parts.setdefault(site, []).append(features(images))
            bar.update(len(chunk))
    return {site: torch.cat(part) for site, part in parts.items()}


def generated(model: ImageModel, sampling: Sampling) -> ImageSource:
    """Images of the model, and their y; image i of a seed is the one that ``generate`` draws."""

    def images_at(indices: range) -> dict[str, Tensor]:
        count = len(indices)
        sites = model.generate(count, first=indices.start, batch_size=count, **vars(sampling))
        return {site: levels_of(sites[site]) for site in ("x", "y") if site in sites}

    return images_at


def levels_of(images: Tensor) -> Tensor:
    return to_levels(images).to(torch.uint8)


@dataclass(frozen=True)
class Distances:
    """FID and KID between generated and real images."""

    fid: float  # Fréchet distance of the features
    kid_mean: float  # over 100 subsets, of the squared maximum mean discrepancy
    kid_std: float  # over them
    kid_subset_size: int  # 1000 images as torch-fidelity takes, or half of them if there are fewer
    generated: int  # images
    real: int


@torch.no_grad()
def fid_and_kid(
    images_at: ImageSource,
    real: Tensor,
    extractor: FeatureExtractor,
    *,
    samples: int,
    batch_size: int = 100,
    seed: int = KID_SEED,
    progress: bool = True,
    group: ProcessGroup = ProcessGroup(),
) -> Distances | None:
    """FID and KID between ``samples`` images x and real ones, uint8 (N, C, H, W).

    Of the real images as many are used, evenly spaced. Only the main process has the distances.

    References:
        Heusel et al., 2017, arXiv:1706.08500; Binkowski et al., 2018, arXiv:1801.01401.
    """
    fidelity("metric_fid")  # is it installed?
    if samples < 2 or len(real) < 2:
        raise UserError(
            "FID compares covariances: it needs at least 2 images of each kind, not "
            f"{samples} generated and {len(real)} real ones"
        )
    options: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
    real_features = torch.empty(0)
    if group.main:
        real = evenly_spaced(real, samples)
        real_features = features_of(
            lambda indices: {"x": real[indices.start : indices.stop]},
            range(len(real)),
            extractor,
            label="real images",
            **options,
        )["x"]
    share = group.share(samples)
    with exact_float32():
        features = features_of(
            lambda indices: {"x": images_at(indices)["x"]},
            range(share.start, share.stop),
            extractor,
            label="generated images",
            **options,
        )["x"]
    features = group.joined(features)
    return _distances(features, real_features, seed) if group.main else None


def _distances(generated: Tensor, real: Tensor, seed: int) -> Distances:
    fid, kid = fidelity("metric_fid"), fidelity("metric_kid")
    fewest = min(len(generated), len(real))
    if fewest <= generated.shape[1]:
        warnings.warn(
            f"FID of {fewest} images is far too high and cannot be compared with others: use more "
            f"images than its network has features, {generated.shape[1]}",
            stacklevel=1,
        )
    subset_size = KID_SUBSET_SIZE if fewest >= KID_SUBSET_SIZE else max(fewest // 2, 2)
    statistics = [fid.fid_features_to_statistics(features) for features in (generated, real)]
    distance = fid.fid_statistics_to_metric(*statistics, verbose=False)
    kernel = kid.kid_features_to_metric(
        generated, real, kid_subset_size=subset_size, rng_seed=seed, verbose=False
    )
    return Distances(
        fid=distance[fid.KEY_METRIC_FID],
        kid_mean=kernel[kid.KEY_METRIC_KID_MEAN],
        kid_std=kernel[kid.KEY_METRIC_KID_STD],
        kid_subset_size=subset_size,
        generated=len(generated),
        real=len(real),
    )


@dataclass(frozen=True)
class FidResult(Result):
    """FID and KID by the split of the real images."""

    distances: dict[str, Distances]
    sampling: Sampling

    def to_json(self) -> dict[str, Any]:
        return {split: asdict(distances) for split, distances in self.distances.items()}

    def table(self, others: Mapping[str, Any] | None = None) -> str:
        lines = [
            f"FID {found.fid:.2f}, KID {found.kid_mean:.5f} ± {found.kid_std:.5f}: "
            f"{found.generated:,} generated against {found.real:,} {split} images"
            for split, found in self.distances.items()
        ]
        return "\n".join([*lines, how_generated(self.sampling)])


@dataclass
class OfGenerated(Measure):
    """A measure of generated images, with how they are drawn among its settings."""

    decode: Pixels | None
    temperature: float
    image_temperature: float
    y_temperature: float | None
    seed: int
    batch_size: int

    @property
    def sampling(self) -> Sampling:
        """How the images are drawn."""
        values = {field.name: getattr(self, field.name) for field in fields(Sampling)}
        return Sampling(**{**values, "decode": self.decode or "sample"})


def how_generated(sampling: Sampling, *without: str) -> str:
    words = [
        f"{name} {value}"
        for name, value in vars(sampling).items()
        if value is not None and name not in ("seed", *without)
    ]
    return f"generated with {', '.join(words)}"


@dataclass
class Fid(OfGenerated):
    """FID and KID in Inception's features, against the test images, then against all others."""

    name: ClassVar[str] = "fid"
    flag: ClassVar[str] = "fid"
    fid_images: int | None
    fid_weights: Path | None

    def prepare(self, model: ImageModel, group: ProcessGroup) -> None:
        check_sampling(self.sampling, model)
        with group.main_first():
            self.extractor = FeatureExtractor(INCEPTION, self.fid_weights, group.device)

    def check(self, task: Task) -> None:
        data = task.selection.data
        if not (len(data.train) and len(data.test)):
            raise UserError(f"{data.name} lacks train/ or test/, which fid compares with both")

    def run(self, task: Task) -> Iterator[FidResult]:
        data, group = task.selection.data, task.group
        distances: dict[str, Distances] = {}
        for split, count in FID_IMAGES.items():
            real = data.test
            if split == "train" and group.main:  # the other processes only generate
                # The paper's training images are all that are not test images.
                real = torch.cat([data.train.in_memory(count), data.val])
            found = fid_and_kid(
                generated(task.model, self.sampling),
                real,
                self.extractor,
                samples=self.fid_images or count,
                batch_size=self.batch_size,
                progress=group.main,
                group=group,
            )
            if found is not None:
                distances[split] = found
                yield FidResult(dict(distances), self.sampling)
