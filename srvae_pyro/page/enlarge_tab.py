"""The tab that enlarges a photograph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from srvae_pyro.models import SRVAE
from srvae_pyro.page.controls import DECODINGS, Page, files, gallery, on_click, upload, whole
from srvae_pyro.page.enlarging import enlarge
from srvae_pyro.page.visits import Work
from srvae_pyro.system.command_line import check_arguments
from srvae_pyro.upscaling.arguments import UpscaleArguments
from srvae_pyro.upscaling.enlarging import MOST_PASSES

__all__ = ["enlarge_tab"]

MOST_SAMPLES = 16


def enlarge_tab(page: Page, model: SRVAE) -> None:
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
            with gr.Accordion("How it is drawn", open=False):
                decode = gr.Radio(
                    [("likeliest for one answer, drawn for several", ""), *DECODINGS],
                    value="",
                    label="Pixels",
                    elem_id="enlarge-decode",
                )
                temperature = gr.Number(
                    None,
                    label="Temperature of the latents",
                    placeholder="0 for one answer, 1 for several",
                    minimum=0,
                    step=0.1,
                    elem_id="enlarge-temperature",
                )
                image_temperature = gr.Number(
                    1.0,
                    label="Temperature of the pixels",
                    minimum=0,
                    step=0.1,
                    elem_id="enlarge-image-temperature",
                )
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, elem_id="enlarge-seed")
            with gr.Row():
                button = gr.Button("Enlarge", variant="primary", elem_id="enlarge")
                stop = gr.Button("Stop", elem_id="enlarge-stop")
        with gr.Column(scale=2, min_width=300):
            beside = gr.ImageSlider(
                label="Bicubic on the left, the answer on the right",
                type="filepath",
                interactive=False,
                buttons=["fullscreen"],
                elem_id="beside",
            )
            words = gr.Markdown("*Drop a photograph: it is enlarged at once.*", elem_id="agreement")
            answer = files("The answer, to download", "answer-files")
    gr.Markdown("### Plausible answers")
    with gr.Row():
        samples = gr.Slider(
            2, MOST_SAMPLES, value=4, step=1, label="How many answers", elem_id="samples"
        )
        draw = gr.Button("Draw answers", variant="primary", elem_id="draw-samples")
        stop_samples = gr.Button("Stop", elem_id="samples-stop")
    several = gallery(
        "Answers, their mean, and where they differ", "sample-gallery", pixels=False, columns=3
    )
    sample_words = gr.Markdown(elem_id="sample-agreement")
    sample_files = files("All answers, to download", "sample-files")

    def arguments(
        count: float | None,
        factor: int,
        decode: Any,
        temperature: float | None,
        image_temperature: float | None,
        seed: float | None,
    ) -> UpscaleArguments:
        given = UpscaleArguments(
            "",
            (Path(),),
            factor=factor,
            samples=whole("how many answers", count),
            decode=decode or None,
            temperature=temperature,
            image_temperature=1.0 if image_temperature is None else image_temperature,
            seed=whole("the seed", seed),
            memory_gb=page.arguments.memory_gb,
        )
        check_arguments(given)
        return given

    def one(
        path: str | None,
        factor: int,
        decode: str,
        temperature: float | None,
        image_temperature: float | None,
        seed: float | None,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (by which gradio knows it)
    ) -> Any:
        def do(work: Work) -> Any:
            given = arguments(1, factor, decode, temperature, image_temperature, seed)
            done = enlarge(work, model, page.picture(request, path), given)
            (file,) = map(str, done.answers.agreements)
            return (str(done.bicubic), file), done.words, [file]

        return page.work(request, progress, "enlarge", do)

    def many(
        path: str | None,
        count: int,
        factor: int,
        decode: str,
        temperature: float | None,
        image_temperature: float | None,
        seed: float | None,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Any:
        def do(work: Work) -> Any:
            given = arguments(count, factor, decode, temperature, image_temperature, seed)
            done = enlarge(work, model, page.picture(request, path), given)
            shown = []
            for number, (file, agreement) in enumerate(done.answers.agreements.items(), 1):
                name = f"answer {number}" if number <= count else f"mean of {count}"
                shown.append((str(file), f"{name}: {agreement}"))
            white = f"where they differ: white is {done.answers.white:.1f} levels of 255"
            shown.append((str(done.answers.deviation), white))
            return shown, done.words, [file for file, _ in shown]

        return page.work(request, progress, "samples", do)

    how = [factor, decode, temperature, image_temperature, seed]
    on_click(
        page,
        [photograph.upload, button.click],
        one,
        [photograph, *how],
        [beside, words, answer],
        "enlarge",
        beside,
        stop,
    )
    on_click(
        page,
        [draw.click],
        many,
        [photograph, samples, *how],
        [several, sample_words, sample_files],
        "samples",
        several,
        stop_samples,
    )
