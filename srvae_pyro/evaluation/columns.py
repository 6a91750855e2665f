"""Tables as text."""

from __future__ import annotations

__all__ = ["columns"]


def columns(rows: list[list[str]], left: int) -> str:
    """Cells in aligned columns: the first ``left`` flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
