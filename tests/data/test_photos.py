"""The bundled photographs: separate regions, no chance, no network."""

import json
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from srvae_pyro.data import DataSplits, ImageOptions, load_data, named
from srvae_pyro.data.named import COUNTS, PHOTOGRAPHS, regions
from srvae_pyro.errors import UserError


def images_of(data: DataSplits, split: str) -> torch.Tensor:
    return data.train.in_memory() if split == "train" else getattr(data, split)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("size", [(512, 512), (451, 300), (33, 7)])
def test_regions_share_no_pixel(size: tuple[int, int], number: int) -> None:
    claims = np.zeros((size[1], size[0]), int)
    for region in regions(*size, number).values():
        claims[region.top : region.bottom, region.left : region.right] += 1
    assert (claims == 1).all()


def test_crops_stay_in_their_regions_and_have_the_number_of_their_photograph(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Of one colour per split and photograph: whatever reached over would show.
    numbers = iter(range(len(PHOTOGRAPHS)))

    def painted(path: Path, channels: int) -> Image.Image:
        image, number = Image.new("RGB", (451, 300)), next(numbers)
        for level, region in enumerate(regions(451, 300, number).values()):
            image.paste((level, number, 0), region)
        return image

    monkeypatch.setattr(named, "read_image", painted)
    data = named.load_photos(ImageOptions(limit=300)).described()
    for level, split in enumerate(("train", "val", "test")):
        found, photographs = images_of(data, split), data.photographs[split]
        assert (found[:, 0] == level).all()
        assert (found[:, 1] == photographs[:, None, None]).all()
        assert photographs.unique().tolist() == list(range(len(PHOTOGRAPHS)))


def test_whole_without_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("photos tried to reach the network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    data = load_data("photos", tmp_path / "absent")
    assert data.shape == (3, 32, 32)
    assert data.info["counts"] == COUNTS
    assert len(data.info["source"]) == len(PHOTOGRAPHS)
    json.dumps(data.info)
    for images in (data.train.in_memory(), data.val, data.test):
        assert images.dtype == torch.uint8
        assert images.is_contiguous()
        assert images.float().std() > 40
        # Hardly a crop twice, and not all flat.
        assert len(torch.unique(images.flatten(1), dim=0)) > 0.95 * len(images)
        assert (images.float().std(dim=(2, 3)).mean(dim=1) > 5).float().mean() > 0.6
    assert not (tmp_path / "absent").exists()


def test_seeded(tmp_path: Path) -> None:
    first, again = (load_data("photos", tmp_path, ImageOptions(limit=20)) for _ in range(2))
    other = load_data("photos", tmp_path, ImageOptions(limit=20, seed=1))
    assert torch.equal(images_of(first, "train"), images_of(again, "train"))
    assert torch.equal(first.test, again.test)
    assert not torch.equal(images_of(first, "train"), images_of(other, "train"))
    assert torch.equal(load_data("photos", tmp_path, ImageOptions(limit=7)).val, first.val[:7])


def test_sizes_and_gray(tmp_path: Path) -> None:
    assert load_data("photos", tmp_path, ImageOptions(limit=5, image_size=64)).shape == (3, 64, 64)
    large = load_data("photos", tmp_path, ImageOptions(limit=5, image_size=150))
    assert large.shape == (3, 150, 150)
    assert len(large.info["source"]) < len(PHOTOGRAPHS)  # those with regions large enough
    assert load_data("photos", tmp_path, ImageOptions(limit=5, channels=1)).shape == (1, 32, 32)
    with pytest.raises(UserError, match="--image-size 185 or less"):
        load_data("photos", tmp_path, ImageOptions(image_size=186))
