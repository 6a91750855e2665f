"""The learnt baseline of super-resolution: a plain regression network, trained and measured.

::

    python benchmarks/regression.py --data DIR --crops 64 --minutes 100 --parameters-of RUN

A network as EDSR's (Lim et al., Enhanced Deep Residual Networks for Single Image Super-Resolution,
2017, arXiv:1707.02921): residual blocks of two convolutions without normalisation at y's size, then
pixel shuffle; here added to y upscaled by nearest, from which it starts. It learns by L1 to say x
given y = average2(x), has as many parameters as RUN, and as many minutes as are given, on a CPU of
each thread's own time, so that other work beside it takes none; images, crops, held-out parts,
augmentation, batches and precision are as of RUN. Then the scores of ``evaluate
--super-resolution`` on the same test crops: of bicubic, of the network, and of its outputs made
consistent with y, as those of the likelihood ``groups`` do. Weights and numbers go to ``--out``.
Ctrl-C ends the training early and measures.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from srvae_pyro.config import RunConfig
from srvae_pyro.data import DataSplits, ImageOptions, augment, load_data
from srvae_pyro.distributions.block_averages import PAIRS
from srvae_pyro.evaluation.measures import columns, select
from srvae_pyro.evaluation.sr_scores import Scores, image_scores
from srvae_pyro.evaluation.super_resolution import INTERPOLATIONS
from srvae_pyro.models import load
from srvae_pyro.pixels import interpolated, to_unit
from srvae_pyro.runs import find_run
from srvae_pyro.system.console import Bar
from srvae_pyro.system.device import choose_device, exact_float32, start
from srvae_pyro.system.files import write_json, write_whole
from srvae_pyro.training.loop import Batches
from srvae_pyro.upscaling.quality import psnr, shown_psnr
from srvae_pyro.upscaling.upscaler import consistent_output

FACTOR = 2
BLOCKS = 16  # of EDSR's smaller network, whose width is 64
WIDTHS = range(16, 513, 16)
WARMUP = 0.02  # of the time


class Block(nn.Module):
    """Two convolutions around which their input goes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(x)))


class Regression(nn.Module):
    """y (B, C, h, w) in [0, 1] to x (B, C, 2h, 2w), not clamped.

    Args:
        channels: C.
        width: channels of the blocks.
        blocks: how many.
    """

    def __init__(self, channels: int, width: int, blocks: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.after = nn.Conv2d(width, width, 3, padding=1)
        self.widened = nn.Conv2d(width, FACTOR**2 * width, 3, padding=1)
        self.last = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, y: Tensor) -> Tensor:
        hidden = self.first(y - 0.5)
        hidden = hidden + self.after(self.blocks(hidden))
        hidden = F.pixel_shuffle(self.widened(hidden), FACTOR)
        return F.interpolate(y, scale_factor=FACTOR, mode="nearest") + self.last(hidden).float()


def size_for(parameters: int, channels: int = 3) -> tuple[int, int]:
    """Width and blocks of the network that has as many parameters, as nearly as can be.

    The width is that which comes nearest with EDSR's 16 blocks.
    """

    def convolution(inputs: int, outputs: int) -> int:
        return 9 * inputs * outputs + outputs

    def missing(width: int, blocks: int) -> int:
        ends = convolution(channels, width) + convolution(width, channels)
        widened = convolution(width, FACTOR**2 * width)
        count = ends + widened + (2 * blocks + 1) * convolution(width, width)
        return abs(count - parameters)

    width = min(WIDTHS, key=lambda width: missing(width, BLOCKS))
    return width, min(range(1, 4 * BLOCKS), key=lambda blocks: missing(width, blocks))


def small(x: Tensor) -> Tensor:
    """y of uint8 images: average2."""
    return PAIRS.average(x.int()).to(torch.uint8)


def epochs(batches: Batches) -> Iterator[Tensor]:
    """Batches without end."""
    epoch = 0
    while True:
        yield from batches.epoch(epoch)
        epoch += 1


def clock(device: torch.device) -> float:
    """Seconds of training: by the clock on a GPU, on a CPU those that each thread had of it."""
    if device.type != "cpu":
        return time.monotonic()
    return time.process_time() / torch.get_num_threads()


