"""How often the truth lies within the spread of restored samples.

``python benchmarks/coverage.py --photographs DIR``: the middle 64x64 pixels of photographs, made
smaller by 2, exact or with JPEG compression or noise, are restored and upscaled 39 times each. The
table has the share of values within the samples' central intervals. The networks are told the
noise and the JPEG's quantisation table, which ``upscale`` finds in larger images.
"""

from __future__ import annotations

from pathlib import Path

import torch
from peers import read
from reading import evenly_spaced_files, levels_of, photographs_parser, restoring

from srvae_pyro import SRVAE
from srvae_pyro.data.degradations import example
from srvae_pyro.evaluation.sr_scores import LEVELS, RANKED, Calibration, Ranks
from srvae_pyro.pixels import to_levels, to_unit
from srvae_pyro.system.console import Bar
from srvae_pyro.system.device import stream

SIDE = 64
KINDS = ("average", "jpeg75", "noise15")  # of degradations.EXAMPLES


def middle(path: Path) -> torch.Tensor:
    """The middle of a photograph, uint8 (3, SIDE, SIDE)."""
    levels = levels_of(read(path, 4))
    top, left = ((length - SIDE) // 2 for length in levels.shape[-2:])
    return levels[:, top : top + SIDE, left : left + SIDE]


def calibration(model: SRVAE, photographs: list[Path], kind: str) -> Calibration:
    """Of the samples for one kind of input."""
    x = torch.stack([middle(path) for path in photographs])
    pairs = example(kind, x, [stream(0, index) for index in range(len(x))])
    parts = []
    for index in Bar(range(len(x)), desc=kind):
        known = pairs.kinds[index]
        ranks = Ranks(x[index : index + 1], [index], seed=0)
        y, options = to_unit(pairs.o[index : index + 1]), {"samples": RANKED, "seed": index}
        if known.trusted:
            sites = model.super_resolve(y, **options)
        else:
            sites = model.restore(y, known, **options)
        for sample in sites["x"]:
            ranks.add(to_levels(sample).clamp(0, 255).to(torch.uint8))
        parts.append(ranks.shares())
    values = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return Calibration.of(values, seed=0)


def main() -> None:
    options = photographs_parser(__doc__).parse_args()
    torch.set_num_threads(1)
    model, _ = restoring(options.run)
    paths = evenly_spaced_files(options.photographs, options.limit)
    print(
        f"| input | {' | '.join(f'{level} %' for level in LEVELS)} |\n|---|{'---|' * len(LEVELS)}"
    )
    for kind in KINDS:
        found = calibration(model, paths, kind)
        cells = [
            f"{100 * (share or 0):.1f} ± {100 * (error or 0):.1f} %"
            for share, error in zip(found.within.values(), found.within_error.values(), strict=True)
        ]
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
