"""Measure a trained model: ``python -m srvae_pyro.evaluate --help``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from srvae_pyro.commands import option, run_command
from srvae_pyro.errors import UserError

__all__ = ["EvaluateArguments", "main"]


@dataclass
class EvaluateArguments:
    """Measure a trained model: the evidence lower bound and its terms on a data set's pictures.

    Terms in nats an image as in the paper's Table 1, their sum in bits/dim. Computed in float32.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """a run's name under runs/, its folder, or a Hub id"""
    data: Annotated[str | None, option("NAME|DIR", "what the run was trained on")] = None
    """a data set's name or a folder of pictures"""
    data_root: Path = Path("data")
    """where the named data sets are, or are downloaded to"""
    split: Literal["train", "val", "test"] = "test"
    """which pictures"""
    limit: Annotated[int | None, option("N", "all")] = None
    """only so many, evenly spaced over the split, the same ones always"""
    batch_size: int = 100
    """pictures at a time"""
    seed: int = 0
    """of the latents' noise"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU if there is one"""
    json: Annotated[Path | None, option("FILE", "the terminal only")] = None
    """also write the numbers to this file"""


def size_for(data: str | None, height: int, width: int) -> int | None:
    """The size to bring another data set's pictures to, where that can be done."""
    from srvae_pyro.data import DATA_SETS

    return height if height == width and (data == "photos" or data not in DATA_SETS) else None


def main(arguments: EvaluateArguments) -> int:
    """Evaluate as asked; the exit code."""
    for name in ("limit", "batch_size"):
        if getattr(arguments, name) is not None and getattr(arguments, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1")

    import pyro

    from srvae_pyro import __version__
    from srvae_pyro.data import load_data
    from srvae_pyro.evaluation.elbo import TermsELBO
    from srvae_pyro.evaluation.terms import evaluate_elbo, spread
    from srvae_pyro.files import write_json
    from srvae_pyro.models.loading import find_run, load, read_config
    from srvae_pyro.runtime import choose_device

    folder = find_run(arguments.run)
    config = read_config(folder)
    device = choose_device(arguments.device)
    model = load(folder, device)
    pyro.enable_validation(False)
    channels, height, width = config.model.image_shape
    own = arguments.data is None
    data = load_data(
        config.data.data if arguments.data is None else arguments.data,
        arguments.data_root,
        image_size=config.data.image_size if own else size_for(arguments.data, height, width),
        channels=channels,
        seed=config.data.seed,
        limit=config.data.limit if own else None,
    )
    if data.shape != (channels, height, width):
        raise UserError(
            f"{data.name} has pictures of {data.shape[1]}x{data.shape[2]}, the model is for "
            f"{height}x{width}: give --data of that size"
        )
    images = spread(getattr(data, arguments.split), arguments.limit)
    values = evaluate_elbo(
        model,
        images,
        device,
        TermsELBO(analytic_kl=True),
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        progress=True,
    )
    print(f"{folder} on {data.name}, {arguments.split}, {len(images):,} pictures")
    for name, value in values.items():
        if name != "bits_per_dim":
            title = "negative ELBO" if name == "nats" else name.upper()
            print(f"  {title:14} {value:10.2f} nats an image")
    print(f"  {'':14} {values['bits_per_dim']:10.4f} bits/dim")
    if arguments.json:
        write_json(
            arguments.json,
            {
                "run": str(folder),
                "data": data.name,
                "split": arguments.split,
                "images": len(images),
                "seed": arguments.seed,
                "version": __version__,
                "elbo": values,
            },
        )
    return 0


if __name__ == "__main__":
    run_command(EvaluateArguments, main, "evaluate")
