"""The command generate: new images in a folder that records the settings they were drawn with."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from srvae_pyro import __version__
from srvae_pyro.drawing.arguments import GenerateArguments
from srvae_pyro.drawing.grids import grid, save_image, side_by_side
from srvae_pyro.errors import UserError, counted
from srvae_pyro.inference.sampling import Sampling
from srvae_pyro.models import ImageModel, load
from srvae_pyro.models.base import weights_digest
from srvae_pyro.runs import find_run, results_folder
from srvae_pyro.system.cli import check_arguments
from srvae_pyro.system.console import Bar
from srvae_pyro.system.device import start
from srvae_pyro.system.files import check_output, locked, read_json, write_json
from srvae_pyro.system.hub import is_cached_copy
from srvae_pyro.system.parallel import ProcessGroup, process_group


def check_sampling(sampling: Sampling, *models: ImageModel) -> None:
    check_arguments(sampling)
    if sampling.y_temperature is not None and not any(len(m.levels) > 1 for m in models):
        raise UserError(
            "`y_temperature` needs an srVAE: a VAE has no y; use `image_temperature` instead"
        )


def for_model(sampling: Sampling, model: ImageModel) -> Sampling:
    """The settings without a temperature of y for a VAE."""
    return sampling if len(model.levels) > 1 else replace(sampling, y_temperature=None)


RECORD = "generate.json"
GRID = "grid.png"


class GeneratedImages:
    """Images 0, 1 and so on in ``FOLDER/images`` with no others, and their settings."""

    def __init__(self, folder: Path, run: str, settings: dict[str, Any], count: int) -> None:
        self.folder = folder
        self.run = run
        self.settings = settings
        self.count = count
        self.images = folder / "images"
        self.grid = folder / GRID

    def path(self, index: int) -> Path:
        return self.images / f"{index:05d}.png"

    def missing(self, indices: range) -> list[int]:
        return [index for index in indices if not self.path(index).exists()]

    @contextmanager
    def claimed(self, overwrite: bool = False) -> Iterator[int]:
        """Lock the folder, refuse other images there; yield how many are beyond ``count``."""
        refusal = "another process is drawing there; wait for it, or choose another `out`"
        with locked(self.folder, refusal):
            yield self._claim(overwrite)

    def _claim(self, overwrite: bool) -> int:
        record = self._record()
        present = self._present()
        others = [*present.values(), *([self.grid] if os.path.lexists(self.grid) else [])]
        if others and not record:
            raise _not_ours(others[0])
        same = record.get("settings") == self.settings
        unasked = [path for index, path in present.items() if not same or index >= self.count]
        if unasked and not same and not overwrite:
            raise UserError(
                f"{self.folder} has images of other settings: choose another `out`, or add "
                "`overwrite`"
            )
        if overwrite:
            for path in unasked:
                path.unlink()
            unasked = []
        if not same:
            self.grid.unlink(missing_ok=True)
        values = {"run": self.run, "settings": self.settings, "count": self.count + len(unasked)}
        write_json(self.folder / RECORD, values)
        self.images.mkdir(exist_ok=True)
        for partial in self.images.glob(".*.partial.png"):  # of a process that was killed
            partial.unlink()
        return len(unasked)

    def _record(self) -> dict[str, Any]:
        """The settings of the images in the folder; empty if there are none."""
        path = self.folder / RECORD
        try:
            record = read_json(path)
            return {"run": record["run"], "settings": {**record["settings"]}}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, KeyError, RecursionError):
            raise UserError(
                f"{path} is damaged, so the settings of {self.images} are unknown: move both "
                "elsewhere, or choose another `out`"
            ) from None

    def _present(self) -> dict[int, Path]:
        """The images in the folder by their indices; other files are refused."""
        images = {}
        for path in sorted(self.images.iterdir()) if self.images.is_dir() else ():
            if re.fullmatch(r"\d{5,}\.png", path.name):
                images[int(path.stem)] = path
            elif not path.name.startswith("."):
                raise _not_ours(path)
        return images


def _not_ours(path: Path) -> UserError:
    return UserError(
        f"{path} was not drawn by this command, and its images folder holds no others: move "
        "it elsewhere, or choose another `out`"
    )


def chunks(indices: Sequence[int], size: int) -> Iterator[range]:
    """Ascending indices as ranges without gaps, each of at most ``size``."""
    start = 0
    for end in range(1, len(indices) + 1):
        last = end == len(indices) or indices[end] != indices[end - 1] + 1
        if last or end - start == size:
            yield range(indices[start], indices[end - 1] + 1)
            start = end


IN_GRID = 64  # images, the first ones

Sites = dict[int, dict[str, Tensor]]  # by the image's index and the site's name


def generate(arguments: GenerateArguments) -> int:
    with process_group(arguments.device) as group, ExitStack() as stack:
        start(group.device, threads=arguments.threads)
        folder, out = find_run(arguments.run), arguments.out
        if out is None:
            out = results_folder(arguments.run, folder) / "figures" / "generated"
            out = Path("generated") if is_cached_copy(folder) else out
        check_output(out, "--out DIR")
        model = load(folder, group.device)
        check_sampling(arguments.sampling, model)  # before a folder is touched
        settings = _settings(model, arguments.sampling)
        images = GeneratedImages(out, str(folder), settings, arguments.count)
        further = 0
        with group.main_first():
            if group.main:
                further = stack.enter_context(images.claimed(arguments.overwrite))
        drawer = _Drawer(model, arguments.sampling, arguments.batch_size)
        shown, drawn_before = drawer.draw_missing(images, group)
        if group.main:
            save_image(drawer.grid(shown, images.count, arguments.scale), images.grid)
            in_grid = "all of them" if images.count <= IN_GRID else f"the first {IN_GRID}"
            already = f" ({drawn_before} drawn earlier)" if drawn_before else ""
            drawn = f"{counted(images.count, 'image')} in {images.images}{already}"
            print(f"{drawn}, {in_grid} in {images.grid}")
            if further:
                print(f"kept from an earlier call: {counted(further, 'further image')}")
    return 0


def _settings(model: ImageModel, sampling: Sampling) -> dict[str, Any]:
    """All that the images depend on."""
    settings = {
        "weights": weights_digest(model),
        "seed": sampling.seed,
        "decode": sampling.decode,
        "temperature": float(sampling.temperature),
        "image_temperature": float(sampling.image_temperature),
        "version": __version__,
    }
    if sampling.y_temperature not in (None, sampling.image_temperature):
        settings["y_temperature"] = sampling.y_temperature
    return settings


class _Drawer:
    def __init__(self, model: ImageModel, sampling: Sampling, batch_size: int) -> None:
        self.model = model
        self.sampling = vars(sampling)
        self.batch_size = batch_size

    def draw_missing(self, images: GeneratedImages, group: ProcessGroup) -> tuple[Sites, int]:
        """Draw and write this process's share; the grid's sites, and how many were there."""
        share = group.share(images.count)
        indices = range(share.start, share.stop)
        missing = images.missing(indices)
        before = len(indices) - len(missing)
        shown: Sites = {}
        with Bar(total=len(indices), initial=before, unit="image", disable=not group.main) as bar:
            for chunk in chunks(missing, self.batch_size):
                sites = self._draw(chunk)
                for index, image in zip(chunk, sites["x"], strict=True):
                    save_image(image, images.path(index))
                shown |= _first_images(sites, chunk, min(IN_GRID, images.count))
                bar.update(len(chunk))
        every_shown, every_before = group.gather(shown), group.gather(before)
        return {i: kept for part in every_shown for i, kept in part.items()}, sum(every_before)

    def grid(self, shown: Sites, count: int, scale: int) -> Tensor:
        """The first images in one, each y beside its x; those not in ``shown`` are drawn."""
        count = min(IN_GRID, count)
        missing = [index for index in range(count) if index not in shown]
        for chunk in chunks(missing, self.batch_size):
            shown = shown | _first_images(self._draw(chunk), chunk, count)
        x = torch.stack([shown[index]["x"] for index in range(count)])
        if "y" not in shown[0]:
            return grid(x, 8, scale)
        y = torch.stack([shown[index]["y"] for index in range(count)])
        return grid(side_by_side(y, x), 16, scale)

    def _draw(self, indices: range) -> dict[str, Tensor]:
        count = len(indices)
        return self.model.generate(count, first=indices.start, batch_size=count, **self.sampling)


def _first_images(sites: dict[str, Tensor], indices: range, count: int) -> Sites:
    names = [name for name in ("y", "x") if name in sites]
    kept = range(indices.start, min(indices.stop, count))
    # Copies, which do not hold on to the whole batch.
    values = {name: sites[name][: len(kept)].clone().cpu() for name in names}
    return {index: {name: values[name][i] for name in names} for i, index in enumerate(kept)}
