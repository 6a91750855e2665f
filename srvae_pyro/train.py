"""Train an srVAE or VAE: ``python -m srvae_pyro.train --help``."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from srvae_pyro.checked import Above, AtLeast
from srvae_pyro.commands import Group, option, run_command
from srvae_pyro.config import Device, Precision, Preset
from srvae_pyro.errors import UserError
from srvae_pyro.training.flags import RECORDED, with_setting_flags

if TYPE_CHECKING:
    from srvae_pyro.config import ModelConfig, RunConfig
    from srvae_pyro.data import DataSplits
    from srvae_pyro.parallel import Group as ProcessGroup
    from srvae_pyro.training.trainer import Trainer

__all__ = ["TrainArguments", "main"]

LESS_MEMORY = (
    "give --accumulate 2 or more, --checkpoint-activations, a smaller --batch-size, or --stream "
    "for pictures that do not fit"
)
DATA, MACHINE = Group("data"), Group("machine")


@dataclass
@with_setting_flags
class TrainArguments:
    """Train a super-resolution VAE, or the one-level VAE, and write a run's folder.

    With no flags it is the paper's run: srVAE, CIFAR-10, preset paper. Ctrl-C saves and stops;
    --resume goes on from there.
    """

    preset: Annotated[
        Preset | None,
        RECORDED,
        option("{paper,small,quickstart}", "paper; with --init its run's"),
        "networks and training: days on a GPU, hours on a CPU, or minutes on a CPU",
    ] = None
    run: Annotated[
        str | None,
        option("NAME", "MODEL-PRESET-DATA", "--run-name"),
        "name of the run under runs/, or a folder; --run-name under torchrun, which takes --run "
        "for its own",
    ] = None
    resume: Annotated[
        bool,
        "go on from the run's last checkpoint, with its settings; its length can be changed, and "
        "then what is a share of it moves too: the learning rate's fall, KL_z's weight; --data "
        "says where its pictures are now, if they were moved",
    ] = False
    save_minutes: Annotated[
        float,
        Above(0, math.inf),
        "minutes between checkpoints within an epoch; each epoch's end has one too",
    ] = 10.0
    set: Annotated[
        tuple[str, ...],
        RECORDED,
        tyro.conf.arg(metavar="PART.NAME=VALUE ...", help_behavior_hint="(default: none)"),
        "any settings, named as in config.json: model.p_x.growth=24 training.anneal=0.5",
    ] = ()

    device: Annotated[Device, MACHINE, "auto takes a GPU if there is one"] = "auto"
    precision: Annotated[
        Literal["auto", Precision],
        MACHINE,
        RECORDED,
        "of the networks, not of log-probabilities; auto: bf16 where the device has it",
    ] = "auto"
    threads: Annotated[
        int | None, MACHINE, AtLeast(1), option("N", "one a core"), "CPU threads"
    ] = None
    accumulate: Annotated[
        int,
        MACHINE,
        AtLeast(1),
        "parts of each batch whose gradients are added up before the update: less memory",
    ] = 1
    checkpoint_activations: Annotated[
        bool,
        MACHINE,
        "compute the insides of dense blocks again for the gradient: less memory, more time",
    ] = False
    compile: Annotated[
        bool,
        MACHINE,
        "compile the networks with torch.compile: minutes at the start; on a CPU it gains little",
    ] = False
    keep_allocator: Annotated[
        bool,
        MACHINE,
        "leave glibc's memory allocator as it is (Linux, CPU): slower, but frees memory sooner",
    ] = False

    data_root: Annotated[Path, DATA, "where the named data sets are, or are downloaded to"] = Path(
        "data"
    )
    strict: Annotated[
        bool, DATA, "refuse a folder with files that are no pictures, rather than leave these out"
    ] = False
    stream: Annotated[
        bool,
        DATA,
        RECORDED,
        "read a folder's training pictures when they are needed, as is done anyway where they "
        "would take more than half of the memory",
    ] = False
    workers: Annotated[
        int | None,
        DATA,
        AtLeast(0),
        option("N", "half the cores, 8 at most"),
        "processes that read such pictures ahead, for each that trains; 0: none",
    ] = None


IN_USE = "another process trains there; wait for it, stop it, or choose another name with --run"


def load_pictures(config: RunConfig, arguments: TrainArguments) -> DataSplits:
    """The pictures that a run trains on."""
    from srvae_pyro.data import PictureOptions, load_data
    from srvae_pyro.evaluation.run_data import has_earlier_layout, refuse_missing

    data = config.data
    if arguments.resume:
        refuse_missing(data)
    options = PictureOptions(
        image_size=data.image_size,
        channels=data.channels,
        seed=data.seed,
        limit=data.limit,
        strict=arguments.strict,
        stream=arguments.stream or data.info.get("streamed"),
        exact_names=has_earlier_layout(data),
        check_shape=lambda shape: check_shape(config.model, shape),
    )
    pictures = load_data(data.data, arguments.data_root, options)
    cores = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    workers = arguments.workers
    pictures.train.workers = min(cores // 2, 8) if workers is None else workers
    return pictures


def check_shape(model: ModelConfig, shape: tuple[int, int, int]) -> None:
    """Refuse pictures (C, H, W) that do not suit the networks.

    Raises:
        UserError: they do not; names the ``--image-size`` that would.
    """
    from srvae_pyro.models.base import sizes_of

    def problem(shape: tuple[int, int, int]) -> UserError | None:
        try:
            sizes_of(dataclasses.replace(model, image_shape=shape))
        except UserError as error:
            return error
        return None

    if wrong := problem(shape):
        side = shape[1] if shape[1] == shape[2] else min(*shape[1:], 64)
        # The next that suits, so that nothing of a picture is lost.
        better = (size for size in range(side, side + 65) if not problem((shape[0], size, size)))
        size = next(better, None)
        raise UserError(f"{wrong}: pass --image-size {size}") if size else wrong


def main(arguments: TrainArguments) -> int:
    """Train as asked; the exit code."""
    from srvae_pyro.parallel import process_group

    with process_group(arguments.device) as group:
        return train_in(group, arguments)


def train_in(group: ProcessGroup, arguments: TrainArguments) -> int:
    """One process of the group's part of a run; the exit code."""
    import pyro
    import torch

    from srvae_pyro.lock import locked
    from srvae_pyro.runtime import tune_allocator
    from srvae_pyro.training.settings import (
        can_resume,
        folder_of,
        fresh_config,
        resumed_config,
        run_folder,
    )

    if group.restarts and can_resume(folder_of(arguments)):
        arguments = dataclasses.replace(arguments, resume=True)  # torchrun restarted a run
    folder = run_folder(arguments)
    config = resumed_config(arguments, folder) if arguments.resume else fresh_config(arguments)
    if group.device.type == "cpu" and not arguments.keep_allocator:
        tune_allocator()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    # Checking every site's values at every step would cost time; the tests do.
    pyro.enable_validation(False)
    with group.main_first():
        pictures = load_pictures(config, arguments)
    config = with_pictures(config, pictures, folder, arguments.resume)
    trainer = make_trainer(arguments, config, pictures, folder, group)
    with locked(folder, IN_USE) if group.main else nullcontext():
        return train(trainer, arguments)


