"""Serve the page: the command ``demo`` from its arguments to its end."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Before gradio is imported, which counts whom it tells of otherwise.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

from srvae_pyro.errors import UserError
from srvae_pyro.models import load
from srvae_pyro.page.arguments import DemoArguments
from srvae_pyro.page.building import LOOK, build
from srvae_pyro.page.controls import Page
from srvae_pyro.page.visits import Visits
from srvae_pyro.runs import find_run
from srvae_pyro.system.console import say
from srvae_pyro.system.device import choose_device, start
from srvae_pyro.system.environment import variable

__all__ = ["serve", "served"]

# What the page may load, from where: all of it from here. Gradio's own code needs the "unsafe".
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


class Private:
    """Tells browsers with every answer that the page needs nothing from elsewhere."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = {"content-security-policy": POLICY, "referrer-policy": "no-referrer"}
                pairs = [(name.encode(), value.encode()) for name, value in extra.items()]
                message["headers"] = [*message.get("headers", []), *pairs]
            await send(message)

        await self.app(scope, receive, sent)


def serve(arguments: DemoArguments) -> int:
    """Serve until Ctrl-C or SIGTERM; the exit code.

    Raises:
        UserError: there is no such run, or the address is taken.
    """
    device = choose_device(arguments.device)
    start(device)
    folder = find_run(arguments.run)
    with served(arguments, folder, load(folder, device)) as address:
        ended = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: ended.set())
        say(f"{folder.name} is shown at {address} (Ctrl-C ends it)")
        sys.stdout.flush()
        ended.wait()
    return 128 + signal.SIGTERM


@contextmanager
def served(arguments: DemoArguments, run: Path, model: Any) -> Iterator[str]:
    """Serve the page of a model; within it, its address.

    Args:
        arguments: the command's; the run's name and the device do not matter.
        run: the run's folder.
        model: its model.

    Raises:
        UserError: the address is taken, or is none of this computer.
    """
    ended = threading.Event()
    # gradio reads this variable wherever it needs a folder for its files.
    with (
        tempfile.TemporaryDirectory(prefix="srvae-page-") as name,
        variable("GRADIO_TEMP_DIR", name),
    ):
        visits = Visits(Path(name))
        blocks = build(Page(model, run, visits, arguments))
        blocks.queue(max_size=arguments.waiting)
        threading.Thread(target=visits.sweep_until, args=(ended,), daemon=True).start()
        try:
            try:
                _, address, _ = blocks.launch(
                    server_name=arguments.host,
                    server_port=arguments.port,
                    max_file_size=f"{arguments.upload_mb}mb",
                    app_kwargs={"middleware": [Middleware(Private)]},
                    **LOOK,
                    **_ALONE,
                )
            except OSError as error:
                reason = str(error).splitlines()[0]
                raise UserError(
                    f"cannot serve at {arguments.host}, port {arguments.port or 'any'} ({reason}): "
                    "give another --host or --port"
                ) from None
            yield address
        finally:
            ended.set()
            blocks.close(verbose=False)


# Nothing goes out, and nothing but the page is served.
_ALONE: dict[str, Any] = {
    "share": False,
    "quiet": True,
    "inbrowser": False,
    "prevent_thread_lock": True,
    "show_error": True,
    "enable_monitoring": False,
    "run_history": False,
    "ssr_mode": False,
    "pwa": False,
    "mcp_server": False,
}
