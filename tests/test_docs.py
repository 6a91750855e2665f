"""README and the documentation: links lead somewhere, nothing is said twice, the site builds."""

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
]
FENCED = re.compile(r"^ *```.*?^ *```", re.M | re.S)


def text_of(page: Path) -> str:
    """A page without its blocks of code."""
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
    pages = set(ROOT.glob("docs/**/*.md"))
    assert pages | set(ROOT.glob("docs/figures/*")) <= linked
    names = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert [page for page in pages if page.relative_to(ROOT / "docs").as_posix() not in names] == []


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


@pytest.mark.skipif(find_spec("mkdocs") is None, reason="needs pip install -e '.[docs]'")
def test_site_builds_without_warnings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    commands = (tmp_path / "reference" / "commands.html").read_text("utf-8")
    settings = (tmp_path / "reference" / "configuration.html").read_text("utf-8")
    classes = (tmp_path / "reference" / "python" / "models.html").read_text("utf-8")
    assert "--max-minutes" in commands
    assert "--memory-gb" in commands
    assert "warmup_steps" in settings
    assert 'id="srvae_pyro.models.SRVAE"' in classes
