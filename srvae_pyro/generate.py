"""Draw new pictures from a trained model: ``python -m srvae_pyro.generate --help``."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from srvae_pyro.commands import at_least, check_folder, option, run_command

__all__ = ["GenerateArguments", "main"]

if TYPE_CHECKING:
    from torch import Tensor

    from srvae_pyro.models import ImageModel
    from srvae_pyro.parallel import Group

    Sites = dict[int, dict[str, Tensor]]  # by the picture's number and the site's name

IN_GRID = 64  # pictures, the first ones


@dataclass
class GenerateArguments:
    """Draw new pictures from a trained model: single PNGs, and a grid of the first 64.

    The PNGs are in pictures/ of the folder --out, which holds nothing else; grid.png has each y
    beside its x, and generate.json tells what they were drawn with. Pictures that are there already
    by the same settings are not drawn again, so a call that was stopped goes on, and a larger
    --count adds to a smaller one. Those of an earlier call that are not asked for are moved to
    earlier/.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """a run's name under runs/, its folder, or a Hub id"""
    count: int = 64
    """how many pictures"""
    decode: Literal["sample", "mode", "mean"] = "sample"
    """draw each pixel, take the likeliest component's mean, or the expectation"""
    temperature: float = 1.0
    """factor on the standard deviations of the latents; below 1: more typical, less varied"""
    image_temperature: float = 1.0
    """the same for the pixels that are sampled"""
    seed: int = 0
    """of all noise; picture i of a seed is the same whatever the batch size"""
    out: Annotated[
        Path | None, option("DIR", "the run's figures/generated; ./generated for a Hub id")
    ] = None
    """folder for the pictures"""
    batch_size: int = 64
    """pictures at a time"""
    scale: int = 2
    """pixels a pixel in the grid; the single pictures keep their size"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU if there is one"""


def main(arguments: GenerateArguments) -> int:
    """Generate as asked; the exit code."""
    at_least(arguments, count=1, batch_size=1, scale=1, seed=0)
    check_folder(arguments.out)
    from srvae_pyro.parallel import process_group

    with process_group(arguments.device) as group:
        return generate_in(group, arguments)


def generate_in(group: Group, arguments: GenerateArguments) -> int:
    """One process of the group's part of the pictures; the exit code."""

    from srvae_pyro import __version__
    from srvae_pyro.digest import digest
    from srvae_pyro.evaluation.drawn import DrawnPictures, runs_of
    from srvae_pyro.evaluation.pictures import save_picture
    from srvae_pyro.inference.decoding import Decode
    from srvae_pyro.models import load
    from srvae_pyro.runs import find_run
    from srvae_pyro.system.hub import is_cached_copy
    from srvae_pyro.talk import Bar

    # Refuses what cannot be, before a folder is touched.
    Decode(arguments.decode, arguments.temperature, arguments.image_temperature)
    folder = find_run(arguments.run)
    model = load(folder, group.device)
    out = arguments.out
    if out is None:
        out = Path("generated") if is_cached_copy(folder) else folder / "figures" / "generated"
    settings = {
        "weights": digest(dict(sorted(model.state_dict().items()))),
        "seed": arguments.seed,
        "decode": arguments.decode,
        "temperature": float(arguments.temperature),
        "image_temperature": float(arguments.image_temperature),
        "version": __version__,
    }
    drawn = DrawnPictures(out, str(folder), settings, arguments.count)
    share, moved = group.share(arguments.count), 0
    with ExitStack() as stack:
        with group.main_first():
            if group.main:
                moved = stack.enter_context(drawn.claimed())
        mine = range(share.start, share.stop)
        missing = drawn.missing(mine)
        had = len(mine) - len(missing)
        shown: Sites = {}  # of the grid's pictures; the others are not kept in memory
        bar = Bar(total=len(mine), initial=had, unit="picture", disable=not group.main)
        with bar:
            for numbers in runs_of(missing, arguments.batch_size):
                sites = draw(model, numbers, arguments)
                for number, picture in zip(numbers, sites["x"], strict=True):
                    save_picture(picture, drawn.path(number))
                shown |= by_number(sites, numbers, min(IN_GRID, arguments.count))
                bar.update(len(numbers))
        every, there = group.gather(shown), sum(group.gather(had))
        if not group.main:
            return 0
        for part in every:
            shown |= part
        first = min(IN_GRID, arguments.count)
        for numbers in runs_of([n for n in range(first) if n not in shown], arguments.batch_size):
            shown |= by_number(draw(model, numbers, arguments), numbers, first)
        save_picture(grid_of(shown, arguments.scale), drawn.grid)
    which = "all of them" if first == arguments.count else f"the first {first}"
    had_already = f" ({there} were there already)" if there else ""
    print(f"{arguments.count} pictures in {drawn.pictures}{had_already}, {which} in {drawn.grid}")
    if moved:
        print(f"{moved} pictures of an earlier call are now in {out / 'earlier'}")
    return 0


def draw(model: ImageModel, numbers: range, arguments: GenerateArguments) -> dict[str, Tensor]:
    """The sites of the pictures of these numbers."""
    return model.generate(
        len(numbers),
        decode=arguments.decode,
        temperature=arguments.temperature,
        image_temperature=arguments.image_temperature,
        seed=arguments.seed,
        first=numbers.start,
        batch_size=len(numbers),
    )


def by_number(sites: dict[str, Tensor], numbers: range, first: int) -> Sites:
    """Each picture's y, if there is one, and x, of those of the first so many."""
    kept = [name for name in ("y", "x") if name in sites]
    few = range(numbers.start, min(numbers.stop, first))
    # Copies, which do not hold on to the whole batch.
    own = {name: sites[name][: len(few)].clone().cpu() for name in kept}
    return {n: {name: own[name][i] for name in kept} for i, n in enumerate(few)}


def grid_of(shown: Sites, scale: int) -> Tensor:
    """All in one picture, each y beside its x."""
    import torch

    from srvae_pyro.evaluation.pictures import grid, side_by_side

    order = sorted(shown)
    x = torch.stack([shown[number]["x"] for number in order])
    if "y" not in shown[0]:
        return grid(x, 8, scale)
    y = torch.stack([shown[number]["y"] for number in order])
    return grid(side_by_side(y, x), 16, scale)


if __name__ == "__main__":
    run_command(GenerateArguments, main, "generate", "give a smaller --batch-size")
