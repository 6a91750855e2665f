"""What the one-level VAE and the srVAE have in common, and how a run's weights are loaded."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyro
import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from srvae_pyro.config import DataConfig, ModelConfig, RunConfig
from srvae_pyro.distributions import MixturePrior, Prior, RealNVPPrior, StandardPrior
from srvae_pyro.errors import UserError
from srvae_pyro.inference.decoding import turn
from srvae_pyro.inference.operations import Operations
from srvae_pyro.models.card import model_card, shared_settings
from srvae_pyro.networks import WeightNormalized, init_heads, initializing
from srvae_pyro.runs import (
    CONFIG,
    MODEL_FILES,
    WEIGHTS,
    find_run,
    packaged,
    read_config,
    read_weights,
    save_weights,
)
from srvae_pyro.system import device as runtime
from srvae_pyro.system.files import digest, write_json
from srvae_pyro.system.hub import download, refuse_address

# Latent and image of each level, the lowest first: programs have p_LATENT, p_IMAGE, q_LATENT.
Levels = tuple[tuple[str, str], ...]

# Each subclass of ImageModel by the name that ``config.model`` gives it.
MODELS: dict[str, type[ImageModel]] = {}

_PROGRAMS = itertools.count()  # for the names under which programs register


def weights_digest(model: nn.Module) -> str:
    """A checksum of a model's weights."""
    return digest(dict(sorted(model.state_dict().items())))


