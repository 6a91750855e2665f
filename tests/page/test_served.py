"""The page as it is served: programs that ask for it, and a real browser.

The browser is Debian's Chromium, which Playwright's Python client drives: ``apt-get install -y
chromium`` and ``pip install playwright``, without ``playwright install``. Where it is not to be had
those tests are skipped.
"""

import hashlib
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest
import torch
from PIL import Image

from srvae_pyro.config import Residual
from srvae_pyro.errors import UserError
from srvae_pyro.generate import GenerateArguments
from srvae_pyro.generate import main as generate_command
from srvae_pyro.inference.sampling import Sampling
from srvae_pyro.models import load
from srvae_pyro.page.arguments import DemoArguments
from srvae_pyro.upscale import UpscaleArguments
from srvae_pyro.upscale import main as upscale_command
from srvae_pyro.upscaling.arguments import InputName, UpscaleOptions
from srvae_pyro.upscaling.upscaler import Upscaler

pytest.importorskip("gradio", reason="the page needs gradio: pip install 'srvae-pyro[demo]'")

import httpx
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from srvae_pyro.page.app import build, served
from srvae_pyro.page.sessions import Sessions, Work
from srvae_pyro.page.tabs import Page
from tests.builders import save_run

pytestmark = pytest.mark.usefixtures("two_strips")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# Nothing that Chromium does on its own may leave this machine, or fail where nothing can.
SWITCHES = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
PATIENCE = 120_000  # milliseconds; nothing is measured here
VISITORS = 5
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


EXACT = {"d": "average2", "likelihood": "groups", "latent_likelihood": "pyramid"}


def make_run(folder: Path, **changes: Any) -> Path:
    torch.manual_seed(0)
    save_run(folder, **({"p_u": "standard"} | EXACT | changes))
    line = '{{"split": "{}", "step": {}, "bits_per_dim": {}, "re_x": 4000}}\n'
    lines = [line.format("train", 50 * step, 5 - step / 10) for step in range(1, 9)]
    (folder / "metrics.jsonl").write_text("".join(lines) + line.format("val", 400, 4.3))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "mine")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the temporary folder of the page is."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def address(run: Path, kept: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(kept))
        with served(DemoArguments("", megapixels=0.1), run, load(run)) as address:
            patch.undo()
            yield address


@pytest.fixture
def photographs(tmp_path: Path) -> list[Path]:
    """Small images, each another, some of one name in different folders."""
    paths = []
    for number in range(VISITORS):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        paths.append(tmp_path / f"sent-{number}" / f"photo {number // 2}.png")
        paths[-1].parent.mkdir()
        Image.fromarray(pixels).save(paths[-1])
    return paths


def upscaled(run: Path, path: Path, out: Path, **settings: Any) -> list[bytes]:
    """What the command upscale writes, by name."""
    arguments = UpscaleArguments(str(run), (path,), out, UpscaleOptions(**settings))
    assert upscale_command(arguments) == 0
    return [file.read_bytes() for file in sorted(out.iterdir())]


ONE, MANY = (2, "mean", 0.0, 1.0), (2, "sample", 1.0, 1.0)  # factor, decode, temperatures
SAMPLING = ("sample", 1.0, 1.0, 1.0)  # decode, temperatures


# Programs


def program(address: str, folder: Path | Literal[False] = False) -> Client:
    """A client that is patient with a busy machine; files that it is given go to the folder."""
    patient = {"timeout": PATIENCE / 1000}
    return Client(address, verbose=False, download_files=folder, httpx_kwargs=patient)


