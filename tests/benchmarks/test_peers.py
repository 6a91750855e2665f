"""The benchmark of upscalers side by side, by peers that need no other package."""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("peers")


@pytest.fixture
def photographs() -> list[Image.Image]:
    shades = np.random.default_rng(0).integers(0, 256, (2, 24, 32, 3), dtype=np.uint8)
    return [Image.fromarray(image).resize((64, 48)) for image in shades]


def test_peers_are_cached_and_a_run_is_not(
    peers: ModuleType, photographs: list[Image.Image], tmp_path: Path
) -> None:
    calls = []

    def upscale(image: np.ndarray, kind: str, factor: int) -> np.ndarray:
        assert image.shape == (48 // factor, 64 // factor, 3)
        calls.append(kind)
        return image.repeat(factor, axis=0).repeat(factor, axis=1)

    peer = peers.Peer("peer", upscale, inputs=("average", "noise 15"))
    run = peers.Peer("run", upscale, inputs=("average",), cached=False)
    cache = tmp_path / "cache.json"
    first = peers.measure(photographs, [peer, run], 2, cache)
    assert calls == ["average", "average", "noise 15"] * 2
    assert peers.measure(photographs, [peer, run], 2, cache) == first
    assert calls[6:] == ["average"] * 2  # the run alone
    for kind in peer.inputs:  # averaging undoes the repetition
        assert all(score["consistency"] == 100 for score in first["peer", kind])


def test_the_table_marks_the_best_and_compares_the_run_with_it(peers: ModuleType) -> None:
    results = {
        ("good", "average"): [{"PSNR": 30.0}, {"PSNR": 31.0}],
        ("bad", "average"): [{"PSNR": 20.0}, {"PSNR": 21.0}],
        ("bad", "bicubic"): [{"PSNR": 25.0}, {"PSNR": 25.0}],
        ("run", "average"): [{"PSNR": 30.5}, {"PSNR": 30.5}],
    }
    assert peers.table(results, ["average", "bicubic"], "PSNR", "run")[2:] == [
        "| good | **30.50** |  |",
        "| bad | 20.50 | **25.00** |",
        "| run | 30.50 |  |",
        "| run minus the best peer | +0.00 ± 0.50 (good) |  |",
    ]


def test_inputs_are_the_same_each_time(peers: ModuleType, photographs: list[Image.Image]) -> None:
    for factor, kinds in peers.INPUTS.items():
        images = [peers.made_small(photographs[0], kind, factor) for kind in kinds]
        again = [peers.made_small(photographs[0], kind, factor) for kind in kinds]
        assert images == again
        assert len({image.tobytes() for image in images}) == len(kinds)
        assert {image.size for image in images} == {(64 // factor, 48 // factor)}


def test_contact_sheet_shows_what_each_peer_is_meant_for(
    peers: ModuleType, photographs: list[Image.Image]
) -> None:
    kinds = []

    def upscale(image: np.ndarray, kind: str, factor: int) -> np.ndarray:
        kinds.append(kind)
        return image.repeat(factor, axis=0).repeat(factor, axis=1)

    figure = peers.sheet([peers.Peer("peer", upscale, inputs=("noise 5",))], photographs[0], 2)
    assert kinds == ["noise 5"]
    assert figure.width > 3 * 48  # the input, the peer, the photograph
    assert figure.height > len(peers.INPUTS[2]) * 48
