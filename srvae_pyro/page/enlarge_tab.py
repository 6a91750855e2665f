"""The tab that enlarges a photograph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from srvae_pyro.models import SRVAE
from srvae_pyro.page.controls import (
    DECODINGS,
    Page,
    files,
    gallery,
    on_click,
    seed_field,
    temperature_field,
    upload,
    whole,
)
from srvae_pyro.page.enlarging import Enlarged, disk_bytes, enlarge
from srvae_pyro.page.visits import Work
from srvae_pyro.system.cli import check_arguments
from srvae_pyro.upscaling.arguments import UpscaleArguments
from srvae_pyro.upscaling.enlarger import MOST_PASSES, one_answer

__all__ = ["enlarge_tab"]

MOST_SAMPLES = 16
ESTIMATE = ("the model's estimate", "estimate")


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
            estimates = [ESTIMATE] if model.estimates else []
            how = _how("enlarge", [*estimates, *DECODINGS], one_answer(model), 0.0)
            with gr.Row():
                button = gr.Button("Enlarge", variant="primary", min_width=100, elem_id="enlarge")
                stop = gr.Button("Stop", min_width=100, elem_id="enlarge-stop")
        with gr.Column(scale=2, min_width=300):
            beside = gr.ImageSlider(
                label="Left bicubic, right the answer",
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
                label="Where bicubic ends and the answer begins, in per cent of the width",
                elem_id="where",
                buttons=[],
            )
            words = gr.Markdown("*Drop a photograph: it is enlarged at once.*", elem_id="agreement")
            answer = files("The answer, to download", "answer-files")
    gr.Markdown("### Plausible answers")
    samples = gr.Slider(
        2, MOST_SAMPLES, value=4, step=1, label="How many answers", elem_id="samples"
    )
    how_several = _how("samples", DECODINGS, "sample", 1.0)
    with gr.Row():
        draw = gr.Button("Draw", variant="primary", min_width=100, elem_id="draw-samples")
        stop_samples = gr.Button("Stop", min_width=100, elem_id="samples-stop")
    several = gallery("Answers, their mean, and where they differ", "sample-gallery", large=True)
    sample_words = gr.Markdown(elem_id="sample-agreement")
    sample_files = files("All answers, to download", "sample-files")

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

    def enlarged(
        work: Work, request: gr.Request, path: str | None, given: UpscaleArguments
    ) -> Enlarged:
        file = page.picture(request, path)
        with page.visits.room(disk_bytes(model, file, given)):
            return enlarge(work, model, file, given)

    def one(path: str | None, *values: Any) -> Any:
        *how, request, progress = values

        def do(work: Work) -> Any:
            done = enlarged(work, request, path, arguments(1, *how))
            (file,) = map(str, done.answers.agreements)
            return (str(done.bicubic), file), done.words, [file]

        return page.work(request, progress, "enlarge", do)

    def many(path: str | None, count: float | None, *values: Any) -> Any:
        *how, request, progress = values

        def do(work: Work) -> Any:
            given = arguments(whole("how many answers", count), *how)
            done = enlarged(work, request, path, given)
            shown = []
            for number, (file, agreement) in enumerate(done.answers.agreements.items(), 1):
                name = f"answer {number}" if number <= given.samples else "their mean"
                shown.append((str(file), f"{name}: {agreement}"))
            white = f"where they differ: white is {done.answers.white:.1f} levels of 255"
            shown.append((str(done.answers.deviation), white))
            return shown, done.words, [file for file, _ in shown]

        return page.work(request, progress, "samples", do)

    on_click(
        page,
        [photograph.upload, button.click],
        one,
        [photograph, factor, *how],
        [beside, words, answer],
        "enlarge",
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
    # What the pointer does by the line between the two pictures, the keyboard does by this.
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
    """The fields that say how answers are drawn, as ``upscale`` draws them if not told."""
    with gr.Accordion("How it is drawn" if temperature == 0 else "How they are drawn", open=False):
        pixels = gr.Radio(decodings, value=decode, label="Pixels", elem_id=f"{name}-decode")
        with gr.Row():
            latents = temperature_field(
                "Temperature of the latents", f"{name}-temperature", temperature
            )
            of_pixels = temperature_field("Temperature of the pixels", f"{name}-image-temperature")
            seed = seed_field(name)
    return [pixels, latents, of_pixels, seed]
