"""FID and KID in Inception features, by the library torch-fidelity."""

from __future__ import annotations

import hashlib
import importlib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPException
from pathlib import Path
from typing import Any, Unpack

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from srvae_pyro.data.splits import evenly_spaced
from srvae_pyro.drawing.generate import chunks
from srvae_pyro.errors import UserError
from srvae_pyro.inference.operations import Sampling
from srvae_pyro.models import ImageModel
from srvae_pyro.pixels import to_levels
from srvae_pyro.system.console import Bar
from srvae_pyro.system.device import THREADS, exact_float32
from srvae_pyro.system.files import write_whole
from srvae_pyro.system.parallel import ProcessGroup

INCEPTION = "inception-v3-compat"  # torch-fidelity's name of the network behind published FIDs
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


@dataclass(frozen=True)
class Weights:
    """A file of weights, read once for its hash.

    Attributes:
        path: the file.
        sha256: of its bytes, in hexadecimal.
    """

    path: Path
    sha256: str

    @classmethod
    def of_file(cls, path: Path) -> Weights:
        """The file with its hash."""
        with path.open("rb") as file:
            return cls(path, hashlib.file_digest(file, "sha256").hexdigest())


def fidelity(name: str) -> Any:
    """The module of torch-fidelity of that name, which is an optional extra.

    Raises:
        UserError: torch-fidelity is not installed.
    """
    try:
        return importlib.import_module(f"torch_fidelity.{name}")
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"FID needs torch-fidelity ({reason}): pip install 'srvae-pyro[fid]'"
        ) from None


def find_weights(path: Path | None = None) -> Weights:
    """The weights of torch-fidelity's Inception network.

    Args:
        path: the file; if not given, it is where torch-fidelity keeps it, and is downloaded to
            there if need be.

    Raises:
        UserError: torch-fidelity is not installed; there is no file and no download; or the file
            holds something else.
    """
    url: str = fidelity("feature_extractor_inceptionv3").URL_INCEPTION_V3
    if path is None:
        path = _downloaded(url)
    elif not path.is_file():
        raise UserError(f"there is no file {path} for --fid-weights: get it from {url}")
    weights = Weights.of_file(path)
    if weights.sha256 != INCEPTION_SHA256:
        _check_weights(path)
        warnings.warn(
            f"{path} is not the file {url}: FID and KID cannot be compared with published ones",
            stacklevel=1,
        )
    return weights


def weights_folder() -> Path:
    """Where torch-fidelity, by PyTorch's hub, keeps downloaded weights."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _downloaded(url: str) -> Path:
    """torch-fidelity's copy of its Inception weights, downloaded if need be."""
    path = weights_folder() / url.rsplit("/", 1)[1]
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=INCEPTION_SHA256)
    except (OSError, RuntimeError, HTTPException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"no download of the Inception weights for FID ({reason}): get {url} elsewhere and "
            f"put it at {path}, or give --fid-weights FILE"
        ) from None
    return path


