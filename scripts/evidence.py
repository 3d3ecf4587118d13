"""The study: all runs of docs/evidence/plan.yaml, several at a time. What results.json holds already is not run again.

    python scripts/evidence.py                   # everything, seeds in blocks, so that a stop leaves the methods level
    python scripts/evidence.py --study quick     # one study of the plan
    python scripts/evidence.py --list            # what is still to be run

Runs are jobs of Hydra multiruns under logs/evidence/<setting>/<method>/. After each of them its figures are added to
docs/evidence/results.json; `scripts/evidence_report.py` makes the tables and figures from that file alone.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, TypeVar

from omegaconf import OmegaConf

from a2tgpo.evaluation.runs import read_rows
from a2tgpo.system.files import read_json_file, whole_file

ROOT = Path(__file__).resolve().parents[1]
PLAN = ROOT / "docs" / "evidence" / "plan.yaml"
RESULTS = ROOT / "docs" / "evidence" / "results.json"
SEEDS_TOGETHER = 3
"""Seeds of one method that a multirun takes before it is another method's turn."""
POINTS = 13
"""Into how many points the iterations of a run are averaged in its curves."""
T = TypeVar("T")


@dataclass(frozen=True, order=True)
class Run:
    """One run of the study."""

    seed: int
    setting: str
    method: str

    @property
    def key(self) -> str:
        """What results.json knows it by."""
        return f"{self.setting}/{self.method}/{self.seed}"


@dataclass(frozen=True)
class Study:
    """A question, and the methods × settings × seeds that are to answer it."""

    about: str
    methods: Sequence[str]
    settings: Sequence[str]
    seeds: Sequence[int]
    figures: Sequence[str]
    """Keys of summary.json, or curves, of which the mean is meant."""
    contrasts: Sequence[Sequence[str]]
    """Pairs of methods, fixed beforehand."""


@dataclass(frozen=True)
class Plan:
    """Settings and methods by name, each a list of overrides; the studies made of them."""

    settings: Mapping[str, Sequence[str]]
    methods: Mapping[str, Sequence[str]]
    studies: Mapping[str, Study]
    curves: Sequence[str]
    """Columns of metrics.csv that results.json keeps."""

    @classmethod
    def read(cls, path: Path) -> "Plan":
        """The plan in a yaml file. Raises ValueError naming a study whose method or setting the plan does not have."""
        content = OmegaConf.to_container(OmegaConf.load(path))
        plan = cls(**content | {"studies": {name: Study(**study) for name, study in content["studies"].items()}})
        for name, study in plan.studies.items():
            for group, known in (("methods", plan.methods), ("settings", plan.settings)):
                if missing := set(getattr(study, group)) - set(known):
                    raise ValueError(f"{path}: studies.{name}.{group}: {min(missing)}; expected {', '.join(known)}")
            if missing := {method for pair in study.contrasts for method in pair} - set(study.methods):
                raise ValueError(f"{path}: studies.{name}.contrasts: {min(missing)}; expected a method of the study")
        return plan

    def runs(self, names: Sequence[str]) -> list[Run]:
        """The runs of these studies, each once; all methods of a seed before the next seed."""
        chosen = [self.studies[name] for name in names]
        return sorted(
            {
                Run(seed, setting, method)
                for study in chosen
                for method in study.methods
                for setting in study.settings
                for seed in study.seeds
            }
        )


def blocks(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """Runs of one method and setting, some seeds at a time; the lowest seeds of all methods come first."""
    seeds = sorted({run.seed for run in runs})
    for together in parts(seeds, SEEDS_TOGETHER):
        groups: dict[tuple[str, str], list[Run]] = {}
        for run in runs:
            if run.seed in together:
                groups.setdefault((run.setting, run.method), []).append(run)
        yield from groups.values()


def train(plan: Plan, block: Sequence[Run], logs: Path) -> list[tuple[Run, dict[str, Any]]]:
    """Run a block as one multirun, on one thread; the figures of each of its runs that came to its end."""
    first = block[0]
    directory = logs / first.setting / first.method
    for run in block:
        shutil.rmtree(directory / str(run.seed), ignore_errors=True)  # of one that was cut off
    overrides = [*plan.methods[first.method], *plan.settings[first.setting]]
    seeds = "seed=" + ",".join(str(run.seed) for run in block)
    no_end = "~callbacks.nothing_learned"  # a run that collapses is a result
    sweep = (f"hydra.sweep.dir={directory}", "hydra.sweep.subdir=${seed}", "logger=none", seeds)
    command = [sys.executable, str(ROOT / "src" / "train.py"), "-m", *overrides, no_end, *sweep]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "output.log").open("a") as log:
        subprocess.run(command, cwd=ROOT, env=one_thread, stdout=log, stderr=log, check=False)
    return [(run, found) for run in block if (found := figures(directory / str(run.seed), plan.curves))]


def figures(directory: Path, columns: Sequence[str]) -> dict[str, Any] | None:
    """What results.json keeps of a run: its summary, and its curves in `POINTS` points; None where it did not end."""
    path = directory / "summary.json"
    summary = read_json_file(path) if path.is_file() else {}
    if "test/success" not in summary:
        return None
    rows = read_rows(directory / "metrics.csv")
    return {"summary": summary, "curves": {name: curve(rows, name) for name in columns}}


def curve(rows: Mapping[int, Mapping[str, str]], name: str) -> list[list[float]]:
    """[iteration, mean of the column up to there since the last point] in at most `POINTS` points."""
    known = [(i, float(row[name])) for i, row in sorted(rows.items()) if name in row]
    return [[part[-1][0], round(mean(v for _, v in part), 5)] for part in parts(known, -(-len(known) // POINTS))]


def parts(values: Sequence[T], length: int) -> list[Sequence[T]]:
    """`values` cut into parts of `length`, the last one shorter."""
    return [values[i : i + length] for i in range(0, len(values), length)] if values else []


def read_results(path: Path) -> dict[str, Any]:
    """Figures by run."""
    return read_json_file(path) if path.is_file() else {}


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """One line a run, sorted, so that a change shows as the lines it adds."""
    lines = (f"{json.dumps(key)}: {json.dumps(results[key], sort_keys=True)}" for key in sorted(results))
    with whole_file(path) as file:
        file.write("{\n" + ",\n".join(lines) + "\n}\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, default=PLAN)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--logs", type=Path, default=ROOT / "logs" / "evidence")
    parser.add_argument("--study", nargs="+", help="of the plan; all where none is named")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="runs at a time")
    parser.add_argument("--list", action="store_true", help="only say what is still to be run")
    arguments = parser.parse_args()
    plan = Plan.read(arguments.plan)
    results = read_results(arguments.results)
    open_runs = [run for run in plan.runs(arguments.study or list(plan.studies)) if run.key not in results]
    print(f"{len(open_runs)} runs to go, {len(results)} done", flush=True)
    if arguments.list:
        print("\n".join(run.key for run in open_runs))
        return
    failed = 0
    with ThreadPoolExecutor(arguments.workers) as pool:
        jobs = {pool.submit(train, plan, block, arguments.logs.resolve()): block for block in blocks(open_runs)}
        for job in as_completed(jobs):
            ended = job.result()
            results |= {run.key: kept for run, kept in ended}
            write_results(arguments.results, results)
            failed += len(jobs[job]) - len(ended)
            for run, kept in ended:
                print(f"{run.key}: test {kept['summary']['test/success']:.3f}", flush=True)
    if failed:
        sys.exit(f"error: {failed} runs did not come to their end; see output.log under {arguments.logs}")


if __name__ == "__main__":
    main()
