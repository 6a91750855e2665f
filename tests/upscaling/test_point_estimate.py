"""Point estimates of a restorer: through the command, in tiles, and as ONNX files."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from srvae_pyro import export, upscale
from srvae_pyro.config import Residual
from srvae_pyro.errors import UserError
from srvae_pyro.export import ExportArguments
from srvae_pyro.models import SRVAE, InputKind, make_model
from srvae_pyro.models.base import save_pretrained
from srvae_pyro.models.restorer import FoldedEstimate, PointEstimate
from srvae_pyro.upscale import UpscaleArguments
from srvae_pyro.upscaling.arguments import UpscaleOptions
from srvae_pyro.upscaling.photographs import Photograph
from srvae_pyro.upscaling.upscaler import Upscaler, downscaled
from tests.builders import tiny

RESTORING = {"d": "average2", "likelihood": "groups", "restorer": Residual(6, 1)}


@pytest.fixture(scope="module")
def model() -> SRVAE:
    torch.manual_seed(0)
    made = make_model(tiny(**RESTORING))
    assert isinstance(made, SRVAE)
    made.initialize(torch.randint(0, 256, (4, 3, 16, 16)) / 255)
    assert made.restorer is not None
    with torch.no_grad():  # as if learnt
        for head in made.restorer.estimate.heads.values():
            head.weight.mul_(30)
    return made.eval()


@pytest.fixture(scope="module")
def run(model: SRVAE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_pretrained(model, folder)
    return folder


def image(height: int = 24, width: int = 20) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8])
def test_every_factor_in_one_go(model: SRVAE, factor: int) -> None:
    upscaler = Upscaler(model, UpscaleOptions(factor))
    output = upscaler(image(), kind=InputKind())
    assert output.shape == (3, 24 * factor, 20 * factor)
    gray = image()[:1].expand(3, -1, -1)
    output = upscaler(gray, gray=True, kind=InputKind(noise=9.0))
    assert torch.equal(output[0], output[2])


@pytest.mark.parametrize("factor", [2, 4])
def test_exact_averages_stay_exact(model: SRVAE, factor: int) -> None:
    upscaler = Upscaler(model, UpscaleOptions(factor, input="average"))
    jpeg = Photograph(image(), compression=InputKind(table=20.0))
    kind = upscaler.kind_of(jpeg)  # what the file says does not count
    assert kind.trusted
    gray = image()[:1].expand(3, -1, -1)
    for lr, is_gray in ((image(), False), (gray, True)):
        output = upscaler(lr, gray=is_gray, kind=kind)
        assert torch.equal(downscaled(model, output, factor.bit_length() - 1), lr)
        assert not is_gray or torch.equal(output[0], output[1])


def test_tiles_give_what_the_whole_gives(model: SRVAE) -> None:
    lr = image(130, 90)
    whole = Upscaler(model, UpscaleOptions(2))(lr, kind=InputKind())
    little = Upscaler(model, UpscaleOptions(2, memory_gb=0.006))(lr, kind=InputKind())
    assert (whole.int() - little.int()).abs().max() <= 1
    with pytest.raises(UserError, match="`tile` does not apply to the point estimate"):
        Upscaler(model, UpscaleOptions(2, tile=64))
    with pytest.raises(UserError, match=r"`memory_gb=0\.001` is too little: use at least"):
        Upscaler(model, UpscaleOptions(2, memory_gb=0.001))(lr, kind=InputKind())


def test_restored_samples_differ_in_what_they_take_for_y(model: SRVAE) -> None:
    upscaler = Upscaler(model, UpscaleOptions(2, samples=2))
    first, second = (upscaler(image(), sample, kind=InputKind(noise=5.0)) for sample in (0, 1))
    assert not torch.equal(downscaled(model, first), downscaled(model, second))
    again = upscaler(image(), 1, kind=InputKind(noise=5.0))
    assert torch.equal(again, second)
    exact = upscaler(image(), 1, kind=InputKind.exact())
    assert torch.equal(downscaled(model, exact), image())


def test_gray_samples_of_two_passes_are_of_one_luma(model: SRVAE) -> None:
    gray, kind = image()[:1].expand(3, -1, -1), InputKind(noise=5.0)
    once, twice = (
        Upscaler(model, UpscaleOptions(factor, samples=2))(gray, 1, gray=True, kind=kind)
        for factor in (2, 4)
    )
    assert torch.equal(twice[0], twice[2])
    assert torch.equal(downscaled(model, twice), once)


def test_eight_times_restores_once(model: SRVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    folded = PointEstimate.folded

    def noted(self: PointEstimate, kind: InputKind, factor: int) -> FoldedEstimate:
        told.append((kind, factor))
        return folded(self, kind, factor)

    monkeypatch.setattr(PointEstimate, "folded", noted)
    Upscaler(model, UpscaleOptions(8))(image(), kind=InputKind("bicubic", noise=9.0))
    assert told == [(InputKind("bicubic", noise=9.0), 4), (InputKind(noise=0.0, table=0.0), 2)]


def test_a_double_model_restores(model: SRVAE) -> None:
    double, kind = copy.deepcopy(model).double(), InputKind(noise=9.0)
    o = image()[None] / 255
    x = double.restore(o, kind, seed=0)["x"]
    assert x.dtype == torch.float64
    assert double.restorer is not None
    estimate = double.restorer.estimate(o.double(), kind.numbers(2)[None].double(), 2)
    assert estimate.dtype == torch.float64


def test_the_command_takes_a_jpeg_by_its_own_tables(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photograph = Image.fromarray(image(32, 32).permute(1, 2, 0).numpy())
    photograph.save(tmp_path / "a.jpg", quality=40)
    photograph.save(tmp_path / "b.png")
    files = (tmp_path / "a.jpg", tmp_path / "b.png")
    assert upscale.main(UpscaleArguments(str(run), files, tmp_path / "out")) == 0
    said = capsys.readouterr().out
    assert "a.jpg, 32x32: restored as a JPEG" in said
    assert "b.png, 32x32: restored as an image of unknown origin" in said
    assert "LR-PSNR" not in said
    assert "2 images upscaled by 2 to" in said
    assert "Keep them as PNG" not in said
    blind = UpscaleArguments(str(run), files, tmp_path / "blind", UpscaleOptions(input="unknown"))
    assert upscale.main(blind) == 0
    assert capsys.readouterr().out.count("restored as an image of unknown origin") == 2
    options = UpscaleOptions(input="average")
    exact = UpscaleArguments(str(run), files[1:], tmp_path / "exact", options)
    assert upscale.main(exact) == 0
    said = capsys.readouterr().out
    assert "treated as an exact average of pixels" in said
    assert "LR-PSNR exact" in said
    several = UpscaleArguments(str(run), files, tmp_path, UpscaleOptions(3, samples=2))
    with pytest.raises(UserError, match="`factor=3` has one output, the point estimate"):
        upscale.main(several)


def test_a_run_of_averages_alone_takes_nothing_else(model: SRVAE) -> None:
    alone = make_model(replace(model.config, restorer=None))
    assert isinstance(alone, SRVAE)
    assert Upscaler(alone).kind_of(Photograph(image())).trusted
    with pytest.raises(UserError, match="`input=bicubic`: this run was trained on averages alone"):
        Upscaler(alone, UpscaleOptions(input="bicubic"))


@pytest.mark.parametrize("half", [False, True])
def test_an_exported_file_gives_what_the_model_gives(
    run: Path, model: SRVAE, half: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    out = tmp_path / "new" / "model.onnx"
    assert export.main(ExportArguments(str(run), out, factor=3, half=half)) == 0
    assert "MB" in capsys.readouterr().out
    session = runtime.InferenceSession(out, providers=["CPUExecutionProvider"])
    o = torch.rand(2, 3, 19, 31)
    (output,) = session.run(None, {"input": o.numpy()})
    assert model.restorer is not None
    with torch.no_grad():
        expected = model.restorer.estimate.folded(InputKind(), 3)(o).clamp(0, 1).numpy()
    assert output.dtype == np.float32
    assert np.abs(output - expected).max() < (2e-2 if half else 1e-5)


def test_an_export_replaces_earlier_ones_alone(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    out = tmp_path / "model.onnx"
    for _ in range(2):
        assert export.main(ExportArguments(str(run), out)) == 0
    with pytest.raises(UserError, match="was not written by this command"):
        export.main(ExportArguments(str(run), run / "model.safetensors"))


def test_only_a_restorer_is_exported(model: SRVAE, tmp_path: Path) -> None:
    save_pretrained(make_model(replace(model.config, restorer=None)), tmp_path)
    with pytest.raises(UserError, match="was not trained on damaged inputs"):
        export.main(ExportArguments(str(tmp_path)))
