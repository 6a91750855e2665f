"""Measure a trained model: ``python -m srvae_pyro.evaluate --help``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from srvae_pyro.commands import at_least, option, run_command
from srvae_pyro.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from srvae_pyro.data import DataSplits
    from srvae_pyro.models import ImageModel
    from srvae_pyro.parallel import Group

__all__ = ["EvaluateArguments", "main"]

FID_IMAGES = {"test": 10_000, "train": 50_000}  # as in the paper, section 4.1


@dataclass
class EvaluateArguments:
    """Measure a trained model as the paper's Table 1 does.

    The negative log-likelihood by importance sampling and the evidence lower bound with its terms;
    if asked for, FID and KID of generated pictures, and the quality of super-resolution. Prints a
    table and writes all numbers, with what is needed to repeat them, to the run's evaluation.json,
    each as soon as it is there and beside those of other pictures and flags.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """a run's name under runs/, its folder, or a Hub id"""
    data: Annotated[str | None, option("NAME|DIR", "what the run was trained on")] = None
    """a data set's name or a folder of pictures; what the run was trained on may have been moved"""
    data_root: Path = Path("data")
    """where the named data sets are, or are downloaded to"""
    split: Literal["train", "val", "test", "all"] = "test"
    """which pictures"""
    limit: Annotated[int | None, option("N", "all")] = None
    """only so many, evenly spaced over the split, the same ones always"""
    seed: int = 0
    """of all noise; each picture has noise of its own, whatever the batch"""

    importance_samples: int = 500
    """samples an image of the likelihood, S; the time grows with it"""
    estimator: Literal["product", "paired"] = "product"
    """product: all S x S pairs of u and z, tighter at the same cost; paired: S pairs"""
    elbo_samples: int = 1
    """samples an image of the evidence lower bound"""
    elbo_only: bool = False
    """leave out importance sampling, which takes most of the time"""

    fid: bool = False
    """also FID and KID: 10,000 generated pictures against test, 50,000 against train pictures"""
    fid_weights: Annotated[Path | None, option("FILE", "torch-fidelity's cache, else download")] = (
        None
    )
    """weights of torch-fidelity's Inception network"""
    fid_images: Annotated[int | None, option("N", "10000 and 50000")] = None
    """fewer pictures for both: faster, but biased upwards and not comparable"""
    decode: Literal["sample", "mode"] = "sample"
    """of the generated pictures: draw each pixel, or the likeliest component's mean"""
    temperature: float = 1.0
    """of the generated pictures' latents"""

    super_resolution: bool = False
    """also PSNR and SSIM of super-resolution against bicubic and others (srVAE)"""

    batch_size: int = 100
    """pictures at a time, where --memory-gb does not decide"""
    memory_gb: float = 4.0
    """gigabytes for the tensors of importance sampling"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """of the networks; what is reported should be fp32"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU if there is one"""
    json: Annotated[Path | None, option("FILE", "only the run's evaluation.json")] = None
    """also write the numbers to this file"""


def check(arguments: EvaluateArguments) -> None:
    """Refuse numbers that make no sense."""
    at_least(arguments, limit=1, batch_size=1, importance_samples=1, elbo_samples=1)
    at_least(arguments, fid_images=2, seed=0, temperature=0)  # FID compares covariances
    if not arguments.memory_gb > 0 or not math.isfinite(arguments.memory_gb):
        raise UserError(f"--memory-gb must be above 0, not {arguments.memory_gb}")
    if arguments.json is not None and arguments.json.is_dir():
        raise UserError(f"--json {arguments.json} is a folder: name a file")


def main(arguments: EvaluateArguments) -> int:
    """Evaluate as asked; the exit code."""
    check(arguments)
    from srvae_pyro.parallel import process_group

    with process_group(arguments.device) as group:
        return evaluate_in(group, arguments)


