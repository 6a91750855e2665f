"""The distance of two pictures in the features of EfficientNet-Lite0, place by place."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from srvae_pyro.evaluation.features import as_colours
from srvae_pyro.evaluation.lite_features import PACKAGES, lite_network, scaled
from srvae_pyro.system.device import exact_float32

__all__ = ["FEATURE_DISTANCE", "FeatureDistance", "feature_distance"]

FEATURE_DISTANCE = "EfficientNet-Lite0 features"  # never LPIPS, whose network and weights differ
AT_ONCE = 25  # pictures


def feature_distance(device: torch.device | str = "cpu") -> FeatureDistance | None:
    """The distance, or None where its network is not installed: it is an optional extra.

    Raises:
        UserError: the network is there, and its weights are not those that numbers depend on.
    """
    if all(find_spec(package) for package in PACKAGES):
        return FeatureDistance(device)
    return None


class FeatureDistance:
    """How far features of pictures are from those of others.

    At each resolution, from a half to a thirty-second of the picture's as far as that has two
    pixels, features are scaled to length 1 at every place, and their squared differences summed;
    this is brought to the picture's size, bilinear, and added up. So LPIPS is made, but for
    weights of channels that were fitted to what people see, and of another network: it is not LPIPS
    and not to be compared with it.

    References:
        Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, 2018,
        arXiv:1801.03924, equation 1 with w = 1; Tan and Le, EfficientNet, 2019, arXiv:1905.11946.

    Args:
        device: where the network runs.

    Raises:
        UserError: a package is not installed, or its weights are others.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = device
        self.network = lite_network(device, "the distance of features")

    @torch.no_grad()
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances (B, H, W), float32 on the CPU, of uint8 pictures (B, C, H, W), C = 1 or 3."""
        with exact_float32():  # the same numbers on every device
            parts = zip(a.split(AT_ONCE), b.split(AT_ONCE), strict=True)
            return torch.cat([self._distances(one, other) for one, other in parts])

    def _distances(self, a: Tensor, b: Tensor) -> Tensor:
        size = a.shape[-2:]
        both = scaled(as_colours(torch.cat([a, b]).to(self.device)))
        total = torch.zeros(len(a), 1, *size, device=both.device)
        for features in self._features(both):
            one, other = F.normalize(features, dim=1).chunk(2)
            apart = (one - other).square().sum(dim=1, keepdim=True)
            total += F.interpolate(apart, size, mode="bilinear", align_corners=False)
        return total[:, 0].cpu()

    def _features(self, x: Tensor) -> Iterator[Tensor]:
        """What the network has found at each resolution, before it goes to the next."""
        net = self.network
        x = x.contiguous(memory_format=torch.channels_last)
        x = net._swish(net._bn0(net._conv_stem(x)))
        for block in net._blocks:
            if 2 in block._depthwise_conv.stride:
                yield x
                if min(x.shape[-2:]) < 2:  # the network's padding needs two pixels
                    return
            x = block(x)
        yield x
