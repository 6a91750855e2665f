"""Evaluations as text: the paper's Table 1, and what does not fit into a table."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from pathlib import Path

from srvae_pyro.evaluation.coding import CodingResult
from srvae_pyro.evaluation.columns import columns
from srvae_pyro.evaluation.elbo_terms import ElboResult
from srvae_pyro.evaluation.kid import KID_NAME, KidResult
from srvae_pyro.evaluation.likelihood import UNRELIABLE_K, LikelihoodResult
from srvae_pyro.evaluation.measures import Measures
from srvae_pyro.evaluation.selection import Selection
from srvae_pyro.evaluation.super_resolution_report import super_resolution_table

__all__ = [
    "PUBLISHED",
    "Row",
    "compression_table",
    "kid_table",
    "print_measures",
    "refinement_table",
    "super_resolution_table",
]


@dataclass(frozen=True)
class Row:
    """A row of Table 1; None where there is no such number.

    ``nll`` in bits/dim, ``error`` its standard error over the images, the terms in nats an image,
    ``fid`` against test and, in brackets, training pictures.
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
    heads = ["", "±", "pictures", "real", "precision", "recall", "density", "coverage"]
    rows = [[KID_NAME, *heads]]
    for name, row in result.rows.items():
        error = "-" if row.standard_error is None else f"{row.standard_error:.4f}"
        cells = [name, f"{row.kid:.4f}", error, f"{row.pictures:,}", f"{row.real:,}"]
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
        nll: of the same pictures by importance sampling, bits/dim, if it was estimated.
    """
    rows = [[f"{result.pictures:,} pictures", "bytes", "bits/dim", "MB/s to write", "to read"]]

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
    text += f"pictures; bytes to start with, whatever their number: {starts}"
    written = result.pictures_per_second(result.model.write_mb_per_second)
    read = result.pictures_per_second(result.model.read_mb_per_second)
    text += f"\nevery picture came back to the bit; {written:.3g} pictures a second written, "
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
        drawn: how pictures were generated, as flags.
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
            f"{distances.generated:,} generated against {distances.real:,} {split} pictures"
        )
    if measures.kid:
        print(kid_table(measures.kid))
    if drawn and (measures.distances or measures.kid):
        print(f"generated with {drawn}")
    for enlarged in measures.super_resolution:
        print(super_resolution_table(enlarged))
    if measures.compression:
        same = measures.compression.pictures == len(selection.images)
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
