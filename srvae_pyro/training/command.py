"""The command train: one run from its settings to its report."""

from __future__ import annotations

import math
import signal
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from srvae_pyro.config import ModelConfig, RunConfig
from srvae_pyro.data import DataSplits, ImageOptions, load_data
from srvae_pyro.data.run_data import refuse_missing
from srvae_pyro.data.splits import evenly_spaced
from srvae_pyro.drawing.grids import LabelledRow, grid, labelled_rows, save_image
from srvae_pyro.errors import UserError, counted
from srvae_pyro.evaluation.likelihood import histogram_nats
from srvae_pyro.evaluation.record import EVALUATION, record, try_write
from srvae_pyro.inference.statistics import bits_per_dim
from srvae_pyro.models import ImageModel, load, super_resolves
from srvae_pyro.models.base import load_weights
from srvae_pyro.models.pixel_groups import is_consistent
from srvae_pyro.models.shapes import sizes_of
from srvae_pyro.networks import checkpoint_blocks, compile_networks
from srvae_pyro.pixels import interpolated, to_unit
from srvae_pyro.runs import CONFIG, name_for
from srvae_pyro.system.console import print_line
from srvae_pyro.system.device import THREADS, process_cores, start
from srvae_pyro.system.files import locked, write_json, write_whole
from srvae_pyro.system.parallel import ProcessGroup, process_group
from srvae_pyro.training.arguments import SettingsGiven, TrainArguments, TrainOptions
from srvae_pyro.training.loop import Trainer, time_limit
from srvae_pyro.training.recovery import can_resume
from srvae_pyro.training.restoration import restoration_scores, restorer_of
from srvae_pyro.training.settings import (
    another_likelihood,
    check_folder,
    folder_of,
    fresh_config,
    resume_command,
    resumed_config,
    run_name,
)
from srvae_pyro.training.validation import score
from srvae_pyro.upscaling.quality import psnr
from srvae_pyro.upscaling.upscaler import Upscaler, downscaled

DRAWN, UPSCALED = 64, 8  # images of the figures at a run's end
IN_USE = (
    "another process is training there; wait for it, stop it, or choose another name with --run"
)


def run(arguments: TrainArguments) -> int:
    """Train, with the other processes of torchrun; the exit code."""
    given, options = arguments.settings(), arguments.options()
    with process_group(options.device) as group:
        return run_in(group, given, arguments.run, options)


def run_in(
    group: ProcessGroup, given: SettingsGiven, name: str | None, options: TrainOptions
) -> int:
    """This process's part of a run; the exit code."""
    config = fresh_config(given) if name is None else None
    name = name or (run_name(config) if config else "")
    folder = folder_of(name)
    if group.restarts and can_resume(folder):
        options = replace(options, resume=True)  # torchrun restarted a run
    check_folder(folder, options.resume)
    if options.resume:
        config = resumed_config(given, folder)
    config = on_this_machine(config or fresh_config(given), options, group)
    with group.main_first():
        images = load_images(config, options)
    config = with_images(config, images, folder, options.resume)
    trainer = make_trainer(config, images, folder, group, options)
    with locked(folder, IN_USE) if group.main else nullcontext():
        if group.main:  # another process may have finished the run meanwhile
            check_folder(folder, options.resume)
        finished = train(trainer, options)
    if finished:
        return 0
    print_line(
        f"stopped in epoch {trainer.progress.epoch}, after {trainer.progress.step:,} steps; resume "
        f"with: {resume_command(name, options)}"
    )
    return 128 + (trainer.interrupt.signal or signal.SIGINT)


def on_this_machine(config: RunConfig, options: TrainOptions, group: ProcessGroup) -> RunConfig:
    """Set up the process; the settings with its precision and threads."""
    keep = options.resume and options.precision == "auto"
    threads = config.training.threads if options.threads is None else options.threads
    precision = start(
        group.device,
        config.training.precision if keep else options.precision,
        threads=threads,
        keep_allocator=options.keep_allocator,
    )
    if options.compile:
        THREADS.fix(0)  # compiled networks are for one number of threads
    return replace(config, training=replace(config.training, precision=precision, threads=threads))


