"""The tabs: what they have, and how a click becomes work for the model."""

from __future__ import annotations

import contextlib
import html
import json
import math
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import gradio as gr
import pandas as pd

from srvae_pyro.drawing.generate import check_sampling
from srvae_pyro.errors import UserError, out_of_memory, with_flags
from srvae_pyro.inference.sampling import Sampling
from srvae_pyro.inference.statistics import bits_per_dim
from srvae_pyro.models import SRVAE, ImageModel
from srvae_pyro.page.arguments import DemoArguments
from srvae_pyro.page.sessions import Sessions, StoppedError, Work
from srvae_pyro.page.work import (
    EXAMPLES,
    Shown,
    Upscaled,
    check_upload,
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
from srvae_pyro.training.metrics import METRICS
from srvae_pyro.upscaling.arguments import InputName, UpscaleOptions
from srvae_pyro.upscaling.upscaler import default_decoding, factors_of

DECODINGS = [
    ("sampled", "sample"),
    ("mean of the likeliest component", "mode"),
    ("expectation", "mean"),
]
ESTIMATE = ("point estimate", "estimate")
# Settings as the page calls them, in errors too.
LABELS = {
    "factor": "Factor",
    "input": "Type of input",
    "samples": "Number of outputs",
    "decode": "Pixels",
    "temperature": "Temperature of the latents",
    "image_temperature": "Temperature of the pixels",
    "y_temperature": "Temperature of the pixels of y",
    "seed": "Seed",
}
TEMPERATURES = ("temperature", "image_temperature", "y_temperature")
SMALL, *IMAGES = EXAMPLES
UNTIL = "Until then, an example is used."


@dataclass(frozen=True)
class Page:
    model: ImageModel
    run: Path
    sessions: Sessions
    arguments: DemoArguments

    @property
    def largest(self) -> str:
        return f"at most {self.arguments.megapixels:g} megapixels, {self.arguments.upload_mb} MB"

    def image(self, work: Work, path: str | None, example: str) -> Path:
        """The file that the visitor has dropped, or the example."""
        if path is None:
            return self.sessions.examples / example
        file = check_upload(path, self.arguments.megapixels)
        self.sessions.uploaded(work.visitor, file)
        return file

    def leave(self, request: gr.Request) -> None:
        self.sessions.leave(visitor_of(request))


def visitor_of(request: gr.Request) -> str:
    """The key of a tab of a browser or a program's client; a new one for a call without it."""
    return request.session_hash or secrets.token_hex(16)


def connect(
    page: Page,
    name: str,
    do: Callable[..., Any],
    triggers: Sequence[Any],
    stop: gr.Button,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
) -> None:
    """Let triggers start ``do(work, *inputs)``, one visitor's at a time, and a button stop it."""

    # gradio looks for the first two among the named parameters only.
    def called(
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (by which gradio knows it)
        *values: Any,
    ) -> Any:
        def on_progress(done: float, words: str) -> None:
            progress(done, desc=words)

        try:
            with page.sessions.work(visitor_of(request), name, on_progress) as work:
                return do(work, *values)
        except StoppedError:
            gr.Info("Stopped.", duration=3)
            return gr.skip()
        except UserError as error:
            raise _error(with_flags(str(error), LABELS)) from None
        except (OSError, MemoryError, RuntimeError) as error:
            if out_of_memory(error):
                raise _error("out of memory: use a smaller image") from None
            raise

    entered = [field.submit for field in inputs if isinstance(field, gr.Number)]
    event = gr.on(
        [*triggers, *entered],
        called,
        list(inputs),
        list(outputs),
        api_name=name,
        show_progress_on=outputs[0],
        concurrency_limit=1,
        concurrency_id="model",
        trigger_mode="always_last",  # an image that was changed meanwhile is next
    )

    def stop_it(request: gr.Request) -> None:
        page.sessions.stop(visitor_of(request), name)

    stop.click(stop_it, queue=False, cancels=[event], api_visibility="private")


def _error(text: str) -> gr.Error:
    # The page takes it for HTML, and anybody may choose a file's name.
    return gr.Error(html.escape(text), duration=None, title="", print_exception=False)


def upload(label: str, elem_id: str) -> gr.Image:
    """Where an image is dropped; its value is the file as it was sent."""
    image = gr.Image(
        label=label,
        type="filepath",
        sources=["upload"],
        height=180,
        elem_id=elem_id,
        buttons=[],
        interactive=True,
        placeholder="Drop a file here, or choose one",
        alt_text=label,
    )
    # gradio's own would open the file with Pillow, fail in its words and make another of it.
    image.preprocess = lambda payload: None if payload is None else payload.path
    return image


def gallery(label: str, elem_id: str, large: bool = False, value: Any = None) -> gr.Gallery:
    return gr.Gallery(
        value,
        label=label,
        elem_id=elem_id,
        elem_classes=["whole", "large" if large else "pixels"],
        columns=8,  # at most; the style says how many there is room for
        object_fit="contain",
        height="auto",
        interactive=False,
        buttons=["download", "fullscreen"],
    )


def files(label: str, elem_id: str, value: list[str] | None = None) -> gr.File:
    return gr.File(value, label=label, elem_id=elem_id, file_count="multiple", interactive=False)


def buttons(label: str, elem_id: str, stop_id: str) -> tuple[gr.Button, gr.Button]:
    with gr.Row():
        start = gr.Button(label, variant="primary", min_width=100, elem_id=elem_id)
        return start, gr.Button("Stop", min_width=100, elem_id=stop_id)


def whole(name: str, value: float | None) -> int:
    if value is None:
        raise UserError(f'"{name}" is empty: give a whole number')
    return int(value)


def decode_field(name: str, decodings: list[tuple[str, str]], value: str) -> Any:
    return gr.Radio(decodings, value=value, label=LABELS["decode"], elem_id=f"{name}-decode")


def seed_field(name: str) -> Any:
    return gr.Number(0, label=LABELS["seed"], precision=0, minimum=0, elem_id=f"{name}-seed")


def temperature_field(setting: str, name: str, value: float = 1.0) -> Any:
    return gr.Number(
        value,
        label=LABELS[setting],
        minimum=0,
        step=0.1,
        elem_id=f"{name}-{setting.replace('_', '-')}",
    )


@dataclass(frozen=True)
class Tab:
    """A tab of images that ``do(work, model, *images, number, sampling)`` draws."""

    name: str
    do: Callable[..., Any]
    galleries: tuple[tuple[str, str], ...]  # label and element; the second is the srVAE's alone
    about: str
    images: tuple[str, ...] = ()  # their labels
    slider: tuple[str, str, int, int, int] | None = None  # label, element, least, most, value
    decode: str = "sample"
    srvae: bool = False  # takes an srVAE


TABS = (
    Tab(
        "generate",
        generate,
        (("Images x", "generated"), ("Small images y, drawn first", "generated-y")),
        "Draw new images of {size} pixels; the same seed gives the same images.",
        slider=("Number of images", "count", 1, 64, 8),
    ),
    Tab(
        "reconstruct",
        reconstruct,
        (("The image and its reconstructions", "reconstructed"),),
        "Drop an image ({largest}). Its central square, resized to {size} pixels, is encoded "
        "and decoded again. {until}",
        ("Image",),
    ),
    Tab(
        "interpolate",
        interpolate,
        (("From the first to the second", "interpolated"),),
        "Drop two images ({largest}). Their central squares, resized to {size} pixels, are "
        "encoded, and steps between their latents are decoded. {until}",
        ("First image", "Second image"),
        ("Steps", "steps", 2, 16, 6),
    ),
    Tab(
        "recombine",
        recombine,
        (("u of one with z of the other", "recombined"),),
        "Drop two images ({largest}). Of their central squares, resized to {size} pixels, u of "
        "one, from which y is drawn, is combined with z of the other, the detail. {until}",
        ("First image", "Second image"),
        decode="mode",
        srvae=True,
    ),
)


def add_tab(page: Page, tab: Tab, *shown: Shown) -> None:
    """A tab, and what its galleries show at first."""
    model, name = page.model, tab.name
    srvae = len(model.levels) > 1
    inputs: list[Any] = []
    size = size_in_words(model)
    gr.Markdown(tab.about.format(size=size, largest=page.largest, until=UNTIL))
    if tab.images:
        with gr.Row():
            inputs += [upload(label, f"{name}-{label.split()[0].lower()}") for label in tab.images]
    if tab.slider:
        label, elem_id, least, most, value = tab.slider
        inputs.append(gr.Slider(least, most, value=value, step=1, label=label, elem_id=elem_id))
    with gr.Row():
        seed = seed_field(name)
        temperatures = [temperature_field(t, name) for t in TEMPERATURES[: 3 if srvae else 2]]
    decode = decode_field(name, DECODINGS, tab.decode)
    button, stop = buttons(name.capitalize(), name, f"{name}-stop")
    named = zip(tab.galleries[: 2 if srvae else 1], [*shown, None, None], strict=False)
    galleries = [gallery(*labels, value=value) for labels, value in named]
    inputs += [seed, decode, *temperatures]

    def do(work: Work, *values: Any) -> Any:
        paths, given = values[: len(tab.images)], list(values[len(tab.images) :])
        numbers = [whole(tab.slider[0], given.pop(0))] if tab.slider else []
        sampling = sampling_from(model, *given)
        pairs = zip(paths, IMAGES, strict=False)
        images = [image_for(model, page.image(work, *pair)) for pair in pairs]
        made = tab.do(work, model, *images, *numbers, sampling)
        return made if len(galleries) > 1 or not isinstance(made, tuple) else made[0]

    connect(page, name, do, [button.click], stop, inputs, galleries)


def sampling_from(model: ImageModel, seed: Any, decode: Any, *temperatures: Any) -> Sampling:
    pairs = zip(TEMPERATURES, temperatures, strict=False)
    given = {name: t for name, t in pairs if t is not None}
    sampling = Sampling(decode=decode, seed=whole(LABELS["seed"], seed), **given)
    check_sampling(sampling, model)
    return sampling


def upscale_tab(page: Page, model: SRVAE) -> None:
    gr.Markdown(
        f"Drop a photograph (JPEG, PNG, WebP, TIFF and others; {page.largest}) to upscale it. "
        f"{UNTIL}"
    )
    shown, words, example = _upscaled_example(page, model)
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            photograph = upload("Photograph", "photograph")
            factors = factors_of(model)
            factor = gr.Radio(
                factors,
                value=model.guide.d.factor,
                label=LABELS["factor"],
                info="1 restores the photograph without upscaling it." if 1 in factors else None,
                elem_id="factor",
            )
            button, stop = buttons("Upscale", "upscale", "upscale-stop")
            estimates = [ESTIMATE] if model.has_point_estimate or model.restorer else []
            with gr.Accordion("More settings", open=False):
                kind = gr.Radio(
                    list(get_args(InputName)),
                    value=UpscaleOptions.input,
                    label=LABELS["input"],
                    info="auto: noise and compression are found in the file and its pixels. "
                    "average: an exact average of 2x2 pixels, to which every output downsamples. "
                    "bicubic, lanczos, bilinear: downscaled by this filter.",
                    visible=model.restorer is not None,
                    elem_id="input",
                )
                how = _how("upscale", [*estimates, *DECODINGS], default_decoding(model), 0.0)
        with gr.Column(scale=2, min_width=300):
            beside = gr.ImageSlider(
                shown,
                label="Left: bicubic; right: the output",
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
                label="Position of the dividing line (percent of the width)",
                elem_id="where",
                buttons=[],
            )
            summary = gr.Markdown(words, elem_id="consistency")
            output = files("Download the output", "output-files", example)
    gr.Markdown(
        "### Several outputs\n\nA photograph has many plausible outputs. Draw some and see where "
        "they differ."
    )
    samples = gr.Slider(2, 16, value=4, step=1, label=LABELS["samples"], elem_id="samples")
    draw, stop_samples = buttons("Draw", "draw-samples", "samples-stop")
    with gr.Accordion("More settings", open=False):
        how_several = _how("samples", DECODINGS, "sample", 1.0)
    several = gallery("Outputs, their mean, and where they differ", "sample-gallery", large=True)
    sample_words = gr.Markdown(elem_id="sample-consistency")
    sample_files = files("Download all outputs", "sample-files")

    def upscaled(
        work: Work,
        path: str | None,
        count: int,
        factor: int,
        decode: Any,
        temperature: float | None,
        image_temperature: float | None,
        seed: Any,
        kind: Any,
    ) -> Upscaled:
        options = UpscaleOptions(
            factor,
            count,
            decode,
            temperature,
            1.0 if image_temperature is None else image_temperature,
            whole(LABELS["seed"], seed),
            memory_gb=page.arguments.memory_gb,
            input=kind,
        )
        file = page.image(work, path, SMALL)
        with page.sessions.room(disk_bytes(model, file, options)):
            return upscale(work, model, file, options)

    def one(work: Work, path: str | None, *how: Any) -> Any:
        done = upscaled(work, path, 1, *how)
        (file,) = map(str, done.outputs.consistencies)
        return (str(done.bicubic), file), done.words, [file]

    def many(work: Work, path: str | None, count: float | None, *how: Any) -> Any:
        done = upscaled(work, path, whole(LABELS["samples"], count), *how)
        *outputs, mean = done.outputs.consistencies.items()
        named = [(f"output {i}", output) for i, output in enumerate(outputs, 1)]
        shown = [
            (str(file), f"{name}{consistency and f': LR-PSNR {consistency}'}")
            for name, (file, consistency) in [*named, ("their mean", mean)]
        ]
        white = f"where they differ: white is {done.outputs.white:.1f} levels of 255"
        shown.append((str(done.outputs.deviation), white))
        return shown, done.words, [file for file, _ in shown]

    triggers, inputs = [photograph.upload, button.click], [photograph, factor, *how, kind]
    connect(page, "upscale", one, triggers, stop, inputs, [beside, summary, output])
    inputs = [photograph, samples, factor, *how_several, kind]
    outputs = [several, sample_words, sample_files]
    connect(page, "samples", many, [draw.click], stop_samples, inputs, outputs)
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


def _upscaled_example(page: Page, model: SRVAE) -> tuple[Any, str, Any]:
    """The two images, words and files, as after a drop."""
    folder = page.sessions.examples
    options = UpscaleOptions(memory_gb=page.arguments.memory_gb)
    try:
        done = upscale(Work(folder), model, folder / SMALL, options)
    except UserError as error:  # too little memory is allowed
        return None, html.escape(with_flags(str(error), LABELS)), None
    (file,) = map(str, done.outputs.consistencies)
    return (str(done.bicubic), file), f"Example: {done.words}", [file]


def _how(name: str, decodings: list[tuple[str, str]], decode: str, temperature: float) -> list[Any]:
    pixels = decode_field(name, decodings, decode)
    with gr.Row():
        latents = temperature_field("temperature", name, temperature)
        of_pixels = temperature_field("image_temperature", name)
        return [pixels, latents, of_pixels, seed_field(name)]


MOST_POINTS = 500  # of a curve
# What is worth a curve first, and how it is called.
NAMES = {
    "bits_per_dim": "negative ELBO (bits/dim)",
    "re_x": "RE_x (nats per image)",
    "re_y": "RE_y (nats per image)",
    "kl_z": "KL_z (nats per image)",
    "kl_u": "KL_u (nats per image)",
    "loss": "loss (nats per image)",
    "gradient_norm": "gradient norm",
    "lr": "learning rate",
    "images_per_second": "images per second",
}
# In words: there is no room for a legend.
SPLITS = {"train": ("training", "blue", "#4c78a8"), "val": ("validation", "orange", "#f58518")}


def read_curves(folder: Path) -> dict[str, pd.DataFrame]:
    """The metrics of a run by name, at most 500 points each; damaged lines are left out."""
    try:
        lines = (folder / METRICS).read_text("utf-8-sig", errors="replace").splitlines()
    except OSError:
        return {}
    points: dict[str, dict[str, list[Any]]] = {name: {s: [] for s in SPLITS} for name in NAMES}
    for line in lines:
        try:
            values: dict[str, Any] = dict(json.loads(line))
            split, step = values["split"], int(values["step"])
            for name in NAMES.keys() & values.keys():
                if isinstance(values[name], int | float) and math.isfinite(values[name]):
                    points[name][split].append((step, float(values[name]), SPLITS[split][0]))
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    curves = {}
    for name, by_split in points.items():
        rows = []
        for all_rows in by_split.values():  # the last among those that stay
            rows += all_rows[::-1][:: math.ceil(len(all_rows) / MOST_POINTS) or 1][::-1]
        if rows:
            curves[NAMES[name]] = pd.DataFrame(rows, columns=["step", "value", "split"])
    return curves


def copy_figures(run: Path, folder: Path) -> list[tuple[str, str]]:
    shown = []
    for figure in sorted((run / "figures").glob("[!.]*.png")):
        with contextlib.suppress(FileNotFoundError):  # it has just been replaced
            shutil.copyfile(figure, folder / figure.name)
            shown.append((str(folder / figure.name), figure.stem.replace("-", " ")))
    return shown


def settings_in_words(run: Path, model: ImageModel) -> list[tuple[str, str]]:
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
        rows += [("preset", model.run_config.preset or "none")]
        rows += [("data", Path(model.run_config.data.data).name)]
    nats = validation_nats(run / WEIGHTS)
    if nats is not None and math.isfinite(nats):
        bits = bits_per_dim(nats, config.image_shape)
        images = validation_images(run / WEIGHTS)
        of = f", {images:,} images" if images else ""
        rows.append(("validation, negative ELBO", f"{bits:.3f} bits/dim{of}"))
    return rows


def run_tab(page: Page, blocks: gr.Blocks) -> None:
    gr.Markdown("The model's settings, its training curves, and the figures in its folder.")
    rows = settings_in_words(page.run, page.model)
    table = ["| setting | value |", "|---|---|", *(f"| {name} | `{v}` |" for name, v in rows)]
    gr.Markdown("\n".join(table))
    metric = gr.Dropdown(
        list(read_curves(page.run)), label="Curve", elem_id="metric", interactive=True
    )
    curve = gr.LinePlot(
        None,
        x="step",
        y="value",
        color="split",
        x_title="update",
        y_title=" ",
        color_title=" ",
        color_map={split: code for split, _, code in SPLITS.values()},
        height=400,
        label="Training curve",
        elem_id="curve",
    )
    note = gr.Markdown(elem_id="curve-note")
    figures = gallery("Figures", "figures", large=True)
    again = gr.Button("Reload", elem_id="read-again")

    def show(name: str | None) -> tuple[Any, str]:
        """A curve, and its ends in words, also for those who do not see it."""
        rows = read_curves(page.run).get(name or "")
        if rows is None:
            nothing = "*There are no curves to show: this run's folder has no `metrics.jsonl`.*"
            return pd.DataFrame([], columns=["step", "value", "split"]), nothing
        ends = []
        for split, colour, _ in SPLITS.values():
            own = rows[rows["split"] == split]
            if len(own):
                step, value = own["step"].iloc[-1], own["value"].iloc[-1]
                ends.append(f"{split} ({colour}) {value:.4g} after {step:,} updates")
        return rows, f"{name}, last: {'; '.join(ends)}."

    def read(name: str | None, request: gr.Request) -> Any:
        names = list(read_curves(page.run))
        chosen = name if name in names else next(iter(names), None)
        with page.sessions.work(visitor_of(request), "run") as work:
            images = copy_figures(page.run, work.folder)
        return gr.Dropdown(choices=names, value=chosen), *show(chosen), images

    # Not the model's work, so no visitor waits for another's. The queue would also open a stream of
    # events as the page opens, and gradio can lose an event that comes just as a stream closes.
    free: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
    outputs = [metric, curve, note, figures]
    gr.on([again.click], read, [metric], outputs, api_name="run", **free)
    metric.input(show, [metric], [curve, note], api_visibility="private", **free)
    blocks.load(read, [metric], outputs, api_visibility="private", **free)