def with_pictures(config: RunConfig, pictures: DataSplits, folder: Path, resume: bool) -> RunConfig:
    """The settings completed by what the pictures are.

    Raises:
        UserError: a run that is to be resumed was trained on others.
    """
    fingerprint = pictures.fingerprint()
    if resume:
        if config.model.image_shape != pictures.shape:
            was, now = ("x".join(map(str, s)) for s in (config.model.image_shape, pictures.shape))
            raise UserError(f"{folder} was trained on pictures of {was}, its data now has {now}")
        recorded = config.data.info.get("fingerprint")
        if recorded is not None and not pictures.is_known_as(recorded):
            raise UserError(
                f"{folder}: the pictures of {pictures.name} are not those that it was trained on; "
                "bring them back or name their place with --data to resume, or start another --run"
            )
    info = {**pictures.info, "fingerprint": fingerprint}
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, image_shape=pictures.shape),
        data=dataclasses.replace(config.data, info=info),
    )


def make_trainer(
    arguments: TrainArguments,
    config: RunConfig,
    pictures: DataSplits,
    folder: Path,
    group: ProcessGroup,
) -> Trainer:
    """What trains the run; nothing is written yet."""
    from srvae_pyro.models.loading import load_weights
    from srvae_pyro.networks import checkpoint_blocks, compile_networks
    from srvae_pyro.runtime import choose_precision
    from srvae_pyro.training.trainer import Trainer

    keep = arguments.resume and arguments.precision == "auto"
    precision = choose_precision(
        config.training.precision if keep else arguments.precision, group.device
    )
    config = dataclasses.replace(
        config, training=dataclasses.replace(config.training, precision=precision)
    )
    trainer = Trainer(
        config,
        pictures,
        folder,
        group.device,
        save_minutes=arguments.save_minutes,
        group=group,
        accumulate=arguments.accumulate,
    )
    if config.training.init and not arguments.resume:
        load_weights(trainer.model, config.training.init)
    if arguments.checkpoint_activations:
        checkpoint_blocks(trainer.model)
    if arguments.compile:
        compile_networks(trainer.model)
    return trainer


