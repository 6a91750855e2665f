"""Metrics of a run, in ``metrics.jsonl`` and TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from srvae_pyro.files import write_text

__all__ = ["MetricsLog"]


class MetricsLog:
    """Writes metrics, a line of JSON each time, and the same to TensorBoard.

    Args:
        folder: the run's folder.
        step: lines after this step, written by a run that was then resumed from it, are dropped.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = folder / "metrics.jsonl"
        if self.path.exists():
            kept = [line for line in _complete_lines(self.path) if json.loads(line)["step"] <= step]
            write_text(self.path, "".join(f"{line}\n" for line in kept))
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, split: str, step: int, values: dict[str, Any]) -> None:
        """Write the values of ``split`` (train or val) after ``step`` steps."""
        line = json.dumps({"split": split, "step": step, **values})
        with self.path.open("a") as file:
            file.write(line + "\n")
        for name, value in values.items():
            if isinstance(value, int | float):
                self.writer.add_scalar(f"{split}/{name}", value, step)

    def picture(self, name: str, step: int, picture: Tensor) -> None:
        """Show a picture (C, H, W) in [0, 1] in TensorBoard."""
        self.writer.add_image(name, picture, step)

    def close(self) -> None:
        self.writer.close()


def _complete_lines(path: Path) -> list[str]:
    """The lines of a file whose last line may have been cut off."""
    lines = []
    for line in path.read_text().splitlines():
        try:
            json.loads(line)
        except json.JSONDecodeError:
            continue
        lines.append(line)
    return lines
