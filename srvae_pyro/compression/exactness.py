"""Arithmetic that repeats itself to the bit, and what it depends on."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

import torch

from srvae_pyro import __version__
from srvae_pyro.system.device import THREADS, exact_float32

__all__ = ["differences", "machine", "reproducible"]


@contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """Within it the same operations on the same tensors give the same bits.

    One thread, as sums in several are in several orders; on GPUs the deterministic kernels, without
    a search for the fastest.
    """
    # Not use_deterministic_algorithms, which imports torch._dynamo: that takes a second.
    deterministic = torch.get_deterministic_debug_mode()
    benchmark = torch.backends.cudnn.benchmark
    try:
        if device.type == "cuda":  # on CPUs it would fill new tensors, and change nothing
            torch.set_deterministic_debug_mode("warn")
        torch.backends.cudnn.benchmark = False
        with THREADS.fixed(1), exact_float32():
            yield
    finally:
        torch.set_deterministic_debug_mode(deterministic)
        torch.backends.cudnn.benchmark = benchmark


def machine(device: torch.device) -> dict[str, str]:
    """What may decide about last bits here."""
    cuda = device.type == "cuda"
    return {
        "srvae_pyro": __version__,
        "torch": str(torch.__version__),
        "constriction": version("constriction"),
        "numpy": version("numpy"),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "threads": "1",
    }


def differences(made: dict[str, str], here: dict[str, str]) -> str:
    """What another machine has otherwise, for a message; empty if nothing."""
    parts = [
        f"{name} {made.get(name, 'unknown')} there and {value} here"
        for name, value in here.items()
        if made.get(name) != value
    ]
    return ", ".join(parts)