def test_several_visitors_at_once(
    run: Path, address: str, photographs: list[Path], tmp_path: Path
) -> None:
    def visit(number: int) -> tuple[list[bytes], ...]:
        client = program(address, tmp_path / f"got-{number}")
        ready.wait()
        path = handle_file(photographs[number])
        upscaling_model = client.submit(path, 2, "mode", 0.0, 1.0, number, api_name="/upscale")
        drawing = client.submit(2, number, *SAMPLING, api_name="/generate")
        asked = [client.submit(path, 2, *MANY, number, api_name="/samples")] * (number < 2)
        (_, output), words, files = upscaling_model.result()
        assert "Exactly consistent" in words
        assert Path(output).read_bytes() == Path(files[0]).read_bytes()
        x, _ = drawing.result()
        several = [file for job in asked for file in job.result()[2]]
        return tuple(
            [Path(file).read_bytes() for file in part]
            for part in (files, sorted(several), [image["image"] for image in x])
        )

    ready = threading.Barrier(VISITORS)
    with ThreadPoolExecutor(VISITORS) as threads:
        got = list(threads.map(visit, range(VISITORS)))
    for number, (one, several, x) in enumerate(got):
        out = tmp_path / f"out-{number}"
        assert one == upscaled(run, photographs[number], out / "one", seed=number, decode="mode")
        if number < 2:
            both = upscaled(run, photographs[number], out / "several", seed=number, samples=2)
            assert sorted(several) == sorted(both)
        arguments = GenerateArguments(str(run), 2, Sampling(seed=number), out=out / "new")
        assert generate_command(arguments) == 0
        written = sorted((out / "new" / "images").iterdir())
        assert x == [path.read_bytes() for path in written]


def test_every_tab_has_what_programs_can_ask_for(
    address: str, photographs: list[Path], tmp_path: Path
) -> None:
    client = program(address, tmp_path / "got")
    a, b = map(handle_file, photographs[:2])
    seed = 1
    assert len(client.predict(a, seed, *SAMPLING, api_name="/reconstruct")) == 5
    way = client.predict(a, b, 3, seed, *SAMPLING, api_name="/interpolate")
    assert [image["caption"] for image in way][1] == "step 1 of 3"
    assert len(client.predict(a, b, seed, *SAMPLING, api_name="/recombine")) == 6


def named(path: str | Path) -> dict[str, Any]:
    """A file by its place, as a request may name one that it has not uploaded."""
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


def asked(address: str, name: str, *values: Any) -> str:
    """The events of a request by itself; a client would upload the files that it names."""
    call = f"{address}gradio_api/call/{name}"
    event = httpx.post(call, json={"data": values}).json()["event_id"]
    return httpx.get(f"{call}/{event}", timeout=PATIENCE / 1000).text


def test_a_request_gets_no_file_that_was_not_uploaded(address: str, kept: Path) -> None:
    (page,) = (path for path in kept.iterdir() if path.name.startswith("srvae-page-"))
    secret = kept / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    for path in (secret, Path("/dev/zero"), page / ".." / "secret.png", page):
        words = "not an image file" if path == page else "not uploaded by a user"
        for events in (
            asked(address, "upscale", named(path), *ONE, 0, "auto"),
            asked(address, "generate", 1, 0, named(path), 1.0, 1.0, 1.0),  # as a choice
        ):
            assert events.startswith("event: error")
            assert words in events
    assert not [path for path in page.rglob("*") if path.name == "secret.png"]
    example = page / "examples" / "astronaut.png"
    assert "event: complete" in asked(address, "upscale", named(example), *ONE, 0, "auto")
    for place in ("file=https://example.com/a.png", "file=HTTP://example.com", "proxy=http://a.b"):
        assert httpx.get(f"{address}gradio_api/{place}").status_code == 403