def train(trainer: Trainer, arguments: TrainArguments) -> int:
    """Train in the run's folder, which is ours; the exit code."""
    from srvae_pyro.files import write_json
    from srvae_pyro.models.loading import CONFIG
    from srvae_pyro.training.settings import resume_command

    config, folder = trainer.config, trainer.folder
    if arguments.resume:
        trainer.resume()
        if trainer.fraction_done() >= 1 and not trainer.group.restarts:
            raise UserError(
                f"{folder} has reached its end: give --epochs, --steps or --max-minutes more"
            )
    if not trainer.group.main:
        trainer.run()
        return 0 if trainer.fraction_done() >= 1 else 128 + (trainer.stopped_by or signal.SIGINT)
    write_json(folder / CONFIG, config.to_dict())
    parameters = sum(p.numel() for p in trainer.model.parameters())
    print(
        f"{config.model.model} {config.preset}: {parameters:,} parameters, "
        f"{len(trainer.data.train):,} pictures of {'x'.join(map(str, trainer.data.shape))}, "
        f"{trainer.device}, {config.training.precision}, to {folder}"
    )
    print(f"pictures of {trainer.data.name}: {trainer.data.info.get('split')}")
    progress = trainer.run()
    if trainer.fraction_done() < 1:
        print(
            f"stopped in epoch {progress.epoch}, after {progress.step} steps; go on with: "
            f"{resume_command(arguments)}"
        )
        return 128 + (trainer.stopped_by or signal.SIGINT)
    return report(trainer)


def report(trainer: Trainer) -> int:
    """Score the best weights on test pictures, write ``evaluation.json``, say what came out."""
    from srvae_pyro.evaluation.baselines import histogram_nats
    from srvae_pyro.evaluation.report import record
    from srvae_pyro.evaluation.terms import bits_per_dim
    from srvae_pyro.models.loading import load

    shape, images = trainer.data.shape, trainer.test_images()
    model = load(trainer.folder, trainer.device)
    elbo = trainer.evaluate(model, images, **trainer.cut_from("test"))
    histogram = bits_per_dim(histogram_nats(trainer.data.train.in_memory(50_000), images), shape)
    results = {
        "split": "test",
        "images": len(images),
        "elbo": elbo,
        "untrained_bits_per_dim": trainer.progress.untrained,
        "histogram_bits_per_dim": histogram,
        "steps": trainer.progress.step,
        "seconds": trainer.progress.seconds,
        "skipped": trainer.progress.skipped,
    }
    record(trainer.folder, "training", results)
    terms = ", ".join(f"{n.upper()} {v:.0f}" for n, v in elbo.items() if n[:2] in ("re", "kl"))
    print(f"test, {len(images):,} pictures: {elbo['bits_per_dim']:.3f} bits/dim by the ELBO")
    print(f"  nats an image: {terms}")
    print(
        f"  for comparison: {trainer.progress.untrained:.3f} "
        f"{'at the start' if trainer.settings.init else 'untrained'}, {histogram:.3f} by a "
        "histogram of each dimension"
    )
    print(f"see {trainer.folder / 'figures'}, or: python -m srvae_pyro.generate {trainer.folder}")
    return 0


if __name__ == "__main__":
    run_command(TrainArguments, main, "train", LESS_MEMORY)
