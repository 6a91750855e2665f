"""An evaluation as text: the paper's Table 1, and below it what each measure has to say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from srvae_pyro.evaluation.fid import FidResult
from srvae_pyro.evaluation.likelihood import ElboResult, LikelihoodResult, over_photographs
from srvae_pyro.evaluation.measures import Result, columns
from srvae_pyro.evaluation.selection import Selection


@dataclass(frozen=True)
class Row:
    """A row of Table 1; None if there is no such number.

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


def print_results(results: Mapping[str, Result], selection: Selection, trained_on: str) -> None:
    """Print Table 1, if there is an ELBO for its row, and the results' own tables below it.

    ``trained_on`` is the data set that the model was trained on: published rows are of the same.
    """
    elbo, likelihood, fid = (results.get(name) for name in ("elbo", "likelihood", "fid"))
    if isinstance(elbo, ElboResult):
        assert likelihood is None or isinstance(likelihood, LikelihoodResult)
        assert fid is None or isinstance(fid, FidResult)
        name = selection.data.name
        published = PUBLISHED.get((name, trained_on), []) if selection.is_test_split else []
        print(table([_row(Path(name).name, elbo, likelihood, fid), *published]))
        over = over_photographs(likelihood or elbo)
        nll = f"nll: {_source(likelihood)}{f', ±{over}' if over else ''}"
        print(f"{nll}; the terms in nats an image")
    for result in results.values():
        if text := result.table(results):
            print(text)


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


def _row(
    data: str, elbo: ElboResult, likelihood: LikelihoodResult | None, fid: FidResult | None
) -> Row:
    """The model's row of Table 1, its nll by importance sampling if that was requested."""
    terms, nll = elbo.terms, likelihood or elbo
    distances = fid.distances if fid else {}
    return Row(
        data,
        "srVAE" if "re_y" in terms else "VAE",
        nll.bits_per_dim,
        re_x=terms["re_x"],
        re_y=terms.get("re_y"),
        kl_z=terms["kl_z"],
        kl_u=terms.get("kl_u"),
        error=nll.standard_error,
        fid_test=distances["test"].fid if "test" in distances else None,
        fid_train=distances["train"].fid if "train" in distances else None,
    )


def _source(likelihood: LikelihoodResult | None) -> str:
    """Where the headline number comes from."""
    if likelihood is None:
        return "the negative ELBO"
    return (
        f"importance sampling, {likelihood.samples} samples, {likelihood.estimator}, "
        f"{likelihood.seconds:.0f} s"
    )
