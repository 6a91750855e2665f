"""How near answers are to pictures, by the measures that papers on super-resolution report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from srvae_pyro.inference.means import standard_error
from srvae_pyro.upscaling.quality import WINDOW, psnr, ssim

__all__ = [
    "MEASURES",
    "Scores",
    "mean_and_error",
    "picture_scores",
    "stacked_means",
    "y_channel",
]

MEASURES = ("psnr", "ssim", "lr_psnr", "psnr_y", "ssim_y")
WEIGHTS = (65.481, 128.553, 24.966)  # of R, G and B in [0, 1], so that Y is from 16 to 235


@dataclass(frozen=True)
class Scores:
    """How near answers are to the pictures, on average, each with its standard error.

    An error is None where there are not two pictures, or photographs, to tell it by.

    Attributes:
        psnr: dB, of RGB.
        ssim: of RGB; None for pictures under 11 pixels a side.
        lr_psnr: dB, of d of the answer against y.
        psnr_y: dB, of the luma without a border of ``factor`` pixels; None where nothing is left.
        ssim_y: likewise; None where less than 11 pixels a side are left.
        psnr_error: of ``psnr``.
        ssim_error: of ``ssim``.
        lr_psnr_error: of ``lr_psnr``.
        psnr_y_error: of ``psnr_y``.
        ssim_y_error: of ``ssim_y``.
    """

    psnr: float
    ssim: float | None
    lr_psnr: float
    psnr_y: float | None
    ssim_y: float | None
    psnr_error: float | None = None
    ssim_error: float | None = None
    lr_psnr_error: float | None = None
    psnr_y_error: float | None = None
    ssim_y_error: float | None = None

    @classmethod
    def of(
        cls, values: Mapping[str, Tensor], prefix: str = "", photographs: Tensor | None = None
    ) -> Scores:
        """The means of one value a picture, (N), by names of :data:`MEASURES` after a prefix."""
        found: dict[str, float | None] = {}
        for name in MEASURES:
            own = values.get(f"{prefix}{name}")
            found[name], found[f"{name}_error"] = mean_and_error(own, photographs)
        return cls(**found)  # type: ignore[arg-type]


def mean_and_error(
    values: Tensor | None, photographs: Tensor | None = None
) -> tuple[float | None, float | None]:
    """The mean of one value a picture, (N), and its standard error, clustered by photographs."""
    if values is None:
        return None, None
    return values.double().mean().item(), standard_error(values, photographs)


def y_channel(levels: Tensor) -> Tensor:
    """The luma Y of YCbCr, float64 (..., 1, H, W), of uint8 RGB or gray (..., C, H, W).

    ITU-R BT.601 in studio range, 16 to 235, by the weights of MATLAB's ``rgb2ycbcr``. It is not
    rounded to whole levels, as BasicSR has it; MATLAB rounds.
    """
    rgb = levels.expand(*levels.shape[:-3], 3, -1, -1).double()
    weights = rgb.new_tensor(WEIGHTS)[:, None, None] / 255
    return 16 + (rgb * weights).sum(dim=-3, keepdim=True)


def picture_scores(a: Tensor, b: Tensor, border: int) -> dict[str, Tensor]:
    """Scores of uint8 (B, C, H, W) against others: (B) each, of the pictures that are large enough.

    Args:
        a: the answers.
        b: the pictures.
        border: pixels at each side that Y's scores leave out: the factor, as papers do (Timofte et
            al., NTIRE 2017 Challenge on Single Image Super-Resolution: Methods and Results, 2017).
    """
    scores = _scores(a, b)
    if min(a.shape[-2:]) > 2 * border:
        inner = slice(border, -border or None)
        pair = (y_channel(x[..., inner, inner]) for x in (a, b))
        scores |= {f"{name}_y": value for name, value in _scores(*pair).items()}
    return scores


def _scores(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    scores = {"psnr": psnr(a, b)}
    if min(a.shape[-2:]) >= WINDOW:
        scores["ssim"] = ssim(a, b)
    return scores


def stacked_means(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The means over several answers of the scores of each, (B) by name."""
    return {name: torch.stack([part[name] for part in parts]).mean(dim=0) for name in parts[0]}
