"""The command generate: new images in a folder that records the settings they were drawn with."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from srvae_pyro import __version__
from srvae_pyro.drawing.arguments import GenerateArguments
from srvae_pyro.drawing.grids import grid, save_image, side_by_side
from srvae_pyro.errors import UserError
from srvae_pyro.inference.decoding import Decode, Decoding
from srvae_pyro.inference.operations import Sampling
from srvae_pyro.models import SRVAE, ImageModel, load
from srvae_pyro.models.base import weights_digest
from srvae_pyro.runs import find_run, results_folder
from srvae_pyro.system.console import Bar
from srvae_pyro.system.device import start
from srvae_pyro.system.files import check_output, digest, locked, read_json, write_json
from srvae_pyro.system.hub import is_cached_copy
from srvae_pyro.system.parallel import ProcessGroup, process_group


class SamplingArguments(Protocol):
    """The arguments of a command that draws, each as in :class:`Sampling`; no decode: sample."""

    @property
    def decode(self) -> Decoding | None: ...
    @property
    def temperature(self) -> float: ...
    @property
    def image_temperature(self) -> float: ...
    @property
    def y_temperature(self) -> float | None: ...
    @property
    def seed(self) -> int: ...


def sampling_of(arguments: SamplingArguments, *models: ImageModel) -> Sampling:
    """How to draw from the models, before anything is drawn or written.

    Raises:
        UserError: it cannot be so, or y has a temperature and none of the models a y.
    """
    temperature, of_images = arguments.temperature, arguments.image_temperature
    of_y = arguments.y_temperature
    decode = arguments.decode or "sample"
    Decode(decode, temperature, of_images, y_temperature=of_y)  # refuses what is wrong
    if of_y is not None and not any(isinstance(m, SRVAE) for m in models):
        raise UserError("--y-temperature is the srVAE's: a VAE has no y; say --image-temperature")
    return {
        "decode": decode,
        "temperature": temperature,
        "image_temperature": of_images,
        "y_temperature": of_y,
        "seed": arguments.seed,
    }


def for_model(sampling: Sampling, model: ImageModel) -> Sampling:
    """What of it goes for a model: for a VAE beside a srVAE no temperature of y."""
    return sampling if isinstance(model, SRVAE) else {**sampling, "y_temperature": None}


RECORD = "generate.json"
GRID = "grid.png"


class GeneratedImages:
    """Images 0 to ``count - 1`` of some settings, in ``FOLDER/images`` with no others.

    ``FOLDER/grid.png`` shows the first of them and ``FOLDER/generate.json`` tells the settings.
    What an earlier call drew and this one does not ask for is kept in ``FOLDER/earlier``, in a
    folder for each settings, until it is asked for again.

    Args:
        folder: the folder.
        run: the run that draws them, for people.
        settings: all that decides what the images are, fit for JSON.
        count: how many images.
    """

    def __init__(self, folder: Path, run: str, settings: dict[str, Any], count: int) -> None:
        self.folder = folder
        self.run = run
        self.settings = settings
        self.count = count
        self.images = folder / "images"
        self.grid = folder / GRID

    def path(self, index: int) -> Path:
        """Where an image is or will be."""
        return self.images / f"{index:05d}.png"

    def missing(self, indices: range) -> list[int]:
        """Which of these images are still to be drawn."""
        return [index for index in indices if not self.path(index).exists()]

    @contextmanager
    def claimed(self) -> Iterator[int]:
        """Hold the folder, with no images of other settings or indices in its ``images``.

        Yields:
            How many were moved to ``earlier``.

        Raises:
            UserError: another process draws there, or there is what this command did not write.
        """
        refusal = "another process draws there; wait for it, or give another --out"
        with locked(self.folder, refusal):
            yield self._make_room()

    def _make_room(self) -> int:
        """Move out what is not asked for, and back what is; how many went out."""
        record = self._record()
        present = _by_index(self.images, nothing_else=True)
        others = [*present.values(), *([self.grid] if os.path.lexists(self.grid) else [])]
        if others and not record:
            raise _not_ours(others[0])
        same = record.get("settings") == self.settings
        others = [path for index, path in present.items() if not same or index >= self.count]
        if others:
            self._move_out(others, record, with_grid=not same)
        now = {"run": self.run, "settings": self.settings, "count": self.count}
        write_json(self.folder / RECORD, now)
        self.images.mkdir(exist_ok=True)
        for partial in self.images.glob(".*.partial.png"):  # of a process that was killed
            partial.unlink()
        self._move_back()
        return len(others)

    def _move_out(self, paths: list[Path], record: dict[str, Any], with_grid: bool) -> None:
        """Move images, and perhaps the grid, to the folder of the settings in their record."""
        aside = self._aside(record["settings"])
        aside.mkdir(parents=True, exist_ok=True)
        for path in paths:
            os.replace(path, aside / path.name)
        if with_grid and self.grid.exists():
            os.replace(self.grid, aside / GRID)
        write_json(aside / RECORD, {**record, "count": len(_by_index(aside))})

    def _move_back(self) -> None:
        """Move back the images of these settings that are asked for again."""
        aside = self._aside(self.settings)
        kept = _by_index(aside)
        for index in [index for index in kept if index < self.count]:
            os.replace(kept.pop(index), self.path(index))
        if not kept:
            for name in (RECORD, GRID):
                (aside / name).unlink(missing_ok=True)
            for empty in (aside, aside.parent):
                with suppress(OSError):  # it is not empty, or was never there
                    empty.rmdir()

    def _aside(self, settings: dict[str, Any]) -> Path:
        """The folder for images of these settings that are not asked for."""
        return self.folder / "earlier" / digest(settings)[:8]

    def _record(self) -> dict[str, Any]:
        """What the images in the folder were drawn with; nothing where there are none.

        Raises:
            UserError: that cannot be read.
        """
        path = self.folder / RECORD
        try:
            record = read_json(path)
            return {"run": record["run"], "settings": {**record["settings"]}}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, KeyError, RecursionError):
            raise UserError(
                f"{path} is damaged, so it is unknown what {self.images} holds: move both "
                "elsewhere, or give another --out"
            ) from None


def _not_ours(path: Path) -> UserError:
    return UserError(
        f"{path} is not an image that this command drew, and such a folder has no others: move "
        "it elsewhere, or give another --out"
    )


def _by_index(folder: Path, nothing_else: bool = False) -> dict[int, Path]:
    """The images in a folder by their indices.

    Raises:
        UserError: there shall be nothing else, and there is.
    """
    images = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if re.fullmatch(r"\d{5,}\.png", path.name):
            images[int(path.stem)] = path
        elif nothing_else and not path.name.startswith("."):
            raise _not_ours(path)
    return images


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
    """Generate as asked; the exit code."""
    with process_group(arguments.device) as group:
        return generate_in(group, arguments)


def generate_in(group: ProcessGroup, arguments: GenerateArguments) -> int:
    """One process of the group's part of the images; the exit code."""
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
    images = GeneratedImages(out, str(folder), settings, arguments.count)
    moved = 0
    with ExitStack() as stack:
        with group.main_first():
            if group.main:
                moved = stack.enter_context(images.claimed())
        shown, drawn_before = _draw_missing(model, images, group, arguments)
        if group.main:
            save_image(_grid(model, shown, arguments), images.grid)
    if group.main:
        _report(images, drawn_before, moved)
    return 0


