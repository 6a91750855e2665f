"""The flags of the command train: those of a run; those of settings come from their fields."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from srvae_pyro.checked import Above, AtLeast
from srvae_pyro.config import Device, Precision, Preset
from srvae_pyro.system.cli import Group, option
from srvae_pyro.training.flags import RECORDED, with_setting_flags

__all__ = ["TrainArguments"]

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
        option("{paper,small,quickstart,photo}", "paper; with --init its run's"),
        "networks and training: days on a GPU, hours on a CPU, or minutes on a CPU; photo is small "
        "for photographs, learnt from crops of 64x64",
    ] = None
    run: Annotated[
        str | None,
        option("NAME", "MODEL-PRESET-DATA", "--run-name"),
        "name of the run under runs/, or with a slash the path of its folder; --run-name under "
        "torchrun, which takes --run for its own",
    ] = None
    resume: Annotated[
        bool,
        "go on from the run's last checkpoint, with its settings; the length may change, and "
        "schedules that are shares of it rescale with it; --data says where the pictures are now, "
        "if they were moved",
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
        int | None,
        MACHINE,
        AtLeast(0),
        RECORDED,
        option("N", "0; with --resume the run's"),
        "CPU threads; 0: as many as other processes leave cores for, checked each second. A "
        "run repeats, and resumes, to the bit only with a fixed number",
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
