"""The paper's figures for any run: ``python -m srvae_pyro.figures --help``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from srvae_pyro.commands import at_least, check_folder, option, run_command
from srvae_pyro.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from srvae_pyro.evaluation.labelled import LabelledRow
    from srvae_pyro.models import SRVAE, ImageModel

__all__ = ["FiguresArguments", "main"]

DEVIATION_OF = 8  # answers at least, for a map of where they differ


@dataclass
class FiguresArguments:
    """Draw the paper's Figures 3 and 5 to 11 for a run, as labelled PNGs.

    Samples, reconstructions and interpolations; for the srVAE also super-resolution, generative
    reconstructions, and pictures made from u of one and z of another; with --compare two runs side
    by side.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """a run's name under runs/, its folder, or a Hub id"""
    compare: Annotated[str | None, option("RUN", "no other")] = None
    """another run, to be drawn beside the first"""
    data: Annotated[str | None, option("NAME|DIR", "what the run was trained on")] = None
    """a data set's name or a folder of pictures, whose test pictures are drawn"""
    data_root: Path = Path("data")
    """where the named data sets are, or are downloaded to"""
    count: int = 10
    """pictures a row"""
    samples: int = 3
    """answers of super-resolution for each picture"""
    decode: Literal["sample", "mode", "mean"] = "sample"
    """draw each pixel, take the likeliest component's mean, or the expectation"""
    temperature: float = 1.0
    """factor on the standard deviations of the latents"""
    seed: int = 0
    """of all noise"""
    side: Annotated[int, tyro.conf.arg(metavar="PIXELS")] = 80
    """height of a picture in a figure, about"""
    out: Annotated[Path | None, option("DIR", "the run's figures/")] = None
    """folder for the figures"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU if there is one"""


