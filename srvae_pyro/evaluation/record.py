"""A run's ``evaluation.json``: results beside each other, none of them lost."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from srvae_pyro.system.files import holding, read_json, set_aside, write_json

__all__ = ["EVALUATION", "record", "record_measures"]

EVALUATION = "evaluation.json"


def record(folder: Path, key: str, result: dict[str, Any]) -> Path:
    """Put a result under ``key`` into the folder's ``evaluation.json``, beside the others there."""
    folder.mkdir(parents=True, exist_ok=True)
    with holding(folder, wait=True):  # two evaluations may end at the same time
        write_json(folder / EVALUATION, {**_read(folder / EVALUATION), key: result})
    return folder / EVALUATION


def record_measures(
    folder: Path, key: str, settings: dict[str, Any], measures: dict[str, dict[str, Any]]
) -> Path:
    """Put what was measured on the images called ``key`` into the folder's ``evaluation.json``.

    No result is lost. ``key`` itself names the result of these weights on the most images. A
    result with other flags, such as ``--limit``, is under ``key`` followed by its flags, with
    ``, earlier 1`` added if it differs in more: weights, images, versions. Within a result the
    measure with the most samples has its plain name, and others are followed by their flags
    likewise. A measure that is repeated replaces the earlier one.

    Args:
        folder: the run's.
        key: data set and split.
        settings: what is needed to repeat it: ``flags``, ``weights``, ``data``, ``images`` and
            others; results are the same if all agree but ``run``, where the run is.
        measures: the numbers by name, ``elbo``, ``likelihood`` and the like, each with its
            ``flags``.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """
    settings = json.loads(json.dumps(settings))  # as it will be read again

    def same_settings(entry: dict[str, Any]) -> bool:
        return all(entry.get(name) == settings[name] for name in settings.keys() - {"run"})

    def with_measures(before: dict[str, Any]) -> dict[str, Any]:
        entry = {**before, **settings}
        for name, values in measures.items():
            _put_measure(entry, name, values)
        return entry

    def rank(entry: dict[str, Any]) -> tuple[bool, int, int]:
        # Earlier versions recorded no weights.
        names = ("weights", "data")
        current = all(entry.get(name, settings[name]) == settings[name] for name in names)
        return current, _number_in(entry, "images"), _number_in(entry.get("likelihood"), "samples")

    folder.mkdir(parents=True, exist_ok=True)
    with holding(folder, wait=True):  # two evaluations may end at the same time
        known = _read(folder / EVALUATION)
        _put(known, key, same=same_settings, update=with_measures, rank=rank)
        write_json(folder / EVALUATION, known)
    return folder / EVALUATION


def _put_measure(entry: dict[str, Any], name: str, values: dict[str, Any]) -> None:
    """Put a measure's values beside those with other flags."""
    _put(
        entry,
        name,
        same=lambda other: other.get("flags") == values["flags"],
        update=lambda other: {**other, **values},
        rank=lambda other: _number_in(other, "samples"),
    )


def _number_in(entry: Any, name: str) -> int:
    """The integer under that name in a file that may have been edited by hand; else 0."""
    value = entry.get(name) if isinstance(entry, dict) else None
    return value if isinstance(value, int) else 0


def _put(
    known: dict[str, Any],
    key: str,
    *,
    same: Callable[[dict[str, Any]], bool],
    update: Callable[[dict[str, Any]], dict[str, Any]],
    rank: Callable[[dict[str, Any]], Any],
) -> None:
    """Update the entry that is the same, or an empty one, and name all entries of a key by rank.

    The highest, and of equal ones the updated one, is named by the ``key``; the others by the key
    and their flags, and a number where that is not enough.
    """
    names = [n for n in known if n == key or n.startswith((f"{key} -", f"{key}, "))]
    entries = [known.pop(name) for name in names]
    whole = [entry for entry in entries if isinstance(entry, dict)]
    before = next((entry for entry in whole if same(entry)), {})
    others = [entry for entry in whole if entry is not before]
    first, *rest = sorted([update(before), *others], key=rank, reverse=True)
    known[key] = first
    for entry in [*rest, *(entry for entry in entries if not isinstance(entry, dict))]:
        flags = entry.get("flags") if isinstance(entry, dict) else None
        name = f"{key} {flags}" if flags else key
        numbered = (f"{name}, earlier {number}" for number in itertools.count(1))
        known[next(n for n in itertools.chain([name], numbered) if n not in known)] = entry


def _read(path: Path) -> dict[str, Any]:
    """What is recorded already; a damaged file is set aside."""
    try:
        known = read_json(path)
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        known = None
    if not isinstance(known, dict):
        aside = set_aside(path)
        warnings.warn(f"{path} is damaged: it is kept as {aside.name}", stacklevel=1)
        return {}
    return known
