"""Evaluations as people read them: the paper's Table 1, and a run's ``evaluation.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srvae_pyro.files import write_json

__all__ = ["EVALUATION", "PUBLISHED", "Row", "record", "table"]

EVALUATION = "evaluation.json"


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
            test, train = (
                "N/A" if f is None else f"{f:.2f}" for f in (row.fid_test, row.fid_train)
            )
            cells.append(f"{test} ({train})")
        lines.append(cells)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def record(folder: Path, key: str, result: dict[str, Any]) -> Path:
    """Put a result under ``key`` into the folder's ``evaluation.json``, beside the others there."""
    path = folder / EVALUATION
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if not isinstance(known, dict):
        known = {}
    write_json(path, {**known, key: result})
    return path