class _WithoutWeights(TorchFunctionMode):
    """Puts random weights on the meta device, for models that are made for their shapes.

    Not all tensors: most functions there import ``torch._dynamo``, which takes seconds.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.randn:
            return torch.empty(*args, **{**(kwargs or {}), "device": "meta"})
        return func(*args, **(kwargs or {}))


def read_state(path: Path, fresh: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """The weights in a file; a ValueError unless they fit the model that ``fresh`` makes."""
    state = read_weights(path)
    with _WithoutWeights():  # before memory is taken for them
        wanted = fresh().state_dict()
    for kind, names in (("missing", set(wanted) - set(state)), ("extra", set(state) - set(wanted))):
        if names:
            examples = ", ".join(sorted(names)[:3])
            raise ValueError(f"{len(names)} tensors are {kind}, such as {examples}")
    for name, tensor in wanted.items():
        stored = state[name]  # perhaps in another precision
        if stored.shape != tensor.shape or stored.is_floating_point() != tensor.is_floating_point():
            was, now = tuple(tensor.shape), tuple(stored.shape)
            raise ValueError(f"{name} is {stored.dtype} {now}, not {tensor.dtype} {was}")
        if not stored.float().isfinite().all():
            raise ValueError(f"{name} has values that are not finite: train the model again")
    return state


def load_weights(model: Any, run: str | Path) -> None:
    """Give a model the weights of a run with the same networks, at any image size.

    Networks for damaged inputs that the run does not have, or has with other settings, stay as they
    are.
    """
    path = find_run(run) / WEIGHTS
    try:
        known = replace(model.config, restorer=read_config(path.parent).model.restorer)
        state = read_state(path, lambda: type(model)(known))
        same = known.restorer == model.config.restorer
        kept = {
            name: value for name, value in state.items() if same or not name.startswith("restorer.")
        }
        model.load_state_dict(kept, strict=same)
    except (RuntimeError, ValueError, OSError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"the weights of {run} do not fit this model: {reason}") from None


def images_plate(x: Tensor | None = None, count: int = 1) -> Any:
    """The plate of the images (..., B, C, H, W), or of ``count``: the rightmost batch dimension."""
    return pyro.plate("images", count if x is None else x.shape[-4], dim=-1)


def latent_size(x: Tensor | None, shrink: int | None) -> tuple[int, int] | None:
    """The lowest latent's height and width for images x, whose sides are ``shrink`` times as long.

    None, for the prior's own size, if either is not given.
    """
    if x is None or shrink is None:
        return None
    return x.shape[-2] // shrink, x.shape[-1] // shrink


def make_prior(config: ModelConfig, shape: tuple[int, int, int]) -> Prior:
    """The prior that the config names, on events of ``shape``."""
    match config.p_u:
        case "standard":
            return StandardPrior(shape)
        case "mixture":
            return MixturePrior(shape, config.p_u_components)
        case "realnvp":
            size = config.p_u_network
            prior = RealNVPPrior(shape, size.growth, size.steps, attention=size.attention)
            init_heads(prior, config.head_scale)
            return prior


class ImageModel(Operations, PyTorchModelHubMixin):
    """A model and guide pair of plain modules, each a Pyro program on images (B, C, H, W).

    Images are on the grid k/255 of [0, 1].

    ``Trace_ELBO()(m.model, m.guide)`` is an ordinary module with all parameters of both.
    ``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` are the Hugging Face Hub's.
    """

    run_config: RunConfig | None = None  # of the run that it was loaded from

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        MODELS[cls.__name__.lower()] = cls

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        runtime.wake_vector_math()
        self.config = config

    @property
    def levels(self) -> Levels:
        """The latent and the image of each level, the lowest first."""
        return self.model.levels

    @property
    def initialized(self) -> bool:
        """Whether every layer has had its data-dependent initialisation."""
        layers = (m for m in self.modules() if isinstance(m, WeightNormalized))
        return all(bool(layer.initialized) for layer in layers)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Data-dependent initialisation, by training images (B, C, H, W), of layers without it."""
        with initializing(self, self.config.init_scale), turn(), pyro.poutine.block():
            guide = pyro.poutine.trace(self.guide).get_trace(x)
            model = pyro.poutine.trace(pyro.poutine.replay(self.model, trace=guide)).get_trace(x)
            # The flow meets data when it scores the latent.
            model.compute_log_prob()

    def programs(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Model and guide for Pyro's own ``SVI``, their parameters registered with Pyro.

        Example::

            model, guide = vae.programs()
            svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
        """
        # Unique names: else Pyro's store hands SVI the parameters of an earlier model.
        number = next(_PROGRAMS)

        def model(*args: Any, **kwargs: Any) -> Any:
            return pyro.module(f"model{number}", self.model)(*args, **kwargs)

        def guide(*args: Any, **kwargs: Any) -> Any:
            return pyro.module(f"guide{number}", self.guide)(*args, **kwargs)

        return model, guide

    @staticmethod
    def from_run(folder: Path, device: str | torch.device = "cpu") -> ImageModel:
        """The trained model of a run's folder, ready to generate."""
        config = read_config(folder)
        kind = MODELS[config.model.model]
        path = folder / WEIGHTS
        if not path.is_file():
            raise UserError(
                f"{folder} has no {WEIGHTS} yet: training writes it at the end of an epoch"
            )
        try:
            state = read_state(path, lambda: kind(config.model))
            model = kind(config.model).float()  # whatever PyTorch's default is
            model.run_config = config
            model.load_state_dict(state)
        except (RuntimeError, ValueError, OSError, TypeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{path} does not hold the weights of its {CONFIG}: {reason}") from None
        return model.to(device).eval()

    def _save_pretrained(self, save_directory: Path) -> None:
        save_pretrained(self, save_directory)

    def generate_model_card(self, *_: Any, repo_id: str = "OWNER/NAME", **__: Any) -> ModelCard:
        """The card that goes with a saved model."""
        parameters = sum(parameter.numel() for parameter in self.parameters())
        return ModelCard(model_card(_settings_of(self), parameters, repo_id))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload weights, settings and a card; see :class:`~huggingface_hub.ModelHubMixin`."""
        card = {"repo_id": repo_id, **(options.pop("model_card_kwargs", None) or {})}
        return super().push_to_hub(repo_id, model_card_kwargs=card, **options)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        map_location: str | torch.device = "cpu",
        **options: Any,
    ) -> ImageModel:
        """The model in a folder, on the Hub, or in the package, such as ``"pretrained"``.

        Options are those of :class:`~huggingface_hub.ModelHubMixin`.
        """
        # The mixin would ask the Hub for the settings first, with messages of its own.
        name = str(pretrained_model_name_or_path)
        folder = Path(name)
        if not folder.is_dir() and name in packaged():
            folder = packaged()[name]
        elif not folder.is_dir():
            refuse_address(name)
            known = {key: options[key] for key in _HUB_OPTIONS if key in options}
            folder = download(name, MODEL_FILES, **known)
        model = ImageModel.from_run(folder, map_location)
        if not isinstance(model, cls):
            kind = type(model).__name__
            raise UserError(f"{name} is a {kind}: load it with {kind}.from_pretrained")
        return model


_HUB_OPTIONS = ("revision", "cache_dir", "force_download", "local_files_only", "token")


def _settings_of(model: ImageModel) -> RunConfig:
    """A model's settings without paths and file names."""
    unknown = RunConfig(preset="", model=model.config, data=DataConfig(data=""))
    return shared_settings(model.run_config or unknown)


def save_pretrained(model: ImageModel, folder: Path) -> None:
    """Write a model's weights, and its settings without paths and file names."""
    write_json(folder / CONFIG, _settings_of(model).to_dict())
    save_weights(model, folder)
