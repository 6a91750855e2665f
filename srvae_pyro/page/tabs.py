"""The tabs: upscale, generate, reconstruct, interpolate, recombine, and the run itself."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from srvae_pyro.models import SRVAE, ImageModel
from srvae_pyro.page.controls import (
    DECODINGS,
    Page,
    files,
    gallery,
    on_click,
    sampling,
    sampling_from,
    seed_field,
    temperature_field,
    upload,
    visitor_of,
    whole,
)
from srvae_pyro.page.sessions import Work
from srvae_pyro.page.work import (
    Upscaled,
    disk_bytes,
    generate,
    image_for,
    interpolate,
    recombine,
    reconstruct,
    size_in_words,
    upscale,
)
from srvae_pyro.runs import WEIGHTS, validation_images, validation_nats
from srvae_pyro.system.cli import check_arguments
from srvae_pyro.upscaling.arguments import UpscaleArguments
from srvae_pyro.upscaling.upscaler import MOST_PASSES, default_decoding

MOST_IMAGES = 64
MOST_STEPS = 16


def _buttons(name: str, label: str) -> tuple[gr.Button, gr.Button]:
    """What starts the work of a tab, and what stops it."""
    with gr.Row():
        button = gr.Button(label, variant="primary", min_width=100, elem_id=name)
        stop = gr.Button("Stop", min_width=100, elem_id=f"{name}-stop")
    return button, stop


def _two_images(name: str) -> list[gr.Image]:
    with gr.Row():
        return [upload(f"{n} image", f"{name}-{n.lower()}") for n in ("First", "Second")]


def generate_tab(page: Page) -> None:
    """New images, each the one that the command generate draws with the same settings."""
    count = gr.Slider(1, MOST_IMAGES, value=8, step=1, label="How many images", elem_id="count")
    how = sampling(page, "generate")
    button, stop = _buttons("generate", "Generate")
    xs = gallery("Images x", "generated")
    outputs = [xs]
    if isinstance(page.model, SRVAE):
        outputs.append(gallery("Their y, drawn first", "generated-y"))

    def do(count: int, *values: Any) -> Any:
        *how, request, progress = values

        def draw(work: Work) -> Any:
            options = sampling_from(page.model, *how)
            images = generate(work, page.model, whole("how many images", count), options)
            return images[: len(outputs)] if len(outputs) > 1 else images[0]

        return page.work(request, progress, "generate", draw)

    _wire(page, do, button, stop, [count, *how.inputs], outputs, "generate")


def reconstruct_tab(page: Page) -> None:
    """An image by way of its latents."""
    _explain(page, "An image by way of its own latents.")
    image = upload("Image", "reconstruct-image")
    how = sampling(page, "reconstruct")
    button, stop = _buttons("reconstruct", "Reconstruct")
    shown = gallery("The image and what is made of its latents", "reconstructed")

    def do(path: str | None, *values: Any) -> Any:
        *how, request, progress = values

        def draw(work: Work) -> Any:
            options = sampling_from(page.model, *how)
            x = image_for(page.model, page.image(request, path))
            return reconstruct(work, page.model, x, options)

        return page.work(request, progress, "reconstruct", draw)

    _wire(page, do, button, stop, [image, *how.inputs], [shown], "reconstruct")


def interpolate_tab(page: Page) -> None:
    """From an image to another."""
    _explain(page, "From one image to another by way of their latents, y too.")
    ends = _two_images("interpolate")
    steps = gr.Slider(2, MOST_STEPS, value=6, step=1, label="Steps", elem_id="steps")
    how = sampling(page, "interpolate")
    button, stop = _buttons("interpolate", "Interpolate")
    shown = gallery("From the first to the second", "interpolated")

    def do(first: str | None, second: str | None, steps: int, *values: Any) -> Any:
        *how, request, progress = values

        def draw(work: Work) -> Any:
            options = sampling_from(page.model, *how)
            a, b = (image_for(page.model, page.image(request, p)) for p in (first, second))
            return interpolate(work, page.model, a, b, whole("the steps", steps), options)

        return page.work(request, progress, "interpolate", draw)

    _wire(page, do, button, stop, [*ends, steps, *how.inputs], [shown], "interpolate")


def recombine_tab(page: Page, model: SRVAE) -> None:
    """u of one image with z of another."""
    _explain(page, "u of one image, which y is drawn from, with z of another, which has detail.")
    ends = _two_images("recombine")
    how = sampling(page, "recombine", decode="mode")
    button, stop = _buttons("recombine", "Recombine")
    shown = gallery("u of one with z of the other", "recombined")

    def do(first: str | None, second: str | None, *values: Any) -> Any:
        *how, request, progress = values

        def draw(work: Work) -> Any:
            options = sampling_from(model, *how)
            a, b = (image_for(model, page.image(request, p)) for p in (first, second))
            return recombine(work, model, a, b, options)

        return page.work(request, progress, "recombine", draw)

    _wire(page, do, button, stop, [*ends, *how.inputs], [shown], "recombine")


def _explain(page: Page, text: str) -> None:
    size = size_in_words(page.model)
    gr.Markdown(f"{text} Of an image the central square is taken and brought to {size}.")


def _wire(
    page: Page,
    do: Any,
    button: gr.Button,
    stop: gr.Button,
    inputs: list[Any],
    outputs: list[Any],
    name: str,
) -> None:
    on_click(page, [button.click], do, inputs, outputs, name, outputs[0], stop)


METRICS = "metrics.jsonl"
MOST_POINTS = 500  # of a curve
# What is worth a curve first, and how it is called.
NAMES = {
    "bits_per_dim": "ELBO (bits/dim)",
    "re_x": "RE_x (nats an image)",
    "re_y": "RE_y (nats an image)",
    "kl_z": "KL_z (nats an image)",
    "kl_u": "KL_u (nats an image)",
    "loss": "loss (nats an image)",
    "gradient_norm": "gradient norm",
    "lr": "learning rate",
    "images_per_second": "images a second",
}
SPLITS = {"train": "training", "val": "validation"}


@dataclass
class Curves:
    """The metrics of a run.

    Attributes:
        points: by metric, as it is called here, (step, value, split) of each.
    """

    points: dict[str, list[tuple[int, float, str]]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The metrics that there are, the ELBO first."""
        known = [name for name in NAMES.values() if name in self.points]
        return known + sorted(set(self.points) - set(known))


