"""Parts of the page that several tabs have, and how a click becomes work for the model."""

from __future__ import annotations

import html
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr

from srvae_pyro.drawing.arguments import GenerateArguments
from srvae_pyro.drawing.generate import sampling_of
from srvae_pyro.errors import UserError, out_of_memory
from srvae_pyro.inference.operations import Sampling
from srvae_pyro.models import SRVAE, ImageModel
from srvae_pyro.page.arguments import DemoArguments
from srvae_pyro.page.sessions import Sessions, StoppedError, Work
from srvae_pyro.page.work import check_upload
from srvae_pyro.system.cli import check_arguments

__all__ = [
    "DECODINGS",
    "Page",
    "files",
    "gallery",
    "on_click",
    "sampling",
    "sampling_from",
    "seed_field",
    "temperature_field",
    "upload",
    "visitor_of",
    "whole",
]

T = TypeVar("T")

DECODINGS = [
    ("draw each pixel", "sample"),
    ("likeliest component's mean", "mode"),
    ("expectation", "mean"),
]


@dataclass(frozen=True)
class Page:
    """What all tabs are of.

    Attributes:
        model: the model.
        run: its folder.
        visits: who looks, and their files.
        arguments: the command's.
    """

    model: ImageModel
    run: Path
    sessions: Sessions
    arguments: DemoArguments

    def work(
        self, request: gr.Request, progress: Any, kind: str, do: Callable[[Work], T]
    ) -> T | dict[str, Any]:
        """What ``do`` returns; what is shown stays as it is where the visitor has stopped it.

        Raises:
            gr.Error: a mistake, in the one line that a command would end with.
        """

        def on_progress(done: float, words: str) -> None:
            progress(done, desc=words)

        try:
            with self.sessions.work(visitor_of(request), kind, on_progress) as work:
                return do(work)
        except StoppedError:
            gr.Info("Stopped.", duration=3)
            return gr.skip()
        except UserError as error:
            raise _shown(str(error).splitlines()[0]) from None
        except (OSError, MemoryError, RuntimeError) as error:
            if out_of_memory(error):
                raise _shown("memory does not suffice: take a smaller image") from None
            raise

    def image(self, request: gr.Request, path: str | None) -> Path:
        """The file of an image that the visitor has sent.

        Raises:
            UserError: there is none, or it is too large.
        """
        file = check_upload(path, self.arguments.megapixels)
        self.sessions.uploaded(visitor_of(request), file)
        return file

    def leave(self, request: gr.Request) -> None:
        """Forget the visitor, who has closed the page."""
        self.sessions.leave(visitor_of(request))


def visitor_of(request: gr.Request) -> str:
    """The key of who asks: a tab of a browser, a program's client; a single call without one."""
    return request.session_hash or secrets.token_hex(16)


def _shown(text: str) -> gr.Error:
    # The page takes it for HTML, and names of files are anybody's.
    return gr.Error(html.escape(text), duration=None, title="", print_exception=False)


