"""A figure of how the truth ranks among samples."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

__all__ = ["calibration_figure", "central_shares"]

SIDE = 320  # pixels of each panel
LEFT, TOP, BETWEEN, RIGHT, BOTTOM = 64, 64, 96, 24, 64
FONT_SIZE = 14
BARS, LINE, CALIBRATED = (120, 150, 190), (40, 80, 150), (190, 60, 40)
MOST = 2.0  # times the calibrated share that the histogram shows at least

Point = tuple[float, float]


def central_shares(ranks: Sequence[float]) -> list[Point]:
    """For each central interval the share of values that it should have, and has.

    Args:
        ranks: the share of values of each rank, of which there is an even number.

    Returns:
        From no rank to all of them.
    """
    count = len(ranks)
    outs = range(count // 2, -1, -1)
    return [(1 - 2 * out / count, float(sum(ranks[out : count - out]))) for out in outs]


def calibration_figure(ranks: Sequence[float], title: str) -> Image.Image:
    """The histogram of ranks, and how many values lie within each central interval.

    What calibrated samples would have is drawn in red.

    Args:
        ranks: the share of values of each rank, of which there is an even number.
        title: what stands above.
    """
    size = (LEFT + SIDE + BETWEEN + SIDE + RIGHT, TOP + SIDE + BOTTOM)
    figure = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(figure)
    font = ImageFont.load_default(size=FONT_SIZE)
    pen.text((LEFT, TOP / 2), title, "black", font, anchor="lm")

    count = len(ranks)
    top = max(MOST, 1.1 * count * max(ranks))  # in units of the calibrated share
    histogram = _Panel(pen, font, LEFT, f"rank of the truth among {count - 1} samples")
    for rank, share in enumerate(ranks):
        histogram.bar(rank / count, (rank + 1) / count, share * count / top)
    histogram.line([(0, 1 / top), (1, 1 / top)], CALIBRATED)
    histogram.frame({0: "0", 1: f"{count - 1}"}, {0: "0", 1: f"{100 * top / count:.1f} %"})

    shares = central_shares(ranks)
    within = _Panel(pen, font, LEFT + SIDE + BETWEEN, "truth within the samples' central interval")
    within.line([(0, 0), (1, 1)], CALIBRATED)
    within.line(shares, LINE, dots=True)
    ends = {0: "0", 0.5: "50 %", 1: "100 %"}
    within.frame(ends, ends)
    return figure


class _Panel:
    """A square of a figure, in which points are from (0, 0), below left, to (1, 1)."""

    def __init__(
        self,
        pen: ImageDraw.ImageDraw,
        font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
        left: int,
        label: str,
    ) -> None:
        self.pen, self.font, self.left = pen, font, left
        self.write((0.5, 0), label, (0, 40))

    def place(self, point: Point) -> Point:
        """Where a point is in the figure, in pixels."""
        return self.left + point[0] * SIDE, TOP + (1 - point[1]) * SIDE

    def write(self, point: Point, text: str, offset: Point, anchor: str = "mm") -> None:
        x, y = self.place(point)
        self.pen.text((x + offset[0], y + offset[1]), text, "black", self.font, anchor=anchor)

    def bar(self, start: float, end: float, height: float) -> None:
        left, top = self.place((start, height))
        right, bottom = self.place((end, 0))
        self.pen.rectangle((left, top, max(right - 1, left), bottom), BARS)

    def line(
        self, points: Sequence[Point], colour: tuple[int, int, int], dots: bool = False
    ) -> None:
        places = [self.place(point) for point in points]
        self.pen.line(places, colour, width=2)
        for x, y in places if dots else ():
            self.pen.ellipse((x - 3, y - 3, x + 3, y + 3), colour)

    def frame(self, across: dict[float, str], up: dict[float, str]) -> None:
        """The borders, and what stands at places of them."""
        self.pen.rectangle((*self.place((0, 1)), *self.place((1, 0))), outline="black")
        for share, text in across.items():
            self.write((share, 0), text, (0, 16))
        for share, text in up.items():
            self.write((0, share), text, (-8, 0), anchor="rm")
