"""A run as one HTML file that needs nothing else: no network, no server."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from a2tgpo.system.files import whole_file
from a2tgpo.viewer.run_data import RunData

PAGE = "view.html"
"""The file of a run directory that is its page."""
CODE = (
    "format.js",
    "measures.js",
    "health.js",
    "charts.js",
    "prompts.js",
    "grid.js",
    "tokens.js",
    "blame.js",
    "turn.js",
    "viewer.js",
)
CURVES = (
    "val/success",
    "train/success",
    "update/clip_fraction",
    "policy/entropy",
    "policy/kl_to_reference",
    "policy/rollout_gap_mean",
    "credit/equal_outcome_prompts",
    "credit/no_spread_turn_groups",
    "train/tool_failures",
    "train/failed_episodes",
    "update/skipped_steps",
)
"""Columns of metrics.csv that a page shows."""
FIGURES = {
    "start": "val/success/start",
    "best": "val/success/best",
    "final": "val/success/final",
    "test": "test/success",
}


def write_page(run: RunData, path: Path) -> None:
    """Write the page of `run` to `path`. Raises OSError naming it."""
    with whole_file(path) as file:
        file.write(page(run))


def page(run: RunData) -> str:
    """Template, style, code and data as one text."""
    parts = {
        "title": escape(run.directory.resolve().name),
        "style": _asset("viewer.css"),
        "data": inline_json(page_data(run)),
        "code": "\n".join(_asset(name) for name in CODE),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _asset("viewer.html"))  # once: data is not searched


def page_data(run: RunData) -> dict[str, Any]:
    """What the page knows, as plain data."""
    made_of = run.composition
    return {
        "name": run.directory.resolve().name,
        "composition": {**asdict(made_of), "rescaled": made_of.rescaled, "summed": made_of.summed},
        "settings": run.settings,
        "figures": {name: run.summary[key] for name, key in FIGURES.items() if key in run.summary},
        "curves": {
            column: [[i, float(row[column])] for i, row in sorted(run.rows.items()) if column in row]
            for column in CURVES
        },
        "n_groups": run.n_groups,
        "every": run.every,
        "beside": run.beside,
        "groups": [group.as_json() for group in run.groups],
    }


def inline_json(value: Any) -> str:
    """`value` as JSON that may stand inside of <script>, whatever its texts say: no <, no &, nothing beyond ASCII.

    Numbers that are not finite, which JSON has not, become the texts that JavaScript's Number reads.
    """
    text = json.dumps(finite_json(value), separators=(",", ":"), allow_nan=False)
    return re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text)


def finite_json(value: Any) -> Any:
    """`value` with the texts NaN, Infinity and -Infinity in the place of numbers that JSON has not."""
    if isinstance(value, Mapping):
        return {key: finite_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _asset(name: str) -> str:
    return files("a2tgpo.viewer").joinpath(name).read_text(encoding="utf-8")