def train(
    network: Regression, batches: Batches, minutes: float, rate: float, bf16: bool, flip: bool
) -> int:
    """Train for so many minutes; the number of updates.

    The learning rate rises over the first fiftieth of the time and falls to 0 as a cosine.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(batches.seed)
    device = next(network.parameters()).device
    began, steps, loss = clock(device), 0, torch.zeros(())
    # Ctrl-C ends the training: what has been learnt so far is measured.
    with Bar(total=100, unit="%") as bar, contextlib.suppress(KeyboardInterrupt):
        for images in epochs(batches):
            done = (clock(device) - began) / (60 * minutes)
            if done >= 1:
                break
            share = min(done / WARMUP, 0.5 + 0.5 * math.cos(math.pi * done))
            optimizer.param_groups[0]["lr"] = rate * share
            if flip:
                images = augment(images, generator, shift=False)
            with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
                output = network(to_unit(small(images)))
            loss = (output - to_unit(images)).abs().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
            bar.update(int(100 * done) - bar.n)
    print(f"{steps:,} updates, the last L1 {255 * loss.item():.2f} levels")
    return steps


@torch.no_grad()
def measure(
    network: Regression, images: Tensor, photographs: Tensor | None, device: torch.device
) -> tuple[dict[str, Scores], float]:
    """Scores by method on uint8 images (N, C, H, W), and megapixels of outputs a second."""
    parts: list[dict[str, Tensor]] = []
    seconds = 0.0
    with exact_float32():
        for x in images.split(100):
            y = small(x)
            began = time.perf_counter()
            levels = network(to_unit(y.to(device))).mul(255).cpu()
            seconds += time.perf_counter() - began
            outputs = {
                "bicubic": interpolated(y, FACTOR, INTERPOLATIONS["bicubic"]),
                "regression": levels.round().clamp(0, 255).to(torch.uint8),
                "regression, agreeing": consistent_output(levels, y),
            }
            parts.append({})
            for name, output in outputs.items():
                scores = image_scores(output, x, FACTOR)
                scores["lr_psnr"] = psnr(small(output), y)
                parts[-1] |= {f"{name} {kind}": value for kind, value in scores.items()}
    values = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    found = {name: Scores.of(values, f"{name} ", photographs) for name in outputs}
    return found, images[:, 0].numel() / 1e6 / seconds


def table(methods: dict[str, Scores]) -> str:
    """The scores as ``evaluate`` prints them."""
    heads = ["PSNR (dB)", "±", "SSIM", "PSNR, Y", "±", "SSIM, Y", "LR-PSNR (dB)"]
    rows = [[f"super-resolution x{FACTOR}", *heads]]
    for name, own in methods.items():
        numbers = [own.psnr, own.psnr_error, own.ssim, own.psnr_y, own.psnr_y_error, own.ssim_y]
        digits = [2, 2, 4, 2, 2, 4]
        cells = [
            "-" if number is None else f"{number:.{places}f}"
            for number, places in zip(numbers, digits, strict=True)
        ]
        rows.append([name, *cells, shown_psnr(own.lr_psnr, 2)])
    return columns(rows, left=1)


def images_of(options: argparse.Namespace, config: RunConfig) -> DataSplits:
    """The images, held out as they were for the run."""
    channels = config.model.image_shape[0]
    known = config.data
    asked = ImageOptions(
        crops=options.crops,
        eval_crops=known.eval_crops if options.crops else None,
        image_size=None if options.crops else known.image_size,
        channels=channels,
        seed=known.seed,
    )
    return load_data(options.data, Path("data"), asked)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="a folder of images with train/ and test/")
    parser.add_argument("--crops", type=int, help="pixels a side of the crops, as of the run")
    parser.add_argument("--minutes", type=float, default=100.0, help="of training, see above")
    parser.add_argument("--parameters-of", required=True, help="a run, whose settings are taken")
    parser.add_argument("--lr", type=float, default=4e-4, help="the highest learning rate")
    parser.add_argument("--limit", type=int, help="only so many test crops, as evaluate takes")
    parser.add_argument("--seed", type=int, default=0, help="of weights and orders")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--out", type=Path, default=Path("runs/regression"))
    options = parser.parse_args(words)
    device = choose_device()
    precision = start(device, threads=options.threads)
    model = load(find_run(options.parameters_of))
    config = model.run_config
    assert config is not None, "a run has settings"
    parameters = sum(p.numel() for p in model.parameters())
    data = images_of(options, config)
    selection = select(data, "test", options.limit)

    torch.manual_seed(options.seed)
    channels = config.model.image_shape[0]
    width, blocks = size_for(parameters, channels)
    network = Regression(channels, width, blocks).to(device, memory_format=torch.channels_last)
    own = sum(p.numel() for p in network.parameters())
    print(
        f"{own:,} parameters, {width} channels, {blocks} blocks; {options.parameters_of} has "
        f"{parameters:,}; {options.minutes:g} minutes in {precision}"
    )
    batches = Batches(data.train, config.training.batch_size, device, options.seed)
    began = clock(device)
    bf16, flip = precision == "bf16", config.data.augment != "none"
    steps = train(network, batches, options.minutes, options.lr, bf16, flip)
    minutes = (clock(device) - began) / 60
    state = {name: value.contiguous().cpu() for name, value in network.state_dict().items()}
    write_whole(options.out / "model.safetensors", lambda partial: save_file(state, partial))
    methods, speed = measure(network.eval(), selection.images, selection.photographs, device)
    print(table(methods))
    print(f"{speed:.2g} megapixels of outputs a second, in fp32")
    write_json(
        options.out / "regression.json",
        {
            "data": data.name,
            "crops": options.crops,
            "images": len(selection.images),
            "parameters": own,
            "parameters_of": options.parameters_of,
            "width": width,
            "blocks": blocks,
            "minutes": minutes,
            "updates": steps,
            "lr": options.lr,
            "precision": precision,
            "seed": options.seed,
            "megapixels_per_second": speed,
            "methods": {name: vars(scores) for name, scores in methods.items()},
        },
    )


if __name__ == "__main__":
    main()
