"""Options that say which pictures of a data set to read, and as what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["DEFAULTS", "CheckShape", "PictureOptions"]

CheckShape = Callable[[tuple[int, int, int]], None]


@dataclass(frozen=True)
class PictureOptions:
    """What is asked of a data set. Each loader heeds the options that apply to its data set.

    Attributes:
        image_size: height and width in pixels. A picture of another size is cut to its central
            square and resized. None: the data set's size; the pictures of a folder or of tar shards
            must then all have one size, or ``crops`` is given.
        crops: height and width in pixels of squares that are cut out of the pictures at their own
            resolution: random ones to train on, evenly spaced ones for validation and test. None:
            the pictures themselves.
        eval_crops: at most so many crops for validation and for test each. None: 2,000, or one of
            each picture if there are more.
        channels: 3 for RGB, 1 for luma (Pillow's "L").
        seed: seeds what is drawn at random: which pictures are held out, where crops lie.
        limit: keep only the first pictures of each split, at most this many.
        strict: raise an error for a file that cannot be read instead of leaving it out.
        stream: whether to read a folder's training pictures only when they are needed. None: if all
            of them would take more than half of the available memory. Training is the same either
            way; tar shards are always streamed.
        download: fetch a data set that is missing, where that is possible.
        for_training: raise an error for a folder without pictures to train on.
        check_shape: called with the shape (C, H, W) of the images as soon as it is known, before
            all pictures are read; raises a UserError if the shape does not suit.
    """

    image_size: int | None = None
    crops: int | None = None
    eval_crops: int | None = None
    channels: int = 3
    seed: int = 0
    limit: int | None = None
    strict: bool = False
    stream: bool | None = None
    download: bool = True
    for_training: bool = True
    check_shape: CheckShape | None = None


DEFAULTS = PictureOptions()
