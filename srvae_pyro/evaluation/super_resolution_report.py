"""Super-resolution as text: scores by method, how samples differ, their calibration."""

from __future__ import annotations

from srvae_pyro.evaluation.calibration import Calibration
from srvae_pyro.evaluation.columns import columns
from srvae_pyro.evaluation.diversity import Diversity
from srvae_pyro.evaluation.feature_distance import FEATURE_DISTANCE
from srvae_pyro.evaluation.super_resolution import Scores, SuperResolutionResult
from srvae_pyro.upscaling.quality import shown_psnr

__all__ = ["super_resolution_table"]


def super_resolution_table(result: SuperResolutionResult) -> str:
    """The scores by method, and below them what does not fit into the table."""
    names = {
        "sample": "srVAE, one sample",
        "mean": f"srVAE, mean of {result.samples} samples",
        "mode": "srVAE, mode at temperature 0",
        "expectation": "srVAE, expectation at temperature 0",
        "estimate": "srVAE, its estimate",
    }
    heads = ["PSNR (dB)", "±", "SSIM", "PSNR, Y", "±", "SSIM, Y", "LR-PSNR (dB)"]
    rows = [[f"super-resolution x{result.factor}", *heads]]
    for method, scores in result.methods.items():
        rows.append([names.get(method, method), *_cells(scores)])
    lines = [
        columns(rows, left=1),
        f"Y: luma without {result.factor} pixels at each border{_over(result)}",
    ]
    lines += _differences(result.diversity, result.samples)
    lines.append(
        f"{_few(result.megapixels_per_second)} megapixels of sampled answers a second, in a process"
    )
    if result.calibration is not None:
        lines.append(_calibration_table(result.calibration, result.factor))
    return "\n".join(lines)


def _cells(scores: Scores) -> list[str]:
    """A method's scores in the order of the heads."""
    return [
        f"{scores.psnr:.2f}",
        _number(scores.psnr_error, 2),
        _number(scores.ssim, 4),
        _number(scores.psnr_y, 2),
        _number(scores.psnr_y_error, 2),
        _number(scores.ssim_y, 4),
        shown_psnr(scores.lr_psnr, 2),
    ]


def _differences(diversity: Diversity, samples: int) -> list[str]:
    """How the samples differ, and what the best of them at each place would give."""
    if diversity.std is None:
        return []
    lines = [
        f"samples differ by {diversity.std:.1f} levels of 255 (standard deviation a pixel), "
        f"two of them by {diversity.pairwise_rmse:.1f} (root mean square)"
    ]
    scores = {
        "squared error over 16x16 pixels": (diversity.score_mse, diversity.score_mse_error),
        "squared error of single pixels": (
            diversity.score_mse_pixels,
            diversity.score_mse_pixels_error,
        ),
        f"{FEATURE_DISTANCE} (not LPIPS)": (
            diversity.score_features,
            diversity.score_features_error,
        ),
    }
    told = [
        f"{score:.1f}{_plus_minus(error, 1)} by {name}"
        for name, (score, error) in scores.items()
        if score is not None
    ]
    lines.append(f"NTIRE diversity of {samples} samples, %: {', '.join(told)}")
    if diversity.score_features is None:
        lines.append(f"not by {FEATURE_DISTANCE}: pip install 'srvae-pyro[features]'")
    return lines


def _calibration_table(calibration: Calibration, factor: int) -> str:
    """How often the truth lies within intervals of the samples."""
    heads = [f"{level} %" for level in calibration.within]
    found = [f"{100 * (share or 0):.1f} %" for share in calibration.within.values()]
    errors = [
        "-" if error is None else f"{100 * error:.1f} %"
        for error in calibration.within_error.values()
    ]
    rows = [
        [f"calibration x{factor}: interval of {calibration.samples} samples", *heads],
        ["the truth lies within", *found],
        ["±", *errors],
    ]
    ends = (calibration.ranks[0], calibration.ranks[-1])
    below, above = (f"{100 * share:.1f} %" for share in ends)
    even = f"{100 / len(calibration.ranks):.1f} %"
    return (
        f"{columns(rows, left=1)}\n"
        f"below all samples {below}, above all {above}; calibrated: {even} each. "
        f"{100 * calibration.certain:.1f} % of the values are the same in all, and right"
    )


def _over(result: SuperResolutionResult) -> str:
    """What the standard errors are over."""
    if result.methods["sample"].psnr_error is None:
        return ""
    if result.photographs is not None:
        return f"; ± over {result.photographs} photographs"
    return f"; ± over {result.images:,} pictures"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _plus_minus(error: float | None, digits: int) -> str:
    return "" if error is None else f" ± {error:.{digits}f}"


def _few(value: float) -> str:
    """A positive number with two or three digits, never as a power of ten."""
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}" if value >= 0.01 else f"{value:.4f}"
