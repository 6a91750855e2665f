"""Bits/dim against minutes: ``python benchmarks/learning.py --data DIR``.

Minutes of training until given bits/dim. Models of about the size of the preset ``small`` learn
from the same images from the same seed, on one core each: srVAE and VAE as published, trained
plainly (float32, no schedules, the published initialisation and learning rate) and our way; and
the preset ``small`` by Adamax. A run that is there already is not trained again, and one that was
interrupted goes on, so the command can be stopped and repeated;
``--part`` shares the runs between processes. ``--table`` trains nothing and prints the minutes that
each run took to reach some bits/dim, and draws the curves to ``--out``.

The bits/dim are those of the training batches by the weights of the time, averaged over 100
updates, so that no time goes into measuring; images are seen for the first time in the first
epoch. Validation at the end of each epoch is part of the time. While a KL term has a weight below
1 the bits/dim are higher than they need be.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from studies import EARLIER_SMALL, INDEPENDENT, finished, folder_of, train

STUDY = "learning"
AS_PUBLISHED = ("--preset", "small", *INDEPENDENT, "--u-stages", "1")
PLAIN = ("--precision", "fp32", "--keep-allocator", "--lr", "2e-3", "--lr-min", "1e-4")
PLAIN += ("--anneal", "0", "--kl-start", "1", "--kl-warmup", "0", "--warmup-steps", "0")
START = (
    "model.init_scale=0.01",
    "model.head_scale=0.01",
    "model.likelihood_scale=0.01",
    "model.likelihood_start=published",
    "model.posterior_scale=0",
    "model.posterior_log_variance=0",
)
VAE = ("--preset", "small", "--model", "vae", "--optimizer", "adamax", "--augment", "shifts")
EARLIER_VAE = (
    "model.q_z.growth=8",
    "model.p_x_from_z.growth=46",
    "model.p_u_network.growth=22",
)
OURS = ("--kl-warmup", "0.8")
RUNS: dict[str, tuple[str, ...]] = {
    "srVAE as published, plain": (*AS_PUBLISHED, *PLAIN, "--set", *EARLIER_SMALL, *START),
    "srVAE as published, our way": (*AS_PUBLISHED, *OURS, "--set", *EARLIER_SMALL),
    "VAE, plain": (*VAE, *PLAIN, "--set", *EARLIER_VAE, *START),
    "VAE, our way": (*VAE, *OURS, "--set", *EARLIER_VAE),
    "small": (
        *("--preset", "small", "--optimizer", "adamax", "--augment", "shifts"),
        *("--set", "model.groups.scaled=false", "model.pyramid.scaled=false"),
    ),
}
GOALS = (5.0, 4.5, 4.0, 3.7, 3.5, 3.3)
SMOOTH = 100  # updates
COLOURS = ("#888888", "#3b6fb6", "#c9b037", "#c0504d", "#2a8c4a")
WIDTH, HEIGHT, MARGIN = 720, 420, 48
TOP, BOTTOM = 6.5, 3.0  # bits/dim of the figure

Curve = list[tuple[float, float]]  # minutes, bits/dim


def curve(folder: Path) -> Curve:
    """Minutes and bits/dim of a run's training batches, each value of the last 100 updates."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    points = [line for line in lines if line["split"] == "train"]
    averaged: Curve = []
    for i, line in enumerate(points):
        recent = [p for p in points[: i + 1] if p["step"] > line["step"] - SMOOTH]
        bits = sum(p["bits_per_dim"] for p in recent) / len(recent)
        averaged.append((line["seconds"] / 60, bits))
    return averaged


def reached(points: Curve, goal: float) -> str:
    """The minutes after which a curve was at a goal."""
    first = next((minutes for minutes, bits in points if bits <= goal), None)
    return "not reached" if first is None else f"{first:.1f}"


def figure(curves: dict[str, Curve]) -> Image.Image:
    """The curves in one image."""
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=13)
    longest = max(points[-1][0] for points in curves.values())
    wide, high = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN

    def place(minutes: float, bits: float) -> tuple[float, float]:
        across = MARGIN + wide * minutes / longest
        return across, MARGIN + high * min((TOP - bits) / (TOP - BOTTOM), 1.0)

    for goal in GOALS:
        pen.line([place(0, goal), place(longest, goal)], "#e0e0e0")
        pen.text((MARGIN - 8, place(0, goal)[1]), f"{goal:.1f}", "black", font, anchor="rm")
    apart = next((step for step in (1, 2, 5, 10) if longest / step <= 8), 20)  # minutes
    for minutes in range(0, int(longest) + 1, apart):
        at = (place(minutes, BOTTOM)[0], HEIGHT - MARGIN + 12)
        pen.text(at, str(minutes), "black", font, anchor="mm")
    for number, (name, points) in enumerate(curves.items()):
        shown = [place(*point) for point in points if point[1] <= TOP]
        if len(shown) > 1:
            pen.line(shown, COLOURS[number], width=2)
        at = (WIDTH - MARGIN, MARGIN + 16 * number)
        pen.text(at, name, COLOURS[number], font, anchor="rm")
    pen.text((WIDTH / 2, HEIGHT - 14), "minutes of one core", "black", font, anchor="mm")
    pen.text((MARGIN, 18), "bits/dim of training batches", "black", font, anchor="lm")
    return image


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", default="cifar10", help="as train has it")
    parser.add_argument("--minutes", type=float, default=100.0, help="of each run")
    parser.add_argument("--part", default="1/1", help="I/N: only each N-th run, from the I-th on")
    parser.add_argument("--table", action="store_true", help="train nothing, print the table")
    parser.add_argument("--out", type=Path, default=Path("docs/figures/learning.png"))
    options = parser.parse_args()
    first, every = (int(number) for number in options.part.split("/"))
    if not options.table:
        length = ("--max-minutes", str(options.minutes), "--threads", "1")
        for name in list(RUNS)[first - 1 :: every]:
            folder = folder_of(STUDY, name)
            if not finished(folder, 1) and (
                code := train(folder, name, options.data, [*length, *RUNS[name]])
            ):
                return code
        return 0
    curves = {
        name: points
        for name in RUNS
        if (folder_of(STUDY, name) / "metrics.jsonl").exists()
        and (points := curve(folder_of(STUDY, name)))
    }
    if not curves:
        print("there are no runs: leave out --table to train them")
        return 1
    print("| minutes to | " + " | ".join(f"{goal:.1f}" for goal in GOALS) + " | at the end |")
    print("|---" * (len(GOALS) + 2) + "|")
    for name, points in curves.items():
        cells = [reached(points, goal) for goal in GOALS] + [f"{points[-1][1]:.3f}"]
        print(f"| {name} | {' | '.join(cells)} |")
    figure(curves).save(options.out)
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
