"""What a network of the library torch-fidelity makes of pictures, computed once and kept."""

from __future__ import annotations

import hashlib
import importlib
import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from srvae_pyro.errors import UserError
from srvae_pyro.files import write_whole

__all__ = ["cache_name", "features_of", "fidelity", "make_network", "remembered", "sha256_of_file"]


def fidelity(name: str) -> Any:
    """The module of torch-fidelity of that name.

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


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_network(extractor: str, weights: Path | None) -> Any:
    """An extractor registered with torch-fidelity: uint8 (B, 3, H, W) to a tuple of one (B, D).

    Args:
        extractor: its name.
        weights: file of its weights; if not given, it finds them itself.

    Raises:
        UserError: the weights are another network's.
    """
    utils = fidelity("utils")
    layer = utils.resolve_feature_layer_for_metric("fid", feature_extractor=extractor)  # KID's too
    try:
        return utils.create_feature_extractor(
            extractor,
            [layer],
            cuda=False,
            feature_extractor_weights_path=None if weights is None else str(weights),
            verbose=False,
        )
    except RuntimeError as error:  # of load_state_dict
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{weights} does not hold the weights of {extractor}: {reason}") from None


def features_of(
    batches: Iterable[Tensor], count: int, network: nn.Module, device: torch.device | str, bar: tqdm
) -> Tensor:
    """Features (count, D), on the CPU, of ``count`` pictures in batches.

    Args:
        batches: uint8 (B, C, H, W); one channel, C = 1, is given to the network three times.
        count: how many in all.
        network: see :func:`make_network`.
        device: where it is.
        bar: moves on by a batch's pictures.
    """
    features = torch.empty(0)
    done = 0
    for images in batches:
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                "FID takes uint8 pictures (B, 1, H, W) or (B, 3, H, W), not "
                f"{images.dtype} of shape {tuple(images.shape)}"
            )
        (own,) = network(images.to(device).expand(-1, 3, -1, -1))
        if not done:
            features = torch.empty(count, own.shape[1], dtype=own.dtype)
        features[done : done + len(own)] = own
        done += len(own)
        bar.update(len(own))
    return features


def cache_name(key: str, images: Tensor, network: Any, weights: Path | None) -> str:
    """A file name that changes with whatever the features of uint8 ``images`` depend on."""
    settings = (
        fidelity("version").__version__,
        network.get_name(),
        network.get_requested_features_list(),
        "" if weights is None else sha256_of_file(weights),
        tuple(images.shape),
    )
    digest = hashlib.sha256(repr(settings).encode())
    digest.update(images.cpu().contiguous().numpy().data)
    name = f"{key}-{len(images)}-{network.get_name()}-{digest.hexdigest()[:16]}"
    return re.sub(r"[^\w.-]+", "_", name) + ".safetensors"


def remembered(path: Path, count: int, compute: Callable[[], Tensor]) -> Tensor:
    """The features (count, D) in the file, or those computed, which are then written there.

    torch-fidelity would keep them too, but unpickles its files, which could run code.
    """
    try:
        features = load_file(path)["features"]
        if features.dim() == 2 and len(features) == count:
            return features
    except (OSError, SafetensorError, KeyError):
        pass  # none yet, or damaged
    features = compute()
    try:
        write_whole(path, lambda partial: save_file({"features": features}, partial))
    except (OSError, SafetensorError) as error:
        warnings.warn(f"{path} cannot be written and will be made anew: {error}", stacklevel=1)
    return features
