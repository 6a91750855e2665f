"""Runs that differ in one thing: ``python benchmarks/studies.py recipes --data ~/cifar10``.

Each study is a table of runs equal in all but the flags it names: ``small`` of that preset, and of
models with independent pixels, as the presets were before, ``recipes`` of the size of ``small`` and
``ablations`` of ``quickstart``'s. A run that is there already is not trained again, and
one that was interrupted goes on, so the command can be stopped and repeated. ``--table`` trains
nothing and prints what is there as Markdown: bits/dim and terms (nats an image) of the averaged
weights on the validation split, operations (GFLOP an image, forward and backward) and parameters.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from presets import gigaflops

from srvae_pyro.evaluation.record import newest_results
from srvae_pyro.models import make_model
from srvae_pyro.runs import read_config

RATE = ("--lr", "3e-3")
SLOWLY = ("--kl-start", "0.02", "--kl-warmup", "0.5")
WARM = (*SLOWLY, *RATE)
PUBLISHED = ("--kl-start", "1", "--kl-warmup", "0", *RATE)
COLLAPSED_START = ("model.posterior_scale=0", "model.posterior_log_variance=0")
Z_BRANCH = ("model.q_z.growth=16", "model.p_x_from_z.growth=32", "model.p_x_z_channels=24")

STUDIES: dict[str, dict[str, tuple[str, ...]]] = {
    # What the preset small is made of, and how it is trained.
    "small": {
        "small": (),
        "VAE": ("--model", "vae"),
        "VAE, KL_z over 0.4 of the run": ("--model", "vae", "--kl-warmup", "0.4"),
        "KL_z over 0.8 of the run": ("--kl-warmup", "0.8"),
        "KL_u weighted 1 throughout": ("--kl-u-start", "1", "--kl-u-warmup", "0"),
        "q(z|x,y)": ("--guide-z-sees-y",),
        "u at 4x4": ("--u-stages", "2"),
        "p(y|u) of independent pixels": ("--latent-likelihood", "independent", "--u-stages", "1"),
        "y by downscale2, independent pixels": (
            *("--transform", "downscale2"),
            *("--likelihood", "independent"),
        ),
    },
    # How to train so that z is used.
    "recipes": {
        "published objective": PUBLISHED,
        "published, start at q = N(0, 1)": (*PUBLISHED, "--set", *COLLAPSED_START),
        "KL_z from 0.02 over 0.1 of the run": ("--kl-start", "0.02", "--kl-warmup", "0.1", *RATE),
        "KL_z from 0.02 over 0.5": WARM,
        "KL_z from 0.02 over 0.8": ("--kl-start", "0.02", "--kl-warmup", "0.8", *RATE),
        "KL_z from 0.3 over 0.5": ("--kl-start", "0.3", "--kl-warmup", "0.5", *RATE),
        "KL_z from 0 over 0.5": ("--kl-start", "0", "--kl-warmup", "0.5", *RATE),
        "wider networks of z": (*WARM, "--set", *Z_BRANCH),
        "learning rate 6e-3": (*SLOWLY, "--lr", "6e-3"),
        "learning rate 1.2e-2": (*SLOWLY, "--lr", "1.2e-2"),
    },
    # What each part of the model is worth.
    "ablations": {
        "srVAE": (),
        "prior mixture": ("--prior", "mixture"),
        "prior standard": ("--prior", "standard"),
        "q(z|x,y)": ("--guide-z-sees-y",),
        "y = Downscale 4": ("--transform", "downscale4"),
        "y = Grayscale": ("--transform", "grayscale"),
        "no augmentation": ("--augment", "none"),
    },
}
INDEPENDENT = (  # and what the presets were trained by
    *("--optimizer", "adamax", "--augment", "shifts"),
    *("--transform", "downscale2", "--likelihood", "independent"),
    *("--latent-likelihood", "independent", "--kl-u-start", "1", "--kl-u-warmup", "0"),
)
EARLIER_SMALL = (
    "model.q_u.growth=20",
    "model.p_y.growth=48",
    "model.p_y.steps=3",
    "model.p_u_network.growth=16",
)
AS_MANY = "training.validation_images=2000"  # validation images for all
# What a study's runs share where they name nothing else.
SHARED: dict[str, tuple[str, ...]] = {
    "small": ("--preset", "small"),
    "recipes": (
        *("--preset", "small", *INDEPENDENT, "--u-stages", "1"),
        *("--set", *EARLIER_SMALL),
    ),
    "ablations": (
        *("--preset", "quickstart", *INDEPENDENT, "--lr", "4e-3", "--kl-warmup", "0.5"),
        *("--set", AS_MANY),
    ),
}


def joined(flags: tuple[str, ...], shared: tuple[str, ...]) -> list[str]:
    """A run's flags, and those of its study that it does not give itself; all settings of --set."""
    given: dict[str, list[str]] = {}
    for number, part in enumerate((flags, shared)):
        known = set(given) - {"--set"} if number else set()
        name = ""
        for word in part:
            if word.startswith("--"):
                name = word
                if name not in known:
                    given.setdefault(name, [])
            elif name not in known:
                given[name].append(word)
    return [word for name, values in given.items() for word in (name, *values)]


