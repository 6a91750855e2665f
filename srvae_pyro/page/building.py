"""The page of a run: its tabs, and how it looks."""

from __future__ import annotations

from typing import Any

import gradio as gr

from srvae_pyro.errors import UserError
from srvae_pyro.models import SRVAE
from srvae_pyro.page.controls import Page
from srvae_pyro.page.enlarge_tab import enlarge_tab
from srvae_pyro.page.run_tab import run_tab
from srvae_pyro.page.tabs import generate_tab, interpolate_tab, recombine_tab, reconstruct_tab
from srvae_pyro.page.uploads import size_in_words
from srvae_pyro.upscaling.enlarger import enlarging

__all__ = ["LOOK", "build"]

# Fonts of the visitor's own computer: others would be asked for elsewhere.
FONTS = ("system-ui", "sans-serif")
MONOSPACE = ("ui-monospace", "monospace")
# Galleries show all that they have, as many a row as there is room for, captions below.
CSS = """
.pixels img { image-rendering: pixelated; }
.whole .grid-wrap { min-height: 0; max-height: none; height: auto; padding-top: 1.75rem; }
.whole .grid-container {
  grid-template-columns: repeat(auto-fill, minmax(min(var(--least, 7.5rem), 100%), 1fr));
}
.whole.large { --least: 18rem; }
.whole .thumbnail-lg { aspect-ratio: auto; height: auto; flex-direction: column; }
.whole .thumbnail-lg > img { height: auto; aspect-ratio: 1; }
.whole.large .thumbnail-lg > img { aspect-ratio: auto; }
.whole .caption-label {
  position: static; max-width: none; white-space: normal; border: 0; text-align: center;
}
#answer-files .empty, #sample-files .empty { min-height: 4rem; }
"""
# What launch() is given to make the page look as it does.
LOOK: dict[str, Any] = {
    "css": CSS,
    "theme": gr.themes.Default(font=FONTS, font_mono=MONOSPACE),
    "footer_links": [],
}


def build(page: Page) -> gr.Blocks:
    """Make the page; a tab that the model cannot fill is absent, and a line says so."""
    model, missing = page.model, ""
    with gr.Blocks(title=f"{page.run.name}: srvae_pyro", analytics_enabled=False) as blocks:
        kind = "srVAE" if isinstance(model, SRVAE) else "one-level VAE"
        title = gr.Markdown()
        with gr.Tabs():
            if isinstance(model, SRVAE):
                try:
                    enlarging(model)
                except UserError as error:
                    missing = f" No tab enlarges: {error}."
                else:
                    with gr.Tab("Enlarge", id="enlarge"):
                        enlarge_tab(page, model)
            else:
                missing = (
                    " It has no y, so no tab enlarges or recombines: that takes the run of a srVAE."
                )
            with gr.Tab("Generate", id="generate"):
                generate_tab(page)
            with gr.Tab("Reconstruct", id="reconstruct"):
                reconstruct_tab(page)
            with gr.Tab("Interpolate", id="interpolate"):
                interpolate_tab(page)
            if isinstance(model, SRVAE):
                with gr.Tab("Recombine", id="recombine"):
                    recombine_tab(page, model)
            with gr.Tab("Run", id="run"):
                run_tab(page, blocks)
        title.value = f"# {page.run.name}\n\nA {kind} of {size_in_words(model)} pictures.{missing}"
        blocks.unload(page.leave)
    for block in blocks.blocks.values():
        _fetch_nothing(block)
    return blocks


def _fetch_nothing(block: Any) -> None:
    """Refuse addresses in place of files: gradio would fetch, of any size, what they lead to."""
    move = block.async_move_resource_to_block_cache

    async def moved(path: Any) -> Any:
        if str(path).startswith(("http://", "https://")):
            raise gr.Error("give a file, not an address", print_exception=False)
        return await move(path)

    block.async_move_resource_to_block_cache = moved
