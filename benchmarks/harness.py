"""What all benchmarks share: ways of doing the same work are held against each other first, then timed in turn."""

import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from a2tgpo.system.process import precision_context

PACKAGES = ("torch", "transformers", "trl", "a2tgpo")


class Disagreement(Exception):
    """Two ways of doing the same work came to different results, so there is nothing to time."""


@dataclass
class Benchmark:
    """One benchmark under way: what was checked, timed and counted, and which goals were met."""

    name: str
    device: torch.device
    rounds: int
    sizes: Mapping[str, Any]
    checks: list[dict[str, Any]] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    goals: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a reader must know of the figures, such as random weights."""

    def precision(self) -> AbstractContextManager:
        """What every way computes in: fp32 on a CPU, bf16 over fp32 weights on a GPU."""
        return precision_context(self.device, "bf16-mixed" if self.device.type == "cuda" else "32-true")

    def note(self, text: str) -> None:
        """Keep and print what a reader must know, once."""
        if text not in self.notes:
            self.notes.append(text)
            print(f"{text}\n")

    def agree(self, what: str, difference: float, tolerance: float) -> None:
        """Raises Disagreement where `difference` is above `tolerance` (no number is)."""
        if not difference <= tolerance:
            raise Disagreement(f"{self.name}: {what}: {difference:.1e} apart; expected at most {tolerance:.0e}")
        self.checks.append({"what": what, "difference": difference, "tolerance": tolerance})
        print(f"agree within {tolerance:.0e}: {what}, {difference:.1e} apart")

    def compare(
        self,
        title: str,
        ways: Mapping[str, Callable[[], object]],
        facts: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        rounds: int | None = None,
        wall: bool = False,
        check: Callable[[str, Any], None] = lambda name, result: None,
    ) -> dict[str, float]:
        """Run every way in turn, `rounds` times after a first round that does not count (the only one counts), and
        table its seconds: of the CPU, or with `wall` and on a GPU those on the clock. A ratio is that to the first way
        in the same round. `check` is shown the first result of each way; `facts` are further columns.

        Returns the median ratio of each way."""
        rounds = rounds or self.rounds
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for n in range(rounds + (rounds > 1)):
            for name, way in ways.items():
                result, spent = self._timed(way, wall)
                seconds[name].append(spent)
                if n == 0:
                    check(name, result)
        seconds = {name: spent[-rounds:] for name, spent in seconds.items()}
        first = seconds[next(iter(ways))]
        rows = []
        for name, spent in seconds.items():
            ratios = [own / other for own, other in zip(spent, first, strict=True)]
            further = (facts or {}).get(name, {})
            rows.append({"way": name, **spread("seconds", spent), **spread("ratio", ratios), **further})
        self.table(title, rows)
        return {row["way"]: row["ratio"] for row in rows}

    def now(self, wall: bool = False) -> float:
        """Seconds of the CPU, or with `wall` and on a GPU those on the clock, once the work so far is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.perf_counter() if wall else time.process_time()

    def timed(self, way: Callable[[], object]) -> float:
        """Seconds that `way` takes."""
        return self._timed(way, wall=False)[1]

    def _timed(self, way: Callable[[], object], wall: bool) -> tuple[object, float]:
        began = self.now(wall)
        result = way()
        return result, self.now(wall) - began

    def table(self, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep rows of figures and print them as Markdown. `x`, `x_least` and `x_most` share a column."""
        self.tables.append({"title": title, "rows": list(rows)})
        columns = [name for name in dict.fromkeys(key for row in rows for key in row) if not _is_end(name)]
        print(f"\n{title}\n\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
        for row in rows:
            print(f"| {' | '.join(_cell(row, name) for name in columns)} |", flush=True)
        print()

    def goal(self, what: str, measured: float, at_most: float | None = None, at_least: float | None = None) -> None:
        """Keep and print whether a figure is what it should be."""
        met = (at_most is None or measured <= at_most) and (at_least is None or measured >= at_least)
        self.goals.append({"goal": what, "at_most": at_most, "at_least": at_least, "measured": measured, "met": met})
        bound = f"at least {at_least:g}" if at_most is None else f"at most {at_most:g}"
        print(f"goal {'met' if met else 'MISSED'}: {what}: {measured:.4g}, {bound}", flush=True)

    def write(self, folder: Path) -> Path:
        """Keep everything as `folder`/name.json, on a GPU name.cuda.json."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}{'.cuda' if self.device.type == 'cuda' else ''}.json"
        content = {
            "benchmark": self.name,
            "device": device_name(self.device),
            "threads": torch.get_num_threads(),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "rounds": self.rounds,
            "sizes": dict(self.sizes),
            "notes": self.notes,
            "checks": self.checks,
            "tables": self.tables,
            "goals": self.goals,
        }
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return path


def device_name(device: torch.device) -> str:
    """What a reader calls the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}"


def spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """Median, least and most: cells of one column."""
    return {name: median(values), f"{name}_least": min(values), f"{name}_most": max(values)}


def _is_end(name: str) -> bool:
    return name.endswith(("_least", "_most"))


def _cell(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name, "")
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    if f"{name}_least" in row:
        return f"{_short(value)} ({_short(row[f'{name}_least'])}–{_short(row[f'{name}_most'])})"
    return _short(value)


def _short(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"