def test_errors_have_the_commands_message(
    address: str, photographs: list[Path], tmp_path: Path
) -> None:
    client = program(address)
    text, large = tmp_path / "text <b>.png", tmp_path / "large.png"
    text.write_text("no image at all")
    Image.new("RGB", (500, 300)).save(large)
    for path, message in (
        (text, r"cannot read the image text.*\.png \(its format is unknown\): choose another"),
        (large, r"large\.png has 0\.15 megapixels, and this page takes at most 0\.1"),
    ):
        with pytest.raises(AppError, match=message) as error:
            client.predict(handle_file(path), *ONE, 0, api_name="/upscale")
        assert "/" not in str(error.value)
        assert "<b>" not in str(error.value)
    for _ in range(2):  # the second time by a component that an update has made
        with pytest.raises(AppError, match="use a file, not an address"):
            client.predict(named("http://example.com/a.png"), *ONE, 0, api_name="/upscale")
        client.predict(api_name="/run")
    with pytest.raises(AppError, match="&quot;Temperature of the pixels&quot; must be"):
        client.predict(2, 0, "sample", 1.0, 0.0, 1.0, api_name="/generate")


@pytest.mark.parametrize(
    ("changes", "absent", "words"),
    [
        ({"model": "vae"}, {"/upscale", "/samples", "/recombine"}, "they need an srVAE"),
        ({"d": "grayscale"}, {"/upscale", "/samples"}, "this srVAE's y is a grayscale image"),
    ],
)
def test_tabs_that_a_model_cannot_fill_are_absent(
    tmp_path: Path, changes: dict[str, Any], absent: set[str], words: str
) -> None:
    run = make_run(tmp_path / "other", **({"likelihood": "independent"} | changes))
    blocks = build(Page(load(run), run, Sessions(tmp_path), DemoArguments("")))
    every = {"upscale", "samples", "generate", "reconstruct", "interpolate", "recombine", "run"}
    names: Any = blocks.get_api_info()["named_endpoints"]
    assert set(names) == {f"/{name}" for name in every} - absent
    assert words in str(blocks.get_config_file()["components"])


@pytest.mark.parametrize(
    ("changes", "factors"),
    [({}, [2, 4, 8]), ({"restorer": Residual(6, 1)}, [1, 2, 3, 4, 8])],
)
def test_choices_are_those_of_the_command(
    tmp_path: Path, changes: dict[str, Any], factors: list[int]
) -> None:
    run = make_run(tmp_path / "run", **changes)
    blocks = build(Page(load(run), run, Sessions(tmp_path), DemoArguments("")))
    fields = {part["props"].get("elem_id"): part["props"] for part in blocks.config["components"]}
    assert [value for _, value in fields["factor"]["choices"]] == factors
    for factor in factors:
        Upscaler(load(run), UpscaleOptions(factor))
    assert fields["input"]["visible"] == bool(changes)
    assert [value for _, value in fields["input"]["choices"]] == list(get_args(InputName))
    how = Upscaler(load(run), UpscaleOptions())
    shown = [fields[name]["value"] for name in ("input", "upscale-decode", "upscale-temperature")]
    assert shown == [how.options.input, how.decode, how.temperature]
    assert fields["consistency"]["value"].startswith("Example: 96x96 upscaled by 2")