def evaluate_in(group: Group, arguments: EvaluateArguments) -> int:
    """One process of the group's part of an evaluation; the exit code."""
    import pyro

    from srvae_pyro.evaluation.run_data import warn_if_trained_on
    from srvae_pyro.evaluation.terms import spread_numbers
    from srvae_pyro.models import load
    from srvae_pyro.runs import find_run, read_config
    from srvae_pyro.runtime import choose_precision, tune_allocator

    folder = find_run(arguments.run)
    config = read_config(folder)
    device = group.device
    choose_precision(arguments.precision, device)  # warns where it would be slow
    if device.type == "cpu":
        tune_allocator()
    model = load(folder, device)
    book = check_places(arguments, folder) if group.main else None
    if arguments.super_resolution and config.model.model != "srvae":
        raise UserError(f"{folder} is a VAE, which has no y: --super-resolution is the srVAE's")
    if arguments.fid:
        from srvae_pyro.evaluation.fid import find_weights

        with group.main_first():
            find_weights(arguments.fid_weights)  # before anything that takes long
    pyro.enable_validation(False)
    with group.main_first():
        data = load_pictures(arguments, config)
    if arguments.fid and not (len(data.train) and len(data.test)):
        raise UserError(f"{data.name} lacks train/ or test/, which --fid compares with both")
    split = pictures_of(data, arguments.split, own=data.info["own"])
    if arguments.split != "train":  # which is asked for by its name
        warn_if_trained_on(folder, config, data, arguments.split)
    numbers = spread_numbers(len(split), arguments.limit)
    images, photographs = split[numbers], photographs_of(data, arguments.split)
    photographs = None if photographs is None else photographs[numbers]
    if group.main:
        of = f"{len(images):,} of {len(split):,} pictures"
        print(f"{folder} on {data.name}, {arguments.split}, {of}")
    known = settings(arguments, folder, data, model, images, numbers, len(split))
    key = f"{data.name}/{arguments.split}"
    measures: dict[str, Any] = {}
    written = True
    try:
        for name, found in measured(arguments, model, data, images, numbers, photographs, group):
            measures[name] = found
            if group.main:
                written = write(arguments, book, key, known, measures)
    finally:  # also what there is when the rest fails or is stopped
        if group.main and measures:
            print_results(known | measures, config.data.data)
    return 0 if written else 2


def check_places(arguments: EvaluateArguments, folder: Path) -> Path | None:
    """The run's folder, if results can be written there; else say so before the work.

    Raises:
        UserError: the file that was asked for cannot be written.
    """
    import warnings

    from srvae_pyro.evaluation.report import EVALUATION
    from srvae_pyro.files import check_place
    from srvae_pyro.system.hub import is_cached_copy

    if arguments.json is not None:
        try:
            check_place(arguments.json)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"--json {arguments.json} cannot be written: {reason}") from None
    try:
        if not is_cached_copy(folder):
            check_place(folder / EVALUATION)
            return folder
        reason = f"{folder} is a copy from the Hub"
    except OSError as error:
        reason = f"{folder} cannot be written to ({error.strerror or error})"
    kept = "not recorded there" if arguments.json else "printed only; --json FILE keeps them"
    warnings.warn(f"{reason}: the results are {kept}", stacklevel=1)
    return None


def write(
    arguments: EvaluateArguments,
    book: Path | None,
    key: str,
    known: dict[str, Any],
    measures: dict[str, Any],
) -> bool:
    """Write all that has been measured so far; whether that could be done.

    A disk that is full now may have room when the next result is there.
    """
    import warnings

    from srvae_pyro.evaluation.report import record_measures
    from srvae_pyro.files import write_json

    written = True
    try:
        if book is not None:
            record_measures(book, key, known, measures)
    except OSError as error:
        written = False
        warnings.warn(f"{book} cannot be written to: {error.strerror or error}", stacklevel=1)
    try:
        if arguments.json is not None:
            write_json(arguments.json, known | measures)
    except OSError as error:
        written = False
        reason = error.strerror or error
        warnings.warn(f"{arguments.json} cannot be written: {reason}", stacklevel=1)
    return written


def load_pictures(arguments: EvaluateArguments, config: Any) -> DataSplits:
    """The pictures to evaluate on, of the size and channels that the model takes."""
    from srvae_pyro.evaluation.run_data import load_for

    return load_for(config, arguments.data, arguments.data_root)


def pictures_of(data: DataSplits, split: str, own: bool) -> Tensor:
    """The split's pictures, or those of all three.

    Raises:
        UserError: it is a tenth of somebody else's folder, drawn at random.
    """
    import torch

    from srvae_pyro.data import DATA_SETS

    if data.info.get("streamed") and split in ("train", "all"):
        raise UserError(f"{data.name} is too large for --split {split}: take val or test")
    if split == "all":
        return torch.cat([data.train.in_memory(), data.val, data.test])
    if not own and split in data.info.get("held_out_indices", {}) and data.name not in DATA_SETS:
        raise UserError(
            f"{data.name} has no folder {split}/: give --split all to measure on all its pictures"
        )
    images: Tensor = data.train.in_memory() if split == "train" else getattr(data, split)
    if not len(images):
        raise UserError(f"{data.name} has no folder {split}/: take another --split")
    return images


