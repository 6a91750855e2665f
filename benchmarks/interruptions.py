"""Runs killed at random moments: ``python benchmarks/interruptions.py --kills 100``.

A tiny srVAE trains in a process that is killed (SIGKILL) after a random time, while it saves after
every step, and is resumed, again and again until it has done its steps. After each kill its folder
must hold a checkpoint that loads and is no older than the last completed save; at the end its
weights must be those of a run without interruption, to the bit. Ends with exit code 1 if not.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from dataclasses import fields
from multiprocessing.connection import Connection
from pathlib import Path


def train(folder: Path, precision: str, steps: int, pipe: Connection | None) -> None:
    """A process: trains to the end, from the checkpoint if there is one; tells of each save."""
    import pyro
    import torch

    from srvae_pyro.config import Dense, ModelConfig, RunConfig, TrainingConfig
    from srvae_pyro.data import DataSplits, MemoryImages
    from srvae_pyro.training.loop import Trainer
    from srvae_pyro.training.recovery import LAST

    torch.set_num_threads(1)
    pyro.enable_validation(False)
    networks = [f.name for f in fields(ModelConfig) if isinstance(f.default, Dense)]
    small = {
        "image_shape": (3, 16, 16),
        "latent_channels": 2,
        "components": 2,
        "p_u": "standard",
        **dict.fromkeys(networks, Dense(2, 1)),
    }
    training = TrainingConfig(epochs=None, steps=steps, batch_size=4, precision=precision)
    config = RunConfig("tiny", ModelConfig(**small), training=training)
    images = torch.randint(0, 256, (50, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    images = images.to(torch.uint8)
    data = DataSplits("noise", MemoryImages(images[:42]), images[42:46], images[46:])
    trainer = Trainer(config, data, folder, quiet=True, save_minutes=0)
    save = trainer.recovery.save

    def save_and_tell() -> None:
        save()
        if pipe:
            pipe.send(trainer.progress.step)

    trainer.recovery.save = save_and_tell  # type: ignore[method-assign]
    trainer.validation.draw = lambda *args, **options: None  # type: ignore[method-assign]
    if (folder / LAST).exists():
        trainer.recovery.resume()
    trainer.run()


def check(folder: Path, saved: int) -> str:
    """What is wrong with the folder of a killed run that had saved step ``saved``, or nothing."""
    from srvae_pyro.errors import UserError
    from srvae_pyro.runs import WEIGHTS, read_weights
    from srvae_pyro.training.recovery import LAST, load_checkpoint

    if not (folder / LAST).exists():
        return "no checkpoint although one was saved" if saved >= 0 else ""
    try:
        step = load_checkpoint(folder / LAST)["progress"]["step"]
        if (folder / WEIGHTS).exists():
            read_weights(folder / WEIGHTS)
    except (UserError, ValueError) as error:
        return str(error)
    return f"step {step} is older than the save of {saved}" if step < saved else ""


def same(one: Path, other: Path) -> bool:
    """Whether two runs have the same checkpoint, clocks left out, and the same best weights."""
    from srvae_pyro.runs import WEIGHTS, read_weights
    from srvae_pyro.system.files import digest
    from srvae_pyro.training.recovery import LAST, load_checkpoint

    states = [load_checkpoint(folder / LAST) for folder in (one, other)]
    for state in states:
        state["progress"].pop("seconds")
    # The order of a safetensors file's metadata is not fixed: what it holds is compared.
    states += [read_weights(folder / WEIGHTS) for folder in (one, other)]
    digests = [digest(state) for state in states]
    return digests[0] == digests[1] and digests[2] == digests[3]


def kill_and_resume(
    context: object, folder: Path, precision: str, steps: int, most: int
) -> tuple[int, int]:
    """Kills a run until it is done, ``most`` times at most: kills sent, and kills survived."""
    kills = survived = 0
    saved = -1
    while True:
        ours, theirs = context.Pipe(duplex=False)  # type: ignore[attr-defined]
        process = context.Process(  # type: ignore[attr-defined]
            target=train, args=(folder, precision, steps, theirs)
        )
        process.start()
        theirs.close()
        if kills < most:
            ours.poll(20)  # it has got as far as a save, or has ended
            time.sleep(random.uniform(0, 0.6))
            process.kill()
        process.join()
        try:
            while True:
                saved = max(saved, ours.recv())
        except EOFError:
            pass
        if process.exitcode == 0:
            return kills, survived
        if process.exitcode != -9:
            raise RuntimeError(f"training ended by itself with exit code {process.exitcode}")
        kills += 1
        wrong = check(folder, saved)
        survived += not wrong
        if wrong:
            print(f"  after kill {kills}: {wrong}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["srvae_pyro.training.loop", "torch.utils.tensorboard"])
    kills = survived = runs = exact = 0
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        while kills < arguments.kills:
            precision = ("fp32", "bf16")[runs % 2]
            if not (place / precision).exists():
                whole = (place / precision, precision, arguments.steps, None)
                process = context.Process(target=train, args=whole)
                process.start()
                process.join()
            folder = place / f"run{runs}"
            to_device, well = kill_and_resume(
                context, folder, precision, arguments.steps, arguments.kills - kills
            )
            kills, survived, runs = kills + to_device, survived + well, runs + 1
            exact += same(folder, place / precision)
    print(f"{survived} of {kills} kills survived, {exact} of {runs} runs equal to the bit")
    return int(survived < kills or exact < runs)


if __name__ == "__main__":
    sys.exit(main())
