"""Settings as earlier versions saved them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from srvae_pyro.errors import UserError

__all__ = ["RENAMED", "current"]

# What settings of the model were called.
RENAMED = {
    "transform": "d",
    "prior": "p_u",
    "prior_network": "p_u_network",
    "prior_components": "p_u_components",
}

# Networks that were dense blocks, and the setting and its value with which they are there.
_WERE_DENSE = {"groups": ("likelihood", "groups"), "pyramid": ("latent_likelihood", "pyramid")}


def current(model: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a model as they are called now.

    Raises:
        UserError: the model has networks that there are no more.
    """
    model = {RENAMED.get(name, name): value for name, value in model.items()}
    for name, (setting, value) in _WERE_DENSE.items():
        if "growth" in (model.get(name) or {}):
            if model.get(setting) == value:
                raise UserError(
                    f"an earlier version trained this model, with {setting} {value} by other "
                    "networks than now: train it again, or use that version"
                )
            del model[name]
    return model