def _check_weights(path: Path) -> None:
    """Refuse a file that is damaged, holds something else, or could run code.

    torch-fidelity unpickles what it is given as weights without restrictions.

    Raises:
        UserError: it is such a file.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle makes PyTorch raise almost anything
        raise UserError(
            f"{path} cannot be read as weights alone: remove it, or give another --fid-weights FILE"
        ) from error
    last = state.get("fc.weight") if isinstance(state, dict) else None
    # torchvision's own Inception, which is easily taken for it, has 1000 classes.
    if not isinstance(last, Tensor) or last.shape != (1008, 2048):
        raise UserError(
            f"{path} does not hold the weights of torch-fidelity's Inception: remove it, or give "
            "another --fid-weights FILE"
        )


class FeatureExtractor:
    """A network registered with torch-fidelity, its weights found and checked at once.

    The network itself is made when it is first used. Features of real images are kept in files
    named by the images' bytes and the network's weights, so that other ones never get their
    place.

    Args:
        name: torch-fidelity's name of the network.
        weights: file of its weights; if not given, it is found, and downloaded if need be.
        device: where the network runs.
        cache: folder for the real images' features, which take 8 kB each with Inception; beside
            torch-fidelity's weights if not given.

    Raises:
        UserError: see :func:`~srvae_pyro.evaluation.fid.find_weights`.
    """

    def __init__(
        self,
        name: str = INCEPTION,
        weights: Path | None = None,
        device: torch.device | str = "cpu",
        cache: Path | None = None,
    ) -> None:
        self.name = name
        self.weights: Weights | None
        if name == INCEPTION:
            self.weights = find_weights(weights)
        else:
            self.weights = None if weights is None else Weights.of_file(weights)
        self.device = device
        self.cache = cache or weights_folder() / "srvae_pyro_fid"

    @cached_property
    def network(self) -> Any:
        """Takes uint8 (B, 3, H, W) to a tuple of one (B, D).

        Raises:
            UserError: the weights are another network's.
        """
        utils = fidelity("utils")
        # KID's layer too.
        layer = utils.resolve_feature_layer_for_metric("fid", feature_extractor=self.name)
        path = None if self.weights is None else str(self.weights.path)
        try:
            network = utils.create_feature_extractor(
                self.name, [layer], cuda=False, feature_extractor_weights_path=path, verbose=False
            )
        except RuntimeError as error:  # of load_state_dict
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path} does not hold the weights of {self.name}: {reason}") from None
        return network.to(self.device)

    def of_batches(
        self, batches: Iterable[Tensor], count: int, label: str, progress: bool
    ) -> Tensor:
        """Features (count, D), on the CPU, of ``count`` images in batches.

        Args:
            batches: uint8 (B, C, H, W); one channel, C = 1, is given to the network three times.
            count: how many in all.
            label: of the bar.
            progress: whether to show it.
        """
        features = torch.empty(0)
        done = 0
        with (
            exact_float32(),  # the same numbers on every device
            Bar(total=count, desc=label, unit="image", disable=not progress) as bar,
        ):
            for images in batches:
                THREADS.fit()
                (part,) = self.network(as_colours(images.to(self.device)))
                if not done:
                    features = torch.empty(count, part.shape[1], dtype=part.dtype)
                features[done : done + len(part)] = part
                done += len(part)
                bar.update(len(part))
        return features

    def of_real(self, images: Tensor, key: str, batch_size: int, progress: bool) -> Tensor:
        """Features (N, D) of uint8 images (N, C, H, W), read from their file if they are there.

        torch-fidelity would keep them too, but unpickles its files, which could run code.

        Args:
            images: the images.
            key: what their file is called: data set and split.
            batch_size: images at a time.
            progress: whether to show a bar.
        """
        path = self.cache / self._cache_name(key, images)
        try:
            features = load_file(path)["features"]
            if features.dim() == 2 and len(features) == len(images):
                return features
        except (OSError, SafetensorError, KeyError):
            pass  # none yet, or damaged
        batches = images.split(batch_size)
        features = self.of_batches(batches, len(images), "real images", progress)
        try:
            write_whole(path, lambda partial: save_file({"features": features}, partial))
        except (OSError, SafetensorError) as error:
            warnings.warn(f"{path} cannot be written and will be made anew: {error}", stacklevel=1)
        return features

    def _cache_name(self, key: str, images: Tensor) -> str:
        """A file name that changes with whatever the features of uint8 ``images`` depend on."""
        settings = (
            fidelity("version").__version__,
            self.network.get_name(),
            self.network.get_requested_features_list(),
            "" if self.weights is None else self.weights.sha256,
            tuple(images.shape),
        )
        digest = hashlib.sha256(repr(settings).encode())
        digest.update(images.cpu().contiguous().numpy().data)
        name = f"{key[:50]}-{len(images)}-{self.network.get_name()}-{digest.hexdigest()[:16]}"
        return re.sub(r"[^\w.-]+", "_", name) + ".safetensors"


def as_colours(images: Tensor) -> Tensor:
    """uint8 images (B, 1, H, W) or (B, 3, H, W) with three channels."""
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            "the network takes uint8 images (B, 1, H, W) or (B, 3, H, W), not "
            f"{images.dtype} of shape {tuple(images.shape)}"
        )
    return images.expand(-1, 3, -1, -1)


KID_SUBSET_SIZE = 1000  # torch-fidelity's default, as is the seed
KID_SEED = 2020

Draw = Callable[[int, int], Tensor]  # first index and count to uint8 (count, C, H, W)


@dataclass(frozen=True)
class Distances:
    """FID and KID between generated and real images.

    Attributes:
        fid: Fréchet distance of the features.
        kid_mean: mean over 100 subsets of the squared maximum mean discrepancy.
        kid_std: its standard deviation over them.
        kid_subset_size: 1000 images as torch-fidelity takes, or half of them if there are fewer.
        generated: how many images.
        real: how many images.
    """

    fid: float
    kid_mean: float
    kid_std: float
    kid_subset_size: int
    generated: int
    real: int


@torch.no_grad()
def fid_and_kid(
    draw: Draw,
    real: Tensor,
    extractor: FeatureExtractor,
    *,
    samples: int,
    cache_key: str = "images",
    batch_size: int = 100,
    seed: int = KID_SEED,
    progress: bool = True,
    group: ProcessGroup = ProcessGroup(),
) -> Distances | None:
    """FID and KID between generated and real images, as torch-fidelity computes them.

    References:
        Heusel et al., GANs trained by a two time-scale update rule, 2017, arXiv:1706.08500;
        Binkowski et al., Demystifying MMD GANs, 2018, arXiv:1801.01401.

    Args:
        draw: makes generated images ``first`` to ``first + count - 1``, called as
            ``draw(first, count)``: uint8 (count, C, H, W), C = 1 or 3. See :func:`drawer`.
        real: the real images, uint8 (N, C, H, W).
        extractor: makes the features.
        samples: how many images to generate; of the real ones as many are used, evenly spaced,
            or all if there are fewer.
        cache_key: what the files of the real images' features are called: data set and split.
        batch_size: images at a time.
        seed: of KID's random subsets; torch-fidelity's own if not given.
        progress: whether to show a bar.
        group: the processes that share the generated images; the first does the rest.

    Returns:
        The distances; None but in the first process.

    Raises:
        UserError: fewer than 2 images of one kind; torch-fidelity is not installed.
    """
    fidelity("metric_fid")  # is it installed?
    if samples < 2 or len(real) < 2:
        raise UserError(
            "FID compares covariances: it takes at least 2 images of each kind, not "
            f"{samples} generated and {len(real)} real ones"
        )
    real_features = torch.empty(0)
    if group.main:
        real = evenly_spaced(real, samples)
        real_features = extractor.of_real(real, cache_key, batch_size, progress)
    share = group.share(samples)
    indices = range(share.start, share.stop)
    images = _generated(draw, indices, batch_size)
    features = extractor.of_batches(images, len(indices), "generated images", progress)
    features = group.joined(features)
    return _distances(features, real_features, seed) if group.main else None


def _generated(draw: Draw, indices: range, batch_size: int) -> Iterator[Tensor]:
    """The generated images of these indices, in order, each once."""
    for chunk in chunks(indices, batch_size):
        images = draw(chunk.start, len(chunk))
        if len(images) != len(chunk):
            raise ValueError(f"draw({chunk.start}, {len(chunk)}) made {len(images)} images")
        yield images


def _distances(generated: Tensor, real: Tensor, seed: int) -> Distances:
    """The distances between features (N, D) and (M, D)."""
    fid, kid = fidelity("metric_fid"), fidelity("metric_kid")
    fewest = min(len(generated), len(real))
    if fewest <= generated.shape[1]:
        warnings.warn(
            f"FID of {fewest} images is far too high and cannot be compared with others: it "
            f"takes more than {generated.shape[1]}, the features of its network",
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


def drawer(model: ImageModel, **sampling: Unpack[Sampling]) -> Draw:
    """What :func:`fid_and_kid` draws images of a model with, as many at once as it asks for.

    Image i of a seed is the same, whatever is asked for together with it. The levels are those
    that a PNG of it holds.

    Args:
        model: the model.
        sampling: as of its ``generate``, the seed 0 if not given.
    """

    def draw(first: int, count: int) -> Tensor:
        at_once: Sampling = {"seed": 0, **sampling, "batch_size": count}
        sites = model.generate(count, first=first, **at_once)
        return to_levels(sites["x"]).to(torch.uint8)

    return draw
