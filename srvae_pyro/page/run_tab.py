"""The tab of the run itself: settings, training curves, figures."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pandas as pd

from srvae_pyro.page.controls import Page, gallery, visitor_of
from srvae_pyro.page.record import copy_figures, read_curves, settings_in_words

__all__ = ["run_tab"]

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
        with page.visits.work(visitor_of(request), "run") as work:
            pictures = copy_figures(page.run, work.folder)
        choice = gr.Dropdown(choices=names, value=chosen)
        return choice, points(chosen), last(chosen), pictures

    def show(name: str | None) -> Any:
        return points(name), last(name)

    # Not the model's work: no visitor waits for another's.
    free: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden"}
    gr.on([again.click], read, [metric], [metric, curve, note, figures], api_name="run", **free)
    metric.input(show, [metric], [curve, note], api_visibility="private", **free)
    outputs = [metric, curve, note, figures]
    blocks.load(read, [metric], outputs, api_visibility="private", **free)
