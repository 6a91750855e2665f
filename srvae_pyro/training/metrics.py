"""A run's metrics over its steps, in ``metrics.jsonl`` and TensorBoard."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from srvae_pyro.system.console import print_line
from srvae_pyro.system.files import append_whole, write_text

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


METRICS = "metrics.jsonl"


class MetricsLog:
    """Writes metrics as lines of JSON and to TensorBoard, from ``step`` on; rank 0 is enabled."""

    def __init__(self, folder: Path, step: int, enabled: bool = True) -> None:
        self.path = folder / METRICS
        self.enabled = enabled
        self.pending: list[str] = []  # lines that could not be written yet
        self.rewind(step)
        self.writer = _writer(folder / "tensorboard", step + 1) if enabled else None

    def rewind(self, step: int) -> None:
        """Drop the lines after ``step`` steps, and one that is cut off."""
        if self.enabled and self.path.exists():
            text = self.path.read_text("utf-8-sig", errors="replace")
            kept = [line for line in text.splitlines() if _step_of(line) <= step]
            write_text(self.path, "".join(f"{line}\n" for line in kept))

    def write(self, split: str, step: int, values: dict[str, Any]) -> None:
        """Write values after ``step`` steps, with earlier ones that a full disk refused."""
        if not self.enabled:
            return
        self.pending.append(json.dumps({"split": split, "step": step, **values}) + "\n")
        try:
            append_whole(self.path, "".join(self.pending))
            self.pending.clear()
        except OSError as error:
            if len(self.pending) == 1:
                print_line(f"cannot write {self.path} ({error.strerror}); will try again")
        for name, value in values.items():
            if isinstance(value, int | float):
                self._show("add_scalar", f"{split}/{name}", value, step)

    def image(self, name: str, step: int, image: Tensor) -> None:
        self._show("add_image", name, image, step)

    def close(self) -> None:
        self._show("close")
        self.writer = None

    def _show(self, method: str, *values: object) -> None:
        """Call TensorBoard's writer, which is unusable after a failure."""
        if self.writer is None:
            return
        try:
            getattr(self.writer, method)(*values)
        except OSError as error:
            self.writer = None
            print_line(f"cannot write TensorBoard's file ({error.strerror}); continuing without it")


def _writer(folder: Path, step: int) -> SummaryWriter | None:
    """TensorBoard's writer of steps from ``step`` on, or None and a message."""
    try:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder), purge_step=step)
    except Exception as error:  # of whatever version of whatever it needs: it is not the run
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        print_line(
            f"no TensorBoard ({reason}): continuing without it; {METRICS} has the same numbers"
        )
        return None


def _step_of(line: str) -> float:
    """The step of a line; infinite if it is damaged."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return math.inf
    return step if isinstance(step, int) else math.inf