def load_images(config: RunConfig, options: TrainOptions) -> DataSplits:
    """The images that a run trains on."""
    data = config.data
    if options.resume:
        refuse_missing(data)
    size_field = "image_size" if data.crops is None else "crops"
    image_options = ImageOptions(
        image_size=data.image_size,
        crops=data.crops,
        eval_crops=data.eval_crops,
        channels=data.channels,
        seed=data.seed,
        limit=data.limit,
        strict=options.strict,
        stream=options.stream or data.info.get("streamed"),
        check_shape=lambda shape: check_shape(config.model, shape, size_field),
    )
    images = load_data(data.data, options.data_root, image_options)
    workers = options.workers
    images.train.workers = min(process_cores() // 2, 8) if workers is None else workers
    return images


def check_shape(model: ModelConfig, shape: tuple[int, int, int], field: str) -> None:
    """Refuse images (C, H, W) that do not suit the networks; names a ``field`` that does."""

    def problem(shape: tuple[int, int, int]) -> UserError | None:
        try:
            sizes_of(replace(model, image_shape=shape))
        except UserError as error:
            return error
        return None

    if wrong := problem(shape):
        side = shape[1] if shape[1] == shape[2] else min(*shape[1:], 64)
        better = (size for size in range(side, side + 65) if not problem((shape[0], size, size)))
        size = next(better, None)
        raise UserError(f"{wrong}: pass `{field}={size}`") if size else wrong


def with_images(config: RunConfig, images: DataSplits, folder: Path, resume: bool) -> RunConfig:
    """The settings completed by the images, which must be a resumed run's own."""
    fingerprint = images.fingerprint()
    if resume:
        if config.model.image_shape != images.shape:
            was, now = ("x".join(map(str, s)) for s in (config.model.image_shape, images.shape))
            raise UserError(f"{folder} was trained on images of {was}, but its data now has {now}")
        recorded = config.data.info.get("fingerprint")
        if recorded not in (None, fingerprint):
            raise UserError(
                f"{folder}: the images of {images.name} are not those that it was trained on; "
                "bring them back or name their place with `data` to resume, or start another `run`"
            )
    info = {**images.info, "fingerprint": fingerprint}
    return replace(
        config,
        model=replace(config.model, image_shape=images.shape),
        data=replace(config.data, info=info),
    )


def make_trainer(
    config: RunConfig, images: DataSplits, folder: Path, group: ProcessGroup, options: TrainOptions
) -> Trainer:
    trainer = Trainer(
        config,
        images,
        folder,
        group,
        accumulate=options.accumulate,
        save_minutes=options.save_minutes,
    )
    model = trainer.learner.model
    if config.training.init and not options.resume:
        load_weights(model, config.training.init)
    if options.checkpoint_activations:
        checkpoint_blocks(model)
    if options.compile:
        print_line("the networks are compiled in the first steps, which takes minutes")
        compile_networks(model)
    return trainer


def train(trainer: Trainer, options: TrainOptions) -> bool:
    """Train in the run's locked folder; whether the run reached its end."""
    folder, group = trainer.folder, trainer.group
    if options.resume:
        trainer.recovery.resume()
        if trainer.fraction_done() >= 1 and not group.restarts:
            raise UserError(
                f"{folder} is complete: to continue it, raise `epochs`, `steps` or `max_minutes`"
            )
    if group.main:
        write_json(folder / CONFIG, trainer.config.to_dict())
    introduce(trainer)
    trainer.run()
    if trainer.fraction_done() < 1:
        return False
    if group.main:
        report(trainer)
    return True


def introduce(trainer: Trainer) -> None:
    """Print what is trained, on what, and where."""
    config, data = trainer.config, trainer.data
    parameters = sum(p.numel() for p in trainer.learner.model.parameters())
    print_line(
        f"{config.model.model} {config.preset}: {parameters:,} parameters, "
        f"{len(data.train):,} {data.unit} of {'x'.join(map(str, data.shape))}, "
        f"{trainer.group.device}, {config.training.precision}, to {trainer.folder}"
    )
    print_line(f"split of {data.name}: {data.info.get('split')}")
    if crops := data.info.get("crops"):
        train, val, test = (f"{crops['images'][split]:,}" for split in ("train", "val", "test"))
        print_line(
            f"crops: {len(data.train):,} random crops per epoch (the area of {train} images); "
            f"{len(data.val):,} from {val} images for validation, {len(data.test):,} from {test} "
            "for testing"
        )
    if limit := time_limit(config.training, trainer.progress.seconds):
        print_line(limit)
    if another := another_likelihood(config):
        print_line(another)


def report_restoration(trainer: Trainer, count: int) -> None:
    """:func:`report` of a run that learnt from damaged inputs."""
    restorer = restorer_of(load(trainer.folder, trainer.group.device))
    print_line(f"scoring the best weights on {count:,} test {trainer.data.unit}")
    images = evenly_spaced(trainer.data.test, count)
    scores = restoration_scores(restorer, images, precision=trainer.settings.precision)
    results = {"split": "test", "images": len(images), "restoration": scores}
    results["seconds"] = trainer.progress.seconds
    _record(trainer.folder, results)
    psnrs = (
        f"{name.removeprefix('psnr_')} {value:.2f}"
        for name, value in scores.items()
        if name.startswith("psnr_")
    )
    print_line(f"test, {len(images):,} {trainer.data.unit}: PSNR in dB: {', '.join(psnrs)}")
    print_line(f"try: python -m srvae_pyro.upscale {name_for(trainer.folder)} PHOTO.jpg")


def _record(folder: Path, results: dict[str, Any]) -> None:
    try_write(folder / EVALUATION, record, folder, "training", results)


def report(trainer: Trainer) -> None:
    """Score the best weights on test images, write ``evaluation.jsonl`` and print the scores."""
    data, folder, progress = trainer.data, trainer.folder, trainer.progress
    count = trainer.validation.count("test", progress.images)
    if trainer.settings.inputs == "damaged":
        report_restoration(trainer, count)
        return
    print_line(f"scoring the best weights on {count:,} test {data.unit}")
    model = load(folder, trainer.group.device)
    elbo = score(model, data, "test", count, batch_size=trainer.validation.batch_size)
    images = evenly_spaced(data.test, count)
    most = min(50_000, max(2**29 // math.prod(data.shape), 1))  # at most half a gigabyte
    histogram = bits_per_dim(histogram_nats(data.train.in_memory(most), images), data.shape)
    results = {
        "split": "test",
        "images": len(images),
        "elbo": elbo,
        "untrained_bits_per_dim": progress.untrained,
        "untrained_images": progress.untrained_images,
        "histogram_bits_per_dim": histogram,
        "steps": progress.step,
        "seconds": progress.seconds,
        "skipped": progress.skipped,
    }
    _record(folder, results)
    named = {n[:2].upper() + n[2:]: v for n, v in elbo.items() if n[:2] in ("re", "kl")}  # RE_x
    terms = ", ".join(f"{name} {value:.0f}" for name, value in named.items())
    first = "at the start" if trainer.settings.init else "untrained"
    print_line(
        f"test, {len(images):,} {data.unit}: {elbo['bits_per_dim']:.3f} bits/dim (negative ELBO)"
    )
    print_line(f"  nats per image: {terms}")
    first += f" ({progress.untrained_images:,} {data.unit})"
    print_line(
        f"  for comparison: {progress.untrained:.2f} {first}, {histogram:.3f} by a histogram of "
        "each dimension"
    )
    for line in final_figures(model, data, folder / "figures"):
        print_line(line)
    crops = trainer.config.data.crops is not None and is_consistent(trainer.config.model)
    name = name_for(folder)
    next_one = f"upscale {name} PHOTO.jpg" if crops else f"generate {name}"
    print_line(f"next: python -m srvae_pyro.{next_one}")


def final_figures(model: ImageModel, data: DataSplits, folder: Path) -> list[str]:
    """Draw samples and upscaled test images, beside bicubic; lines that name the files."""
    samples = model.generate(DRAWN, seed=0)["x"]
    save_image(grid(samples, columns=16), folder / "samples.png")
    lines = [f"{folder / 'samples.png'}: {DRAWN} generated images"]
    x = evenly_spaced(data.test, UPSCALED) if data.larger is None else data.larger
    if super_resolves(model) and model.guide.d.factor > 1 and len(x):
        height, width = (side - side % model.guide.d.factor for side in x.shape[-2:])
        x = x[..., :height, :width]
        y = downscaled(model, x)
        upscaler = Upscaler(model)
        outputs = torch.stack([upscaler(image) for image in y])
        bicubic = interpolated(y, model.guide.d.factor)
        ours, theirs = (psnr(levels, x).mean().item() for levels in (outputs, bicubic))
        rows = [
            LabelledRow("input", to_unit(y)),
            LabelledRow(f"bicubic\n{theirs:.2f} dB", to_unit(bicubic)),
            LabelledRow(f"this model\n{ours:.2f} dB", to_unit(outputs)),
            LabelledRow("original", to_unit(x)),
        ]
        write_whole(folder / "upscaled.png", labelled_rows(rows, side=112).save)
        lines.append(
            f"{folder / 'upscaled.png'}: {counted(len(x), 'test image')} upscaled by "
            f"{model.guide.d.factor}: {ours:.2f} dB, bicubic {theirs:.2f} dB"
        )
    return lines
