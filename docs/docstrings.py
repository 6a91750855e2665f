"""Docstrings' reStructuredText as Markdown, for the reference: an extension of griffe."""

import re
import textwrap
from typing import Any

import griffe
from latex2mathml.converter import convert

BLOCK = re.compile(r"^( *)\.\. math::(?:\n|[ ]*)((?:\1 +.*\n?|[ ]*\n)+)", re.M)
DOCTEST = re.compile(r"^( *)Example::\n", re.M)
LITERAL = re.compile(r"::\n\n((?:    .*\n?|\n)+)", re.M)


class Restructured(griffe.Extension):
    """Formulas become MathML, roles code, and ``::`` blocks fenced ones."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)


def to_markdown(text: str) -> str:
    text = BLOCK.sub(lambda m: f"\n{m[1]}{math(m[2], 'block')}\n\n", text)
    text = re.sub(r":math:`([^`]+)`", lambda m: math(m[1], "inline"), text)
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?([\w]+)`", r"`\1`", text)
    text = DOCTEST.sub(r"\1Example:\n", text)
    return LITERAL.sub(lambda m: f"\n\n```text\n{textwrap.dedent(m[1]).rstrip()}\n```\n", text)


def math(tex: str, display: str) -> str:
    return convert(" ".join(tex.split()), display=display)
