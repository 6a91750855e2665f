"""README and the documentation: links lead somewhere, nothing is said twice, the site builds."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import srvae_pyro

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("runs/**/README.md")),
    *sorted(ROOT.glob("docs/notebooks/*.py")),
]
TEXT_CELL = re.compile(r"^# %% \[markdown\]\n((?:#.*\n)*)", re.M)
FENCED = re.compile(r"^ *```.*?^ *```", re.M | re.S)


def text_of(page: Path) -> str:
    """A page without its blocks of code, or a notebook without its cells of code."""
    if page.suffix == ".py":
        cells = TEXT_CELL.findall(page.read_text("utf-8"))
        return "\n".join(re.sub(r"^# ?", "", cell, flags=re.M) for cell in cells)
    return FENCED.sub("", page.read_text("utf-8"))


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ +(.+?) *$", text_of(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-").lower() for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!\w+:)([^)\s]*)\)", text_of(page)):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        if anchor and not anchor.startswith("srvae_pyro."):  # those are of generated pages
            assert anchor in anchors_of(target), link


def test_every_page_and_figure_is_reached() -> None:
    linked = {
        (page.parent / link).resolve()
        for page in PAGES
        for link in re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", text_of(page))
    }
    pages = {*ROOT.glob("docs/**/*.md"), *ROOT.glob("docs/notebooks/*.py")}
    assert pages | set(ROOT.glob("docs/figures/*")) <= linked
    names = (ROOT / "mkdocs.yml").read_text("utf-8")
    on_site = (page.relative_to(ROOT / "docs").with_suffix(".md").as_posix() for page in pages)
    assert [page for page in on_site if page not in names] == []


def test_no_sentence_is_there_twice() -> None:
    seen: dict[str, Path] = {}
    for page in [page for page in PAGES if "runs" not in page.parts]:
        prose = "\n".join(line for line in text_of(page).splitlines() if not line.startswith("|"))
        for sentence in re.split(r"(?<=[.:;])\s+(?=[A-Z])|\n\n", prose):
            words = " ".join(sentence.split())
            if len(words) > 60:
                assert words not in seen, (words, page, seen[words])
                seen[words] = page


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 200


def test_readme_has_the_commands_that_install_run_and_test() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    install = "python3 -m venv .venv && . .venv/bin/activate && pip install -e"
    assert (
        f"{install} . && python -m srvae_pyro.train --preset quickstart --data photos\n" in readme
    )
    assert f"{install} '.[test]' && pytest\n" in readme


def test_citation_has_the_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {srvae_pyro.__version__}\n" in citation


needs_mkdocs = pytest.mark.skipif(
    find_spec("mkdocs") is None, reason="needs pip install -e '.[docs]'"
)


def build_site(place: Path, notebooks: str) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place)]
    environment = os.environ | {"RUN_NOTEBOOKS": notebooks}
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert built.returncode == 0, built.stderr


@needs_mkdocs
def test_site_builds_without_warnings(tmp_path: Path) -> None:
    build_site(tmp_path, notebooks="false")
    commands = (tmp_path / "reference" / "commands.html").read_text("utf-8")
    settings = (tmp_path / "reference" / "configuration.html").read_text("utf-8")
    classes = (tmp_path / "reference" / "python" / "models.html").read_text("utf-8")
    assert "--max-minutes" in commands
    assert "--memory-gb" in commands
    assert "warmup_steps" in settings
    assert 'id="srvae_pyro.models.SRVAE"' in classes


@needs_mkdocs
@pytest.mark.slow
def test_site_has_the_notebooks_with_their_figures(tmp_path: Path) -> None:
    build_site(tmp_path, notebooks="true")
    for notebook in ROOT.glob("docs/notebooks/*.py"):
        name = notebook.stem
        page = (tmp_path / "notebooks" / f"{name}.html").read_text("utf-8")
        figures = list((tmp_path / "notebooks" / f"{name}_files").glob("*.png"))
        assert len(figures) >= 2
        assert all(f'src="{name}_files/{figure.name}"' in page for figure in figures)
        assert json.loads((tmp_path / "notebooks" / f"{name}.ipynb").read_text("utf-8"))["cells"]
