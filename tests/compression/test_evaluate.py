"""``evaluate --compress``: bytes beside the ELBO's and other codecs'."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from srvae_pyro.evaluate import EvaluateArguments, main
from srvae_pyro.evaluation import coding
from srvae_pyro.evaluation.coding import CodeSize, CodingResult, evaluate_coding
from srvae_pyro.evaluation.record import newest_results
from tests.builders import initialized, make_images, save_run, write_images


def test_bytes_stand_beside_the_elbos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_run(tmp_path / "run", model="vae", p_u="standard")
    write_images(tmp_path / "data" / "test", make_images(6))
    arguments = EvaluateArguments(
        str(tmp_path / "run"), str(tmp_path / "data"), elbo_only=True, compress=4
    )
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "4 images" in told
    assert "PNG, a file each" in told
    line = newest_results(tmp_path / "run")["compression"]
    kept = line["result"]
    assert line["flags"] == {"compress": 4, "seed": 0}
    assert kept["values"] == 4 * 3 * 16 * 16
    assert kept["net_bytes"] == pytest.approx(kept["predicted_bytes"], rel=0.02)
    chains, starts = (sum(kept[f"{name}_bytes"].values()) for name in ("chain", "start"))
    assert kept["net_bytes"] == chains - starts
    assert 0 < kept["model"]["bytes"] - chains < 700  # header and checksums
    assert kept["preview_bytes"] == 0
    assert kept["images_per_second"]["written"] > 0
    assert "every image was read back exactly" in told
    names = [size["name"] for size in kept["others"]]
    assert names[:4] == [f"{k}, {w}" for k in ("PNG", "WebP") for w in ("a file each", "one image")]


def test_a_code_that_does_not_give_back_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = initialized(make_images(8), model="vae", p_u="standard")
    images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    monkeypatch.setattr(coding.Codec, "decode", lambda *_: list(images + 1))
    with pytest.raises(RuntimeError, match="does not decode to the same images"):
        evaluate_coding(model, images, torch.arange(2))


def test_the_size_of_the_files_first_part() -> None:
    model = initialized(make_images(8), p_u="standard")
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    result = evaluate_coding(model, images, torch.arange(3))
    chains = result.chain_bytes
    assert chains["u and y"] < result.preview_bytes < chains["u and y"] + 700
    assert result.model.bytes > result.preview_bytes + chains["z and x"]
    assert result.to_json()["preview_bytes"] == result.preview_bytes


@pytest.mark.parametrize("channels", [1, 3])
def test_other_codecs_keep_images_of_one_and_three_colours(channels: int) -> None:
    images = torch.randint(0, 256, (5, channels, 8, 12), dtype=torch.uint8)
    sizes = coding._others(images)
    assert {size.name.split(",")[0] for size in sizes} >= {"PNG", "WebP"}
    assert all(size.bytes > images.numel() for size in sizes)  # noise
    mosaic = coding._mosaic(images)
    assert mosaic.shape[:2] == (16, 36)
    assert np.array_equal(mosaic[8:, 12:24], coding._array(images[4]))
    assert not mosaic[8:, 24:].any()


def test_mosaics_may_be_larger_than_formats_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow's limit
    monkeypatch.setattr(coding, "WEBP_SIDE", 20)
    images = torch.randint(0, 256, (5, 3, 8, 12), dtype=torch.uint8)
    names = [size.name for size in coding._others(images)]
    assert "PNG, one image" in names
    assert "WebP, a file each" in names
    assert "WebP, one image" not in names


def test_the_table_compares_the_code_with_the_elbo() -> None:
    sizes = [CodeSize("PNG, a file each", 900, 1.0, 2.0)]
    model = CodeSize("bits back, one file", 700, 0.01, 0.02)
    starts, chains = {"u and y": 20, "z and x": 40}, {"u and y": 160, "z and x": 500}
    result = CodingResult(4, 1000, 594.0, model, starts, chains, 210, sizes, is_of_all=True)
    table = result.table({"likelihood": SimpleNamespace(bits_per_dim=4.5)})
    assert "the nll, by importance sampling    562     4.500" in table
    assert "nll" not in result.table()
    assert "bits back, one file                700     5.600" in table
    assert "40 images/s written, 80 read" in table
    assert "every y is in the first 210 bytes, 30.0%" in table
    assert "bits back, without initial bits    600     4.800" in table
    assert "+1.01% against the negative ELBO" in table
    assert "20 for u and y and 40 for z and x" in table
    assert "pip install 'srvae-pyro[codecs]'" in table
