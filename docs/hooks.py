"""What mkdocs adds to the pages: files from outside docs/, notebooks, commands, settings, formulas.

Nothing is declared twice: flags come from each command's ``--help-all``, settings from dataclasses.
"""

import dataclasses
import inspect
import os
import posixpath
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jupytext
from latex2mathml.converter import convert
from mkdocs.structure.files import File
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from srvae_pyro import config as settings  # noqa: E402
from srvae_pyro.checked import Between, hints_of, metadata_of, type_of  # noqa: E402
from srvae_pyro.training.arguments import PARTS, setting_flags  # noqa: E402

PAGES = {  # of the site, by the file that they are made from
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "runs/README.md": "models/index.md",
}
for card in sorted(ROOT.glob("runs/*/README.md")):
    PAGES[f"runs/{card.parent.name}/README.md"] = f"models/{card.parent.name}.md"
NOTEBOOKS = sorted(ROOT.glob("docs/notebooks/*.py"))  # Python with cells, as jupytext reads it
PAGES_OF_NOTEBOOKS = {
    f"docs/notebooks/{path.name}": f"notebooks/{path.stem}.md" for path in NOTEBOOKS
}
SOURCES = {page: source for source, page in (PAGES | PAGES_OF_NOTEBOOKS).items()}
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)[^)#\s]+")  # what a relative link is to
MATH = re.compile(r"^```math\n(.*?)^```", re.M | re.S)  # as GitHub has it


def on_files(files: Any, config: Any) -> Any:
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
    for path in NOTEBOOKS:
        made = notebook(path.stem, path.read_text("utf-8"), config.extra["run_notebooks"])
        for name, content in made.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


@cache  # while mkdocs serves, a notebook is run again when it has changed
def notebook(name: str, text: str, run: bool) -> dict[str, str | bytes]:
    """The files of a notebook's page: itself, with its outputs if it is to be run, and figures."""
    cells = jupytext.reads(text, "py:percent")
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    cells.metadata["kernelspec"] = kernel
    if run:
        no_widgets = "ignore:IProgress not found"  # progress bars, which no notebook here has
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": no_widgets}
        no_network = Config({"KernelManager": {"transport": "ipc"}})
        NotebookClient(cells, timeout=1800, config=no_network).execute(env=environment)
    download = (
        f"*This page is `docs/notebooks/{name}.py`{', run when the site was built' * run}. It "
        f"needs the package matplotlib beside this one. [Download it as a notebook]({name}.ipynb).*"
    )
    names = {"unique_key": name, "output_files_dir": f"{name}_files"}
    page, resources = MarkdownExporter().from_notebook_node(cells, names)
    title, rest = page.lstrip().split("\n", 1)
    ipynb = jupytext.writes(cells, "ipynb")
    text_files = {f"{name}.md": f"{title}\n\n{download}\n{rest}", f"{name}.ipynb": ipynb}
    return text_files | resources["outputs"]


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    here = page.file.src_uri
    folder = posixpath.dirname(SOURCES.get(here, f"docs/{here}"))

    def on_site(link: re.Match[str]) -> str:
        """A link between files of the repository as one between pages."""
        target = posixpath.normpath(posixpath.join(folder, link[0]))
        target = (PAGES | PAGES_OF_NOTEBOOKS).get(target, target.removeprefix("docs/"))
        return posixpath.relpath(target, posixpath.dirname(here) or ".")

    markdown = LINK.sub(on_site, markdown)
    markdown = MATH.sub(
        lambda m: f"<div>{convert(m[1].strip(), display='block')}</div>\n", markdown
    )
    markdown = re.sub(r"<!-- command (\w+) -->", lambda match: command(match[1]), markdown)
    return re.sub(r"<!-- settings (\w+) -->", lambda match: table(match[1]), markdown)


def cell(text: str) -> str:
    return re.sub(r"([|<*_\[])", r"\\\1", text)


def command(name: str) -> str:
    """A command's help: its first lines, and a table for each box of flags."""
    call = [sys.executable, "-m", f"srvae_pyro.{name}", "--help-all"]
    wide = os.environ | {"COLUMNS": "10000", "PYTHONPATH": str(ROOT)}  # no flag takes two lines
    run = subprocess.run(call, capture_output=True, text=True, check=True, env=wide)
    about, boxes = re.split(r"^(?=╭)", run.stdout, maxsplit=1, flags=re.M)
    usage, about = about.removeprefix("usage: ").split("\n\n", 1)
    out = [f"## {name}\n\n```text\n{usage}\n```\n\n{cell(about)}"]
    lines = boxes.splitlines()
    middle = lines[0].find("╮╭") + 1 or len(lines[0])  # a long help has two columns of boxes
    for line in [line[:middle] for line in lines] + [line[middle:] for line in lines]:
        if title := re.match(r"╭─ (.+?) ─", line):
            out.append(f"\n| {title[1]} | |\n|---|---|")
        elif row := re.match(r"│ (\S.*?)(?:  +(\S.*?))? *│", line):
            words = re.sub(r"\{(.*)\}", lambda m: m[1].replace(",", " "), row[1]).split()
            out.append(f"| {' '.join(f'`{word}`' for word in words)} | {cell(row[2] or '')}")
        elif rest := re.match(r"│  +(\S.*?) *│", line):
            out[-1] += cell(rest[1])
    return "\n".join(out) + "\n"


def table(name: str) -> str:
    """The settings of a dataclass, whose meanings are on its annotations or in comments."""
    kind = getattr(settings, name)
    flags = {flag.setting: flag.name for flag in setting_flags() if PARTS[flag.part] is kind}
    out = [f"{kind.__doc__}\n", "| setting | meaning | default | type |\n|---|---|---|---|"]
    for field in [field for field in dataclasses.fields(kind) if field.name != "info"]:
        hint = hints_of(kind)[field.name]
        texts = [mark for mark in metadata_of(hint) if isinstance(mark, str)]
        texts += re.findall(rf"^    {field.name}: .*?# (.*)$", inspect.getsource(kind), re.M)
        meaning = texts[:1] + [str(mark) for mark in metadata_of(hint) if isinstance(mark, Between)]
        if field.name in flags:
            meaning.append(f"`--{flags[field.name].replace('_', '-')}`")
        kind_of = inspect.formatannotation(type_of(hint), base_module=kind.__module__)
        default = inspect.signature(kind).parameters[field.name].default
        shown = "required" if default is inspect.Parameter.empty else f"`{default!r}`"
        out.append(f"| `{field.name}` | {cell('; '.join(meaning))} | {shown} | {cell(kind_of)} |")
    return "\n".join(out)
