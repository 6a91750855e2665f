"""Inception features by torch-fidelity; those of real pictures are computed once and kept."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from srvae_pyro.errors import UserError
from srvae_pyro.evaluation.fidelity import (
    INCEPTION,
    Weights,
    fidelity,
    find_weights,
    weights_folder,
)
from srvae_pyro.system.console import Bar
from srvae_pyro.system.device import THREADS, exact_float32
from srvae_pyro.system.files import write_whole

__all__ = ["FeatureExtractor", "as_colours"]


class FeatureExtractor:
    """A network registered with torch-fidelity, its weights found and checked at once.

    The network itself is made when it is first used. Features of real pictures are kept in files
    named by the pictures' bytes and the network's weights, so that other ones never get their
    place.

    Args:
        name: torch-fidelity's name of the network.
        weights: file of its weights; if not given, it is found, and downloaded if need be.
        device: where the network runs.
        cache: folder for the real pictures' features, which take 8 kB each with Inception; beside
            torch-fidelity's weights if not given.

    Raises:
        UserError: see :func:`~srvae_pyro.evaluation.fidelity.find_weights`.
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
        """Features (count, D), on the CPU, of ``count`` pictures in batches.

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
            Bar(total=count, desc=label, unit="picture", disable=not progress) as bar,
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
        features = self.of_batches(batches, len(images), "real pictures", progress)
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
    """uint8 pictures (B, 1, H, W) or (B, 3, H, W) with three channels."""
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            "the network takes uint8 pictures (B, 1, H, W) or (B, 3, H, W), not "
            f"{images.dtype} of shape {tuple(images.shape)}"
        )
    return images.expand(-1, 3, -1, -1)