def read_curves(folder: Path) -> Curves:
    """What ``metrics.jsonl`` has; nothing where there is none, and no lines that are damaged."""
    curves = Curves()
    try:
        lines = (folder / METRICS).read_text("utf-8-sig", errors="replace").splitlines()
    except OSError:
        return curves
    for line in lines:
        try:
            values: dict[str, Any] = dict(json.loads(line))
            split, step = SPLITS[values.pop("split")], int(values.pop("step"))
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
        for name, value in values.items():
            if name in NAMES and isinstance(value, int | float) and math.isfinite(value):
                points = curves.points.setdefault(NAMES[name], [])
                points.append((step, float(value), split))
    for name, points in curves.points.items():
        curves.points[name] = [
            point for split in SPLITS.values() for point in _thinned(points, split)
        ]
    return curves


def _thinned(points: list[tuple[int, float, str]], split: str) -> list[tuple[int, float, str]]:
    """Those of a split, evenly spaced where they are many, the last among them."""
    own = [point for point in points if point[2] == split]
    every = math.ceil(len(own) / MOST_POINTS) or 1
    return own[::-1][::every][::-1]


def copy_figures(run: Path, folder: Path) -> list[tuple[str, str]]:
    """Copies in ``folder`` of the images in a run's ``figures/``, with a caption each."""
    shown = []
    for figure in sorted((run / "figures").glob("*.png")):
        shutil.copyfile(figure, folder / figure.name)
        shown.append((str(folder / figure.name), figure.stem.replace("-", " ")))
    return shown


