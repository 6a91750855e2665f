"""Models on disk: a run's folder, or the Hub."""

from __future__ import annotations

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import nn

from srvae_pyro.config import RunConfig
from srvae_pyro.errors import UserError
from srvae_pyro.files import write_json, write_whole
from srvae_pyro.models import ImageModel, make_model

__all__ = [
    "CONFIG",
    "RUNS",
    "WEIGHTS",
    "find_run",
    "from_hub",
    "load",
    "load_pretrained",
    "read_config",
    "save_pretrained",
    "save_weights",
]

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
RUNS = Path("runs")


def find_run(run: str | Path) -> Path:
    """The folder of a run: a folder, a name under ``runs/``, or a Hub id ``owner/name``.

    Raises:
        UserError: there is none; says what is there.
    """
    for folder in (Path(run), RUNS / run):
        if (folder / CONFIG).is_file():
            return folder
    for folder in (Path(run), RUNS / run):
        if folder.is_dir():
            raise UserError(f"{folder} holds no {CONFIG}: it is not the folder of a run")
    name = str(run)
    if name.count("/") == 1 and not name.startswith((".", "~", "runs/")):
        return _from_hub(name)
    names = sorted(path.parent.name for path in RUNS.glob(f"*/{CONFIG}"))
    close = get_close_matches(name, names, n=1)
    if close:
        hint = f"did you mean {close[0]}?"
    elif names:
        hint = f"under {RUNS}/ there are {', '.join(names[:8])}"
    else:
        hint = "train one first: python -m srvae_pyro.train --preset quickstart --data photos"
    raise UserError(f"no run called {name}: {hint}")


def from_hub(folder: Path) -> bool:
    """Whether a run's folder is a copy in the Hub's cache, in which nothing should be written."""
    return folder.resolve().parent.name == "snapshots"


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{name} is neither a folder here nor to be had from the Hub: {reason}"
        ) from None


def read_config(folder: Path) -> RunConfig:
    """The settings in a run's folder.

    Raises:
        UserError: they cannot be read.
    """
    path = folder / CONFIG
    try:
        values = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if not isinstance(values, dict) or "model" not in values:
        raise UserError(f"{path} is not the config of a run of this program")
    return RunConfig.from_dict(values)


def save_weights(model: nn.Module, folder: Path) -> None:
    """Write ``model.safetensors``, whole or not at all."""
    from safetensors.torch import save_file

    state = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    write_whole(folder / WEIGHTS, lambda partial: save_file(state, partial))


def save_pretrained(model: ImageModel, folder: Path) -> None:
    """Write the two files that make a model: settings and weights."""
    config = model.run_config or RunConfig(preset="", model=model.config)
    write_json(folder / CONFIG, config.to_dict())
    save_weights(model, folder)


def load_pretrained(
    name: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    token: str | bool | None = None,
    map_location: str | torch.device = "cpu",
    **_: Any,
) -> ImageModel:
    """What the Hub's ``from_pretrained`` calls, for a folder or a Hub id."""
    if Path(name).is_dir():
        return load(name, map_location)
    from huggingface_hub import snapshot_download

    folder = snapshot_download(
        name,
        revision=revision,
        cache_dir=cache_dir,
        force_download=force_download,
        local_files_only=local_files_only,
        token=token,
        allow_patterns=[CONFIG, WEIGHTS],
    )
    return load(folder, map_location)


def load(run: str | Path, device: str | torch.device = "cpu") -> ImageModel:
    """The trained model of a run, ready to generate.

    Example::

        >>> model = srvae_pyro.load("runs/NAME")  # doctest: +SKIP
        >>> x = model.generate(16)["x"]  # doctest: +SKIP

    Args:
        run: a run's folder, its name under ``runs/``, or a Hub id.
        device: where to put it.

    Raises:
        UserError: there is no such run, or its files do not fit together.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = find_run(run)
    config = read_config(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise UserError(f"{folder} has no {WEIGHTS} yet: training writes it at the end of an epoch")
    try:
        state: dict[str, Any] = load_file(path)
        model = make_model(config.model)
        model.run_config = config
        model.load_state_dict(state)
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path} does not hold the weights of its {CONFIG}: {reason}") from None
    return model.to(device).eval().requires_grad_(False)
