"""The super-resolution VAE as a modular probabilistic program in Pyro."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from srvae_pyro.config import ModelConfig
    from srvae_pyro.distributions import DiscretizedLogisticMixture
    from srvae_pyro.errors import UserError
    from srvae_pyro.models import SRVAE, VAE, load

__version__ = "0.1.0"

__all__ = [
    "SRVAE",
    "VAE",
    "DiscretizedLogisticMixture",
    "ModelConfig",
    "UserError",
    "__version__",
    "load",
]

_HOMES = {
    "SRVAE": "srvae_pyro.models",
    "VAE": "srvae_pyro.models",
    "DiscretizedLogisticMixture": "srvae_pyro.distributions",
    "ModelConfig": "srvae_pyro.config",
    "UserError": "srvae_pyro.errors",
    "load": "srvae_pyro.models",
}


def __getattr__(name: str) -> Any:
    # Imported on demand, so that a command's --help waits for no library.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
