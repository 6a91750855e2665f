"""Evaluations as text: the paper's Table 1, super-resolution, and what does not fit a table."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from pathlib import Path

from srvae_pyro.evaluation.coding import CodingResult
from srvae_pyro.evaluation.kid import KID_NAME, KidResult
from srvae_pyro.evaluation.likelihood import UNRELIABLE_K, ElboResult, LikelihoodResult
from srvae_pyro.evaluation.results import Measures
from srvae_pyro.evaluation.selection import Selection
from srvae_pyro.evaluation.sr_scores import FEATURE_DISTANCE, Calibration, Diversity
from srvae_pyro.evaluation.super_resolution import Scores, SuperResolutionResult
from srvae_pyro.upscaling.quality import shown_psnr


def columns(rows: list[list[str]], left: int) -> str:
    """Cells in aligned columns: the first ``left`` flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


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
        f"Y: luma without {result.factor} pixels at each border{_over_images(result)}",
    ]
    lines += _differences(result.diversity, result.samples)
    lines.append(
        f"{_few(result.megapixels_per_second)} megapixels of sampled outputs a second, in a process"
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


def _over_images(result: SuperResolutionResult) -> str:
    """What the standard errors are over."""
    if result.methods["sample"].psnr_error is None:
        return ""
    if result.photographs is not None:
        return f"; ± over {result.photographs} photographs"
    return f"; ± over {result.images:,} images"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _plus_minus(error: float | None, digits: int) -> str:
    return "" if error is None else f" ± {error:.{digits}f}"


def _few(value: float) -> str:
    """A positive number with two or three digits, never as a power of ten."""
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}" if value >= 0.01 else f"{value:.4f}"


@dataclass(frozen=True)
class Row:
    """A row of Table 1; None where there is no such number.

    ``nll`` in bits/dim, ``error`` its standard error over the images, the terms in nats an image,
    ``fid`` against test and, in brackets, training images.
    """

    data: str
    model: str
    nll: float
    re_x: float
    re_y: float | None
    kl_z: float
    kl_u: float | None
    error: float | None = None
    fid_test: float | None = None
    fid_train: float | None = None


# Table 1 of the paper by data set and by what the model was trained on. Its ImageNet32 is another
# downsampling than that of van den Oord et al. (its Table 2): the pickled batches.
PUBLISHED: dict[tuple[str, str], list[Row]] = {
    ("cifar10", "cifar10"): [
        Row("cifar10", "VAE, paper", 3.51, 5540, None, 1966, None, None, 41.36, 37.25),
        Row("cifar10", "srVAE, paper", 3.65, 5107, 1241, 619, 819, None, 34.71, 29.95),
    ],
    ("imagenet32-batches", "cifar10"): [
        Row("imagenet32-batches", "VAE, paper", 3.80, 6386, None, 1707, None, None, 51.82),
        Row("imagenet32-batches", "srVAE, paper", 4.00, 5907, 1257, 597, 805, None, 45.37),
    ],
}


def table(rows: list[Row]) -> str:
    """The rows laid out like the paper's Table 1."""
    with_fid = any(row.fid_test is not None or row.fid_train is not None for row in rows)
    heads = ["data set", "model", "nll (bits/dim)", "RE_x", "RE_y", "KL_z", "KL_u"]
    lines = [heads + ["FID (train)"] * with_fid]
    for row in rows:
        error = "" if row.error is None else f" ± {row.error:.3f}"
        terms = (row.re_x, row.re_y, row.kl_z, row.kl_u)
        cells = [row.data, row.model, f"{row.nll:.3f}{error}"]
        cells += ["-" if term is None else f"{term:.0f}" for term in terms]
        if with_fid:
            distances = (row.fid_test, row.fid_train)
            test, train = ("N/A" if fid is None else f"{fid:.2f}" for fid in distances)
            cells.append(f"{test} ({train})")
        lines.append(cells)
    return columns(lines, left=2)