def settings_in_words(run: Path, model: ImageModel) -> list[tuple[str, str]]:
    """What the run is: names and values."""
    config = model.config
    parameters = sum(parameter.numel() for parameter in model.parameters())
    rows = [
        ("run", run.name),
        ("model", "srVAE" if config.model == "srvae" else "one-level VAE"),
        ("images", f"{size_in_words(model)}, {config.image_shape[0]} channels"),
        ("parameters", f"{parameters:,}"),
    ]
    if config.model == "srvae":
        rows += [("d(x)", config.d), ("p(x given y, z)", config.likelihood)]
    if model.run_config is not None:
        rows += [("preset", model.run_config.preset or "its own")]
        rows += [("data", Path(model.run_config.data.data).name)]
    nats = validation_nats(run / WEIGHTS)
    if nats is not None and math.isfinite(nats):
        bits = nats / (math.prod(config.image_shape) * math.log(2))
        images = validation_images(run / WEIGHTS)
        of = f", {images:,} images" if images else ""
        rows.append(("validation ELBO", f"{bits:.3f} bits/dim{of}"))
    return rows


MOST_SAMPLES = 16
ESTIMATE = ("the model's estimate", "estimate")


def upscale_tab(page: Page, model: SRVAE) -> None:
    """Make the tab."""
    own = model.guide.d.factor
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            photograph = upload("Photograph", "photograph")
            factor = gr.Radio(
                [own**passes for passes in range(1, MOST_PASSES + 1)],
                value=own,
                label="How many times larger",
                elem_id="factor",
            )
            estimates = [ESTIMATE] if model.has_point_estimate else []
            how = _how("upscale", [*estimates, *DECODINGS], default_decoding(model), 0.0)
            with gr.Row():
                button = gr.Button("Enlarge", variant="primary", min_width=100, elem_id="upscale")
                stop = gr.Button("Stop", min_width=100, elem_id="upscale-stop")
        with gr.Column(scale=2, min_width=300):
            beside = gr.ImageSlider(
                label="Left bicubic, right the output",
                type="filepath",
                interactive=False,
                buttons=["fullscreen"],
                elem_id="beside",
            )
            where = gr.Slider(
                0,
                100,
                value=50,
                step=1,
                label="Where bicubic ends and the output begins, in per cent of the width",
                elem_id="where",
                buttons=[],
            )
            words = gr.Markdown(
                "*Drop a photograph: it is upscaled at once.*", elem_id="consistency"
            )
            output = files("The output, to download", "output-files")
    gr.Markdown("### Plausible outputs")
    samples = gr.Slider(
        2, MOST_SAMPLES, value=4, step=1, label="How many outputs", elem_id="samples"
    )
    how_several = _how("samples", DECODINGS, "sample", 1.0)
    with gr.Row():
        draw = gr.Button("Draw", variant="primary", min_width=100, elem_id="draw-samples")
        stop_samples = gr.Button("Stop", min_width=100, elem_id="samples-stop")
    several = gallery("Outputs, their mean, and where they differ", "sample-gallery", large=True)
    sample_words = gr.Markdown(elem_id="sample-consistency")
    sample_files = files("All outputs, to download", "sample-files")

    def arguments(
        count: int, factor: int, decode: Any, temperature: Any, image_temperature: Any, seed: Any
    ) -> UpscaleArguments:
        given = UpscaleArguments(
            "",
            (Path(),),
            factor=factor,
            samples=count,
            decode=decode,
            temperature=temperature,
            image_temperature=1.0 if image_temperature is None else image_temperature,
            seed=whole("the seed", seed),
            memory_gb=page.arguments.memory_gb,
        )
        check_arguments(given)
        return given

    def upscaled(
        work: Work, request: gr.Request, path: str | None, given: UpscaleArguments
    ) -> Upscaled:
        file = page.image(request, path)
        with page.sessions.room(disk_bytes(model, file, given)):
            return upscale(work, model, file, given)

    def one(path: str | None, *values: Any) -> Any:
        *how, request, progress = values

        def do(work: Work) -> Any:
            done = upscaled(work, request, path, arguments(1, *how))
            (file,) = map(str, done.outputs.consistencies)
            return (str(done.bicubic), file), done.words, [file]

        return page.work(request, progress, "upscale", do)

    def many(path: str | None, count: float | None, *values: Any) -> Any:
        *how, request, progress = values

        def do(work: Work) -> Any:
            given = arguments(whole("how many outputs", count), *how)
            done = upscaled(work, request, path, given)
            shown = []
            for number, (file, consistency) in enumerate(done.outputs.consistencies.items(), 1):
                name = f"output {number}" if number <= given.samples else "their mean"
                shown.append((str(file), f"{name}: {consistency}"))
            white = f"where they differ: white is {done.outputs.white:.1f} levels of 255"
            shown.append((str(done.outputs.deviation), white))
            return shown, done.words, [file for file, _ in shown]

        return page.work(request, progress, "samples", do)

    on_click(
        page,
        [photograph.upload, button.click],
        one,
        [photograph, factor, *how],
        [beside, words, output],
        "upscale",
        beside,
        stop,
    )
    on_click(
        page,
        [draw.click],
        many,
        [photograph, samples, factor, *how_several],
        [several, sample_words, sample_files],
        "samples",
        several,
        stop_samples,
    )
    # What the pointer does by the line between the two images, the keyboard does by this.
    where.input(
        lambda share: gr.ImageSlider(slider_position=share),
        [where],
        [beside],
        queue=False,
        trigger_mode="always_last",
        show_progress="hidden",
        api_visibility="private",
    )


