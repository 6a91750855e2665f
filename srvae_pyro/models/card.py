"""The card of a model to be shared, and its settings without paths and file names."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from srvae_pyro.config import DATA_SETS, SHARDS, RunConfig
from srvae_pyro.models.transforms import make_transform

# Fields of the data's description without paths and file names.
_PUBLIC = (
    *("shape", "counts", "crops", "split", "held_out", "seed", "limit"),
    *("fingerprint", "streamed"),
)
_CITATION = """@article{gatopoulos2020srvae,
  title   = {Super-resolution Variational Auto-Encoders},
  author  = {Gatopoulos, Ioannis and Stol, Maarten and Tomczak, Jakub M.},
  journal = {arXiv preprint arXiv:2006.05218},
  year    = {2020}
}"""
_KINDS = {
    "srvae": ("srVAE", "super-resolution VAE of Gatopoulos, Stol and Tomczak"),
    "vae": ("VAE", "one-level VAE that Gatopoulos, Stol and Tomczak compare their srVAE with"),
}


def shared_settings(config: RunConfig) -> RunConfig:
    """A run's settings without the paths and names of the files that it was trained on."""
    known = config.data.info
    info: dict[str, Any] = {key: known[key] for key in _PUBLIC if key in known}
    if left_out := known.get("left_out"):
        info["left_out"] = left_out if isinstance(left_out, int) else len(left_out)
    name = _shared_name(config.data.data)
    if "name" in known:
        info = {"name": name, **info}
    training = dataclasses.replace(config.training, init=Path(config.training.init).name)
    data = dataclasses.replace(config.data, data=name, info=info)
    return dataclasses.replace(config, data=data, training=training)


def _shared_name(data: str) -> str:
    """A data set's name, or the last part of a path."""
    if data in DATA_SETS:
        return data
    if data.startswith(SHARDS):
        return SHARDS + Path(data.removeprefix(SHARDS)).name
    name = Path(data).name
    return f"./{name}" if name in DATA_SETS else name  # a folder, not the data set of its name


def model_card(run: RunConfig, parameters: int, repo_id: str) -> str:
    """The Hub's card of a model in Markdown, from its shared settings."""
    config = run.model
    kind, of_paper = _KINDS.get(config.model, (config.model, "model"))
    channels, height, width = config.image_shape
    use = [f'x = model.generate(16)["x"]  # (16, {channels}, {height}, {width}) in [0, 1]']
    commands = [f"python -m srvae_pyro.generate {repo_id} --count 16"]
    if config.model == "srvae":
        use += [
            "y = model.guide.d(x)  # y = d(x)",
            'outputs = model.super_resolve(y, samples=8)["x"]',
        ]
        if make_transform(config.d).factor > 1:
            commands.append(f"python -m srvae_pyro.upscale {repo_id} PHOTO.jpg")
    commands.append(f"python -m srvae_pyro.evaluate {repo_id} --data DIR --split all --elbo-only")
    colours = "3 channels" if channels == 3 else "1 channel"
    preset = f", preset `{run.preset}`" if run.preset else ""
    code = "\n".join(["import srvae_pyro", "", f'model = srvae_pyro.load("{repo_id}")', *use])
    shell = "\n".join(commands)
    return f"""---
library_name: srvae_pyro
pipeline_tag: unconditional-image-generation
tags:
- model_hub_mixin
- pyro
- pytorch_model_hub_mixin
- super-resolution
- vae
---

# {kind} of {height}x{width} images

The {of_paper}
([arXiv:2006.05218](https://arxiv.org/abs/2006.05218)){preset}: {parameters:,} parameters,
images of {height}x{width} pixels and {colours}. `config.json` has every setting,
`model.safetensors` the weights.

## Use

In Python, with the package `srvae_pyro` installed:

```python
{code}
```

On the command line:

```sh
{shell}
```

## Data and training

{_data(run)}

{_training(run)}

## Licence

None has been chosen yet. Whoever shares this model states it here, as far as the licence of its
data allows.

## Citation

```bibtex
{_CITATION}
```
"""


def _data(run: RunConfig) -> str:
    info = run.data.info
    if not run.data.data:
        return "What it was trained on is not recorded."
    text = f"Trained on `{run.data.data}`"
    if counts := info.get("counts"):
        train, val, test = (counts.get(split, 0) for split in ("train", "val", "test"))
        kind = "images"
        if crops := info.get("crops"):
            kind = (
                f"random {crops['side']}x{crops['side']} crops per epoch of "
                f"{crops['images']['train']:,} images at their own resolution"
            )
        text += f": {train:,} {kind}, with {val:,} for validation and {test:,} for test"
    if split := info.get("split"):
        text += f" ({split})"
    return f"{text}."


def _training(run: RunConfig) -> str:
    if not run.data.data:
        return "How it was trained is not recorded either."
    training = run.training
    limits = {"steps": "updates", "epochs": "epochs", "max_minutes": "minutes"}
    length = [
        f"{value:,g} {unit}" for name, unit in limits.items() if (value := getattr(training, name))
    ]
    most = " or ".join(length)
    return (
        f"Batches of {training.batch_size}, {f'at most {most}' if most else 'no limit'}, "
        f"networks in {training.precision}, srvae_pyro {run.version}."
    )
