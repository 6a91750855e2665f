"""Two processes that train one model, as torchrun starts them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from srvae_pyro import evaluate, generate
from srvae_pyro.errors import UserError
from srvae_pyro.evaluation import kid
from srvae_pyro.generate import GenerateArguments
from srvae_pyro.models import make_model
from srvae_pyro.models.base import save_pretrained
from srvae_pyro.system.parallel import ProcessGroup
from srvae_pyro.training.loop import Trainer
from srvae_pyro.training.recovery import load_checkpoint
from tests.evaluation.test_kid import Stub, rows_of
from tests.parallel_worker import all_measures, make, update
from tests.training.test_command import make_images
from tests.training.test_training import assert_same, some_images, tiny_config

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


class Done(NamedTuple):
    """What two processes have made, and said."""

    folder: Path
    said: str


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The worker in two processes, of which one is killed and both started again."""
    folder = tmp_path_factory.mktemp("two")
    make_images(folder / "images", 21)
    model = make_model(tiny_config().model)
    model.initialize(some_images().train.in_memory()[:8] / 255)
    save_pretrained(model, folder / "run")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["--max-restarts=1", "--module", "tests.parallel_worker", str(folder)]
    # By the loopback device: a host's own name may lead anywhere.
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Done(folder, done.stdout + done.stderr)


def gradient(folder: Path) -> Tensor:
    found: dict[str, Tensor] = torch.load(folder / "gradient.pt", weights_only=True)
    return torch.cat([part.flatten() for part in found.values()])


def metrics(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["split"] == "train"]


def test_processes_and_parts_of_batches_learn_as_one_process_does(done: Done) -> None:
    tmp_path = done.folder
    update(ProcessGroup(), tmp_path)
    one = gradient(tmp_path / "1xgroups")
    assert (gradient(tmp_path / "2xgroups") - one).norm() < 1e-5 * one.norm()
    one = gradient(tmp_path / "1x1")
    for name in ("1x2", "2x1", "2x2"):
        assert (gradient(tmp_path / name) - one).norm() < 1e-5 * one.norm(), name
    for name, other in (("1x2", "1x1"), ("2x1", "1x1"), ("2x2", "1x1")):
        # Adamax divides gradients by their size, so that rounding shows where they are nearly 0.
        for ours, theirs in zip(metrics(tmp_path / name), metrics(tmp_path / other), strict=True):
            for key in ("loss", "re_x", "kl_z", "bits_per_dim", "gradient_norm"):
                assert ours[key] == pytest.approx(theirs[key], rel=1e-4), (name, key)


def test_two_processes_resume_to_the_bit_and_one_goes_on(done: Done) -> None:
    for kind in ("groups", "independent"):
        folder = done.folder / kind
        whole = load_checkpoint(folder / "whole" / "last.ckpt")
        assert_same(load_checkpoint(folder / "parts" / "last.ckpt"), whole)
    assert len(whole["ranks"]) == 2
    first, second = (rank["random"]["cpu"] for rank in whole["ranks"])
    assert not torch.equal(first, second)
    alone = make(ProcessGroup(), folder / "whole", 9)
    alone.recovery.resume()
    assert alone.run().step == 9


def test_every_validation_of_two_processes_is_of_the_average_as_it_is(done: Done) -> None:
    pairs = [tuple(map(float, pair)) for pair in re.findall(r"validated (\S+) (\S+)", done.said)]
    assert len(pairs) > 3
    for value, fresh in pairs:
        assert value == pytest.approx(fresh, rel=1e-6)
    lines = (done.folder / "validated" / "metrics.jsonl").read_text().splitlines()
    logged = [line["nats"] for line in map(json.loads, lines) if line["split"] == "val"]
    assert logged == [value for value, _ in pairs[1:]]  # the first is of the untrained weights
    assert max(logged) - min(logged) > 1


def test_measuring_and_drawing_are_the_same_in_two_processes(
    done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kid, "LiteFeatures", Stub)
    monkeypatch.setattr(kid, "neighbours", lambda *_: {})
    tmp_path, said = done
    assert said.count("super-resolution x2") == said.count("9 images in") == 1
    run = str(tmp_path / "run")
    shared = json.loads((tmp_path / "two.json").read_text())
    evaluate.main(all_measures(tmp_path, "one.json"))
    alone = json.loads((tmp_path / "one.json").read_text())
    assert shared["images"] == alone["images"] == 21
    for key in ("elbo", "likelihood", "refined_likelihood"):
        ours, theirs = (
            {name: value for name, value in found[key].items() if name != "seconds"}
            for found in (shared, alone)
        )
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():  # also the precision's name; no Pareto k of 3 samples
            near = pytest.approx(value, rel=1e-4) if isinstance(value, int | float) else value
            assert ours[name] == near, name
    ours, theirs = shared[kid.Kid.name], alone[kid.Kid.name]
    assert rows_of(ours) == rows_of(theirs)
    assert said.count(kid.KID_NAME) == 1
    for name in rows_of(theirs):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-2, abs=1e-5), name
    ours, theirs = (found["super_resolution"]["x2"]["methods"] for found in (shared, alone))
    for method, scores in theirs.items():
        assert ours[method] == pytest.approx(scores, rel=1e-3)
    generate.main(GenerateArguments(run, 9, out=tmp_path / "one"))
    assert "9 images in two/images (5 drawn earlier)" in said.replace(f"{tmp_path}/", "")
    one, two = (
        {str(file.relative_to(place)) for file in place.rglob("*.png")}
        for place in (tmp_path / "one", tmp_path / "two")
    )
    assert one == two == {f"images/{number:05d}.png" for number in range(9)} | {"grid.png"}
    for name in one:  # a rounding may decide otherwise about a level
        ours, theirs = (np.asarray(Image.open(tmp_path / by / name), int) for by in ("one", "two"))
        assert (ours != theirs).mean() < 0.01, name


def test_images_are_shared_out_in_order() -> None:
    images = torch.arange(7)
    parts = [images[ProcessGroup(rank, 3).share(7)] for rank in range(3)]
    assert torch.cat(parts).tolist() == images.tolist()
    with pytest.raises(UserError, match="2 images cannot be shared by 3 processes"):
        ProcessGroup(0, 3).share(2)


def test_torchrun_restarts_a_group_that_lost_a_process(done: Done) -> None:
    said = done.said
    assert "life 0, rank 0, step 5" in said
    assert "life 0, rank 1, step 6" not in said
    later = {int(step) for step in re.findall(r"life 1, rank 1, step (\d)", said)}
    assert later in ({5, 6, 7, 8}, {6, 7, 8})  # from the checkpoint on
    folder = done.folder / "runs" / "mine"
    assert load_checkpoint(folder / "last.ckpt")["progress"]["step"] == 9
    assert said.count("bits/dim (negative ELBO)") == 1


def test_a_batch_that_cannot_be_shared_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="shared evenly by 1 processes in 3 parts"):
        Trainer(tiny_config(), some_images(), tmp_path, accumulate=3)
