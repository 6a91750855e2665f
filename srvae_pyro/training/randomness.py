"""The random generators of training, whose states a checkpoint holds."""

from __future__ import annotations

from typing import Any

import torch

from srvae_pyro.system.device import torch_seed
from srvae_pyro.system.parallel import Group

__all__ = ["Randomness"]


class Randomness:
    """A process's generators: PyTorch's own, for the noise of the latents, and augmentation's.

    Args:
        seed: the run's.
        group: the processes that train together, each with noise of its own.
    """

    def __init__(self, seed: int, group: Group) -> None:
        self.run_seed = seed
        self.group = group
        self.augmentation = torch.Generator().manual_seed(self._seed(0, "augmentation"))

    def seed(self, step: int) -> None:
        """Begin new streams at ``step``."""
        self.augmentation.manual_seed(self._seed(step, "augmentation"))
        self.seed_noise(step)

    def seed_noise(self, step: int) -> None:
        """Begin a new stream of the latents' noise at ``step``."""
        torch.manual_seed(self._seed(step, "noise"))

    def state(self) -> dict[str, Any]:
        """The states of the generators, on the CPU and on the group's device."""
        noise = {"cpu": torch.get_rng_state()}
        if self.group.device.type == "cuda":
            noise["cuda"] = torch.cuda.get_rng_state(self.group.device)
        return {"augmentation": self.augmentation.get_state(), "random": noise}

    def restore(self, state: dict[str, Any], step: int) -> None:
        """Go on from a :meth:`state` at ``step``; a device that has none in it is seeded."""
        self.augmentation.set_state(state["augmentation"])
        self.seed_noise(step)
        noise = state["random"]
        torch.set_rng_state(noise["cpu"].cpu())
        if self.group.device.type == "cuda" and "cuda" in noise:
            torch.cuda.set_rng_state(noise["cuda"].cpu(), self.group.device)

    def _seed(self, step: int, purpose: str) -> int:
        return torch_seed(self.run_seed, self.group.rank, step, *purpose.encode())