def kid_table(result: KidResult) -> str:
    """The rows with what is known of each."""
    heads = ["", "±", "images", "real", "precision", "recall", "density", "coverage"]
    rows = [[KID_NAME, *heads]]
    for name, row in result.rows.items():
        error = "-" if row.standard_error is None else f"{row.standard_error:.4f}"
        cells = [name, f"{row.kid:.4f}", error, f"{row.images:,}", f"{row.real:,}"]
        overlap = astuple(row.neighbours) if row.neighbours else ()
        shares = [f"{share:.3f}" for share in overlap] or ["-"] * 4
        rows.append(cells + shares)
    note = (
        "not to be compared with KID in Inception's features; 0 is where nothing can be told apart"
    )
    return f"{columns(rows, left=1)}\n{note}; {result.seconds:.0f} s"


def refinement_table(encoders: LikelihoodResult, refined: LikelihoodResult) -> str:
    """What the same samples give of the encoder's q and of the refined one, and the gap."""
    samples = refined.samples
    head = ["drawn from q", "ELBO", "nll", f"effective of {samples}", "Pareto k"]
    rows = [[*head, f"above {UNRELIABLE_K}"]]
    names = ("of the encoder", f"refined by {refined.refine} steps")
    for name, result in zip(names, (encoders, refined), strict=True):
        rows.append([name, f"{result.elbo_bits_per_dim:.4f}", f"{result.bits_per_dim:.4f}"])
        k, share = result.pareto_k, result.pareto_k_above_threshold
        rows[-1].append(f"{result.effective_samples:.2f}")
        rows[-1] += ["-" if k is None else f"{k:.2f}", "-" if share is None else f"{share:.0%}"]
    elbo = encoders.elbo_bits_per_dim - refined.elbo_bits_per_dim
    nll = encoders.bits_per_dim - refined.bits_per_dim
    text = columns(rows, left=1)
    text += f"\nrefining lowers the ELBO's bits/dim by {elbo:.4f} and the nll's by {nll:.4f}, in "
    text += f"{refined.seconds:.0f} s"
    if refined.kept:
        text += f"; for {refined.kept:,} of the images it does not, and the encoder's q is kept"
    return text


def compression_table(result: CodingResult, nll: float | None = None) -> str:
    """The bytes by code, and how far the model's are from what the ELBO predicts.

    Args:
        result: the sizes.
        nll: of the same images by importance sampling, bits/dim, if it was estimated.
    """
    rows = [[f"{result.images:,} images", "bytes", "bits/dim", "MB/s to write", "to read"]]

    def row(name: str, count: float, *speeds: float) -> None:
        cells = [f"{count:,.0f}", f"{8 * count / result.values:.3f}"]
        rows.append([name, *cells, *([f"{s:.3f}" for s in speeds] or ["-", "-"])])

    row("as they are", result.values)
    if nll is not None:
        row("the nll, by importance sampling", nll * result.values / 8)
    row("the negative ELBO", result.predicted_bytes)
    row("bits back, without its start", result.net_bytes)
    row("bits back, with it", sum(result.chain_bytes.values()))
    for size in (result.model, *result.others):
        row(size.name, size.bytes, size.write_mb_per_second, size.read_mb_per_second)
    more = 100 * (result.net_bytes / result.predicted_bytes - 1)
    starts = " and ".join(f"{n:,} for {name}" for name, n in result.start_bytes.items())
    text = f"{columns(rows, left=1)}\nwithout its start {more:+.2f}% against the ELBO of the same "
    text += f"images; bytes to start with, whatever their number: {starts}"
    written = result.images_per_second(result.model.write_mb_per_second)
    read = result.images_per_second(result.model.read_mb_per_second)
    text += f"\nevery image came back to the bit; {written:.3g} images a second written, "
    text += f"{read:.3g} read"
    if result.preview_bytes:
        share = result.preview_bytes / result.model.bytes
        text += f"; every y is in the first {result.preview_bytes:,} bytes, {share:.1%}"
    if not any(size.name.startswith("JPEG XL") for size in result.others):
        text += "\nJPEG XL is not there: pip install 'srvae-pyro[codecs]'"
    return text