def _settings(model: ImageModel, arguments: GenerateArguments) -> dict[str, Any]:
    """All that decides what the images are."""
    settings = {
        "weights": weights_digest(model),
        "seed": arguments.seed,
        "decode": arguments.decode,
        "temperature": float(arguments.temperature),
        "image_temperature": float(arguments.image_temperature),
        "version": __version__,
    }
    # Not where it changes nothing: images of versions that had none are the same.
    if arguments.y_temperature not in (None, arguments.image_temperature):
        settings["y_temperature"] = arguments.y_temperature
    return settings


def _draw_missing(
    model: ImageModel, images: GeneratedImages, group: ProcessGroup, arguments: GenerateArguments
) -> tuple[Sites, int]:
    """Draw and write what is not there yet of this process's share.

    Returns:
        Of all processes: the sites of those of the grid's images that were drawn, and how many
        images were there already. Other images are not kept in memory.
    """
    share = group.share(arguments.count)
    indices = range(share.start, share.stop)
    missing = images.missing(indices)
    drawn_before = len(indices) - len(missing)
    shown: Sites = {}
    with Bar(total=len(indices), initial=drawn_before, unit="image", disable=not group.main) as bar:
        for chunk in chunks(missing, arguments.batch_size):
            sites = _draw(model, chunk, arguments)
            for index, image in zip(chunk, sites["x"], strict=True):
                save_image(image, images.path(index))
            shown |= _first_images(sites, chunk, min(IN_GRID, arguments.count))
            bar.update(len(chunk))
    every_shown, every_before = group.gather(shown), group.gather(drawn_before)
    return {index: kept for part in every_shown for index, kept in part.items()}, sum(every_before)


def _draw(model: ImageModel, indices: range, arguments: GenerateArguments) -> dict[str, Tensor]:
    """The sites of the images of these indices, in one batch."""
    sampling: Sampling = {**sampling_of(arguments, model), "batch_size": len(indices)}
    return model.generate(len(indices), first=indices.start, **sampling)


def _first_images(sites: dict[str, Tensor], indices: range, count: int) -> Sites:
    """Each image's y, if there is one, and x, of those among the first ``count``."""
    names = [name for name in ("y", "x") if name in sites]
    kept = range(indices.start, min(indices.stop, count))
    # Copies, which do not hold on to the whole batch.
    values = {name: sites[name][: len(kept)].clone().cpu() for name in names}
    return {index: {name: values[name][i] for name in names} for i, index in enumerate(kept)}


def _grid(model: ImageModel, shown: Sites, arguments: GenerateArguments) -> Tensor:
    """The first images in one, each y beside its x; what is not there yet is drawn."""
    count = min(IN_GRID, arguments.count)
    missing = [index for index in range(count) if index not in shown]
    for chunk in chunks(missing, arguments.batch_size):
        shown = shown | _first_images(_draw(model, chunk, arguments), chunk, count)
    x = torch.stack([shown[index]["x"] for index in range(count)])
    if "y" not in shown[0]:
        return grid(x, 8, arguments.scale)
    y = torch.stack([shown[index]["y"] for index in range(count)])
    return grid(side_by_side(y, x), 16, arguments.scale)


def _report(images: GeneratedImages, drawn_before: int, moved: int) -> None:
    """Say where the images are."""
    which = "all of them" if images.count <= IN_GRID else f"the first {IN_GRID}"
    already = f" ({drawn_before} were there already)" if drawn_before else ""
    print(f"{images.count} images in {images.images}{already}, {which} in {images.grid}")
    if moved:
        print(f"{moved} images of an earlier call are now in {images.folder / 'earlier'}")
