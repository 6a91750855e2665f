"""FID and KID of generated pictures, by the library torch-fidelity."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor

from srvae_pyro.errors import UserError
from srvae_pyro.evaluation.image_statistics import (
    cache_name,
    features_of,
    fidelity,
    make_network,
    remembered,
    sha256_of_file,
)
from srvae_pyro.evaluation.terms import spread
from srvae_pyro.inference.decoding import Decoding
from srvae_pyro.models import ImageModel
from srvae_pyro.parallel import Group
from srvae_pyro.pixels import to_levels
from srvae_pyro.runtime import exact_float32
from srvae_pyro.talk import Bar

__all__ = ["drawer", "fid_and_kid", "find_weights"]

INCEPTION = "inception-v3-compat"  # torch-fidelity's name of the network behind published FIDs
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
KID_SUBSET_SIZE = 1000  # torch-fidelity's default, as is the seed
KID_SEED = 2020

Draw = Callable[[int, int], Tensor]


def find_weights(path: Path | None = None) -> Path:
    """The file with the weights of torch-fidelity's Inception network.

    Args:
        path: the file; if not given, it is where torch-fidelity keeps it, and is downloaded to
            there if need be.

    Raises:
        UserError: torch-fidelity is not installed; there is no file and no download; or the file
            holds something else.
    """
    url: str = fidelity("feature_extractor_inceptionv3").URL_INCEPTION_V3
    if path is None:
        path = _own_weights(url)
    elif not path.is_file():
        raise UserError(f"there is no file {path} for --fid-weights: get it from {url}")
    if sha256_of_file(path) != INCEPTION_SHA256:
        _check_weights(path)
        warnings.warn(
            f"{path} is not the file {url}: FID and KID cannot be compared with published ones",
            stacklevel=1,
        )
    return path


@torch.no_grad()
def fid_and_kid(
    draw: Draw,
    real: Tensor,
    *,
    samples: int,
    weights: Path | None = None,
    cache: Path | None = None,
    cache_key: str = "pictures",
    batch_size: int = 100,
    device: torch.device | str = "cpu",
    extractor: str = INCEPTION,
    seed: int = KID_SEED,
    progress: bool = True,
    group: Group | None = None,
) -> dict[str, float]:
    """FID and KID between generated and real pictures, as torch-fidelity computes them.

    What the network makes of the real pictures is kept in ``cache`` and read from there the next
    time. Its files are named by the pictures' bytes and the network's weights, so that other ones
    never get its place.

    References:
        Heusel et al., GANs trained by a two time-scale update rule, 2017, arXiv:1706.08500;
        Binkowski et al., Demystifying MMD GANs, 2018, arXiv:1801.01401.

    Args:
        draw: makes generated pictures ``first`` to ``first + count - 1``, called as
            ``draw(first, count)``: uint8 (count, C, H, W), C = 1 or 3. See :func:`drawer`.
        real: the real pictures, uint8 (N, C, H, W).
        samples: how many pictures to generate; of the real ones as many are used, evenly spaced,
            or all if there are fewer.
        weights: see :func:`find_weights`; extractors other than Inception are given it as it is.
        cache: folder for the real pictures' features, which take 8 kB each with Inception; beside
            torch-fidelity's weights if not given.
        cache_key: what the files there are called: data set and split.
        batch_size: pictures at a time.
        device: where the network runs.
        extractor: a network registered with torch-fidelity.
        seed: of KID's random subsets; torch-fidelity's own if not given.
        progress: whether to show a bar.
        group: the processes that share the generated pictures; the first does the rest, and the
            others get nothing.

    Returns:
        ``fid``; ``kid_mean`` and ``kid_std`` over 100 subsets of ``kid_subset_size`` pictures: 1000
        as torch-fidelity takes, half of the pictures if there are fewer; the numbers of pictures
        ``generated`` and ``real``.

    Raises:
        UserError: fewer than 2 pictures of one kind; or see :func:`find_weights`.
    """
    fid, kid = fidelity("metric_fid"), fidelity("metric_kid")
    if samples < 2 or len(real) < 2:
        raise UserError(
            "FID compares covariances: it takes at least 2 pictures of each kind, not "
            f"{samples} generated and {len(real)} real ones"
        )
    group = group or Group()
    if extractor == INCEPTION:
        weights = find_weights(weights)
    network = make_network(extractor, weights).to(device)
    real = spread(real, samples)
    folder = cache or _own_folder() / "srvae_pyro_fid"

    def features(batches: Iterable[Tensor], count: int, what: str) -> Tensor:
        with (
            exact_float32(),  # the same numbers on every device
            Bar(total=count, desc=what, unit="picture", disable=not progress) as bar,
        ):
            return features_of(batches, count, network, device, bar)

    of_real = torch.empty(0)
    if group.main:
        of_real = remembered(
            folder / cache_name(cache_key, real, network, weights),
            len(real),
            lambda: features(real.split(batch_size), len(real), "real pictures"),
        )
    mine = group.share(samples)
    drawn = _drawn(draw, mine.start, mine.stop, batch_size)
    own = features(drawn, mine.stop - mine.start, "generated pictures")
    generated = group.joined(own)
    if not group.main:
        return {}
    fewest = min(samples, len(real))
    if fewest <= generated.shape[1]:
        warnings.warn(
            f"FID of {fewest} pictures is far too high and cannot be compared with others: it "
            f"takes more than {generated.shape[1]}, the features of its network",
            stacklevel=1,
        )
    size = KID_SUBSET_SIZE if fewest >= KID_SUBSET_SIZE else max(fewest // 2, 2)
    statistics = [fid.fid_features_to_statistics(each) for each in (generated, of_real)]
    distance = fid.fid_statistics_to_metric(*statistics, verbose=False)
    kernel = kid.kid_features_to_metric(
        generated, of_real, kid_subset_size=size, rng_seed=seed, verbose=False
    )
    return {
        "fid": distance[fid.KEY_METRIC_FID],
        "kid_mean": kernel[kid.KEY_METRIC_KID_MEAN],
        "kid_std": kernel[kid.KEY_METRIC_KID_STD],
        "kid_subset_size": size,
        "generated": samples,
        "real": len(real),
    }


def drawer(
    model: ImageModel,
    *,
    decode: Decoding = "sample",
    temperature: float = 1.0,
    image_temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 100,
) -> Draw:
    """What :func:`fid_and_kid` draws pictures of a model with.

    Picture i of a seed is the same, whatever is asked for together with it. The levels are those
    that a PNG of it holds.

    Args:
        model: the model.
        decode: see :meth:`~srvae_pyro.models.ImageModel.generate`, and so for the others.
        temperature: of the latents.
        image_temperature: of the likelihoods that are sampled from.
        seed: of all noise.
        batch_size: pictures at a time.
    """

    def draw(first: int, count: int) -> Tensor:
        sites = model.generate(
            count,
            decode=decode,
            temperature=temperature,
            image_temperature=image_temperature,
            seed=seed,
            first=first,
            batch_size=batch_size,
        )
        return to_levels(sites["x"]).to(torch.uint8)

    return draw


def _own_folder() -> Path:
    """Where torch-fidelity, by PyTorch's hub, keeps downloaded weights."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _own_weights(url: str) -> Path:
    """torch-fidelity's own copy of its Inception weights, downloaded if need be."""
    path = _own_folder() / url.rsplit("/", 1)[1]
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


def _drawn(draw: Draw, start: int, stop: int, batch_size: int) -> Iterator[Tensor]:
    """The generated pictures of these numbers, in order, each once."""
    for first in range(start, stop, batch_size):
        count = min(batch_size, stop - first)
        images = draw(first, count)
        if len(images) != count:
            raise ValueError(f"draw({first}, {count}) made {len(images)} pictures")
        yield images