def main(arguments: FiguresArguments) -> int:
    """Draw as asked; the exit code."""
    at_least(arguments, count=1, samples=1, side=1, seed=0)
    check_folder(arguments.out)

    from srvae_pyro.evaluation.labelled import labelled_rows
    from srvae_pyro.evaluation.run_data import load_for, warn_if_trained_on
    from srvae_pyro.evaluation.terms import spread
    from srvae_pyro.files import write_whole
    from srvae_pyro.models import load
    from srvae_pyro.pixels import to_unit
    from srvae_pyro.runs import find_run, read_config
    from srvae_pyro.runtime import choose_device
    from srvae_pyro.system.hub import is_cached_copy

    folder = find_run(arguments.run)
    config = read_config(folder)
    device = choose_device(arguments.device)
    models = {folder.name: load(folder, device)}
    if arguments.compare is not None:
        other = find_run(arguments.compare)
        if read_config(other).model.image_shape != config.model.image_shape:
            raise UserError(f"{other} and {folder} are for pictures of different sizes")
        models[other.name if other.name != folder.name else str(other)] = load(other, device)
    data = load_for(config, arguments.data, arguments.data_root)
    if not len(test := data.test):
        raise UserError(f"{data.name} has no test pictures: name others with --data")
    for run in (folder, other) if arguments.compare is not None else (folder,):
        warn_if_trained_on(run, read_config(run), data, "test")
    x = to_unit(spread(test, 2 * arguments.count))
    # Pictures of a folder are often in the order of their classes: not one kind only.
    x = x[: 2 * (len(x) // 2)]
    if not len(x):
        raise UserError("figures need at least 2 test pictures: there is 1")
    figures: dict[str, list[LabelledRow]] = {}
    if len(models) == 1:
        figures = figures_of(models[folder.name], x.to(device), arguments)
    else:
        figures = compared(models, x.to(device), arguments)
    out = arguments.out or (Path("figures") if is_cached_copy(folder) else folder / "figures")
    for name, rows in figures.items():
        picture = labelled_rows(rows, arguments.side)
        write_whole(out / f"{name}.png", picture.save)
        print(out / f"{name}.png")
    return 0


def figures_of(
    model: ImageModel, x: Tensor, arguments: FiguresArguments
) -> dict[str, list[LabelledRow]]:
    """The figures of one model, by file name, with pictures x (2N, C, H, W)."""
    from srvae_pyro.evaluation.labelled import LabelledRow
    from srvae_pyro.models import SRVAE

    first = x[::2]
    figures = {
        "paper-samples": sample_rows(model, len(first), arguments),
        "paper-reconstructions": [
            LabelledRow("picture", first),
            LabelledRow("reconstruction", reconstructed(model, first, arguments)),
        ],
        "paper-interpolations": interpolation_rows(model, x, arguments),
    }
    if not isinstance(model, SRVAE):
        return figures
    y = model.guide.d(first)
    options: Any = {"temperature": arguments.temperature, "seed": arguments.seed}
    number = max(arguments.samples, DEVIATION_OF)
    answers = model.super_resolve(y, number, decode=arguments.decode, **options)["x"]
    deviation = answers.std(dim=0, correction=1).square().mean(dim=1, keepdim=True).sqrt()
    likeliest = model.super_resolve(y, decode="mode", temperature=0.0)["x"][0]
    figures["paper-super-resolution"] = [
        LabelledRow("y = d(x)", y),
        *(LabelledRow(f"x given y, {i + 1}", answers[i]) for i in range(arguments.samples)),
        LabelledRow(f"deviation of {number}", deviation / deviation.amax()),
        LabelledRow("likeliest", likeliest),
        LabelledRow("picture", first),
    ]
    again = model.generative_reconstruct(first, decode=arguments.decode, **options)
    figures["paper-generative-reconstructions"] = [
        LabelledRow("picture", first),
        LabelledRow("y = d(x)", y),
        LabelledRow("y from u", again["y"]),
        LabelledRow("x from u", again["x"]),
        LabelledRow("x from y, z", reconstructed(model, first, arguments)),
    ]
    figures["swapped-latents"] = swapped_rows(model, x, arguments)
    return figures


def swapped_rows(model: SRVAE, x: Tensor, arguments: FiguresArguments) -> list[LabelledRow]:
    """u of x[0] with z of x[1], of x[2] with x[3] and so on, beside the same u with its own z.

    By default z and u are sampled, and pixels are the likeliest, so that what differs is latent.
    """
    from srvae_pyro.evaluation.labelled import LabelledRow

    a, b = x[::2], x[1::2]
    options: Any = {"temperature": arguments.temperature, "seed": arguments.seed, "decode": "mode"}
    own, swapped = model.recombine(a, a, **options), model.recombine(a, b, **options)
    return [
        LabelledRow("a", a),
        LabelledRow("b", b),
        LabelledRow("y from u of a", own["y"]),
        LabelledRow("x: u of a, z of a", own["x"]),
        LabelledRow("x: u of a, z of b", swapped["x"]),
        LabelledRow("x: u of a, z given u", model.generative_reconstruct(a, **options)["x"]),
    ]


def sample_rows(model: ImageModel, count: int, arguments: FiguresArguments) -> list[LabelledRow]:
    """New pictures in rows of ``count``, each row of x's after its row of y's."""
    from srvae_pyro.evaluation.labelled import LabelledRow

    sites = model.generate(
        4 * count,
        decode=arguments.decode,
        temperature=arguments.temperature,
        seed=arguments.seed,
    )
    rows = []
    for part in range(0, 4 * count, count):
        gap = part > 0
        if "y" in sites:
            rows.append(LabelledRow("y", sites["y"][part : part + count], gap))
            gap = False
        rows.append(LabelledRow("x", sites["x"][part : part + count], gap and "y" in sites))
    return rows


def reconstructed(model: ImageModel, x: Tensor, arguments: FiguresArguments) -> Tensor:
    """x from its own latents."""
    return model.reconstruct(
        x, decode=arguments.decode, temperature=arguments.temperature, seed=arguments.seed
    )["x"]


def interpolation_rows(
    model: ImageModel, x: Tensor, arguments: FiguresArguments
) -> list[LabelledRow]:
    """From x[0] to x[1], from x[2] to x[3] and so on: a row, or two with y, for each of four."""
    import torch

    from srvae_pyro.evaluation.labelled import LabelledRow

    a, b = x[0:8:2], x[1:8:2]
    sites = model.interpolate(
        a, b, 8, decode=arguments.decode, temperature=arguments.temperature, seed=arguments.seed
    )
    lower: Any = getattr(model.guide, "d", None)
    rows = []
    for pair in range(len(a)):
        ends = (a[pair : pair + 1], b[pair : pair + 1])
        way = torch.cat([ends[0], sites["x"][:, pair], ends[1]])
        gap = pair > 0 and "y" in sites
        if "y" in sites:
            small = [lower(end) for end in ends]
            rows.append(LabelledRow("y", torch.cat([small[0], sites["y"][:, pair], small[1]]), gap))
            gap = False
        rows.append(LabelledRow("picture, way, picture", way, gap))
    return rows


def compared(
    models: dict[str, ImageModel], x: Tensor, arguments: FiguresArguments
) -> dict[str, list[LabelledRow]]:
    """Samples and reconstructions of several models beside each other."""
    from srvae_pyro.evaluation.labelled import LabelledRow

    first = x[::2]
    samples: list[LabelledRow] = []
    rebuilt = [LabelledRow("picture", first)]
    for name, model in models.items():
        drawn = model.generate(
            2 * len(first),
            decode=arguments.decode,
            temperature=arguments.temperature,
            seed=arguments.seed,
        )["x"]
        samples += [
            LabelledRow(name, drawn[: len(first)], bool(samples)),
            LabelledRow("", drawn[len(first) :]),
        ]
        rebuilt.append(LabelledRow(name, reconstructed(model, first, arguments)))
    return {"compared-samples": samples, "compared-reconstructions": rebuilt}


if __name__ == "__main__":
    run_command(FiguresArguments, main, "figures", "give a smaller --count or --samples")
