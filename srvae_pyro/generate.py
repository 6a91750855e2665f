"""Draw new pictures from a trained model: ``python -m srvae_pyro.generate --help``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from srvae_pyro.commands import at_least, check_folder, option, run_command

__all__ = ["GenerateArguments", "main"]

if TYPE_CHECKING:
    from srvae_pyro.parallel import Group


@dataclass
class GenerateArguments:
    """Draw new pictures from a trained model: one grid (each y beside its x) and single PNGs."""

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
    import torch
    from tqdm import tqdm

    from srvae_pyro.evaluation.pictures import grid, save_picture, side_by_side
    from srvae_pyro.models.loading import find_run, from_hub, load

    folder = find_run(arguments.run)
    model = load(folder, group.device)
    out = arguments.out
    if out is None:
        out = Path("generated") if from_hub(folder) else folder / "figures" / "generated"
    mine, chunks = group.share(arguments.count), []
    total = mine.stop - mine.start
    with tqdm(total=total, unit="picture", disable=not group.main) as bar:
        for start in range(mine.start, mine.stop, arguments.batch_size):
            number = min(arguments.batch_size, mine.stop - start)
            chunk = model.generate(
                number,
                decode=arguments.decode,
                temperature=arguments.temperature,
                image_temperature=arguments.image_temperature,
                seed=arguments.seed,
                first=start,
                batch_size=number,
            )
            chunks.append({k: v.cpu() for k, v in chunk.items() if k in ("x", "y")})
            bar.update(number)
    x = torch.cat([chunk["x"] for chunk in chunks])
    for number, picture in enumerate(x, mine.start):
        save_picture(picture, out / f"{number:05d}.png")
    x = group.joined(x)
    pictures, columns = x, 8
    if "y" in chunks[0]:
        y = group.joined(torch.cat([chunk["y"] for chunk in chunks]))
        pictures, columns = side_by_side(y, x), 16
    if not group.main:
        return 0
    save_picture(grid(pictures, columns, arguments.scale), out / "grid.png")
    print(f"{len(x)} pictures in {out}, all of them in {out / 'grid.png'}")
    return 0


if __name__ == "__main__":
    run_command(GenerateArguments, main, "generate", "give a smaller --batch-size")
