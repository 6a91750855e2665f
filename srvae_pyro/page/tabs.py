"""The tabs that generate, reconstruct, interpolate and recombine."""

from __future__ import annotations

from typing import Any

import gradio as gr

from srvae_pyro.models import SRVAE
from srvae_pyro.page.controls import (
    Page,
    gallery,
    on_click,
    sampling,
    sampling_from,
    upload,
    whole,
)
from srvae_pyro.page.drawing import generate, interpolate, recombine, reconstruct
from srvae_pyro.page.uploads import image_for, size_in_words
from srvae_pyro.page.visits import Work

__all__ = ["generate_tab", "interpolate_tab", "recombine_tab", "reconstruct_tab"]

MOST_PICTURES = 64
MOST_STEPS = 16


def _buttons(name: str, label: str) -> tuple[gr.Button, gr.Button]:
    """What starts the work of a tab, and what stops it."""
    with gr.Row():
        button = gr.Button(label, variant="primary", min_width=100, elem_id=name)
        stop = gr.Button("Stop", min_width=100, elem_id=f"{name}-stop")
    return button, stop


def _two_pictures(name: str) -> list[gr.Image]:
    with gr.Row():
        return [upload(f"{n} picture", f"{name}-{n.lower()}") for n in ("First", "Second")]


def generate_tab(page: Page) -> None:
    """New pictures, each the one that the command generate draws with the same settings."""
    count = gr.Slider(1, MOST_PICTURES, value=8, step=1, label="How many pictures", elem_id="count")
    how = sampling(page, "generate")
    button, stop = _buttons("generate", "Generate")
    xs = gallery("Pictures x", "generated")
    outputs = [xs]
    if isinstance(page.model, SRVAE):
        outputs.append(gallery("Their y, drawn first", "generated-y"))

    def do(count: int, *values: Any) -> Any:
        *how, request, progress = values

        def draw(work: Work) -> Any:
            options = sampling_from(page.model, *how)
            pictures = generate(work, page.model, whole("how many pictures", count), options)
            return pictures[: len(outputs)] if len(outputs) > 1 else pictures[0]

        return page.work(request, progress, "generate", draw)

    _wire(page, do, button, stop, [count, *how.inputs], outputs, "generate")


def reconstruct_tab(page: Page) -> None:
    """A picture by way of its latents."""
    _explain(page, "A picture by way of its own latents.")
    picture = upload("Picture", "reconstruct-picture")
    how = sampling(page, "reconstruct")
    button, stop = _buttons("reconstruct", "Reconstruct")
    shown = gallery("The picture and what is made of its latents", "reconstructed")

    def do(path: str | None, *values: Any) -> Any:
        *how, request, progress = values

        def draw(work: Work) -> Any:
            options = sampling_from(page.model, *how)
            x = image_for(page.model, page.picture(request, path))
            return reconstruct(work, page.model, x, options)

        return page.work(request, progress, "reconstruct", draw)

    _wire(page, do, button, stop, [picture, *how.inputs], [shown], "reconstruct")


def interpolate_tab(page: Page) -> None:
    """From a picture to another."""
    _explain(page, "From one picture to another by way of their latents, y too.")
    ends = _two_pictures("interpolate")
    steps = gr.Slider(2, MOST_STEPS, value=6, step=1, label="Steps", elem_id="steps")
    how = sampling(page, "interpolate")
    button, stop = _buttons("interpolate", "Interpolate")
    shown = gallery("From the first to the second", "interpolated")

    def do(first: str | None, second: str | None, steps: int, *values: Any) -> Any:
        *how, request, progress = values

        def draw(work: Work) -> Any:
            options = sampling_from(page.model, *how)
            a, b = (image_for(page.model, page.picture(request, p)) for p in (first, second))
            return interpolate(work, page.model, a, b, whole("the steps", steps), options)

        return page.work(request, progress, "interpolate", draw)

    _wire(page, do, button, stop, [*ends, steps, *how.inputs], [shown], "interpolate")


def recombine_tab(page: Page, model: SRVAE) -> None:
    """u of one picture with z of another."""
    _explain(page, "u of one picture, which y is drawn from, with z of another, which has detail.")
    ends = _two_pictures("recombine")
    how = sampling(page, "recombine", decode="mode")
    button, stop = _buttons("recombine", "Recombine")
    shown = gallery("u of one with z of the other", "recombined")

    def do(first: str | None, second: str | None, *values: Any) -> Any:
        *how, request, progress = values

        def draw(work: Work) -> Any:
            options = sampling_from(model, *how)
            a, b = (image_for(model, page.picture(request, p)) for p in (first, second))
            return recombine(work, model, a, b, options)

        return page.work(request, progress, "recombine", draw)

    _wire(page, do, button, stop, [*ends, *how.inputs], [shown], "recombine")


def _explain(page: Page, text: str) -> None:
    size = size_in_words(page.model)
    gr.Markdown(f"{text} Of a picture the central square is taken and brought to {size}.")


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
