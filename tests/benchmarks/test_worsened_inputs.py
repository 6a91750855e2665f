"""``benchmarks/robustness.py``: outputs to inputs with noise, or after JPEG."""

import runpy
from pathlib import Path

import pytest
import torch
from PIL import Image

from srvae_pyro.models.base import save_pretrained
from srvae_pyro.pixels import to_unit
from tests.builders import initialized
from tests.upscaling.test_command import image_of, smooth

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "robustness.py"


@pytest.mark.parametrize("channels", [1, 3])
def test_table_and_figure(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    channels: int,
) -> None:
    exact = {"d": "average2", "likelihood": "groups", "image_shape": (channels, 16, 16)}
    x = torch.stack([smooth(16, 16, channels, seed) for seed in range(4)])
    model = initialized(to_unit(x), **exact)
    save_pretrained(model, tmp_path / "run")
    (tmp_path / "photographs").mkdir()
    for seed in range(3):
        image_of(smooth(40 + seed, 51, channels, seed)).save(
            tmp_path / "photographs" / f"{seed}.png"
        )
    words = [str(tmp_path / "run"), "--data", str(tmp_path / "photographs"), "--limit", "2"]
    monkeypatch.setattr("sys.argv", [str(SCRIPT), *words, "--size", "32"])
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    runpy.run_path(str(SCRIPT), run_name="__main__")
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("2 photographs")
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in said if line[0] == "|"}
    assert list(rows["input"]) == [" input ", " bicubic ", " Lanczos ", " srVAE "]
    assert rows.pop("as it is")[0].strip() == "exact"
    of_question = {kind: float(cells[0].split()[0]) for kind, cells in list(rows.items())[2:]}
    assert of_question["noise 5"] > of_question["noise 15"]
    assert of_question["JPEG 95"] > of_question["JPEG 85"] > of_question["JPEG 75"]
    with Image.open(tmp_path / "run" / "figures" / "robustness.png") as file:
        assert file.width > 6 * 32  # six kinds of inputs
        assert file.height > 4 * 32
