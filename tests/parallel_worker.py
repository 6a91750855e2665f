"""What each process does that torchrun starts: ``-m tests.parallel_worker FOLDER``.

Everything after another, as processes take seconds to start; ``FOLDER terminated`` only
that.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch

from srvae_pyro import evaluate, generate, train
from srvae_pyro.config import Residual, RunConfig
from srvae_pyro.evaluate import EvaluateArguments
from srvae_pyro.evaluation import kid
from srvae_pyro.evaluation.likelihood import ElboResult
from srvae_pyro.generate import GenerateArguments
from srvae_pyro.models import make_model
from srvae_pyro.system.parallel import ProcessGroup, process_group
from srvae_pyro.training import validation
from srvae_pyro.training.loop import Trainer
from tests.evaluation.test_kid import Stub
from tests.training.test_command import arguments, plain
from tests.training.test_training import some_images, tiny_config

# Settings of a model whose x are consistent with their y.
GROUPS = {"d": "average2", "likelihood": "groups", "latent_likelihood": "pyramid"}


@contextmanager
def without_noise() -> Iterator[None]:
    """Normal distributions draw their means."""

    def mean(self: torch.distributions.Normal, shape: Any = ()) -> torch.Tensor:
        return self.loc.expand(self._extended_shape(shape))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.distributions.Normal, "rsample", mean)
        yield


def config(steps: int, groups: bool = False, prior: str = "", **training: Any) -> RunConfig:
    prior = prior or ("standard" if groups else "realnvp")
    made = tiny_config(prior=prior, steps=steps, **training)
    made.data.__dict__["augment"] = "none"  # frozen, but not for a test
    return replace(made, model=replace(made.model, **GROUPS)) if groups else made


def quiet(trainer: Trainer) -> Trainer:
    """Lets it draw nothing, and write the gradient of its first step to ``gradient.pt``."""
    learner = trainer.learner
    agree = learner.reduce

    def agree_and_write(*values: Any) -> tuple[float, float, list[float]]:
        if trainer.progress.step == 0 and trainer.group.main:
            parameters = learner.model.named_parameters()
            gradient = {n: p.grad for n, p in parameters if p.grad is not None}
            torch.save(gradient, trainer.folder / "gradient.pt")
        return agree(*values)

    learner.reduce = agree_and_write
    trainer.validation.draw = lambda *args, **options: None
    return trainer


def make(
    group: ProcessGroup, folder: Path, steps: int, accumulate: int = 1, **training: Any
) -> Trainer:
    settings = config(steps, **training), some_images(), folder, group
    return quiet(Trainer(*settings, quiet=True, save_minutes=99, accumulate=accumulate))


def update(group: ProcessGroup, folder: Path) -> None:
    """Some updates without noise, in one part and in two."""
    place = folder / f"{group.size}x"
    with without_noise():
        make(group, Path(f"{place}groups"), 1, groups=True).run()
        for parts in (1, 2):
            make(group, Path(f"{place}{parts}"), 6, parts).run()


def interrupted(group: ProcessGroup, folder: Path, groups: bool) -> None:
    """A run as a whole, and one that is stopped by a signal to one process and resumed."""
    steps = 4 if groups else 7
    make(group, folder / "whole", steps, groups=groups).run()

    class Stopped(Trainer):
        def step(self, images: torch.Tensor) -> None:
            if self.progress.step == 2 and group.rank == 1:
                signal.raise_signal(signal.SIGTERM)
            super().step(images)

    settings = config(steps, groups), some_images(), folder / "parts", group
    stopped = quiet(Stopped(*settings, quiet=True, save_minutes=99))
    assert stopped.run().step == 3
    resumed = make(group, folder / "parts", steps, groups=groups)
    resumed.recovery.resume()
    assert resumed.run().step == steps


def interrupted_both(group: ProcessGroup, folder: Path) -> None:
    """The same of a model without and with networks of its likelihood alone."""
    interrupted(group, folder / "independent", groups=False)
    interrupted(group, folder / "groups", groups=True)


def restoring(group: ProcessGroup, folder: Path) -> None:
    """Some updates of networks for damaged inputs, and of a model that has them beside."""
    made = config(3, groups=True)
    model = replace(made.model, restorer=Residual(4, 1))
    for inputs in ("damaged", "average"):
        training = replace(made.training, inputs=inputs, estimate_weight=0.0)
        settings = replace(made, model=model, training=training)
        trainer = Trainer(settings, some_images(), folder / inputs, group, quiet=True)
        assert quiet(trainer).run().step == 3


def validated(group: ProcessGroup, folder: Path) -> None:
    """A run with several validations, each beside that of a fresh copy of the average."""

    evaluate = validation.evaluate_elbo

    def evaluate_twice(model: Any, *args: Any, **options: Any) -> ElboResult:
        result: ElboResult = evaluate(model, *args, **options)
        fresh = make_model(model.config)
        fresh.load_state_dict(model.state_dict())
        again = evaluate(fresh, *args, **options)
        if group.main:
            print(f"validated {result.nats} {again.nats}")
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "evaluate_elbo", evaluate_twice)
        make(group, folder / "validated", 20, prior="standard", lr=0.04).run()


def elastic(folder: Path) -> int:
    """The command, of which one process is killed in the first life of the group."""
    step = Trainer.step

    def dying(self: Trainer, images: torch.Tensor) -> None:
        first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if first and self.progress.step == 6 and self.group.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        print(f"life {self.group.restarts}, rank {self.group.rank}, step {self.progress.step}")
        step(self, images)

    Trainer.step = dying
    with plain():
        return train.main(arguments(folder, steps=9, save_minutes=1e-9))


def terminated(folder: Path) -> int:
    """The command on streamed images, all processes of which are told to end."""
    step = Trainer.step

    def told(self: Trainer, images: torch.Tensor) -> None:
        step(self, images)
        if self.progress.step == 3:
            os.killpg(0, signal.SIGTERM)
            time.sleep(1)  # for what becomes of the processes that read

    Trainer.step = told
    with plain():
        return train.main(arguments(folder, steps=40, stream=True, workers=2))


def all_measures(folder: Path, name: str) -> EvaluateArguments:
    """What one process measures, and two together."""
    return EvaluateArguments(
        str(folder / "run"),
        data=str(folder / "images"),
        split="all",
        importance_samples=3,
        kid=True,
        kid_images=9,
        refine=2,
        super_resolution=True,
        json=folder / name,
    )


def commands(folder: Path) -> None:
    """The commands that measure and draw, as each process runs them."""
    out = all_measures(folder, "two.json")
    few = GenerateArguments(out.run, 5, out=folder / "two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kid, "LiteFeatures", Stub)
        patch.setattr(kid, "neighbours", lambda *_: {})
        assert evaluate.main(out) == 0
        assert generate.main(few) == generate.main(replace(few, count=9)) == 0


def main() -> int:
    folder, *mode = sys.argv[1:]
    torch.set_num_threads(1)
    pyro.enable_validation(False)
    if mode:
        return terminated(Path(folder))
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        with process_group("cpu") as group:
            for part in (update, interrupted_both, restoring, validated):
                part(group, Path(folder))
        commands(Path(folder))
    return elastic(Path(folder))


if __name__ == "__main__":
    sys.exit(main())
