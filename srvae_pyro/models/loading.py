"""Models on disk: a run's folder, or the Hub."""

from __future__ import annotations

import json
import math
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from srvae_pyro.config import DataConfig, ModelConfig, RunConfig
from srvae_pyro.digest import digest
from srvae_pyro.errors import UserError
from srvae_pyro.files import write_json, write_whole
from srvae_pyro.models import ImageModel, make_model
from srvae_pyro.models.base import current_names

__all__ = [
    "CONFIG",
    "RUNS",
    "WEIGHTS",
    "find_run",
    "from_hub",
    "load",
    "load_pretrained",
    "load_weights",
    "read_config",
    "read_weights",
    "save_pretrained",
    "save_weights",
    "validation_nats",
]

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
RUNS = Path("runs")
VALIDATION = "validation_nats"  # in the metadata of the weights


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
    _refuse_address(name)
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


def _refuse_address(name: str) -> None:
    """Refuse a model's address where its Hub id is meant."""
    address = re.match(r"(?:https?:/{1,2})?(?:www\.)?(?:huggingface\.co|hf\.co)/+(.*)", name)
    if address:
        name_in_it = "/".join(address[1].split("/")[:2])
        raise UserError(f"{name} is an address: give the id in it, {name_in_it}")


def _from_hub(name: str, **options: Any) -> Path:
    """The folder of a model in the Hub's cache, downloaded if it is not there.

    Raises:
        UserError: it is not to be had; says why in one line.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS], **options))
    except MemoryError:
        raise
    except Exception as error:  # proxies and servers make the client raise almost anything
        raise UserError(
            f"{name} is neither a folder here nor to be had from the Hub: {_why(name, error)}"
        ) from None
    missing = [file for file in (CONFIG, WEIGHTS) if not (folder / file).is_file()]
    if missing:
        raise UserError(
            f"{name} from the Hub has no {missing[0]}: it is no model of this program, or its copy "
            "in the cache is not whole and the Hub does not answer"
        )
    return folder


def _why(name: str, error: Exception) -> str:
    """What an error of the Hub's client comes to, in one line with what to do."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    text = " ".join(str(error).split()) or type(error).__name__
    if "socks" in text.lower():
        if isinstance(error, ImportError) or "dependencies" in text:
            return "the SOCKS proxy that is set needs a package more: pip install socksio pysocks"
        return "the proxy that is set is of a kind that cannot be used: set an http or socks5 one"
    if isinstance(error, GatedRepoError):
        return "it is gated; ask for access on its page, then log in with: hf auth login"
    if isinstance(error, RepositoryNotFoundError):
        return "there is none of that name, or it is private; for that log in with: hf auth login"
    if isinstance(error, RevisionNotFoundError):
        return "it has no such revision"
    if isinstance(error, HFValidationError):
        return "that is not how an id is written, owner/name"
    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled | ConnectionError):
        return "the Hub does not answer, and the cache has no whole copy of it"
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        status = error.response.status_code
        advice = "log in with: hf auth login" if status in (401, 403) else "try again later"
        return f"it answers {status}: {advice}"
    return text[:200]


def read_config(folder: Path) -> RunConfig:
    """The settings in a run's folder.

    Raises:
        UserError: they cannot be read.
    """
    path = folder / CONFIG
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if not isinstance(values, dict) or "model" not in values:
        raise UserError(f"{path} is not the config of a run of this program")
    try:
        return RunConfig.from_dict(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def save_weights(model: nn.Module, folder: Path, validation_nats: float | None = None) -> None:
    """Write ``model.safetensors``, whole or not at all.

    Args:
        model: whose weights.
        folder: where to.
        validation_nats: what they score, nats an image; kept with them.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    state = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    metadata = {"format": "pt", "digest": _digest(state)}
    if validation_nats is not None:
        metadata[VALIDATION] = repr(validation_nats)

    def write(partial: Path) -> None:
        try:
            save_file(state, partial, metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from error

    write_whole(folder / WEIGHTS, write)


def validation_nats(path: Path) -> float | None:
    """What :func:`save_weights` kept with the weights in a file; None if there is no such number.

    Weights that cannot be read count as the worst.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(VALIDATION)
        return None if text is None else float(text)
    except (SafetensorError, OSError, ValueError):
        return math.inf


def _digest(state: dict[str, Tensor]) -> str:
    return digest(dict(sorted(state.items())))  # the file has an order of its own


def save_pretrained(model: ImageModel, folder: Path) -> None:
    """Write the two files that make a model: weights, and settings without what is private."""
    from srvae_pyro.models.card import shared_settings

    unknown = RunConfig(preset="", model=model.config, data=DataConfig(data=""))
    config = shared_settings(model.run_config or unknown)
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
    _refuse_address(name)
    folder = _from_hub(
        name,
        revision=revision,
        cache_dir=cache_dir,
        force_download=force_download,
        local_files_only=local_files_only,
        token=token,
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
    folder = find_run(run)
    config = read_config(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise UserError(f"{folder} has no {WEIGHTS} yet: training writes it at the end of an epoch")
    try:
        state = current_names(read_weights(path))
        _compare(state, config.model)
        model = make_model(config.model)
        model.run_config = config
        model.load_state_dict(state)
    except (RuntimeError, ValueError, OSError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path} does not hold the weights of its {CONFIG}: {reason}") from None
    return model.to(device).eval()


def load_weights(model: ImageModel, run: str | Path) -> None:
    """Give a model the weights of a run with the same networks, whatever its images' size.

    Raises:
        UserError: there is no such run, or its networks are others.
    """
    path = find_run(run) / WEIGHTS
    try:
        state = current_names(read_weights(path))
        _compare(state, model.config)
        model.load_state_dict(state)
    except (RuntimeError, ValueError, OSError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"the weights of {run} do not suit: {reason}") from None


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, checked against their digest if it has one.

    Raises:
        ValueError: it is damaged or of another format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    if metadata.get("digest", wanted := _digest(state)) != wanted:
        raise ValueError("it is damaged, its content is not what was written")
    return state


def _compare(state: dict[str, Tensor], config: ModelConfig) -> None:
    """Whether the tensors are those of the config's model, before memory is taken for it."""
    with torch.device("meta"):
        wanted = make_model(config).state_dict()
    for kind, names in (("missing", set(wanted) - set(state)), ("extra", set(state) - set(wanted))):
        if names:
            some = ", ".join(sorted(names)[:3])
            raise ValueError(f"{len(names)} tensors are {kind}, such as {some}")
    for name, tensor in wanted.items():
        there = state[name]
        # Weights may be stored in another precision.
        if there.shape != tensor.shape or there.is_floating_point() != tensor.is_floating_point():
            was, now = tuple(tensor.shape), tuple(there.shape)
            raise ValueError(f"{name} is {there.dtype} {now}, not {tensor.dtype} {was}")
        if not there.isfinite().all():
            raise ValueError(f"{name} has values that are not finite")
