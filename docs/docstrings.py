"""Docstrings' reStructuredText as Markdown, for the reference: an extension of griffe."""

import re
import textwrap
from typing import Any

import griffe
from latex2mathml.converter import convert

BLOCK = re.compile(r"^( *)\.\. math::(?:\n|[ ]*)((?:\1 +.*\n?|[ ]*\n)+)", re.M)
DOCTEST = re.compile(r"^( *)Example::?\n+(?= *>>>)", re.M)  # "Example" would be an admonition
LITERAL = re.compile(r"::\n\n((?:    .*\n?|\n)+)", re.M)


class Restructured(griffe.Extension):
    """Formulas become MathML, roles code, ``::`` blocks fenced ones; types lose their bounds."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        obj.labels -= {"class-attribute", "instance-attribute"}
        if isinstance(obj, griffe.Attribute):
            obj.annotation = without_bounds(obj.annotation)
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)


def without_bounds(annotation: Any) -> Any:
    """The type of an ``Annotated[type, ...]``."""
    if getattr(annotation, "canonical_name", "") == "Annotated":
        return annotation.slice.elements[0]
    return annotation


def to_markdown(text: str) -> str:
    text = BLOCK.sub(lambda m: f"\n{m[1]}{math(m[2], 'block')}\n\n", text)
    text = re.sub(r":math:`([^`]+)`", lambda m: f"<span>{math(m[1], 'inline')}</span>", text)
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?([\w]+)`", r"`\1`", text)
    text = DOCTEST.sub(r"\1Examples:\n", text)
    return LITERAL.sub(lambda m: f"\n\n```text\n{textwrap.dedent(m[1]).rstrip()}\n```\n", text)


def math(tex: str, display: str) -> str:
    return convert(" ".join(tex.split()), display=display)
