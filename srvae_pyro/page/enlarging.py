"""A visitor's photograph enlarged, by what the command ``upscale`` does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from srvae_pyro.models import SRVAE
from srvae_pyro.page.uploads import without_folder
from srvae_pyro.page.visits import Work
from srvae_pyro.upscaling.arguments import UpscaleArguments
from srvae_pyro.upscaling.command import enlarge_file, enlarger_for
from srvae_pyro.upscaling.enlarger import enlarging, passes_for
from srvae_pyro.upscaling.files import Answers, Writer, names_for, pixels_of
from srvae_pyro.upscaling.photographs import Photograph, as_image, save_photograph
from srvae_pyro.upscaling.tiling import MemoryCanvas

__all__ = ["Enlarged", "agreement_in_words", "disk_bytes", "enlarge"]

# At most for each pixel of an answer: a raw copy while it is made, and its file, both with alpha.
PIXEL_BYTES = 8


@dataclass(frozen=True)
class Enlarged:
    """A photograph's answers.

    Attributes:
        bicubic: the file of its bicubic enlargement.
        answers: the files of the answers, as ``upscale`` writes them.
        words: what they are.
    """

    bicubic: Path
    answers: Answers
    words: str


def enlarge(work: Work, model: SRVAE, path: Path, arguments: UpscaleArguments) -> Enlarged:
    """Enlarge a photograph; the files go to the folder of the work.

    Args:
        work: to which progress is told, after each tile of each answer.
        model: the srVAE.
        path: the photograph's file.
        arguments: how; of these the run, the files and the folder do not matter.

    Raises:
        UserError: as ``upscale``.
        StoppedError: the visitor wants no answer any more.
    """
    model = enlarging(model)
    factor = model.guide.d.factor if arguments.factor is None else arguments.factor
    passes, several = passes_for(model, factor), arguments.samples > 1
    made, words = 0, f"{arguments.samples} answers" if several else "the answer"
    work.at(0, words)
    enlarger = enlarger_for(model, arguments)
    writer = Writer(enlarger, passes, arguments.samples, arguments.gif, tell=lambda _: None)
    total = max(writer.pixels(pixels_of(path)), 1)

    def tell(pixels: int) -> None:
        nonlocal made
        made += pixels
        work.at(made / total, words)

    writer.made = tell
    (name,) = names_for([path])
    with without_folder(path):
        photograph, answers = enlarge_file(writer, path, work.folder / f"{name}-x{factor}")
    bicubic = work.folder / f"{name}-x{factor}-bicubic.png"
    _save_bicubic(photograph, factor, bicubic)
    _, height, width = photograph.levels.shape
    note = f" Left out: {photograph.note}." if photograph.note else ""
    size = f"{width}x{height} enlarged {factor} times to {factor * width}x{factor * height}."
    return Enlarged(bicubic, answers, f"{size}{note} {agreement_in_words(answers)}")


def disk_bytes(model: SRVAE, path: Path, arguments: UpscaleArguments) -> int:
    """The most that :func:`enlarge` takes of the disk, its passes and its map too."""
    each = model.guide.d.factor**2
    passes = passes_for(model, arguments.factor or model.guide.d.factor)
    made = sum(each**n for n in range(1, passes + 1)) * arguments.samples + 3 * each**passes
    return PIXEL_BYTES * made * pixels_of(path)


def agreement_in_words(answers: Answers) -> str:
    """How well the answers agree with their question."""
    values = sorted(set(answers.agreements.values()))
    each = "the answer" if len(answers.agreements) == 1 else "each answer, and their mean,"
    if values == ["exact"]:
        return (
            f"Agreement: exact. Made small again, {each} is your photograph, pixel by pixel. Keep "
            "it as PNG: JPEG would lose that."
        )
    to = f" to {values[-1]}" if len(values) > 1 else ""
    return f"Agreement: {values[0]}{to}, the PSNR of {each} made small again (LR-PSNR)."


def _save_bicubic(photograph: Photograph, factor: int, path: Path) -> None:
    """Write the bicubic enlargement, which looks as the answers do but for its pixels."""
    image = as_image(MemoryCanvas(photograph.levels), gray=photograph.gray)
    size = (factor * image.width, factor * image.height)
    pixels = np.array(image.resize(size, Image.Resampling.BICUBIC)).reshape(*size[::-1], -1)
    levels = torch.from_numpy(pixels).permute(2, 0, 1)
    save_photograph(path, MemoryCanvas(levels), photograph)