def test_a_model_that_does_not_upscale_shows_what_it_generates(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", model="vae", likelihood="independent")
    blocks = build(Page(load(run), run, Sessions(tmp_path), DemoArguments("")))
    (shown,) = [
        part["props"]["value"]
        for part in blocks.config["components"]
        if part["props"].get("elem_id") == "generated"
    ]
    assert len(shown) == 8


@pytest.mark.parametrize(
    ("host", "reason"),
    [("127.0.0.1", "Address already in use"), ("192.0.2.1", "Cannot assign requested address")],
)
def test_an_address_that_is_not_available_is_refused(run: Path, host: str, reason: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        arguments = DemoArguments("", host=host, port=taken.getsockname()[1])
        with (
            pytest.raises(UserError, match=f"{reason}.*: choose another `host` or `port`") as error,
            served(arguments, run, load(run)),
        ):
            pass
    assert len(str(error.value).splitlines()) == 1


# The server


def test_the_whole_page_is_guarded(address: str) -> None:
    evil = "evil.example.com"
    headers = {"origin": f"https://{evil}", "access-control-request-method": "POST"}
    join = f"{address}gradio_api/queue/join"
    for host in ({}, {"host": evil}):
        output = httpx.options(join, headers={**headers, **host})
        assert output.status_code == 403
        assert "access-control-allow-origin" not in output.headers
    own = httpx.get(f"{address}config")
    assert own.status_code == 200
    assert "default-src 'self'" in own.headers["content-security-policy"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_as_a_command(
    run: Path, tmp_path: Path, number: signal.Signals, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "private.txt").write_text("private")
    others = {"GRADIO_ALLOWED_PATHS": str(tmp_path), "GRADIO_DEBUG": "1", "GRADIO_VIBE_MODE": "1"}
    environment = {**os.environ, "TMPDIR": str(tmp_path), **others}  # set for another program
    command = [sys.executable, "-m", "srvae_pyro.demo", str(run), "--device", "cpu"]
    # Tests that nohup runs inherit that SIGHUP is ignored, and so would the command.
    inherited = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    request.addfinalizer(lambda: signal.signal(signal.SIGHUP, inherited))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        line = process.stdout.readline()
        assert re.fullmatch(
            r"serving mine at http://127\.0\.0\.1:\d+/ \(press Ctrl-C to stop\)\n", line
        )
        assert list(tmp_path.glob("srvae-page-*"))
        place = f"{line.split()[3]}gradio_api/file={tmp_path}/private.txt"
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(place)
        process.send_signal(number)
        assert process.wait(timeout=PATIENCE / 1000) == 128 + number
    assert not list(tmp_path.glob("srvae-page-*"))


def test_nothing_goes_out_or_stays(
    run: Path, photographs: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: set[str] = set()
    connect = socket.socket.connect

    def noted(self: socket.socket, to: Any) -> None:
        asked.add(str(to[0]) if isinstance(to, tuple) else "a file")
        connect(self, to)

    monkeypatch.setattr(socket.socket, "connect", noted)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with served(DemoArguments(""), run, load(run)) as address:
        (folder,) = tmp_path.glob("srvae-page-*")
        client = program(address, tmp_path / "got")
        client.predict(handle_file(photographs[0]), *ONE, 0, api_name="/upscale")
        kept = [path.name for path in folder.rglob("*.png")]
        client.predict(handle_file(photographs[0]), *ONE, 1, api_name="/upscale")
        assert sorted(path.name for path in folder.rglob("*.png")) == sorted(kept)
        host = address.split("//")[1].split(":")[0]
        assert host == "127.0.0.1"
    assert asked <= {"127.0.0.1", "a file"}
    assert not folder.exists()


def test_old_files_are_removed(
    run: Path, photographs: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("srvae_pyro.page.app.KEPT", (1, 1))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with served(DemoArguments(""), run, load(run)) as address:
        (folder,) = tmp_path.glob("srvae-page-*")
        client = program(address)
        client.predict(handle_file(photographs[0]), *ONE, 0, api_name="/upscale")
        until = time.monotonic() + PATIENCE / 1000
        while list(folder.rglob("photo*.png")) and time.monotonic() < until:
            time.sleep(0.1)
        assert not list(folder.rglob("photo*.png"))
        assert list((folder / "examples").glob("astronaut-x2.png"))


# A browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install -y chromium")
    with playwright.sync_playwright() as client:
        try:
            browser = client.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        except playwright.Error as error:
            pytest.skip(f"Chromium does not start: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture
def visitor(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """Opens the page as another visitor, who asks for nothing from elsewhere."""
    contexts, asked = [], set()

    def visit(size: dict[str, int] = DESK) -> Any:
        context = browser.new_context(viewport=size, accept_downloads=True)
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.on("request", lambda request: asked.add(request.url.split("?")[0]))
        page.goto(address)
        page.get_by_role("button", name="Upscale", exact=True).wait_for()
        return page

    yield visit
    for context in contexts:
        context.close()
    assert asked
    assert {url for url in asked if not url.startswith((address, "data:", "blob:"))} == set()


def tab(page: Any, name: str) -> None:
    """Open a tab; where there is no room for all, they are in a menu."""
    visible = page.get_by_role("tab", name=name, exact=True)
    if visible.is_visible():
        visible.click()
    else:
        page.get_by_role("button", name="More tabs").click()
        page.locator(".overflow-dropdown").get_by_text(name, exact=True).click()


def drop(page: Any, path: Path) -> None:
    """Choose a photograph, as one is dropped, and wait for its output."""
    page.locator("#photograph input[type=file]").set_input_files(str(path))
    page.locator(f'#output-files a[download^="{path.stem}"]').wait_for()
    page.get_by_text("32x24 upscaled by 2 to 64x48. Exactly consistent").wait_for()


def download(page: Any, elem_id: str, number: int = 0) -> bytes:
    """A file that is offered, when it is there."""
    link = page.locator(f"#{elem_id} a[download]").nth(number)
    link.wait_for()
    with page.expect_download() as download:
        link.click()
    return Path(download.value.path()).read_bytes()


def images(page: Any, elem_id: str) -> list[str]:
    """Digests of the images in a gallery."""
    images = page.locator(f"#{elem_id} img")
    images.first.wait_for()
    sources = [image.get_attribute("src") for image in images.all()]
    return [hashlib.sha256(page.request.get(src).body()).hexdigest() for src in sources]


def test_a_photograph_is_upscaled_at_once(
    run: Path, visitor: Callable[..., Any], photographs: list[Path], tmp_path: Path
) -> None:
    page = visitor()
    drop(page, photographs[0])
    assert download(page, "output-files") == upscaled(run, photographs[0], tmp_path / "one")[0]
    assert page.locator("#beside img").count() == 2
    page.locator("#draw-samples").click()
    page.locator("#sample-gallery img").nth(5).wait_for()
    expected = upscaled(run, photographs[0], tmp_path / "several", samples=4)
    digests = {hashlib.sha256(content).hexdigest() for content in expected}
    assert set(images(page, "sample-gallery")) == digests
    page.locator("#sample-gallery button:has(img)").first.click()
    page.get_by_text("output 1: LR-PSNR exact").first.wait_for()


def test_an_example_is_there_until_a_photograph_is(visitor: Callable[..., Any]) -> None:
    page = visitor()
    page.get_by_text("Example: 96x96 upscaled by 2 to 192x192.").wait_for()
    page.get_by_alt_text("The output").wait_for()  # images come after the text
    alts = [image.get_attribute("alt") for image in page.locator("#beside img").all()]
    assert alts == ["Upscaled by bicubic", "The output"]
    page.locator("#factor").get_by_label("4").check()
    page.get_by_role("button", name="Upscale", exact=True).press("Enter")
    page.get_by_text("96x96 upscaled by 4 to 384x384.").wait_for()
    tab(page, "Recombine")
    page.locator("#recombine").press("Enter")
    page.locator("#recombined img").nth(5).wait_for()


FIRST_GENERATED = "(document.querySelector('#generated img')?.getAttribute('src') ?? null)"


def test_a_seed_has_the_same_images_twice_by_the_keyboard_alone(
    visitor: Callable[..., Any],
) -> None:
    page = visitor()
    page.get_by_role("tab", name="Upscale", exact=True).focus()
    page.keyboard.press("Tab")
    page.get_by_role("tab", name="Generate", exact=True).focus()
    page.keyboard.press("Enter")
    found = []
    for number, seed in enumerate((7, 8, 7)):
        page.get_by_label("Seed").locator("visible=true").fill(str(seed))
        if number:  # Enter in a field starts too
            page.locator("#generate").focus()
        shown = page.evaluate(FIRST_GENERATED)
        page.keyboard.press("Enter")
        # Not for a response: a connection that is still open serves the next event too.
        page.wait_for_function(f"shown => ![shown, null].includes({FIRST_GENERATED})", arg=shown)
        page.locator("#generated img").nth(7).wait_for()
        _settled(page)
        found.append(images(page, "generated"))
    assert found[0] == found[2] != found[1]


def _settled(page: Any) -> None:
    """Wait until nothing is in progress."""
    page.wait_for_function("!document.querySelector('.progress-text, .eta-bar, .generating')")


def test_who_leaves_leaves_no_files(
    visitor: Callable[..., Any], photographs: list[Path], kept: Path
) -> None:
    page = visitor()
    path = photographs[0].rename(photographs[0].with_name("leaver.png"))
    drop(page, path)
    assert len(list(kept.rglob("leaver*.png"))) == 3  # the upload, bicubic, the output
    page.close()
    until = time.monotonic() + PATIENCE / 1000
    while list(kept.rglob("leaver*")) and time.monotonic() < until:
        time.sleep(0.1)
    assert not list(kept.rglob("leaver*"))


def test_long_work_is_stopped(
    visitor: Callable[..., Any],
    photographs: list[Path],
    kept: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: queue.SimpleQueue[Work] = queue.SimpleQueue()
    as_it_was = Work.at

    def long(work: Work, done: float, words: str = "") -> None:
        """Take as long as it takes to be stopped: a fast machine would be done before the click."""
        as_it_was(work, done, words)
        if work.kind == "samples":
            begun.put(work)
            work._stopped.wait(PATIENCE / 1000)
        as_it_was(work, done, words)

    (folder,) = kept.glob("srvae-page-*")
    page = visitor()
    drop(page, photographs[0])
    monkeypatch.setattr(Work, "at", long)
    before = set(folder.iterdir())
    page.locator("#draw-samples").click()
    work = begun.get(timeout=PATIENCE / 1000)
    assert work.folder.is_dir()
    page.locator(".progress-text").first.wait_for()
    page.locator("#samples-stop").click()
    _settled(page)
    until = time.monotonic() + PATIENCE / 1000
    while work.folder.exists() and time.monotonic() < until:
        time.sleep(0.1)
    # Those of visitors who have left go meanwhile; that of the work would stay if it succeeded.
    assert not set(folder.iterdir()) - before
    assert page.locator("#sample-gallery img").count() == 0
    tab(page, "Generate")
    page.locator("#generate").click()
    page.locator("#generated img").nth(7).wait_for()


NAMELESS = """() => [...document.querySelectorAll(
    'img, button, input, select, textarea, a[href], [role=button], [role=slider], [role=tab]')]
  .filter(e => e.checkVisibility() && e.type !== 'hidden')
  .filter(e => !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.title
    || e.innerText?.trim() || e.labels?.length || e.placeholder || e.alt))
  .map(e => e.outerHTML.slice(0, 200))"""
UNSEEN = "getComputedStyle(document.activeElement).outlineStyle == 'none'"


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_controls_have_names_and_fit_and_the_run_is_shown(
    visitor: Callable[..., Any], photographs: list[Path], size: dict[str, int]
) -> None:
    page = visitor(size)
    drop(page, photographs[0])
    page.get_by_text("More settings").first.click()
    page.get_by_role("tab", name="Upscale", exact=True).focus()
    for _ in range(20):
        page.keyboard.press("Tab")
        assert not page.evaluate(UNSEEN), page.evaluate("document.activeElement.outerHTML")
    for name in ("Upscale", "Generate", "Reconstruct", "Interpolate", "Recombine", "Run"):
        tab(page, name)
        page.get_by_role("tab", name=name, exact=True, selected=True).wait_for()
        assert page.evaluate(NAMELESS) == [], name
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], name
    page.get_by_text("ELBO (bits/dim), last: training (blue) 4.2 after 400 updates").wait_for()
    page.locator("#curve canvas, #curve svg").first.wait_for()