def print_measures(
    measures: Measures, selection: Selection, trained_on: str, drawn: str = ""
) -> None:
    """Print the table, and below it what does not fit into one.

    Args:
        measures: of the model.
        selection: the images that they are of.
        trained_on: the data set that the model was trained on.
        drawn: how images were generated, as flags.
    """
    elbo, likelihood = measures.elbo, measures.likelihood
    name = selection.data.name
    published = PUBLISHED.get((name, trained_on), []) if selection.is_test_split else []
    print(table([_row(measures, Path(name).name), *published]))
    over = _over(likelihood or elbo)
    print(f"nll: {_source(likelihood)}{f', ±{over}' if over else ''}; the terms in nats an image")
    print(f"ELBO {elbo.bits_per_dim:.4f}{_error(elbo)} bits/dim{_over(elbo)}", end="")
    if elbo.y_bits_per_dim is not None:
        print(f"; of y alone, (RE_y + KL_u) a dimension of y: {elbo.y_bits_per_dim:.4f}", end="")
    print()
    for latent in ("z", "u"):
        if latent in elbo.units:
            print(_active_units(elbo, latent))
    if likelihood and likelihood.pareto_k is not None:
        print(_trust(likelihood))
    if likelihood and measures.refined:
        print(refinement_table(likelihood, measures.refined))
    for split, distances in measures.distances.items():
        print(
            f"FID {distances.fid:.2f}, KID {distances.kid_mean:.5f} ± {distances.kid_std:.5f}: "
            f"{distances.generated:,} generated against {distances.real:,} {split} images"
        )
    if measures.kid:
        print(kid_table(measures.kid))
    if drawn and (measures.distances or measures.kid):
        print(f"generated with {drawn}")
    for upscaled in measures.super_resolution:
        print(super_resolution_table(upscaled))
    if measures.compression:
        same = measures.compression.images == len(selection.images)
        nll = likelihood.bits_per_dim if likelihood and same else None
        print(compression_table(measures.compression, nll))


def _row(measures: Measures, data: str) -> Row:
    """The model's row of Table 1, its nll by importance sampling if that was asked for."""
    terms, nll = measures.elbo.terms, measures.likelihood or measures.elbo
    fid = {split: distances.fid for split, distances in measures.distances.items()}
    return Row(
        data,
        "srVAE" if "re_y" in terms else "VAE",
        nll.bits_per_dim,
        re_x=terms["re_x"],
        re_y=terms.get("re_y"),
        kl_z=terms["kl_z"],
        kl_u=terms.get("kl_u"),
        error=nll.standard_error,
        fid_test=fid.get("test"),
        fid_train=fid.get("train"),
    )


def _error(result: ElboResult | LikelihoodResult) -> str:
    """The standard error, where there is one: one image or photograph has none."""
    return "" if result.standard_error is None else f" ± {result.standard_error:.4f}"


def _over(result: ElboResult | LikelihoodResult) -> str:
    """What the standard error is over, where that is not the images."""
    if result.standard_error is None or result.photographs is None:
        return ""
    return f" over {result.photographs} photographs"


def _source(likelihood: LikelihoodResult | None) -> str:
    """Where the headline number comes from."""
    if likelihood is None:
        return "the negative ELBO"
    return (
        f"importance sampling, {likelihood.samples} samples, {likelihood.estimator}, "
        f"{likelihood.seconds:.0f} s"
    )


def _active_units(elbo: ElboResult, latent: str) -> str:
    """How many of a latent's units are in use."""
    counts = elbo.units[latent]
    line = f"{latent}: {counts.active} of {counts.units} units active"
    line += " (variance of the posterior mean above 0.01)"
    if counts.kl is not None:
        line += f", {counts.kl} with a KL above 0.01 nats"
    return line


def _trust(likelihood: LikelihoodResult) -> str:
    """How far the importance weights can be trusted."""
    share = 100 * (likelihood.pareto_k_above_threshold or 0)
    return (
        f"importance weights: {likelihood.effective_samples:.1f} effective of {likelihood.samples} "
        f"samples, Pareto k {likelihood.pareto_k:.2f} on average, above {UNRELIABLE_K} for "
        f"{share:.0f}% of the images: the nll is an upper bound that more samples would lower"
    )