def on_click(
    page: Page,
    triggers: Sequence[Any],
    do: Callable[..., Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    name: str,
    shown_on: Any,
    stop: gr.Button,
) -> None:
    """Let triggers start work for the model, one visitor's at a time, and a button stop it.

    Args:
        page: the page.
        triggers: of gradio.
        do: given the values of the inputs, then the request and the progress.
        inputs, outputs: components.
        name: of the same in gradio's client for programs.
        shown_on: the component on which progress is shown.
        stop: the button; it also takes out of the queue what has not begun.
    """
    event = gr.on(
        triggers,
        _with_request(do),
        list(inputs),
        list(outputs),
        api_name=name,
        show_progress_on=shown_on,
        concurrency_limit=1,
        concurrency_id="model",
    )

    def stop_it(request: gr.Request) -> None:
        page.sessions.stop(visitor_of(request), name)

    stop.click(stop_it, queue=False, cancels=[event], api_visibility="private")


def _with_request(do: Any) -> Any:
    """``do`` given request and progress last, of however many values, as gradio can call it.

    gradio looks for both among the named parameters only, and hands them over in their places.
    """

    def called(
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (by which gradio knows it)
        *values: Any,
    ) -> Any:
        return do(*values, request, progress)

    return called


def upload(label: str, elem_id: str) -> gr.Image:
    """Where an image is dropped; its value is the file as it was sent."""
    image = gr.Image(
        label=label,
        type="filepath",
        sources=["upload"],
        height=260,
        elem_id=elem_id,
        buttons=[],
        interactive=True,
    )

    def as_sent(payload: Any) -> str | None:
        return None if payload is None else payload.path

    # gradio's own would open the file with Pillow, fail in its words and make another of it.
    image.preprocess = as_sent
    return image


def gallery(label: str, elem_id: str, large: bool = False) -> gr.Gallery:
    """Images side by side: large ones, or small ones with their pixels as squares."""
    return gr.Gallery(
        label=label,
        elem_id=elem_id,
        elem_classes=["whole", "large" if large else "pixels"],
        columns=8,  # at most; what there is room for, the style says
        object_fit="contain",
        height="auto",
        interactive=False,
        buttons=["download", "fullscreen"],
    )


def files(label: str, elem_id: str) -> gr.File:
    """Files to download."""
    return gr.File(label=label, elem_id=elem_id, file_count="multiple", interactive=False)


def whole(name: str, value: float | None) -> int:
    """A field's whole number.

    Raises:
        UserError: it is empty.
    """
    if value is None:
        raise UserError(f"{name} is empty: give a whole number")
    return int(value)


@dataclass(frozen=True)
class SamplingControls:
    """The fields that say how to draw."""

    decode: gr.Radio
    temperature: gr.Number
    image_temperature: gr.Number
    y_temperature: gr.Number | None
    seed: gr.Number

    @property
    def inputs(self) -> list[Any]:
        """In the order that :func:`sampling_from` takes."""
        fields = [self.seed, self.decode, self.temperature, self.image_temperature]
        return [*fields, self.y_temperature] if self.y_temperature else fields


def temperature_field(label: str, elem_id: str, value: float = 1.0) -> Any:
    """A field for a temperature."""
    return gr.Number(value, label=label, minimum=0, step=0.1, elem_id=elem_id)


def seed_field(name: str) -> Any:
    """A field for the seed."""
    return gr.Number(0, label="Seed", precision=0, minimum=0, elem_id=f"{name}-seed")


def sampling(page: Page, name: str, decode: str = "sample") -> SamplingControls:
    """Make the fields that say how to draw."""
    srvae = isinstance(page.model, SRVAE)
    of_x = "Temperature of the pixels of x" if srvae else "Temperature of the pixels"
    with gr.Row():
        seed = seed_field(name)
        latents = temperature_field("Temperature of the latents", f"{name}-temperature")
        pixels = temperature_field(of_x, f"{name}-image-temperature")
        of_y = None
        if srvae:
            of_y = temperature_field("Temperature of the pixels of y", f"{name}-y-temperature")
    how = gr.Radio(DECODINGS, value=decode, label="Pixels", elem_id=f"{name}-decode")
    return SamplingControls(how, latents, pixels, of_y, seed)


def sampling_from(model: ImageModel, *values: Any) -> Sampling:
    """How to draw, by the values of :attr:`SamplingControls.inputs`.

    Raises:
        UserError: it cannot be so, as the command ``generate`` says.
    """
    seed, decode, temperature, image_temperature, *of_y = values
    arguments = GenerateArguments(
        "",
        decode=decode,
        temperature=1.0 if temperature is None else temperature,
        image_temperature=1.0 if image_temperature is None else image_temperature,
        y_temperature=of_y[0] if of_y else None,
        seed=whole("the seed", seed),
    )
    check_arguments(arguments)
    return sampling_of(arguments, model)
