"""The page: its layout, and the command demo that serves it."""

from __future__ import annotations

import errno
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import uvicorn
from fastapi.concurrency import contextmanager_in_threadpool
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Before gradio is imported: it would report its users, and with these variables set elsewhere
# serve folders or let visitors change code.
os.environ.update(
    GRADIO_ANALYTICS_ENABLED="False",
    GRADIO_ALLOWED_PATHS="",
    GRADIO_DEBUG="0",
    GRADIO_PROFILING="0",
    GRADIO_VIBE_MODE="",
    GRADIO_WATCH_DIRS="",
)

import gradio as gr
from gradio.blocks import Block

from srvae_pyro.errors import UserError
from srvae_pyro.inference.sampling import Sampling
from srvae_pyro.models import load
from srvae_pyro.page.arguments import DemoArguments, host_name
from srvae_pyro.page.sessions import Sessions, Work
from srvae_pyro.page.tabs import TABS, Page, add_tab, run_tab, upscale_tab
from srvae_pyro.page.work import Shown, generate, size_in_words, write_examples
from srvae_pyro.runs import find_run
from srvae_pyro.system.console import print_line
from srvae_pyro.system.device import choose_device, start
from srvae_pyro.system.environment import variable
from srvae_pyro.upscaling.upscaler import upscaling_model

