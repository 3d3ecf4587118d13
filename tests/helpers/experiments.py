"""The experiments that ship, and in which lane what takes seconds is done for each."""

from collections.abc import Iterable
from pathlib import Path

import pytest

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
RIVALS = [name for name in EXPERIMENTS if not name.startswith(("a2tgpo", "grpo"))]
"""What a2tgpo and grpo are held against."""


def lanes(names: Iterable[str], fast: tuple[str, ...] = ()) -> list:
    """`names` for parametrize: rivals are in the slow lane, but for those in `fast`."""
    return [
        pytest.param(name, marks=pytest.mark.slow) if name.split("/")[-1] in {*RIVALS} - {*fast} else name
        for name in names
    ]