def part(text: str) -> tuple[int, int]:
    """The numbers of ``I/N``, as argparse wants a type."""
    first, _, every = text.partition("/")
    if not (first.isdecimal() and every.isdecimal() and 1 <= int(first) <= int(every)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N, such as 1/2 and 2/2")
    return int(first), int(every)


def folder_of(study: str, name: str) -> Path:
    """Where a study's run is."""
    letters = "".join(c if c.isalnum() or c == "." else "-" for c in name.lower())
    return Path("runs") / study / "-".join(filter(None, letters.split("-")))


def finished(folder: Path, steps: int) -> bool:
    """Whether a run has come to its end."""
    line = newest_results(folder).get("training", {})
    return line.get("result", {}).get("steps", 0) >= steps


def train(folder: Path, name: str, data: str, flags: Sequence[str]) -> int:
    """Train a run, or what is left of it; the command's exit code."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "srvae_pyro.train", "--data", data, "--run", str(folder)]
    command += ["--resume"] if (folder / "last.ckpt").exists() else []
    command += flags
    print(f"{name}: {' '.join(command[1:])}", flush=True)
    with (folder.parent / f"{folder.name}.log").open("a") as log:
        return subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode


def row(folder: Path, name: str) -> str:
    """A run's line of the table, of its last validation."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["split"] == "val"][-1]
    model = make_model(read_config(folder).model)
    terms = [f"{last[key]:.0f}" if key in last else "" for key in ("re_x", "re_y", "kl_z", "kl_u")]
    size = sum(p.numel() for p in model.parameters()) / 1e6
    values = [f"{last['bits_per_dim']:.3f}", *terms, f"{gigaflops(model):.2f}", f"{size:.2f} M"]
    name = name.replace("|", "\\|")
    return f"| {name} | {' | '.join(values)} | {last['step']:,} |"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--data", default="cifar10", help="as train has it")
    parser.add_argument("--steps", type=int, default=1500, help="updates of each run")
    parser.add_argument("--threads", type=int, help="of each run; all cores if not given")
    parser.add_argument(
        "--part", type=part, default=(1, 1), help="I/N: only each N-th run, from the I-th on"
    )
    parser.add_argument("--table", action="store_true", help="train nothing, print the table")
    options = parser.parse_args()
    first, every = options.part
    runs = list(STUDIES[options.study].items())[first - 1 :: every]
    if options.table:
        print("| | val bits/dim | RE_x | RE_y | KL_z | KL_u | GFLOP | parameters | steps |")
        print("|---|---|---|---|---|---|---|---|---|")
    for name, flags in runs:
        folder = folder_of(options.study, name)
        if options.table:
            if finished(folder, options.steps):
                print(row(folder, name), flush=True)
        elif not finished(folder, options.steps):
            length = ["--steps", str(options.steps)]
            if options.threads is not None:
                length += ["--threads", str(options.threads)]
            every_flag = [*length, *joined(flags, SHARED[options.study])]
            if code := train(folder, name, options.data, every_flag):
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
