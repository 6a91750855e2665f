"""The library torch-fidelity, and its Inception network's weights: found, downloaded, checked."""

from __future__ import annotations

import hashlib
import importlib
import warnings
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from srvae_pyro.errors import UserError

__all__ = ["INCEPTION", "Weights", "fidelity", "find_weights", "weights_folder"]

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
