"""Whom the page answers, and how much it takes."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the page needs gradio: pip install 'srvae-pyro[demo]'")

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.types import Receive, Scope, Send

from srvae_pyro.page.app import UPLOAD, Guard
from srvae_pyro.page.arguments import DemoArguments
from srvae_pyro.page.sessions import Sessions


def guarded(folder: Path, **changes: Any) -> TestClient:
    """An app behind the page's guard that outputs with the length of what it is sent."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        length = len(await Request(scope, receive).body())
        await PlainTextResponse(str(length))(scope, receive, send)

    arguments = DemoArguments("", **changes)
    return TestClient(Guard(app, arguments, Sessions(folder, arguments.disk_gb * 1e9)))


EVIL, LINK = "evil.example.com", {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


@pytest.mark.parametrize(
    ("changes", "answered", "refused"),
    [
        (
            {},
            ["localhost:7860", "LocalHost.:1", "127.0.0.1", "[::1]:80", "[0:0:0:0:0:0:0:1]"],
            [EVIL, f"localhost.{EVIL}", f"{EVIL}@localhost", "10.0.0.7", "0.0.0.0", "[::1", ""],
        ),
        ({"host": "127.0.0.2"}, ["127.0.0.2:7860", "localhost"], ["127.0.0.3", EVIL]),
        ({"host": "[::1]"}, ["[::1]:7860"], ["[::2]:7860", EVIL]),
        ({"host": "0.0.0.0"}, ["localhost", "10.0.0.7:7860", "[fe80::1]:1"], [EVIL, "10.0.0.7.a"]),
        ({"host": "box.local"}, ["box.local:7860", "10.0.0.7"], [EVIL]),
        ({"allow_host": ("Demo.example.com",)}, ["demo.example.com."], [EVIL, "10.0.0.7"]),
    ],
)
def test_hosts_that_the_page_answers_to(
    tmp_path: Path, changes: dict[str, Any], answered: list[str], refused: list[str]
) -> None:
    client = guarded(tmp_path, **changes)
    for method in ("GET", "HEAD", "POST", "OPTIONS"):
        for hosts, status in ((answered, 200), (refused, 403)):
            got = {host: client.request(method, "/", headers={"host": host}) for host in hosts}
            assert {host: output.status_code for host, output in got.items()} == dict.fromkeys(
                hosts, status
            )
    with pytest.raises(WebSocketDenialResponse), client.websocket_connect(f"ws://{EVIL}/"):
        pass


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://localhost:7860"}, 200),
        ({"origin": "https://demo.example.com"}, 200),  # a proxy that has another name for us
        ({"origin": "null", "sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "cross-site", **LINK}, 200),
        ({"sec-fetch-site": "cross-site", **LINK, "sec-fetch-dest": "iframe"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site", "origin": "http://localhost:3000"}, 403),
        ({"origin": "http://localhost:3000"}, 403),
        ({"origin": f"https://{EVIL}"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://["}, 403),
    ],
)
def test_what_another_site_sends_is_refused(
    tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    client = guarded(tmp_path, allow_host=("demo.example.com",))
    headers = {"host": "localhost:7860", **headers}
    assert client.get("/config", headers=headers).status_code == status
    if "sec-fetch-mode" not in headers:
        assert client.post("/", headers=headers).status_code == status
    else:
        assert client.post("/", headers=headers).status_code == 403


def test_uploads_have_a_bound(tmp_path: Path) -> None:
    client = guarded(tmp_path, upload_mb=1, disk_gb=0.001)
    host = {"host": "localhost"}

    def send(path: str, size: int, parts: int = 1) -> tuple[int, str]:
        content = bytes(size) if parts == 1 else (bytes(size // parts) for _ in range(parts))
        output = client.post(path, content=content, headers=host)
        return output.status_code, output.text

    assert send(UPLOAD, 900_000) == (200, "900000")
    assert send(UPLOAD, 2_000_000) == (413, "A file may have at most 1 megabytes")
    assert send(UPLOAD, 1_050_000)[0] == 503
    assert send("/gradio_api/queue/join", 50_000) == (200, "50000")
    assert send("/gradio_api/queue/join", 100_000)[0] == 413
    assert send("/gradio_api/queue/join", 100_000, parts=4)[0] == 413
    roomy = guarded(tmp_path, upload_mb=1)
    assert roomy.post(UPLOAD, content=iter([bytes(10**6)] * 2), headers=host).status_code == 413
