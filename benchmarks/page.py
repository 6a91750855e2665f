"""Time from drop to output in the browser, and ten visitors at once: ``python benchmarks/page.py``.

Serves the page of a run, in this process, and drives it by Debian's Chromium and Playwright
(``apt-get install -y chromium``, ``pip install playwright``). The photograph is scikit-image's
image of the astronaut Eileen Collins (NASA, in the public domain), 512x512. Prints

- the seconds from the drop until the output, 1024x1024, is seen beside bicubic, of which
  the first includes what is done once, and the bytes of it against those of the command upscale;
- how long each of ten visitors waits who drop an image of 64x64 at the same time and ask for new
  images too, and whether each has got what the commands write.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from gradio_client import Client, handle_file
from PIL import Image
from playwright.sync_api import sync_playwright
from skimage import data

from srvae_pyro.generate import GenerateArguments
from srvae_pyro.generate import main as generate
from srvae_pyro.inference.sampling import Sampling
from srvae_pyro.models import load
from srvae_pyro.page.app import served
from srvae_pyro.page.arguments import DemoArguments
from srvae_pyro.runs import find_run
from srvae_pyro.system.device import start
from srvae_pyro.upscale import UpscaleArguments
from srvae_pyro.upscale import main as upscale

SWITCHES = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
VISITORS = 10


def upscaled(run: Path, path: Path, out: Path) -> bytes:
    """What the command writes."""
    upscale(UpscaleArguments(str(run), (path,), out=out))
    (file,) = out.iterdir()
    return file.read_bytes()


@contextmanager
def opened(address: str, chromium: str) -> Iterator[Any]:
    """The page in a browser of its own."""
    with sync_playwright() as client:
        browser = client.chromium.launch(executable_path=chromium, args=SWITCHES)
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        page.set_default_timeout(600_000)
        page.goto(address)
        page.get_by_role("button", name="Upscale", exact=True).wait_for()
        yield page
        browser.close()


def drop(page: Any, path: Path) -> None:
    """Drop a photograph and wait until its output is seen, in the place of the example's."""
    page.locator("#photograph input[type=file]").set_input_files(str(path))
    page.wait_for_function(
        "name => [...document.querySelectorAll('#beside img')]"
        ".filter(i => i.complete && i.naturalWidth && i.src.includes(name)).length == 2",
        arg=f"/{path.stem}-x",
    )


def screenshot(address: str, folder: Path, chromium: str, out: Path) -> None:
    """An image of the first tab with its example, and samples for it."""
    with opened(address, chromium) as page:
        page.locator("#draw-samples").click()
        page.locator("#sample-gallery img").nth(5).scroll_into_view_if_needed()
        page.wait_for_function(
            "() => [...document.querySelectorAll('#sample-gallery img')]"
            ".every(i => i.complete && i.naturalWidth)"
        )
        page.evaluate("window.scrollTo(0, 0)")
        page.wait_for_timeout(500)
        bottom = page.locator("#sample-gallery").bounding_box()
        height = bottom["y"] + bottom["height"] + 16
        size = {"x": 0, "y": 0, "width": 1100, "height": height}
        page.screenshot(path=folder / "page.png", full_page=True, clip=size)
    with Image.open(folder / "page.png") as image:
        image.convert("RGB").quantize(192).save(out, optimize=True)
    print(out)


def from_drop_to_answer(address: str, path: Path, times: int, chromium: str) -> bytes:
    """Print how long each output takes to be seen; the last output's file."""
    for number in range(times):
        with opened(address, chromium) as page:
            began = time.monotonic()
            drop(page, path)
            print(f"output {number + 1}: {time.monotonic() - began:.1f} s from drop to sight")
            link = page.locator("#output-files a[download]").first
            with page.expect_download() as download:
                link.click()
            content = Path(download.value.path()).read_bytes()
    return content


def at_once(address: str, run: Path, folder: Path) -> None:
    """Print how long visitors at once wait, and how many have got what is theirs."""
    image = Image.fromarray(data.astronaut())
    paths = []
    for number in range(VISITORS):
        paths.append(folder / f"{number}.png")
        corner = 40 * number
        image.crop((corner, corner, corner + 64, corner + 64)).save(paths[-1])
    ready = threading.Barrier(VISITORS)

    def visit(number: int) -> tuple[bytes, list[bytes], float]:
        client = Client(
            address,
            verbose=False,
            download_files=folder / f"got-{number}",
            httpx_kwargs={"timeout": 600},
        )
        how: tuple[Any, ...] = (2, "mean", 0.0, 1.0, 0)
        ready.wait()
        began = time.monotonic()
        new = client.submit(2, number, "sample", 1.0, 1.0, 1.0, api_name="/generate")
        _, _, (file,) = client.predict(handle_file(paths[number]), *how, api_name="/upscale")
        images = [Path(shown["image"]).read_bytes() for shown in new.result()[0]]
        return Path(file).read_bytes(), images, time.monotonic() - began

    with ThreadPoolExecutor(VISITORS) as threads:
        got = list(threads.map(visit, range(VISITORS)))
    right = 0
    for number, (output, images, _) in enumerate(got):
        out = folder / f"out-{number}"
        generate(GenerateArguments(str(run), 2, sampling=Sampling(seed=number), out=out / "new"))
        new = [path.read_bytes() for path in sorted((out / "new" / "images").iterdir())]
        right += output == upscaled(run, paths[number], out / "output") and images == new
    waits = sorted(seconds for _, _, seconds in got)
    print(f"{VISITORS} visitors at once: {waits[0]:.1f} to {waits[-1]:.1f} s; {right} got theirs")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", nargs="?", default="pretrained")
    parser.add_argument("--times", type=int, default=3, help="answers that are timed")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--screenshot", type=Path, metavar="FILE")
    options = parser.parse_args()
    start(torch.device("cpu"), threads=options.threads)
    run = find_run(options.run)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Image.fromarray(data.astronaut()).save(folder / "astronaut.png")
        with served(DemoArguments(""), run, load(run)) as address:
            if options.screenshot:
                screenshot(address, folder, options.chromium, options.screenshot)
                return
            output = from_drop_to_answer(
                address, folder / "astronaut.png", options.times, options.chromium
            )
            same = output == upscaled(run, folder / "astronaut.png", folder / "out")
            print(f"the download is {'' if same else 'NOT '}what upscale writes")
            at_once(address, run, folder)


if __name__ == "__main__":
    main()
