"""How samples differ, and whether that brings parts of them nearer to the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from srvae_pyro.evaluation.scores import mean_and_error

__all__ = ["Distance", "Diversity", "differences", "diversity_score", "squared_errors"]

WINDOW = 16  # pixels a side over which squared errors are averaged, as in NTIRE 2022

# Answers and pictures, uint8 (B, C, H, W) each, to distances (B, h, w), place by place.
Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Diversity:
    """How samples differ; None for one sample.

    The scores are NTIRE's, in per cent, see :func:`diversity_score`, each the mean over pictures
    and with its standard error.

    Attributes:
        std: the standard deviation over the samples, averaged over pixels and colours, in levels
            of 255.
        pairwise_rmse: the root mean squared difference of two samples, averaged over pairs and
            pictures, in levels.
        score_mse: by the squared error, averaged over windows of 16x16 pixels.
        score_mse_pixels: by the squared error pixel by pixel, which chance alone makes large.
        score_features: by the distance of EfficientNet-Lite0's features; None also where that is
            not installed. Not LPIPS.
        score_mse_error: of ``score_mse``.
        score_mse_pixels_error: of ``score_mse_pixels``.
        score_features_error: of ``score_features``.
    """

    std: float | None = None
    pairwise_rmse: float | None = None
    score_mse: float | None = None
    score_mse_pixels: float | None = None
    score_features: float | None = None
    score_mse_error: float | None = None
    score_mse_pixels_error: float | None = None
    score_features_error: float | None = None

    @classmethod
    def of(cls, values: Mapping[str, Tensor], photographs: Tensor | None = None) -> Diversity:
        """From one value a picture, (N), by name, as :func:`differences` gives them."""
        found: dict[str, float | None] = {}
        for name in ("score_mse", "score_mse_pixels", "score_features"):
            found[name], found[f"{name}_error"] = mean_and_error(values.get(name), photographs)
        for name in ("std", "pairwise_rmse"):
            found[name], _ = mean_and_error(values.get(name))
        return cls(**found)


def diversity_score(distances: Tensor) -> Tensor:
    """NTIRE's score of the diversity of samples, in per cent.

        (global best - local best) / global best * 100

    of distances to the truth: the global best is that of the sample that is nearest as a whole, the
    local best that of a picture put together of the nearest sample at each place. It is 0 where all
    samples are the same, or one of them is the truth.

    References:
        Lugmayr et al., NTIRE 2021 Learning the Super-Resolution Space Challenge, 2021, CVPR
        Workshops, and its successor of 2022; the code that scored them.

    Args:
        distances: (S, B, h, w), of S samples at each place.

    Returns:
        (B).
    """
    best = distances.mean(dim=(-2, -1)).amin(dim=0)
    local = distances.amin(dim=0).mean(dim=(-2, -1))
    return torch.where(best > 0, (best - local) / best, 0.0) * 100


def squared_errors(a: Tensor, b: Tensor, window: int = WINDOW) -> Tensor:
    """Squared errors in levels of (B, C, H, W) averaged over colours and windows.

    As NTIRE 2022 has it every window is counted that has a pixel of the picture, and outside there
    is no error; so each pixel is in as many windows.

    Args:
        a: uint8 pictures.
        b: others.
        window: pixels a side.

    Returns:
        (B, H + window - 1, W + window - 1).
    """
    errors = (a.float() - b.float()).square().mean(dim=1, keepdim=True)
    errors = F.pad(errors, (window - 1,) * 4)
    rows = F.avg_pool2d(errors, (window, 1), stride=1)
    return F.avg_pool2d(rows, (1, window), stride=1)[:, 0]


def differences(
    samples: Tensor, truth: Tensor, distance: Distance | None = None
) -> dict[str, Tensor]:
    """How two or more samples differ, (B) by what :class:`Diversity` calls it.

    Args:
        samples: uint8 (S, B, C, H, W).
        truth: uint8 (B, C, H, W).
        distance: of features, if there are any.
    """
    levels = samples.float()
    pairs = torch.combinations(torch.arange(len(samples)))
    rmse = [(levels[i] - levels[j]).square().mean(dim=(1, 2, 3)).sqrt() for i, j in pairs]
    measures: dict[str, Distance] = {
        "score_mse": squared_errors,
        "score_mse_pixels": lambda a, b: squared_errors(a, b, window=1),
    }
    if distance is not None:
        measures["score_features"] = distance
    return {
        "std": levels.std(dim=0).mean(dim=(1, 2, 3)),
        "pairwise_rmse": torch.stack(rmse).mean(dim=0),
    } | {
        name: diversity_score(torch.stack([measure(sample, truth) for sample in samples]))
        for name, measure in measures.items()
    }
