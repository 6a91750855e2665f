"""What a run's folder tells of its training: settings, curves, figures."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from srvae_pyro.models import ImageModel
from srvae_pyro.page.uploads import size_in_words
from srvae_pyro.runs import WEIGHTS, validation_images, validation_nats

__all__ = ["MOST_POINTS", "Curves", "copy_figures", "read_curves", "settings_in_words"]

METRICS = "metrics.jsonl"
MOST_POINTS = 500  # of a curve
# What is worth a curve first, and how it is called.
NAMES = {
    "bits_per_dim": "ELBO (bits/dim)",
    "re_x": "RE_x (nats an image)",
    "re_y": "RE_y (nats an image)",
    "kl_z": "KL_z (nats an image)",
    "kl_u": "KL_u (nats an image)",
    "loss": "loss (nats an image)",
    "gradient_norm": "gradient norm",
    "lr": "learning rate",
    "images_per_second": "images a second",
}
SPLITS = {"train": "training", "val": "validation"}


@dataclass
class Curves:
    """The metrics of a run.

    Attributes:
        points: by metric, as it is called here, (step, value, split) of each.
    """

    points: dict[str, list[tuple[int, float, str]]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The metrics that there are, the ELBO first."""
        known = [name for name in NAMES.values() if name in self.points]
        return known + sorted(set(self.points) - set(known))


def read_curves(folder: Path) -> Curves:
    """What ``metrics.jsonl`` has; nothing where there is none, and no lines that are damaged."""
    curves = Curves()
    try:
        lines = (folder / METRICS).read_text("utf-8-sig", errors="replace").splitlines()
    except OSError:
        return curves
    for line in lines:
        try:
            values: dict[str, Any] = dict(json.loads(line))
            split, step = SPLITS[values.pop("split")], int(values.pop("step"))
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
        for name, value in values.items():
            if name in NAMES and isinstance(value, int | float) and math.isfinite(value):
                points = curves.points.setdefault(NAMES[name], [])
                points.append((step, float(value), split))
    for name, points in curves.points.items():
        curves.points[name] = [
            point for split in SPLITS.values() for point in _thinned(points, split)
        ]
    return curves


def _thinned(points: list[tuple[int, float, str]], split: str) -> list[tuple[int, float, str]]:
    """Those of a split, evenly spaced where they are many, the last among them."""
    own = [point for point in points if point[2] == split]
    every = math.ceil(len(own) / MOST_POINTS) or 1
    return own[::-1][::every][::-1]


def copy_figures(run: Path, folder: Path) -> list[tuple[str, str]]:
    """Copies in ``folder`` of the pictures in a run's ``figures/``, with a caption each."""
    shown = []
    for figure in sorted((run / "figures").glob("*.png")):
        shutil.copyfile(figure, folder / figure.name)
        shown.append((str(folder / figure.name), figure.stem.replace("-", " ")))
    return shown


def settings_in_words(run: Path, model: ImageModel) -> list[tuple[str, str]]:
    """What the run is: names and values."""
    config = model.config
    parameters = sum(parameter.numel() for parameter in model.parameters())
    rows = [
        ("run", run.name),
        ("model", "srVAE" if config.model == "srvae" else "one-level VAE"),
        ("images", f"{size_in_words(model)}, {config.image_shape[0]} channels"),
        ("parameters", f"{parameters:,}"),
    ]
    if config.model == "srvae":
        rows += [("d(x)", config.d), ("p(x given y, z)", config.likelihood)]
    if model.run_config is not None:
        rows += [("preset", model.run_config.preset or "its own")]
        rows += [("data", Path(model.run_config.data.data).name)]
    nats = validation_nats(run / WEIGHTS)
    if nats is not None and math.isfinite(nats):
        bits = nats / (math.prod(config.image_shape) * math.log(2))
        images = validation_images(run / WEIGHTS)
        of = f", {images:,} pictures" if images else ""
        rows.append(("validation ELBO", f"{bits:.3f} bits/dim{of}"))
    return rows
