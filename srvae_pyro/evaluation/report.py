"""An evaluation as text: the paper's Table 1, and below it each result's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from srvae_pyro.evaluation.fid import FidResult
from srvae_pyro.evaluation.likelihood import ElboResult, LikelihoodResult, over_photographs
from srvae_pyro.evaluation.measures import Result, columns
from srvae_pyro.evaluation.selection import Selection

BATCHES = "imagenet32-batches"
HEADS = ["data set", "model", "nll (bits/dim)", "RE_x", "RE_y", "KL_z", "KL_u", "FID (train)"]
# Table 1 of the paper by data set and by what the model was trained on. Its ImageNet32 is another
# downsampling than that of van den Oord et al. (its Table 2): the pickled batches.
PUBLISHED = {
    ("cifar10", "cifar10"): [
        ["cifar10", "VAE, paper", "3.510", "5540", "-", "1966", "-", "41.36 (37.25)"],
        ["cifar10", "srVAE, paper", "3.650", "5107", "1241", "619", "819", "34.71 (29.95)"],
    ],
    (BATCHES, "cifar10"): [
        [BATCHES, "VAE, paper", "3.800", "6386", "-", "1707", "-", "51.82 (N/A)"],
        [
            "imagenet32-batches",
            "srVAE, paper",
            "4.000",
            "5907",
            "1257",
            "597",
            "805",
            "45.37 (N/A)",
        ],
    ],
}


def print_results(results: Mapping[str, Result], selection: Selection, trained_on: str) -> None:
    """Print Table 1, with published rows of the same data, and each result's own table."""
    elbo, likelihood, fid = (results.get(name) for name in ("elbo", "likelihood", "fid"))
    if isinstance(elbo, ElboResult):
        assert likelihood is None or isinstance(likelihood, LikelihoodResult)
        assert fid is None or isinstance(fid, FidResult)
        name = selection.data.name
        published = PUBLISHED.get((name, trained_on), []) if selection.is_test_split else []
        rows = [HEADS, _row(Path(name).name, elbo, likelihood, fid), *published]
        print(columns(rows if published or fid else [row[:-1] for row in rows], left=2))
        source = "the negative ELBO"
        if likelihood is not None:
            source = f"importance sampling, {likelihood.samples} samples, {likelihood.estimator}, "
            source += f"{likelihood.seconds:.0f} s"
        over = over_photographs(likelihood or elbo)
        print(f"nll: {source}{f', ±{over}' if over else ''}; the terms in nats an image")
    for result in results.values():
        if text := result.table(results):
            print(text)


def _row(
    data: str, elbo: ElboResult, likelihood: LikelihoodResult | None, fid: FidResult | None
) -> list[str]:
    nll = likelihood or elbo
    error = "" if nll.standard_error is None else f" ± {nll.standard_error:.3f}"
    cells = [data, "srVAE" if "re_y" in elbo.terms else "VAE", f"{nll.bits_per_dim:.3f}{error}"]
    for name in ("re_x", "re_y", "kl_z", "kl_u"):
        cells.append(f"{elbo.terms[name]:.0f}" if name in elbo.terms else "-")
    distances = fid.distances if fid else {}
    test, train = (
        f"{distances[split].fid:.2f}" if split in distances else "N/A"
        for split in ("test", "train")
    )
    return [*cells, f"{test} ({train})"]