def photographs_of(data: DataSplits, split: str) -> Tensor | None:
    """The photographs that the split's pictures are cut from, if from a few."""
    import torch

    splits = ("train", "val", "test") if split == "all" else (split,)
    found = [data.photographs[name] for name in splits if name in data.photographs]
    return torch.cat(found) if len(found) == len(splits) else None


def flags_of(arguments: EvaluateArguments, *names: str) -> str:
    """The arguments called so as flags, but for those that nothing was given for."""
    given = [(name, getattr(arguments, name)) for name in names]
    flags = [f"--{name.replace('_', '-')} {value}" for name, value in given if value is not None]
    return " ".join(flags)


def settings(
    arguments: EvaluateArguments,
    folder: Path,
    data: DataSplits,
    model: ImageModel,
    images: Tensor,
    numbers: Tensor,
    total: int,
) -> dict[str, Any]:
    """What is needed to repeat an evaluation, and to know its weights and pictures again."""
    import platform

    import torch

    from srvae_pyro import __version__
    from srvae_pyro.digest import digest

    limited = len(numbers) < total
    return {
        "run": str(folder),
        "flags": flags_of(arguments, *["limit"] * limited, "seed", "precision"),
        "weights": digest(dict(sorted(model.state_dict().items()))),
        "data": data.info,
        "split": arguments.split,
        "images": len(numbers),
        "indices": numbers.tolist() if limited else f"0 to {total - 1}",
        "pictures": digest(images),
        "seed": arguments.seed,
        "precision": arguments.precision,
        "versions": {
            "srvae_pyro": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def measured(
    arguments: EvaluateArguments,
    model: ImageModel,
    data: DataSplits,
    images: Tensor,
    numbers: Tensor,
    photographs: Tensor | None,
    group: Group,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Whatever is asked for, one after the other: its name and its numbers."""
    from srvae_pyro.evaluation import super_resolution
    from srvae_pyro.evaluation.measure import evaluate_likelihood
    from srvae_pyro.evaluation.terms import evaluate_elbo

    elbo = evaluate_elbo(
        model,
        images,
        group.device,
        samples=arguments.elbo_samples,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        numbers=numbers,
        precision=arguments.precision,
        progress=group.main,
        group=group,
        units=True,
        photographs=photographs,
    )
    flags = flags_of(arguments, "elbo_samples")
    yield "elbo", {**elbo, "samples": arguments.elbo_samples, "flags": flags}
    if not arguments.elbo_only:
        likelihood = evaluate_likelihood(
            model,
            images,
            group.device,
            arguments.importance_samples,
            estimator=arguments.estimator,
            seed=arguments.seed,
            numbers=numbers,
            memory_gb=arguments.memory_gb,
            precision=arguments.precision,
            progress=group.main,
            group=group,
            photographs=photographs,
        )
        flags = flags_of(arguments, "importance_samples", "estimator")
        yield "likelihood", {**likelihood, "flags": flags}
    if arguments.fid:
        for distances in fid(arguments, model, data, group):
            flags = flags_of(arguments, "decode", "temperature", "fid_images", "fid_weights")
            yield "fid", {**distances, "flags": flags}
    if arguments.super_resolution:
        quality = super_resolution.measure(
            model,
            images,
            seed=arguments.seed,
            numbers=numbers,
            batch_size=arguments.batch_size,
            progress=group.main,
            group=group,
        )
        yield "super_resolution", {**quality, "flags": ""}


def fid(
    arguments: EvaluateArguments, model: ImageModel, data: DataSplits, group: Group
) -> Iterator[dict[str, Any]]:
    """FID and KID against the test pictures, then those and the same against all others."""
    import torch

    from srvae_pyro.evaluation.fid import drawer, fid_and_kid, find_weights

    draw = drawer(
        model,
        decode=arguments.decode,
        temperature=arguments.temperature,
        image_temperature=1.0,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
    )
    out: dict[str, Any] = {"decode": arguments.decode, "temperature": arguments.temperature}
    pictures = {"test": data.test, "train": data.test}
    if group.main:  # the others only generate
        # The paper's training pictures are all that are not test pictures.
        pictures["train"] = torch.cat([data.train.in_memory(FID_IMAGES["train"]), data.val])
    for split, count in FID_IMAGES.items():
        out[split] = fid_and_kid(
            draw,
            pictures[split],
            samples=arguments.fid_images or count,
            weights=find_weights(arguments.fid_weights),
            cache_key=f"{Path(data.name).name}-{split}",
            batch_size=arguments.batch_size,
            device=group.device,
            progress=group.main,
            group=group,
        )
        yield dict(out)


def print_results(result: dict[str, Any], trained_on: str) -> None:
    """The table, and beside it what does not fit into a table."""
    from srvae_pyro.evaluation.report import PUBLISHED, Row, table

    elbo, nll, fid = result["elbo"], result.get("likelihood"), result.get("fid", {})
    name = result["data"]["name"]
    best = nll or elbo
    row = Row(
        Path(name).name,
        "srVAE" if "re_y" in elbo else "VAE",
        best["bits_per_dim"],
        re_x=elbo["re_x"],
        re_y=elbo.get("re_y"),
        kl_z=elbo["kl_z"],
        kl_u=elbo.get("kl_u"),
        error=best["standard_error"],
        fid_test=fid.get("test", {}).get("fid"),
        fid_train=fid.get("train", {}).get("fid"),
    )
    same = result["split"] == "test" and result["images"] == result["data"]["counts"]["test"]
    print(table([row, *(PUBLISHED.get((name, trained_on), []) if same else [])]))
    clustered = f", ±{over(best)}" if over(best) else ""
    print(f"nll: {how(result)}{clustered}; the terms in nats an image")
    print(f"ELBO {elbo['bits_per_dim']:.4f}{error_of(elbo)} bits/dim{over(elbo)}", end="")
    if "y_bits_per_dim" in elbo:
        print(f"; of y alone, (RE_y + KL_u) a dimension of y: {elbo['y_bits_per_dim']:.4f}", end="")
    print()
    for latent in ("z", "u"):
        if f"units_{latent}" in elbo:
            print(active_units(elbo, latent))
    if nll and nll["pareto_k"] is not None:
        print(
            f"importance weights: {nll['effective_samples']:.1f} effective of {nll['samples']} "
            f"samples, Pareto k {nll['pareto_k']:.2f} on average, above 0.7 for "
            f"{100 * nll['pareto_k_above_0.7']:.0f}% of the images: the nll is an upper bound that "
            "more samples would lower"
        )
    for split in FID_IMAGES:
        if split in fid:
            values = fid[split]
            print(
                f"FID {values['fid']:.2f}, KID {values['kid_mean']:.5f} ± {values['kid_std']:.5f}: "
                f"{values['generated']:,} generated against {values['real']:,} {split} pictures"
            )
    if "super_resolution" in result:
        from srvae_pyro.evaluation import super_resolution

        print(super_resolution.table(result["super_resolution"]))


def error_of(measure: dict[str, Any]) -> str:
    """The standard error, where there is one: one picture or photograph has none."""
    return "" if measure["standard_error"] is None else f" ± {measure['standard_error']:.4f}"


def over(measure: dict[str, Any]) -> str:
    """What the standard error is over, where that is not the pictures."""
    if measure["standard_error"] is None or "photographs" not in measure:
        return ""
    return f" over {measure['photographs']} photographs"


def active_units(elbo: dict[str, Any], latent: str) -> str:
    """How many of a latent's units are in use."""
    line = f"{latent}: {elbo[f'active_units_{latent}']} of {elbo[f'units_{latent}']} units active"
    line += " (variance of the posterior mean above 0.01)"
    if (kl := elbo.get(f"kl_units_{latent}")) is not None:
        line += f", {kl} with a KL above 0.01 nats"
    return line


def how(result: dict[str, Any]) -> str:
    """By what the headline number was found."""
    nll = result.get("likelihood")
    if not nll:
        return "the negative ELBO"
    return (
        f"importance sampling, {nll['samples']} samples, {nll['estimator']}, {nll['seconds']:.0f} s"
    )


if __name__ == "__main__":
    run_command(EvaluateArguments, main, "evaluate", "give a smaller --memory-gb or --batch-size")
