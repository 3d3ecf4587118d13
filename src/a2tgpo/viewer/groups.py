"""Rollout files as groups: the trajectories of one prompt with the credit of their turns and its arithmetic."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a2tgpo.system.jsonl import read_json
from a2tgpo.viewer.arithmetic import Composition, explain

SOLVED = 0.5
"""Success from which on a trajectory counts as solved; most tasks know 0 and 1 only."""
PROMPT = ("task_id", "question", "answers", "kind")
KEPT = ("sample", "n_shared", "outcome", "stop", "metrics", "belief")
"""What is kept of a trajectory as it is."""
SAID = ("action", "observation", "useful", "calls")
"""And of a turn."""
TOKENS, TURN_TOKENS = ("prompt_ids",), ("action_ids", "action_logprobs", "observation_ids")
"""What is kept of both for those who ask for tokens."""
CREDIT = ("gain", "has_gain", "normalized_gain", "advantage", "turn_credit", "clip_low", "clip_high")
"""Credit of each turn. `turn_credit` is in files of version 2 and later only."""
UPDATE = ("ratio", "clipped", "logprob_change", "token_lengths")
"""What the update made of each turn, from version 3 on."""
ORACLE = ("oracle_advantage", "oracle_error", "value")
"""What forks say of each turn, in the files that src/credit.py leaves."""
BESIDE = ("beside", "disagreement")
"""What another credit says of each turn, where one was asked for."""
PER_TURN = (*CREDIT, *UPDATE, *ORACLE, *BESIDE)

Line = dict[str, Any]
"""A trajectory as its line in a rollout file has it."""


@dataclass(frozen=True)
class Group:
    """The trajectories of one prompt in one iteration."""

    iteration: int
    forked: bool
    """Played by the policy behind that iteration, and forked (src/credit.py); else those it was trained on."""
    rank: int
    number: int
    """Its number in the rollout set of its rank."""
    prompt: Mapping[str, Any]
    """task_id, question, answers, kind."""
    trajectories: Sequence[Mapping[str, Any]]
    columns: Sequence[Mapping[str, Any]]
    """Mean, σ and n of each turn group."""

    @property
    def when(self) -> str:
        """Its rollout set, as a person says it."""
        return f"{self.iteration} forks" if self.forked else str(self.iteration)

    def as_json(self) -> dict[str, Any]:
        """The group as plain data."""
        place = {"iteration": self.iteration, "when": self.when, "rank": self.rank, "group": self.number}
        return {**place, **self.prompt, "trajectories": self.trajectories, "columns": self.columns}


def read_lines(path: Path) -> list[Line]:
    """The lines of a rollout file, each with its rank.

    Raises ValueError naming file and line where one is no trajectory with its credit.
    """
    lines, rank = [], int(path.stem.partition("-rank")[2])
    with path.open("rb") as file:
        for number, data in enumerate(file, 1):
            try:
                line = read_json(data)
                lines.append({key: line[key] for key in (*PROMPT, "group")} | line | {"rank": rank})
                trajectory(line)
            except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
                raise ValueError(
                    f"{path}, line {number}: {type(error).__name__} {error}; expected a trajectory with its credit"
                ) from error
    return lines


def groups_of(
    path: Path, lines: Iterable[Line], forked: bool, made_of: Composition, tokens: bool = False
) -> Iterator[Group]:
    """The groups of the `lines` of a rollout file at `path`, in their order; with their `tokens` where asked."""
    iteration, _, rank = path.stem.partition("-rank")
    found: dict[int, list[Line]] = {}
    for line in lines:
        found.setdefault(line["group"], []).append(line)
    for number, members in found.items():
        prompt = {key: members[0][key] for key in PROMPT}
        told = explain([trajectory(line, tokens) for line in members], made_of)
        yield Group(int(iteration), forked, int(rank), number, prompt, *told)


def trajectory(line: Mapping[str, Any], tokens: bool = False) -> dict[str, Any]:
    """What is shown of a line, what was found of a turn beside it; `tokens` too, or none."""
    kept, said = (KEPT + TOKENS, SAID + TURN_TOKENS) if tokens else (KEPT, SAID)
    turns = [
        {
            **{key: turn[key] for key in said},
            **{key: line[key][t] for key in PER_TURN if key in line},
        }
        for t, turn in enumerate(line["turns"])
    ]
    solved = line["metrics"].get("success", line["outcome"]) >= SOLVED
    return {key: line[key] for key in kept} | {"solved": solved, "turns": turns}