def _how(name: str, decodings: list[tuple[str, str]], decode: str, temperature: float) -> list[Any]:
    """The fields that say how outputs are drawn, as ``upscale`` draws them if not told."""
    with gr.Accordion("How it is drawn" if temperature == 0 else "How they are drawn", open=False):
        pixels = gr.Radio(decodings, value=decode, label="Pixels", elem_id=f"{name}-decode")
        with gr.Row():
            latents = temperature_field(
                "Temperature of the latents", f"{name}-temperature", temperature
            )
            of_pixels = temperature_field("Temperature of the pixels", f"{name}-image-temperature")
            seed = seed_field(name)
    return [pixels, latents, of_pixels, seed]


COLUMNS = ["step", "value", "split"]
# Told in words: there is no room for a legend.
COLOURS = {"training": ("blue", "#4c78a8"), "validation": ("orange", "#f58518")}


def run_tab(page: Page, blocks: gr.Blocks) -> None:
    """Make the tab of the page ``blocks``; files are read at each visit and by its button."""
    rows = settings_in_words(page.run, page.model)
    gr.Markdown(
        "\n".join(
            ["| setting | value |", "|---|---|", *(f"| {name} | `{v}` |" for name, v in rows)]
        )
    )
    metric = gr.Dropdown([], label="Curve", elem_id="metric", interactive=True)
    curve = gr.LinePlot(
        None,
        x="step",
        y="value",
        color="split",
        x_title="update",
        y_title=" ",
        color_title=" ",
        color_map={split: code for split, (_, code) in COLOURS.items()},
        height=400,
        label="Training curve",
        elem_id="curve",
    )
    note = gr.Markdown(elem_id="curve-note")
    figures = gallery("Figures", "figures", large=True)
    again = gr.Button("Read again", elem_id="read-again")

    def points(name: str | None) -> Any:
        return pd.DataFrame(read_curves(page.run).points.get(name or "", []), columns=COLUMNS)

    def last(name: str | None) -> str:
        """The curve in words, for those who do not see it too."""
        of_metric = read_curves(page.run).points.get(name or "", [])
        found = {split: (step, value) for step, value, split in of_metric}
        if not found:
            return "*This run's folder has no `metrics.jsonl`: there are no curves to show.*"
        ends = (
            f"{split} ({COLOURS[split][0]}) {value:.4g} after {step:,} updates"
            for split, (step, value) in found.items()
        )
        return f"{name}, last: {'; '.join(ends)}."

    def read(name: str | None, request: gr.Request) -> Any:
        names = read_curves(page.run).names
        chosen = name if name in names else next(iter(names), None)
        with page.sessions.work(visitor_of(request), "run") as work:
            images = copy_figures(page.run, work.folder)
        choice = gr.Dropdown(choices=names, value=chosen)
        return choice, points(chosen), last(chosen), images

    def show(name: str | None) -> Any:
        return points(name), last(name)

    # Not the model's work: no visitor waits for another's.
    free: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden"}
    gr.on([again.click], read, [metric], [metric, curve, note, figures], api_name="run", **free)
    metric.input(show, [metric], [curve, note], api_visibility="private", **free)
    outputs = [metric, curve, note, figures]
    blocks.load(read, [metric], outputs, api_visibility="private", **free)
