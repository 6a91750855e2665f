"""Images for a trained model: those of its run or others, and whether it was trained on them."""

from __future__ import annotations

import warnings
from pathlib import Path

from srvae_pyro.config import SHARDS, DataConfig, RunConfig
from srvae_pyro.data import DATA_SETS, DataSplits, ImageOptions, load_data
from srvae_pyro.data.folder import (
    find_split_folders,
    fingerprint_folder,
    fingerprint_shards,
    shard_paths,
)
from srvae_pyro.data.sources import is_of_files
from srvae_pyro.errors import UserError
from srvae_pyro.system.files import expanded


def load_for(config: RunConfig, data: str | None, data_root: Path) -> DataSplits:
    """The images of a run, split as they were wherever they are now, or others of its size."""
    channels, height, width = config.model.image_shape
    if data is None:
        refuse_missing(config.data)
    of_run = data is None or _is_of_run(config, data)
    recorded = config.data.info.get("fingerprint")
    # Folders and photographs can be brought to any square.
    fits = height == width and (data == "photos" or data not in DATA_SETS)
    image_size = config.data.image_size if of_run else (height if fits else None)
    crops = None if data == "photos" else config.data.crops  # photos are crops anyway
    options = ImageOptions(
        image_size=image_size if crops is None else None,
        crops=crops,
        eval_crops=config.data.eval_crops if crops is not None else None,
        channels=channels,
        seed=config.data.seed,
        limit=config.data.limit if of_run else None,
        for_training=False,
    )
    loaded = load_data(config.data.data if data is None else data, data_root, options)
    if loaded.shape != (channels, height, width):
        raise UserError(
            f"{loaded.name} has images of {loaded.shape[1]}x{loaded.shape[2]}, the model is for "
            f"{height}x{width}: use --data with images of that size"
        )
    known = recorded is not None and config.data.data not in DATA_SETS
    if of_run and known and loaded.fingerprint() != recorded:
        warnings.warn(
            f"the images of {loaded.name} are not those that the run was trained on: it may have "
            "been trained on some that are now held out",
            stacklevel=2,
        )
    return loaded.described(own=of_run)


def warn_if_trained_on(run: str | Path, config: RunConfig, shown: DataSplits, split: str) -> None:
    """Warn if a run has learned from images of a split: train, val, test, or all."""
    if _overlap(config.data, shown, split):
        warnings.warn(
            f"{run} was trained on some of these images, of {config.data.data} split by "
            f"--data-seed {config.data.seed}: its scores on them are better than on new ones",
            stacklevel=2,
        )


def refuse_missing(data: DataConfig) -> None:
    name = data.data
    if name in DATA_SETS or _is_there(name):
        return
    if not name:
        raise UserError("the run does not record its training data: give images with --data")
    raise UserError(
        f"the run was trained on {name}, which no longer exists: use --data to give its new "
        "location, or other images"
    )


def can_have_moved(config: RunConfig, data: str) -> bool:
    """Whether ``data`` may be a run's images at another place, by what is recorded of them."""
    recorded = config.data.info.get("fingerprint")
    kinds = {name in DATA_SETS or name.startswith(SHARDS) for name in (data, config.data.data)}
    named = {data, config.data.data} & set(DATA_SETS)
    return recorded is not None and not named and len(kinds) == 1 and _is_there(data)


def _is_there(name: str) -> bool:
    if name.startswith(SHARDS):
        return all(path.is_file() for path in shard_paths(name))
    return bool(name) and expanded(name).is_dir()


def _is_of_run(config: RunConfig, data: str) -> bool:
    if _same_place(data, config.data.data):
        return True
    if not can_have_moved(config, data):
        return False
    if data.startswith(SHARDS):
        fingerprint = fingerprint_shards(data)
    else:
        fingerprint = fingerprint_folder(expanded(data))
    return bool(fingerprint == config.data.info["fingerprint"])


def _overlap(data: DataConfig, shown: DataSplits, split: str) -> bool:
    recorded = data.info.get("fingerprint", "")
    same_files = is_of_files(recorded) and recorded == shown.info.get("fingerprint")
    if same_files or _same_place(shown.name, data.data):
        drawn = {*shown.info.get("held_out", ()), *shown.info.get("held_out_indices", ())}
        changed = split in drawn and shown.info.get("seed") != data.seed
        return changed or split in ("train", "all")
    theirs, ours = _place(shown.name), _place(data.data)
    if not theirs or not ours:
        return False
    seen, learnt = _root(theirs, split), _root(ours, "train")
    return seen == learnt or seen in learnt.parents or learnt in seen.parents


def _place(name: str) -> Path | None:
    """The folder that a data set is, if it is there."""
    folder = expanded(name)
    if not name or name in DATA_SETS or name.startswith(SHARDS) or not folder.is_dir():
        return None
    return folder.resolve()


def _same_place(one: str, other: str) -> bool:
    if one == other:
        return True
    if one.startswith(SHARDS) and other.startswith(SHARDS):
        return [p.resolve() for p in shard_paths(one)] == [p.resolve() for p in shard_paths(other)]
    place = _place(one)
    return place is not None and place == _place(other)


def _root(folder: Path, split: str) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are shown when the images are read
        places = find_split_folders(folder)
    if split == "all":
        return folder
    return (places.get(split) or places.get("train") or folder).resolve()
