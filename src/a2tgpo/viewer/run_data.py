"""What a run directory holds for its readers: groups of trajectories with their credit, curves, settings."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import yaml

from a2tgpo.evaluation.runs import TABLE, read_rows
from a2tgpo.system.files import read_json_file
from a2tgpo.viewer.arithmetic import Composition, composition
from a2tgpo.viewer.groups import Group, Line, groups_of, read_lines

CONFIG, SUMMARY, ROLLOUTS, FORKS = "config.yaml", "summary.json", "rollouts", "forks"
LIMIT = 16_000_000
"""Characters of JSON that a page holds at most, or one group of each iteration."""
NOISE = "credit/log_gain_noise"
"""The column of metrics.csv that a credit needs to judge gains by their rounding."""


class OtherCredit(Protocol):
    """A credit beside the run's own."""

    name: str

    def __call__(self, lines: Sequence[Line], log_gain_noise: float) -> None:
        """Write what it gives to each turn into the lines of a rollout set; its log-gains have this rounding error."""
        ...


@dataclass(frozen=True)
class RunData:
    """A run as far as its directory tells."""

    directory: Path
    composition: Composition
    settings: Mapping[str, Any]
    """experiment, seed, overrides."""
    summary: Mapping[str, Any]
    """Empty before the first validation."""
    rows: Mapping[int, Mapping[str, str]]
    """metrics.csv by iteration."""
    groups: Sequence[Group]
    n_groups: int
    """Groups in its files, of which `groups` are one of `every` in each iteration."""
    every: int
    beside: str
    """Name of the other credit; empty where there is none."""


def rollout_files(directory: Path) -> list[Path]:
    """The rollout files of the run in `directory`, in order of iteration and rank."""
    return sorted((directory / ROLLOUTS).glob("*-rank*.jsonl"))


def read_run(directory: Path, limit: int = LIMIT, other: OtherCredit | None = None) -> RunData:
    """All that is shown of the run in `directory`; where it is more than `limit`, a sample (see `sample`).

    `other` is a credit to be shown beside the run's own. Raises ValueError naming the file that is missing or not of a
    run, and what `other` does.
    """
    config = read_config(directory)
    made_of = composition(config)
    table = directory / TABLE
    rows = read_rows(table) if table.is_file() else {}
    groups = list(_groups(directory, made_of, rows, other))
    if not groups:
        raise ValueError(
            f"{directory / ROLLOUTS}: no trajectory in it; expected the rollout files of src/train.py, which "
            "writes one every callbacks.rollout_files.every iterations"
        )
    every, kept = sample(groups, limit)
    summary = directory / SUMMARY
    return RunData(
        directory=directory,
        composition=made_of,
        settings=told(config),
        summary=read_json_file(summary) if summary.is_file() else {},
        rows=rows,
        groups=kept,
        n_groups=len(groups),
        every=every,
        beside="" if other is None else other.name,
    )


def _groups(
    directory: Path, made_of: Composition, rows: Mapping[int, Mapping[str, str]], other: OtherCredit | None
) -> Iterator[Group]:
    """Iteration by iteration, what was trained on and then what was forked."""
    forks = sorted((directory / FORKS).glob("*-rank*.jsonl"))
    for forked, paths in ((False, rollout_files(directory)), (True, forks)):
        for iteration, of_ranks in groupby(paths, lambda path: int(path.stem.partition("-rank")[0])):
            files = {path: read_lines(path) for path in of_ranks}
            if other is not None:
                noise = float(rows.get(iteration, {}).get(NOISE, 0.0))
                other([line for lines in files.values() for line in lines], noise)
            for path, lines in files.items():
                yield from groups_of(path, lines, forked, made_of)


def sample(groups: Sequence[Group], limit: int) -> tuple[int, list[Group]]:
    """k and every k-th group of each rollout set, from its first on; k the least that leaves at most `limit`
    characters.

    Groups are kept whole, each set keeps one at least, and which are kept does not depend on what is in them.
    """
    places, sizes, seen = [], [], dict[str, int]()
    for group in groups:
        places.append(seen.get(group.when, 0))
        seen[group.when] = places[-1] + 1
        sizes.append(len(json.dumps(group.as_json())))
    for every in range(1, max(seen.values(), default=1) + 1):
        kept = [i for i, place in enumerate(places) if place % every == 0]
        if sum(sizes[i] for i in kept) <= limit:
            break
    return every, [groups[i] for i in kept]


def read_config(directory: Path) -> dict[str, Any]:
    """The configuration of the run in `directory`. Raises ValueError where there is none."""
    path = directory / CONFIG
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected the directory of a run, as in logs/train/runs/<time>")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}; expected the configuration of a run") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: {type(config).__name__}; expected the configuration of a run")
    return config


def told(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the run was told; the callback that writes the summary knows it too while there is none."""
    said = config.get("callbacks", {}).get("summary", {})
    overrides = [o for o in said.get("overrides", ()) if not o.startswith("experiment=")]
    return {"experiment": said.get("experiment"), "seed": config.get("seed"), "overrides": overrides}
