"""What a run directory holds for its readers: groups of trajectories with their credit, curves, settings."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from a2tgpo.evaluation.runs import TABLE, read_rows
from a2tgpo.system.files import read_json_file
from a2tgpo.system.jsonl import read_json
from a2tgpo.viewer.arithmetic import Composition, composition, explain

CONFIG, SUMMARY, ROLLOUTS = "config.yaml", "summary.json", "rollouts"
LIMIT = 16_000_000
"""Characters of JSON that a page holds at most, or one group of each iteration."""
SOLVED = 0.5
"""Success from which on a trajectory counts as solved; most tasks know 0 and 1 only."""
KEPT = ("sample", "n_shared", "outcome", "stop", "metrics", "belief")
"""What is kept of a trajectory as it is."""
SAID = ("action", "observation", "useful", "calls")
"""And of a turn."""
TOKENS, TURN_TOKENS = ("prompt_ids",), ("action_ids", "action_logprobs", "observation_ids")
"""What is kept of both for those who ask for tokens."""
PER_TURN = ("gain", "has_gain", "normalized_gain", "advantage", "turn_credit", "clip_low", "clip_high")
"""Credit of each turn. `turn_credit` is in files of version 2 only."""


@dataclass(frozen=True)
class Group:
    """The trajectories of one prompt in one iteration."""

    iteration: int
    rank: int
    number: int
    """Its number in the rollout set of its rank."""
    prompt: Mapping[str, Any]
    """task_id, question, answers, kind."""
    trajectories: Sequence[Mapping[str, Any]]
    columns: Sequence[Mapping[str, Any]]
    """Mean, σ and n of each turn group."""

    def as_json(self) -> dict[str, Any]:
        """The group as plain data."""
        place = {"iteration": self.iteration, "rank": self.rank, "group": self.number}
        return {**place, **self.prompt, "trajectories": self.trajectories, "columns": self.columns}


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


def rollout_files(directory: Path) -> list[Path]:
    """The rollout files of the run in `directory`, in order of iteration and rank."""
    return sorted((directory / ROLLOUTS).glob("*-rank*.jsonl"))


def read_run(directory: Path, limit: int = LIMIT) -> RunData:
    """All that is shown of the run in `directory`; where it is more than `limit`, a sample (see `sample`).

    Raises ValueError naming the file that is missing or not of a run.
    """
    config = read_config(directory)
    made_of = composition(config)
    groups = [group for path in rollout_files(directory) for group in read_groups(path, made_of)]
    if not groups:
        raise ValueError(
            f"{directory / ROLLOUTS}: no trajectory in it; expected the rollout files of src/train.py, which "
            "writes one every callbacks.rollout_files.every iterations"
        )
    every, kept = sample(groups, limit)
    summary_path, table = directory / SUMMARY, directory / TABLE
    return RunData(
        directory=directory,
        composition=made_of,
        settings=told(config),
        summary=read_json_file(summary_path) if summary_path.is_file() else {},
        rows=read_rows(table) if table.is_file() else {},
        groups=kept,
        n_groups=len(groups),
        every=every,
    )


def sample(groups: Sequence[Group], limit: int) -> tuple[int, list[Group]]:
    """k and every k-th group of each iteration, from its first on; k the least that leaves at most `limit` characters.

    Groups are kept whole, each iteration keeps one at least, and which are kept does not depend on what is in them.
    """
    places, sizes, seen = [], [], dict[int, int]()
    for group in groups:
        places.append(seen.get(group.iteration, 0))
        seen[group.iteration] = places[-1] + 1
        sizes.append(len(json.dumps(group.as_json())))
    for every in range(1, max(seen.values(), default=1) + 1):
        kept = [i for i, place in enumerate(places) if place % every == 0]
        if sum(sizes[i] for i in kept) <= limit:
            break
    return every, [groups[i] for i in kept]


def read_groups(path: Path, made_of: Composition, tokens: bool = False) -> Iterator[Group]:
    """The groups of a rollout file, in its order; with their `tokens` where asked. Raises ValueError naming file and
    line."""
    iteration, _, rank = path.stem.partition("-rank")
    found: dict[int, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = read_json(line)
                prompt = {key: row[key] for key in ("task_id", "question", "answers", "kind")}
                found.setdefault(row["group"], (prompt, []))[1].append(trajectory(row, tokens))
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise ValueError(
                    f"{path}, line {number}: {type(error).__name__} {error}; expected a trajectory with its credit"
                ) from error
    for number, (prompt, members) in found.items():
        yield Group(int(iteration), int(rank), number, prompt, *explain(members, made_of))


def trajectory(row: Mapping[str, Any], tokens: bool = False) -> dict[str, Any]:
    """What is shown of a line of a rollout file, credit beside the turn it belongs to; `tokens` too, or none."""
    kept, said = (KEPT + TOKENS, SAID + TURN_TOKENS) if tokens else (KEPT, SAID)
    turns = [
        {
            **{key: turn[key] for key in said},
            **{key: row[key][t] for key in PER_TURN if key in row},
        }
        for t, turn in enumerate(row["turns"])
    ]
    solved = row["metrics"].get("success", row["outcome"]) >= SOLVED
    return {key: row[key] for key in kept} | {"solved": solved, "turns": turns}


def read_config(directory: Path) -> dict[str, Any]:
    """The configuration of the run in `directory`. Raises ValueError naming the file that is missing or holds none."""
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
