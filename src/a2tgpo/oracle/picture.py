"""The whitened cosines as a picture, in plain SVG."""

import math
from collections.abc import Mapping
from html import escape

from a2tgpo.oracle.report import SetReport

FIGURE = "whitened cosine"
LABELS, WIDTH, LINE = 250, 260, 22
"""Pixels of the names, of a panel, of a row."""


def draw(reports: Mapping[str, SetReport]) -> str:
    """A panel a set of forks, a row a credit: its cosine with one standard error to either side."""
    credits = list(next(iter(reports.values())).fidelities)
    height = LINE * (len(credits) + 3)
    shapes = [_text(LABELS - 12, _row(i), name, "end") for i, name in enumerate(credits)]
    for panel, (name, report) in enumerate(reports.items()):
        shapes += _panel(LABELS + panel * (WIDTH + 30), name, report, len(credits))
    width = LABELS + len(reports) * (WIDTH + 30)
    size = f'width="{width}" height="{height}" font-family="sans-serif" font-size="12"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="white"/>', *shapes, "</svg>"]) + "\n"


def _panel(left: float, name: str, report: SetReport, n_rows: int) -> list[str]:
    """Cosines from 0 to 1; what is below 0 stands at 0."""
    bottom = _row(n_rows)
    shapes = [_text(left + WIDTH / 2, LINE * 0.8, f"{name}: {FIGURE}", "middle")]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x = left + WIDTH * tick
        shapes += [_line(x, LINE, x, bottom, "#ddd"), _text(x, bottom + LINE * 0.8, f"{tick:g}", "middle")]
    for i, fidelity in enumerate(report.fidelities.values()):
        figure = fidelity.figures[FIGURE]
        error = figure.error if math.isfinite(figure.error) else 0.0
        low, middle, high = (left + WIDTH * min(max(figure.value + d, 0), 1) for d in (-error, 0, error))
        shapes.append(_line(low, _row(i), high, _row(i), "#356"))
        shapes.append(f'<circle cx="{middle:.1f}" cy="{_row(i):.1f}" r="4" fill="#356"/>')
    return shapes


def _row(i: int) -> float:
    return LINE * (i + 1.5)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="2"/>'
