"""The notebooks run from start to end, what they show is what the project's own commands say, and they ship without
outputs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
TINY = ("prompts_per_iteration=2", "mini_batch_prompts=2", "group_size=4", "val_tasks=2", "test_tasks=2")
TINY_DATA = [f"data.module.{size}" for size in TINY]


def executed(name: str, **parameters: object) -> dict[str, Any]:
    """What a notebook leaves in its names, run from its folder in this process, which has its imports already; its cell
    of parameters is followed by `parameters`."""
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(NOTEBOOKS)
        patch.setattr("sys.path", [*__import__("sys").path])
        patch.setenv("PYTHONPATH", str(NOTEBOOKS.parent / "src"))
        for cell in nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells:
            if cell.cell_type == "code":
                shell.run_cell(cell.source).raise_error()
            if "parameters" in cell.metadata.get("tags", ()):
                shell.push(parameters)
    InteractiveShell.clear_instance()
    matplotlib.pyplot.close("all")
    return shell.user_ns
