"""Evaluation of a policy outside training: greedy, or several samples a question; one question set or several."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from zlib import crc32

from rich.console import Console

from a2tgpo.evaluation.bootstrap import SetScores, score
from a2tgpo.evaluation.table import Column, columns, write_table
from a2tgpo.evaluation.watch import watched
from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.loop import Rollout
from a2tgpo.rollouts.start import EVALUATION_NOISE
from a2tgpo.rollouts.trajectory import Task, Trajectory
from a2tgpo.rollouts.transcripts import record
from a2tgpo.system.files import write_json
from a2tgpo.system.jsonl import write_jsonl
from a2tgpo.system.settings import require_all
from a2tgpo.training.metrics import episode_metrics


@dataclass(frozen=True)
class Evaluation:
    """What came out: flat figures, and the columns of the table where the sets are in groups."""

    summary: dict[str, float]
    table: list[Column]


def move(policy: Policy, device: str) -> None:
    """Bring the policy to `device`. Raises ValueError where there is no such device."""
    try:
        policy.model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={device}: not available here; expected cpu or a present accelerator") from error


def evaluate(
    policy: Policy,
    rollout: Rollout,
    sets: Mapping[str, Sequence[Task]],
    groups: Mapping[str, Sequence[str]],
    questions: int | None,
    samples: int,
    seed: int,
    directory: Path,
) -> Evaluation:
    """Play the first `questions` tasks of each set, or all; one sample a question is greedy.

    All questions are checked before the first episode. After each set `directory` holds `summary.json` over the sets so
    far, so a set that fails costs none before it. A lone set without `groups` leaves `transcripts.jsonl`; sets in
    groups leave `transcripts/<set>.jsonl` and the table as `benchmarks.{json,csv,md}`, and a set's figures end in its
    name. A question that lost a sample to a failed episode is left out; `failed_episodes` counts them. How far a
    set is, is said on stderr.

    Raises ValueError for an empty set, and for fewer than one question or sample.
    """
    start, console = time.perf_counter(), Console(stderr=True)
    prompts = {name: _first(tasks, questions, samples) for name, tasks in sets.items()}
    rollout.require_prompts_fit(policy, [task for members in prompts.values() for _, task in members])
    scores: dict[str, SetScores] = {}
    summary: dict[str, float] = {}
    table: list[Column] = []
    for name, members in prompts.items():
        key = (seed, EVALUATION_NOISE, crc32(name.encode()))
        with watched(name, rollout.episodes, console):
            played = rollout.run(policy, members, samples, key, greedy=samples == 1)
        trajectories = _complete(played, samples)
        if not trajectories:
            raise ValueError(f"data.module.max_failed_share: every question of {name} lost an episode; expected fewer")
        scores[name] = score(name, trajectories, samples, seed)
        settings = {"complete": len(scores) == len(prompts), "samples": samples, "seed": seed}
        ending, file = (
            (f"/{name}", f"transcripts/{name}.jsonl") if groups or len(sets) > 1 else ("", "transcripts.jsonl")
        )
        success = scores[name].estimates()["success"]
        found = figures(trajectories, samples) | {"success/low": success.low, "success/high": success.high}
        found |= {"failed_episodes": len(members) * samples - len(played)}
        summary |= settings | {f"{k}{ending}": value for k, value in found.items()}
        if groups:
            table = columns(scores, groups)
            write_table(directory, table, settings)
            summary |= _flat(table)
        summary["seconds/total"] = time.perf_counter() - start
        write_jsonl(directory / file, [record(trajectory) for trajectory in trajectories])
        write_json(directory / "summary.json", summary)
        if groups:
            print(_progress(name, scores[name], summary["seconds/total"]), flush=True)
    return Evaluation(summary, table)


def _first(tasks: Sequence[Task], questions: int | None, samples: int) -> list[tuple[int, Task]]:
    require_all({"questions": questions, "samples": samples})
    if not len(tasks):
        raise ValueError("data.tasks: the split is empty; expected at least one question")
    return [(i, tasks[i]) for i in range(len(tasks) if questions is None else min(questions, len(tasks)))]


def _complete(trajectories: Sequence[Trajectory], samples: int) -> list[Trajectory]:
    """Those of questions of which no sample was lost to a failed episode: figures compare equal numbers of samples."""
    left = Counter(trajectory.group for trajectory in trajectories)
    return [trajectory for trajectory in trajectories if left[trajectory.group] == samples]


def _flat(table: Sequence[Column]) -> dict[str, float]:
    """`success/nq`, `f1/single_hop/macro`, …, and how many questions each set had."""
    values = {f"{m}/{column.key}": e.value for column in table for m, e in column.estimates.items()}
    return {**values, **{f"questions/{column.key}": column.questions for column in table}}


def _progress(name: str, scores: SetScores, seconds: float) -> str:
    success = scores.estimates()["success"].value
    return f"{name}: success {success:.3f} on {len(scores.values)} questions after {seconds:.0f} seconds"


def figures(trajectories: Sequence[Trajectory], samples: int) -> dict[str, float]:
    """How many questions, the means of the episodes, mean@k and pass@k where there are several samples a question, and
    success by kind of question where there are kinds."""
    values = {"questions": len(trajectories) // samples, **episode_metrics(trajectories)}
    if samples > 1:
        values |= sampled_metrics(trajectories, samples)
    for kind in sorted({trajectory.task.kind for trajectory in trajectories} - {""}):
        own = [trajectory.metrics["success"] for trajectory in trajectories if trajectory.task.kind == kind]
        values[f"success/kind_{kind}"] = sum(own) / len(own)
    return values


def sampled_metrics(trajectories: Sequence[Trajectory], samples: int) -> dict[str, float]:
    """mean@k and pass@j for j = 1, 2, 4, … k over groups of `samples` trajectories."""
    correct: dict[int, int] = {}
    for trajectory in trajectories:
        correct[trajectory.group] = correct.get(trajectory.group, 0) + (trajectory.metrics["success"] == 1.0)
    sizes = sorted({samples, *(2**i for i in range(samples.bit_length()) if 2**i <= samples)})
    passes = {f"pass@{k}": sum(pass_at_k(samples, c, k) for c in correct.values()) / len(correct) for k in sizes}
    return {f"mean@{samples}": sum(correct.values()) / (samples * len(correct)), **passes}


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples is right: 1 − C(n−c, k)/C(n, k)."""
    return 1.0 - comb(n - correct, k) / comb(n, k)
