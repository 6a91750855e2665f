"""What mkdocs adds to the pages: files from outside docs/, notebooks, commands, settings, formulas.

Nothing is declared twice: flags come from each command's ``--help-all``, settings from dataclasses.
"""

import dataclasses
import inspect
import json
import os
import posixpath
import re
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import jupytext
from latex2mathml.converter import convert
from mkdocs.structure.files import File
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from srvae_pyro import config as settings  # noqa: E402
from srvae_pyro.checked import Above, AtLeast, Between, hints_of, metadata_of, type_of  # noqa: E402
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
KINDS = {int: "whole number", float: "number", bool: "`true` or `false`", str: "text"}
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
    cells.metadata |= {"kernelspec": kernel, "language_info": {"name": "python"}}
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
    """A help's text for a table: its punctuation is not Markdown's, and flags are code."""
    return re.sub(r"((?<![\w-])--[a-z][\w-]*)|([|<*_\[])", escaped, text)


def escaped(found: re.Match[str]) -> str:
    return f"`{found[1]}`" if found[1] else f"\\{found[2]}"


def command(name: str) -> str:
    """A command's help: its first lines, and a table for each box of flags."""
    call = [sys.executable, "-m", f"srvae_pyro.{name}", "--help-all"]
    wide = os.environ | {"COLUMNS": "10000", "PYTHONPATH": str(ROOT)}  # no flag takes two lines
    run = subprocess.run(call, capture_output=True, text=True, check=True, env=wide)
    about, boxes = re.split(r"^(?=╭)", run.stdout, maxsplit=1, flags=re.M)
    usage, about = about.split("\n\n", 1)
    usage = re.sub(r"^usage: ", "", usage, flags=re.I)
    out = [f"## {name}\n\n```text\n{usage}\n```\n\n{cell(re.sub(r' +$', '', about, flags=re.M))}"]
    lines = boxes.splitlines()
    middle = lines[0].find("╮╭") + 1 or len(lines[0])  # a long help has two columns of boxes
    for line in [line[:middle] for line in lines] + [line[middle:] for line in lines]:
        if title := re.match(r"╭─ (.+?) ─", line):
            out.append(f"\n| {title[1]} | meaning | default |\n|---|---|---|")
        elif row := re.match(r"│ (?:\* )? *(\S.*?)(?:  +(\S.*?))? *│", line):
            words = re.sub(r"\{(.*)\}", lambda m: m[1].replace(",", " "), row[1]).split()
            out.append(f"| {' '.join(f'`{word}`' for word in words)} | {meaning(row[2] or '')} |")
    return "\n".join(out) + "\n"


def meaning(text: str) -> str:
    """The cells of a flag's meaning and default, by what its help says in brackets at its end."""
    text, required, _ = text.partition(" [required]")
    text, _, default = text.partition(" [default: ")
    text, _, choices = text.partition(" [choices: ")
    listed = f"{': ' * bool(text)}{codes(choices.rstrip(']').split(', '))}" if choices else ""
    return f"{cell(text)}{listed} | {cell('required' if required else default.rstrip(']'))}"


def codes(words: Iterable[object]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def table(name: str) -> str:
    """The settings of a dataclass, whose meanings are on its annotations or in comments."""
    kind = getattr(settings, name)
    source = inspect.getsource(kind)
    flags = {flag.setting: flag.name for flag in setting_flags() if PARTS[flag.part] is kind}
    out = [f"{kind.__doc__}\n", "| setting | meaning | values | default |\n|---|---|---|---|"]
    for field in [field for field in dataclasses.fields(kind) if field.name != "info"]:
        hint = hints_of(kind)[field.name]
        texts = [mark for mark in metadata_of(hint) if isinstance(mark, str)]
        texts += re.findall(rf"^    {field.name}: .*?# (.*)$", source, re.M)
        texts += re.findall(rf"^    # (.*)\n    {field.name}: ", source, re.M)
        about = cell(texts[0]) if texts else ""
        if field.name in flags:
            about += f" (`--{flags[field.name].replace('_', '-')}`)"
        default = inspect.signature(kind).parameters[field.name].default
        out.append(f"| `{field.name}` | {about} | {values(hint)} | {shown(default)} |")
    return "\n".join(out)


def values(hint: Any) -> str:
    """What a setting can be, in words."""
    kind = type_of(hint)
    kinds = [each for each in get_args(kind) if each is not NoneType]
    optional = NoneType in get_args(kind)
    if get_origin(kind) is Literal:
        text = codes(kinds)
    elif dataclasses.is_dataclass(kind := kinds[0] if optional else kind):
        text = f"[{kind.__name__}](#{kind.__name__.lower()})"
    elif get_origin(kind) is tuple:
        text = f"{len(kinds)} {KINDS[kinds[0]]}s"
    else:
        text = KINDS[kind]
    bounds = [mark for mark in metadata_of(hint) if isinstance(mark, Between)]
    return ", ".join([text, *map(in_words, bounds)]) + ", or `null`" * optional


def in_words(bounds: Between) -> str:
    """The bounds of a number; those beyond any sensible value are not said."""
    most = f"{bounds.most:,}"
    if not isinstance(bounds, AtLeast):
        return f"{bounds.least} to {most}"
    least = f"{'above' if isinstance(bounds, Above) else 'at least'} {bounds.least}"
    return least if bounds.most >= 1e9 else f"{least}, at most {most}"


def shown(default: Any) -> str:
    """A default as config.json has it; of a network what differs from its class."""
    if default is inspect.Parameter.empty:
        return "required"
    if dataclasses.is_dataclass(default):
        fields = [f for f in dataclasses.fields(default) if getattr(default, f.name) != f.default]
        return " ".join(f"`{field.name}={getattr(default, field.name)}`" for field in fields)
    return f"`{default}`" if isinstance(default, str) and default else f"`{json.dumps(default)}`"
