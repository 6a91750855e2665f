"""Settings: presets, and their trip through a run's config.json."""

import dataclasses
import json
import re
from typing import Any

import pytest

from srvae_pyro.checked import Between, hints_of, metadata_of, type_of
from srvae_pyro.config import DataConfig, Dense, ModelConfig, RunConfig, TrainingConfig
from srvae_pyro.errors import UserError
from srvae_pyro.models import make_model
from srvae_pyro.models.shapes import sizes_of
from srvae_pyro.networks import ChannelAttention
from srvae_pyro.presets import PRESETS, preset, preset_data
from srvae_pyro.training.arguments import TrainArguments
from srvae_pyro.training.settings import fresh_config
from tests.builders import refused


def through_json(config: RunConfig) -> RunConfig:
    return RunConfig.from_dict(json.loads(json.dumps(config.to_dict())))


@pytest.mark.parametrize("model", ["srvae", "vae"])
@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json_suit_their_images_and_end(name: Any, model: Any) -> None:
    settings, training = preset(name, model)
    assert settings.model == model
    config = RunConfig(name, settings, DataConfig(data="photos"), training, "1.0")
    again = through_json(config)
    assert again == config
    assert type(again.model.q_u) is Dense
    assert hash(again.model) == hash(config.model)  # tuples are tuples again
    sizes_of(settings)
    limits = (training.epochs, training.steps, training.max_minutes)
    assert any(limit is not None for limit in limits)
    assert 0 < training.lr_min <= training.lr
    assert 0 <= training.kl_start <= 1
    assert 0 <= training.kl_warmup < 1
    assert 0 <= training.anneal < 1


def test_preset_paper_is_the_published_training() -> None:
    _, training = preset("paper")
    assert (training.lr, training.betas, training.eps) == (2e-3, (0.9, 0.999), 1e-7)
    assert (training.batch_size, training.epochs) == (32, 2000)
    assert (training.lr_decay, training.lr_min) == (0.999999, 1e-4)
    assert (training.kl_start, training.kl_warmup) == (1.0, 0.0)


def test_every_setting_survives_json() -> None:
    config = RunConfig(
        "small",
        ModelConfig(image_shape=(1, 8, 24), p_u="mixture", p_z=Dense(3, 4, 5), init_scale=0.5),
        DataConfig("here", 16, 1, 3, 99, "none", {"counts": {"train": 5}, "indices": [1, 2]}),
        TrainingConfig(epochs=None, steps=7, betas=(0.5, 0.6), precision="bf16"),
        "0.0",
    )
    assert through_json(config) == config


def test_settings_left_out_have_their_defaults() -> None:
    config = RunConfig.from_dict({"model": {"model": "vae"}})
    assert config.model == ModelConfig(model="vae")
    assert config.training == TrainingConfig()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"model": {"latents": 3}}, "latents"),
        ({"model": {"q_u": {"growth": 1}}}, "steps"),
        ({"model": {"q_u": 3}}, "^q_u must be an object of settings, not 3$"),
        ({"training": {"analytic_kl": 1}}, "^analytic_kl must be true or false, not 1$"),
        ({"training": {"betas": [0.9]}}, "^betas must be a list of 2 numbers, not"),
        ({"training": {"epochs": 2.5}}, "^epochs must be a whole number or null, not 2.5$"),
        ({"training": {"precision": "fp16"}}, "^precision must be fp32 or bf16, not 'fp16'$"),
    ],
)
def test_settings_that_do_not_fit_are_named(values: dict[str, Any], named: str) -> None:
    with refused(named):
        RunConfig.from_dict(values)


def test_settings_cannot_be_changed_in_place() -> None:
    config = RunConfig()
    for part in (config, config.model, config.data, config.training, config.model.q_u):
        field = dataclasses.fields(part)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, field, None)


@pytest.mark.parametrize(
    ("part", "name", "value", "wanted"),
    [
        ("training", "lr", 0, "above 0"),
        ("training", "lr", float("nan"), "above 0"),
        ("training", "epochs", 10**99, f"at most {2**63}"),
        ("training", "kl_start", 2, "from 0 to 1"),
        ("training", "betas", (0.9, 1.0), "at most 0.999999999999"),
        ("data", "limit", 0, "at least 1"),
        ("model", "components", 0, "from 1 to 1000"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused_wherever_it_is_given(
    part: str, name: str, value: Any, wanted: str
) -> None:
    told = re.escape(f"must be {wanted}, not {repr(value).removesuffix('.0')[:77]}")
    told += r"\.\.\." if value == 10**99 else ""
    kind = {"training": TrainingConfig, "data": DataConfig, "model": ModelConfig}[part]
    with pytest.raises(UserError, match=f"^`{name}` {told}$"):
        kind(**{name: value})
    values = RunConfig().to_dict()
    values[part][name] = value
    with pytest.raises(UserError, match=f"^{name} {told}$"):
        RunConfig.from_dict(values)


@pytest.mark.parametrize("kind", [Dense, ModelConfig, DataConfig, TrainingConfig])
def test_every_number_has_bounds(kind: Any) -> None:
    for name, hint in hints_of(kind).items():
        words = str(type_of(hint))
        if "Literal" not in words and ("int" in words or "float" in words):
            bounds = [mark for mark in metadata_of(hint) if isinstance(mark, Between)]
            assert len(bounds) == 1, name


def test_photographs_are_learnt_from_crops_and_without_regard_to_their_size() -> None:
    for model in ("srvae", "vae"):
        config = preset("photo", model)[0]
        assert config.image_shape[1:] == (preset_data("photo").crops,) * 2
        blocks = [m for m in make_model(config).modules() if isinstance(m, ChannelAttention)]
        assert not blocks
    assert preset_data("small") == DataConfig(augment="flips")


def test_the_weight_of_an_estimate_goes_with_models_that_make_one() -> None:
    def weight(**others: Any) -> float:
        given = TrainArguments(preset="photo", data="photos", **others)
        return fresh_config(given.settings()).training.estimate_weight

    assert weight() > 0
    others: dict[str, Any]
    for others in ({"likelihood": "independent"}, {"transform": "grayscale"}, {"model": "vae"}):
        assert weight(**others) == 0
        with pytest.raises(UserError, match="`estimate_weight` needs"):
            weight(**others, estimate_weight=0.25)
    assert weight(set=("model.groups.estimate=false",)) == 0
