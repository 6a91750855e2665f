"""The documentation's notebooks run as scripts; they assert what they say."""

import io
import runpy
from pathlib import Path

import matplotlib
import pytest
from matplotlib import pyplot

NOTEBOOKS = sorted((Path(__file__).parent.parent / "docs" / "notebooks").glob("*.py"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def draw() -> None:
        drawn = io.BytesIO()
        pyplot.gcf().savefig(drawn)
        sizes.append(len(drawn.getvalue()))
        pyplot.close("all")

    matplotlib.use("agg")
    monkeypatch.setattr(pyplot, "show", draw)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    assert len(sizes) >= 2
    assert min(sizes) > 5000  # bytes: no figure is empty
    assert list(tmp_path.iterdir()) == []


def test_notebooks_are_short() -> None:
    lengths = {path.name: len(path.read_text("utf-8").splitlines()) for path in NOTEBOOKS}
    assert [name for name, lines in lengths.items() if lines > 300] == []
