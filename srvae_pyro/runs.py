"""A run's folder: where it is, its settings and its weights."""

from __future__ import annotations

import math
import os
from difflib import get_close_matches
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from srvae_pyro.config import RunConfig
from srvae_pyro.errors import UserError
from srvae_pyro.system.console import print_line
from srvae_pyro.system.files import digest, read_json, write_whole
from srvae_pyro.system.hub import download, refuse_address

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
MODEL_FILES = (CONFIG, WEIGHTS)  # what makes a model
RUNS = Path("runs")
# The pretrained models, in the package as setup.py builds it and in the repository.
PACKAGE = Path(__file__).parent
PACKAGED = (PACKAGE / "packaged", PACKAGE.parent / "runs")
# In the metadata of the weights.
VALIDATION_NATS = "validation_nats"
VALIDATION_IMAGES = "validation_images"


def find_run(run: str | Path) -> Path:
    """The folder of a run: a path, a name under ``runs/``, a pretrained model, or a Hub id.

    Names without a slash are looked up under ``runs/``, as folders here, and among the pretrained
    models; others are paths or Hub ids ``owner/name``. A :class:`Path` is a folder here first.
    """
    name = str(run)
    places = [Path(run)] if is_path(name) else [RUNS / run, Path(run)]
    if isinstance(run, Path):
        places.reverse()
    for folder in places:
        if (folder / CONFIG).is_file():
            return folder
    along = packaged()
    if name in along:
        return along[name]
    for folder in places:
        if folder.is_dir():
            raise UserError(f"{folder} has no {CONFIG}: it is not the folder of a run")
    if Path(run).is_file():
        raise UserError(
            f"{run} is a file: name a model first" + (f", such as {[*along][-1]}" if along else "")
        )
    if (RUNS / run / CONFIG).is_file():
        raise UserError(f"there is no run in {run}: did you mean {RUNS / run}?")
    refuse_address(name)
    if name.count("/") == 1 and not name.startswith((".", "~", "runs/")):
        return download(name, MODEL_FILES)
    names = sorted(path.parent.name for path in RUNS.glob(f"*/{CONFIG}"))
    close = get_close_matches(name, {*names, *along}, n=1)
    if close:
        hint = f"did you mean {close[0]}?"
    else:
        hint = "train one first: python -m srvae_pyro.train --preset quickstart --data photos"
        if names:
            hint = f"{RUNS}/ has {', '.join(names[:8])}"
        ships = "ships" if len(along) == 1 else "ship"
        hint += f"; or use {' or '.join(along)}, which {ships} with the package" if along else ""
    raise UserError(f"no run called {name}: {hint}")


def is_path(run: str) -> bool:
    """Whether a run is named by a path, with a slash, not by a name under ``runs/``."""
    return run in (os.curdir, os.pardir) or not {os.sep, os.altsep}.isdisjoint(run)


def name_for(folder: Path) -> str:
    """The name of the run in a folder, for any command."""
    return str(folder) if is_path(str(folder)) else os.path.join(os.curdir, folder)


def packaged() -> dict[str, Path]:
    """The folders of the pretrained models by name."""
    cards = (card for place in reversed(PACKAGED) for card in place.glob("pretrained*/README.md"))
    found = {card.parent.name: card.parent for card in cards if (card.parent / CONFIG).is_file()}
    return dict(sorted(found.items()))


def results_folder(run: str | Path, folder: Path) -> Path:
    """The folder for a run's outputs: its own, or ``runs/NAME`` here for a pretrained model."""
    if packaged().get(str(run)) != folder:
        return folder
    results = RUNS / folder.name
    print_line(f"{folder.name} ships with the package: its outputs go to {results}")
    return results


def read_config(folder: Path) -> RunConfig:
    """The settings in a run's folder."""
    path = folder / CONFIG
    try:
        values = read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if not isinstance(values, dict) or "model" not in values:
        raise UserError(f"{path} is not the config of a run of this program")
    try:
        return RunConfig.from_dict(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def save_weights(
    model: nn.Module,
    folder: Path,
    validation_nats: float | None = None,
    validation_images: int | None = None,
) -> None:
    """Write ``model.safetensors`` with its validation score, whole or not at all."""
    state = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    metadata = {"format": "pt", "digest": _digest(state)}
    if validation_nats is not None:
        metadata[VALIDATION_NATS] = repr(validation_nats)
    if validation_images is not None:
        metadata[VALIDATION_IMAGES] = str(validation_images)

    def write(partial: Path) -> None:
        try:
            save_file(state, partial, metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from error

    write_whole(folder / WEIGHTS, write)


def validation_nats(path: Path) -> float | None:
    """The validation score of the weights in a file, None without one; infinite if unreadable."""
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(VALIDATION_NATS)
        return None if text is None else float(text)
    except (SafetensorError, OSError, ValueError):
        return math.inf


def validation_images(path: Path) -> int | None:
    """On how many images the weights in a file were scored; None if unknown."""
    try:
        with safe_open(path, "pt") as file:
            return int((file.metadata() or {})[VALIDATION_IMAGES])
    except (SafetensorError, OSError, ValueError, KeyError):
        return None


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; a ValueError if it is damaged or of another format."""
    try:
        with safe_open(path, "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    if metadata.get("digest", wanted := _digest(state)) != wanted:
        raise ValueError("it is damaged: its checksum does not match")
    return state


def _digest(state: dict[str, Tensor]) -> str:
    return digest(dict(sorted(state.items())))  # the file has an order of its own