# Fonts of the visitor's computer: others would be fetched from elsewhere.
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
.whole .empty, #output-files .empty, #sample-files .empty { min-height: 4rem; }
:focus-visible, label:has(:focus-visible) {
  outline: 3px solid #1d4ed8 !important; outline-offset: 2px;
}
.dark :focus-visible, .dark label:has(:focus-visible) { outline-color: #93c5fd !important; }
.dark { --color-accent: var(--primary-400); }
"""
# Names for those who do not see the page, where gradio takes none.
NAMES = """() => new MutationObserver(() => {
  const each = (selector, name) => document.querySelectorAll(selector).forEach(name);
  const text = (within, selector) => within.querySelector(selector)?.textContent.trim();
  each('#beside img', (image, i) => { image.alt = i ? 'The output' : 'Upscaled by bicubic'; });
  each('a[download]', link => { link.ariaLabel = `Download ${link.download}`; });
  each('fieldset', group => { group.ariaLabel = text(group, '[data-testid=block-info]'); });
  each('[aria-dropeffect]', button => {
    button.ariaLabel = `${text(button.closest('.block'), 'label')}: drop a file, or choose one`;
  });
}).observe(document.body, {childList: true, subtree: true})"""
# The default colours are too faint for many to read.
THEME = gr.themes.Default(font=FONTS, font_mono=MONOSPACE).set(
    block_info_text_color="*neutral_600",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    color_accent="*primary_700",
)
# Nothing goes out, and nothing but the page is served.
MOUNT: dict[str, Any] = {
    "css": CSS,
    "theme": THEME,
    "js": NAMES,
    "footer_links": [],
    "show_error": True,
    "enable_monitoring": False,
    "run_history": False,
    "ssr_mode": False,
    "pwa": False,
    "mcp_server": False,
}

SESSIONS = 500  # visitors whose state gradio keeps
KEPT = (60, 1800)  # each minute files that are half an hour old are removed


def build(page: Page) -> gr.Blocks:
    """Make the page; a line gives the reason for an absent tab."""
    model, name, srvae = page.model, page.run.name, len(page.model.levels) > 1
    missing = ""
    generated: tuple[Shown, ...] = ()
    write_examples(page.sessions.examples)
    with gr.Blocks(
        title=f"{name}: srvae_pyro", analytics_enabled=False, delete_cache=KEPT
    ) as blocks:
        title = gr.Markdown()
        with gr.Tabs():
            try:
                upscaling = upscaling_model(model)
            except UserError as error:
                missing = f" There is no tab Upscale: {error}."
                if not srvae:
                    missing = (
                        " It has no y, so the tabs Upscale and Recombine are missing: they need "
                        "an srVAE."
                    )
                made = generate(Work(page.sessions.examples), model, 8, Sampling())
                generated = made if srvae else made[:1]
            else:
                with gr.Tab("Upscale", id="upscale"):
                    upscale_tab(page, upscaling)
            for tab in TABS:
                if srvae or not tab.srvae:
                    with gr.Tab(tab.name.capitalize(), id=tab.name):
                        add_tab(page, tab, *(generated if tab.name == "generate" else ()))
            with gr.Tab("Run", id="run"):
                run_tab(page, blocks)
        kind = "super-resolution VAE (srVAE)" if srvae else "one-level VAE"
        title.value = (
            f"# {name}\n\nA {kind} trained on images of {size_in_words(model)} pixels.{missing}"
        )
        blocks.unload(page.leave)
    return blocks


_move = Block.async_move_resource_to_block_cache


async def _moved(block: Block, path: Any) -> Any:
    """Let gradio take a file into its folder, if it is one that a visitor may name."""
    if path is None:
        return None
    name = str(path)
    if name.lower().startswith(("http://", "https://")):  # which it would fetch, whatever the size
        raise gr.Error("use a file, not an address", print_exception=False)
    if not Path(name).is_file() or name.lower().endswith(".svg"):
        # It would fail to remove a folder, read a device for ever, and serve scripts in an SVG.
        raise gr.Error("this is not an image file", print_exception=False)
    examples = Path(block.GRADIO_CACHE).resolve() / "examples"
    if examples in Path(name).resolve().parents:
        return name  # all visitors use it, so it must not be removed as this one's
    return await _move(block, path)


# The class's, since updates of a component make another one.
Block.async_move_resource_to_block_cache = _moved


# The page loads everything from here. Gradio's code needs the "unsafe".
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)
PORTS = range(7860, 7960)
LOCAL = ("localhost", "127.0.0.1", "::1")
UPLOAD = "/gradio_api/upload"
# Paths by which gradio would fetch an address and pass it on.
FETCHED = tuple(f"/gradio_api/{how}" for how in ("file=http", "file/http", "proxy="))
FORM_BYTES = 2**16  # of a request at most, without the file in it


class Guard:
    """Refuses requests of other sites' pages, and uploads that there is no room for.

    A page of another site cannot choose its ``Host``, ``Origin`` and ``Sec-Fetch-Site``; its name
    may lead to this computer (DNS rebinding), so only known hosts are answered.
    """

    def __init__(self, app: ASGIApp, arguments: DemoArguments, sessions: Sessions) -> None:
        self.sessions = sessions
        self.allowed = {host_name(name) for name in arguments.allow_host}
        own = arguments.host.strip("[]").lower()
        self.hosts = {*LOCAL, own, *self.allowed}
        self.addresses = own not in LOCAL and not own.startswith("127.")
        self.most = arguments.upload_mb * 2**20 + FORM_BYTES
        self.limit = f"A file may have at most {arguments.upload_mb} megabytes"
        self.app = RequestBodyLimitMiddleware(app, FORM_BYTES)
        self.upload = RequestBodyLimitMiddleware(app, self.most)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = {"content-security-policy": POLICY, "referrer-policy": "no-referrer"}
                pairs = [(name.encode(), value.encode()) for name, value in extra.items()]
                message["headers"] = [*message.get("headers", []), *pairs]
            await send(message)

        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            if refusal := self._refusal(scope, headers):
                await PlainTextResponse(refusal, 403)(scope, receive, send_with_headers)
                return
            if scope["path"].lower().startswith(FETCHED):
                words = "This page fetches nothing from elsewhere"
                await PlainTextResponse(words, 403)(scope, receive, send_with_headers)
                return
            if scope["path"] == UPLOAD:
                length = headers.get("content-length", "")
                size = int(length) if length.isdecimal() else self.most
                if size > self.most:
                    await PlainTextResponse(self.limit, 413)(scope, receive, send_with_headers)
                    return
                try:
                    async with contextmanager_in_threadpool(self.sessions.room(size)):
                        await self.upload(scope, receive, send_with_headers)
                except UserError as error:
                    await PlainTextResponse(str(error), 503)(scope, receive, send_with_headers)
                return
        await self.app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> str | None:
        host = headers.get("host", "")
        name = host_name(host)
        if name not in self.hosts and not (self.addresses and _is_address(name)):
            return (
                "This page does not accept this host name: use its IP address, or start it with "
                "--allow-host NAME"
            )
        refusal = "This page does not answer to requests from other sites"
        # Browsers send the first to https and this computer, the second with each POST.
        if site := headers.get("sec-fetch-site"):
            link = (
                scope.get("method") == "GET"
                and headers.get("sec-fetch-mode") == "navigate"
                and headers.get("sec-fetch-dest") == "document"
            )
            return None if link or site in ("same-origin", "none") else refusal
        if (origin := headers.get("origin")) is None:
            return None
        asking = origin.partition("://")[2].lower()
        return None if asking == host.lower() or host_name(asking) in self.allowed else refusal


def _is_address(name: str | None) -> bool:
    try:
        return bool(ip_address(name or ""))
    except ValueError:
        return False


def serve(arguments: DemoArguments) -> int:
    """Serve until Ctrl-C, SIGTERM or SIGHUP; the exit code."""
    ended, numbers = threading.Event(), [signal.SIGTERM]

    def end(number: int, _: Any) -> None:
        numbers[:] = [signal.Signals(number)]
        ended.set()

    signal.signal(signal.SIGTERM, end)
    hangup = getattr(signal, "SIGHUP", None)  # of a closed terminal; nohup ignores it
    if hangup and signal.getsignal(hangup) is not signal.SIG_IGN:
        signal.signal(hangup, end)
    device = choose_device(arguments.device)
    start(device, threads=arguments.threads)
    folder = find_run(arguments.run)
    with served(arguments, folder, load(folder, device)) as address:
        print_line(f"serving {folder.name} at {address} (press Ctrl-C to stop)")
        ended.wait()
    return 128 + numbers[0]


@contextmanager
def served(arguments: DemoArguments, run: Path, model: Any) -> Iterator[str]:
    """Serve the page of a run's model; yield its address."""
    # gradio reads this variable wherever it needs a folder for its files.
    with (
        tempfile.TemporaryDirectory(prefix="srvae-page-") as name,
        variable("GRADIO_TEMP_DIR", name),
        variable("GRADIO_EXAMPLES_CACHE", str(Path(name) / "none")),
        _listen(arguments.host.strip("[]"), arguments.port) as listener,
    ):
        sessions = Sessions(Path(name), arguments.disk_gb * 1e9)
        blocks = build(Page(model, run, sessions, arguments))
        blocks.queue(max_size=arguments.waiting)
        # Around gradio's app, whose own middleware would not see preflights.
        app: Any = Starlette(middleware=[Middleware(Guard, arguments, sessions)])
        blocks.state_session_capacity = SESSIONS
        gr.mount_gradio_app(app, blocks, "/", max_file_size=f"{arguments.upload_mb}mb", **MOUNT)
        blocks.has_launched = True  # else gradio takes any path that a request names
        blocks.app = app.routes[0].app  # which close() ends
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5)
        server = uvicorn.Server(config)
        serving = threading.Thread(target=server.run, args=([listener],), daemon=True)
        serving.start()
        try:
            while not server.started:
                if not serving.is_alive():
                    raise RuntimeError("the page's server did not start")
                serving.join(0.01)
            yield _address(listener)
        finally:
            blocks.close(verbose=False)
            server.should_exit = True
            serving.join(timeout=10)


def _listen(host: str, port: int | None) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in PORTS if port is None else (port,):
        try:
            return socket.create_server((host, candidate), family=family)
        except OSError as error:
            reason = str(error.strerror).partition(" (")[0]
            if error.errno != errno.EADDRINUSE:
                break
    raise UserError(
        f"cannot serve at {host}, port {port or 'any'} ({reason}): choose another `host` or `port`"
    )


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    shown = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/"
