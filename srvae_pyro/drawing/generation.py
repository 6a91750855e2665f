"""Draw new pictures into a folder: the command ``generate`` from its arguments to its report."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from srvae_pyro import __version__
from srvae_pyro.drawing.arguments import GenerateArguments
from srvae_pyro.drawing.generated import GeneratedPictures, chunks
from srvae_pyro.drawing.grids import grid, save_picture, side_by_side
from srvae_pyro.drawing.sampling import sampling_of
from srvae_pyro.inference.operations import Sampling
from srvae_pyro.models import ImageModel, load
from srvae_pyro.models.loading import weights_digest
from srvae_pyro.runs import find_run, results_folder
from srvae_pyro.system.console import Bar
from srvae_pyro.system.device import start
from srvae_pyro.system.files import check_output
from srvae_pyro.system.hub import is_cached_copy
from srvae_pyro.system.parallel import Group, process_group

__all__ = ["generate"]

IN_GRID = 64  # pictures, the first ones

Sites = dict[int, dict[str, Tensor]]  # by the picture's index and the site's name


def generate(arguments: GenerateArguments) -> int:
    """Generate as asked; the exit code."""
    with process_group(arguments.device) as group:
        return generate_in(group, arguments)


def generate_in(group: Group, arguments: GenerateArguments) -> int:
    """One process of the group's part of the pictures; the exit code."""
    start(group.device, threads=arguments.threads)
    folder = find_run(arguments.run)
    out = arguments.out
    if out is None:
        out = results_folder(arguments.run, folder) / "figures" / "generated"
        out = Path("generated") if is_cached_copy(folder) else out
    check_output(out, "--out DIR")
    model = load(folder, group.device)
    sampling_of(arguments, model)  # refuses what cannot be, before a folder is touched
    settings = _settings(model, arguments)
    pictures = GeneratedPictures(out, str(folder), settings, arguments.count)
    moved = 0
    with ExitStack() as stack:
        with group.main_first():
            if group.main:
                moved = stack.enter_context(pictures.claimed())
        shown, drawn_before = _draw_missing(model, pictures, group, arguments)
        if group.main:
            save_picture(_grid(model, shown, arguments), pictures.grid)
    if group.main:
        _report(pictures, drawn_before, moved)
    return 0


def _settings(model: ImageModel, arguments: GenerateArguments) -> dict[str, Any]:
    """All that decides what the pictures are."""
    settings = {
        "weights": weights_digest(model),
        "seed": arguments.seed,
        "decode": arguments.decode,
        "temperature": float(arguments.temperature),
        "image_temperature": float(arguments.image_temperature),
        "version": __version__,
    }
    # Not where it changes nothing: pictures of versions that had none are the same.
    if arguments.y_temperature not in (None, arguments.image_temperature):
        settings["y_temperature"] = arguments.y_temperature
    return settings


def _draw_missing(
    model: ImageModel, pictures: GeneratedPictures, group: Group, arguments: GenerateArguments
) -> tuple[Sites, int]:
    """Draw and write what is not there yet of this process's share.

    Returns:
        Of all processes: the sites of those of the grid's pictures that were drawn, and how many
        pictures were there already. Other pictures are not kept in memory.
    """
    share = group.share(arguments.count)
    indices = range(share.start, share.stop)
    missing = pictures.missing(indices)
    drawn_before = len(indices) - len(missing)
    shown: Sites = {}
    with Bar(
        total=len(indices), initial=drawn_before, unit="picture", disable=not group.main
    ) as bar:
        for chunk in chunks(missing, arguments.batch_size):
            sites = _draw(model, chunk, arguments)
            for index, picture in zip(chunk, sites["x"], strict=True):
                save_picture(picture, pictures.path(index))
            shown |= _first_pictures(sites, chunk, min(IN_GRID, arguments.count))
            bar.update(len(chunk))
    every_shown, every_before = group.gather(shown), group.gather(drawn_before)
    return {index: kept for part in every_shown for index, kept in part.items()}, sum(every_before)


def _draw(model: ImageModel, indices: range, arguments: GenerateArguments) -> dict[str, Tensor]:
    """The sites of the pictures of these indices, in one batch."""
    sampling: Sampling = {**sampling_of(arguments, model), "batch_size": len(indices)}
    return model.generate(len(indices), first=indices.start, **sampling)


def _first_pictures(sites: dict[str, Tensor], indices: range, count: int) -> Sites:
    """Each picture's y, if there is one, and x, of those among the first ``count``."""
    names = [name for name in ("y", "x") if name in sites]
    kept = range(indices.start, min(indices.stop, count))
    # Copies, which do not hold on to the whole batch.
    values = {name: sites[name][: len(kept)].clone().cpu() for name in names}
    return {index: {name: values[name][i] for name in names} for i, index in enumerate(kept)}


def _grid(model: ImageModel, shown: Sites, arguments: GenerateArguments) -> Tensor:
    """The first pictures in one, each y beside its x; what is not there yet is drawn."""
    count = min(IN_GRID, arguments.count)
    missing = [index for index in range(count) if index not in shown]
    for chunk in chunks(missing, arguments.batch_size):
        shown = shown | _first_pictures(_draw(model, chunk, arguments), chunk, count)
    x = torch.stack([shown[index]["x"] for index in range(count)])
    if "y" not in shown[0]:
        return grid(x, 8, arguments.scale)
    y = torch.stack([shown[index]["y"] for index in range(count)])
    return grid(side_by_side(y, x), 16, arguments.scale)


def _report(pictures: GeneratedPictures, drawn_before: int, moved: int) -> None:
    """Say where the pictures are."""
    which = "all of them" if pictures.count <= IN_GRID else f"the first {IN_GRID}"
    already = f" ({drawn_before} were there already)" if drawn_before else ""
    print(f"{pictures.count} pictures in {pictures.pictures}{already}, {which} in {pictures.grid}")
    if moved:
        print(f"{moved} pictures of an earlier call are now in {pictures.folder / 'earlier'}")
