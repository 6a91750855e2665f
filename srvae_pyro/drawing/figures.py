"""The paper's figures of a run: the command ``figures`` from its arguments to its report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from srvae_pyro.config import RunConfig
from srvae_pyro.data.run_data import load_for, warn_if_trained_on
from srvae_pyro.data.splits import evenly_spaced
from srvae_pyro.drawing.arguments import FiguresArguments
from srvae_pyro.drawing.generate import check_sampling, for_model
from srvae_pyro.drawing.grids import LabelledRow, labelled_rows
from srvae_pyro.errors import UserError
from srvae_pyro.inference.sampling import Sampling
from srvae_pyro.models import SRVAE, ImageModel, load, super_resolves
from srvae_pyro.pixels import to_unit
from srvae_pyro.runs import find_run, read_config, results_folder
from srvae_pyro.system.device import choose_device, start
from srvae_pyro.system.files import check_output, replaced, write_whole
from srvae_pyro.system.hub import is_cached_copy

DEVIATION_OF = 8  # outputs at least, for a map of where they differ
SAMPLE_ROWS = 4
INTERPOLATIONS = 4
INTERPOLATION_STEPS = 8

Figures = dict[str, list[LabelledRow]]  # by file name


def draw_figures(arguments: FiguresArguments) -> int:
    folder = find_run(arguments.run)
    config = read_config(folder)
    out = arguments.out
    if out is None:
        results = results_folder(arguments.run, folder)
        out = Path("figures") if is_cached_copy(folder) else results / "figures"
    check_output(out, "--out DIR")
    device = choose_device(arguments.device)
    start(device, threads=arguments.threads)
    models = {folder.name: load(folder, device)}
    configs = {folder: config}
    if arguments.compare is not None:
        other = find_run(arguments.compare)
        configs[other] = read_config(other)
        if configs[other].model.image_shape != config.model.image_shape:
            raise UserError(f"{other} and {folder} are for images of different sizes")
        models[other.name if other.name != folder.name else str(other)] = load(other, device)
    sampling = arguments.sampling
    check_sampling(sampling, *models.values())
    x = _test_images(configs, arguments).to(device)
    if len(models) == 1:
        figures = figures_of(models[folder.name], x, arguments.samples, sampling)
    else:
        figures = compared(models, x[::2], sampling)
    for name, rows in figures.items():
        image = labelled_rows(rows, arguments.side)
        path = out / f"{name}.png"
        earlier = replaced(path)
        write_whole(path, image.save)
        print(f"{path}{earlier}")
    return 0


def _test_images(configs: dict[Path, RunConfig], arguments: FiguresArguments) -> Tensor:
    """Test images x (2N, C, H, W) of the first run's data, two for each of a row's images."""
    data = load_for(next(iter(configs.values())), arguments.data, arguments.data_root)
    if not len(data.test):
        raise UserError(f"{data.name} has no test images: name others with `data`")
    for run, config in configs.items():
        warn_if_trained_on(run, config, data, "test")
    x = to_unit(evenly_spaced(data.test, 2 * arguments.count))
    # Images of a folder are often in the order of their classes: not one kind only.
    x = x[: 2 * (len(x) // 2)]
    if not len(x):
        raise UserError("figures need at least 2 test images: there is 1")
    return x


def figures_of(model: ImageModel, x: Tensor, samples: int, sampling: Sampling) -> Figures:
    """The figures of one model for images x (2N, C, H, W)."""
    first = x[::2]
    figures = {
        "paper-samples": sample_rows(model, len(first), sampling),
        "paper-reconstructions": [
            LabelledRow("image", first),
            LabelledRow("reconstruction", model.reconstruct(first, **vars(sampling))["x"]),
        ],
        "paper-interpolations": interpolation_rows(model, x, sampling),
    }
    if super_resolves(model):
        figures |= {
            "paper-super-resolution": super_resolution_rows(model, first, samples, sampling),
            "paper-generative-reconstructions": generative_rows(model, first, sampling),
            "swapped-latents": swapped_rows(model, x, sampling),
        }
    return figures


def sample_rows(model: ImageModel, count: int, sampling: Sampling) -> list[LabelledRow]:
    """New images in rows of ``count``, each row of x's after its row of y's."""
    sites = model.generate(SAMPLE_ROWS * count, **vars(sampling))
    rows = []
    for start_of_row in range(0, SAMPLE_ROWS * count, count):
        part = slice(start_of_row, start_of_row + count)
        if "y" in sites:
            rows.append(LabelledRow("y", sites["y"][part], gap=start_of_row > 0))
        rows.append(LabelledRow("x", sites["x"][part]))
    return rows


def interpolation_rows(model: ImageModel, x: Tensor, sampling: Sampling) -> list[LabelledRow]:
    """From x[0] to x[1], from x[2] to x[3] and so on, with y if there is one."""
    a, b = x[0 : 2 * INTERPOLATIONS : 2], x[1 : 2 * INTERPOLATIONS : 2]
    sites = model.interpolate(a, b, INTERPOLATION_STEPS, **vars(sampling))
    rows = []
    for pair in range(len(a)):
        ends = (a[pair : pair + 1], b[pair : pair + 1])
        if super_resolves(model):
            y = [model.guide.d(end) for end in ends]
            path = torch.cat([y[0], sites["y"][:, pair], y[1]])
            rows.append(LabelledRow("y", path, gap=pair > 0))
        path = torch.cat([ends[0], sites["x"][:, pair], ends[1]])
        rows.append(LabelledRow("x", path))
    return rows


def super_resolution_rows(
    model: SRVAE, x: Tensor, samples: int, sampling: Sampling
) -> list[LabelledRow]:
    """Outputs to y = d(x): some samples, where they differ, and the mode."""
    y = model.guide.d(x)
    count = max(samples, DEVIATION_OF)
    outputs = model.super_resolve(y, count, **vars(sampling))["x"]
    deviation = outputs.std(dim=0, correction=1).square().mean(dim=1, keepdim=True).sqrt()
    mode = model.super_resolve(y, decode="mode", temperature=0.0)["x"][0]
    return [
        LabelledRow("y = d(x)", y),
        *(LabelledRow(f"x given y, {i + 1}", outputs[i]) for i in range(samples)),
        LabelledRow(f"std of {count} samples", deviation / deviation.amax().clamp_min(1e-12)),
        LabelledRow("mode", mode),
        LabelledRow("image", x),
    ]


def generative_rows(model: SRVAE, x: Tensor, sampling: Sampling) -> list[LabelledRow]:
    generated = model.generative_reconstruct(x, **vars(sampling))
    return [
        LabelledRow("image", x),
        LabelledRow("y = d(x)", model.guide.d(x)),
        LabelledRow("y from u", generated["y"]),
        LabelledRow("x from u", generated["x"]),
        LabelledRow("x from y, z", model.reconstruct(x, **vars(sampling))["x"]),
    ]


def swapped_rows(model: SRVAE, x: Tensor, sampling: Sampling) -> list[LabelledRow]:
    """u of x[0] with z of x[1] and so on, beside u with its own z; pixels are the likeliest."""
    a, b = x[::2], x[1::2]
    settings = vars(replace(sampling, decode="mode"))
    unchanged, swapped = model.recombine(a, a, **settings), model.recombine(a, b, **settings)
    return [
        LabelledRow("a", a),
        LabelledRow("b", b),
        LabelledRow("y from u of a", unchanged["y"]),
        LabelledRow("x: u of a, z of a", unchanged["x"]),
        LabelledRow("x: u of a, z of b", swapped["x"]),
        LabelledRow("x: u of a, z given u", model.generative_reconstruct(a, **settings)["x"]),
    ]


def compared(models: dict[str, ImageModel], x: Tensor, sampling: Sampling) -> Figures:
    samples: list[LabelledRow] = []
    reconstructions = [LabelledRow("image", x)]
    for name, model in models.items():
        settings = vars(for_model(sampling, model))
        generated = model.generate(2 * len(x), **settings)["x"]
        samples += [
            LabelledRow(name, generated[: len(x)], gap=bool(samples)),
            LabelledRow("", generated[len(x) :]),
        ]
        reconstructions.append(LabelledRow(name, model.reconstruct(x, **settings)["x"]))
    return {"compared-samples": samples, "compared-reconstructions": reconstructions}
