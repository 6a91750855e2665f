"""The process's environment: variables, and the cores it may use."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def number(name: str, default: int) -> int:
    """The whole number in a variable; ``default`` if there is none."""
    try:
        return int(os.environ.get(name, default))
    except ValueError:
        return default


def in_group() -> bool:
    """Whether all of torchrun's variables are set: batch systems leave some of them."""
    return (
        0 <= number("RANK", -1) < number("WORLD_SIZE", 1) > 1
        and bool(os.environ.get("MASTER_ADDR"))
        and number("MASTER_PORT", 0) > 0
    )


@contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    """Within it an environment variable has a value."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


STAT = Path("/proc/stat")
# A container's limit: control groups of version 2 and 1.
QUOTAS = (
    ("/sys/fs/cgroup/cpu.max",),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)


def allowed_cores() -> int:
    """CPU cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def core_quota(quotas: Sequence[Sequence[str]] = QUOTAS) -> float:
    """A container's processor seconds a second; infinite without a limit."""
    for files in quotas:
        with contextlib.suppress(OSError, ValueError):  # "max" where there is none
            quota, period = map(int, " ".join(Path(file).read_text() for file in files).split())
            if quota > 0:  # -1 where there is none
                return quota / period
    return math.inf


def busy_seconds(stat: Path = STAT) -> float:
    """Seconds that this process's cores have been busy since boot; NaN if unknown."""
    try:
        names = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        rows = [line.split() for line in stat.read_text().splitlines()]
        ticks = os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return math.nan
    # user nice system idle iowait irq softirq steal; further ones are parts of these
    busy = [sum(map(int, row[1:4] + row[6:9])) for row in rows if row and row[0] in names]
    return sum(busy) / ticks if busy else math.nan


class Others:
    """How many of this process's cores other processes use, from one look to the next."""

    def __init__(self) -> None:
        self.since, self._busy, self._own = 0.0, math.nan, 0.0  # time.monotonic() of the last look

    def look(self) -> float:
        """Cores that others have used since the last look; NaN if unknown."""
        before = self.since, self._busy, self._own
        now = time.monotonic(), busy_seconds(), time.process_time()
        self.since, self._busy, self._own = now
        seconds, busy, own = (b - a for a, b in zip(before, now, strict=True))
        return max((busy - own) / seconds, 0.0)  # NaN stays NaN


OTHERS = Others()
