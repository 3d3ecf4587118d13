"""Evaluation of a policy outside training: greedy, or several samples a question; one split or several sets."""

import json
import pickle
import time
from collections.abc import Sequence
from math import comb
from pathlib import Path
from zlib import crc32

import torch

from a2tgpo.callbacks.rollout_files import record, write_jsonl
from a2tgpo.evaluation.bootstrap import SetScores, score
from a2tgpo.evaluation.table import Column, columns, write_table
from a2tgpo.policies.policy import Policy, load_trained_weights
from a2tgpo.rollouts.loop import Rollout
from a2tgpo.rollouts.start import EVALUATION_NOISE
from a2tgpo.rollouts.trajectory import Task, Trajectory
from a2tgpo.tasks.benchmarks import Benchmarks
from a2tgpo.training.metrics import episode_metrics


def load_weights(policy: Policy, path: Path) -> None:
    """Put the policy's weights from a training checkpoint in place.

    Raises ValueError where `path` is no checkpoint or belongs to another architecture.
    """
    if not path.is_file():
        raise ValueError(f"ckpt_path={path}: no such file; expected a checkpoint written by src/train.py")
    try:
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)["state_dict"]
    except (pickle.UnpicklingError, EOFError, RuntimeError, KeyError) as error:
        raise ValueError(f"ckpt_path={path}: not a checkpoint; expected one written by src/train.py") from error
    weights = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    load_trained_weights(policy, weights)


def move(policy: Policy, device: str) -> None:
    """Bring the policy to `device`. Raises ValueError where there is no such device."""
    try:
        policy.model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={device}: not available here; expected cpu or a present accelerator") from error


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples is right: 1 − C(n−c, k)/C(n, k)."""
    return 1.0 - comb(n - correct, k) / comb(n, k)


def evaluate(
    policy: Policy,
    rollout: Rollout,
    tasks: Sequence[Task],
    questions: int | None,
    samples: int,
    seed: int,
    directory: Path,
) -> dict[str, float]:
    """Play the first `questions` tasks, or all; write `summary.json` and `transcripts.jsonl` to `directory`.

    One sample a question is greedy; more are sampled and also give mean@k and pass@k.
    """
    start = time.perf_counter()
    if not len(tasks):
        raise ValueError("data.tasks: the split is empty; expected at least one question")
    prompts = _first(tasks, questions, samples)
    trajectories = rollout.run(policy, prompts, samples, (seed, EVALUATION_NOISE), greedy=samples == 1)
    summary = {"questions": len(prompts), "samples": samples, **episode_metrics(trajectories)}
    if samples > 1:
        summary |= sampled_metrics(trajectories, samples)
    for kind in sorted({task.kind for _, task in prompts}):
        summary[f"em/kind_{kind}"] = episode_metrics([t for t in trajectories if t.task.kind == kind])["em"]
    summary["seconds/total"] = time.perf_counter() - start
    write_jsonl(directory / "transcripts.jsonl", [record(trajectory) for trajectory in trajectories])
    _write_summary(directory, summary)
    return summary


def evaluate_benchmarks(
    policy: Policy,
    rollout: Rollout,
    benchmarks: Benchmarks,
    questions: int | None,
    samples: int,
    seed: int,
    directory: Path,
) -> list[Column]:
    """Play the first `questions` tasks of each set, or all; returns the columns of the table.

    All questions are read and checked before the first episode. After each set `directory` holds its
    `transcripts/<set>.jsonl`, and `summary.json` and `benchmarks.{json,csv,md}` over the sets so far, so a set that
    fails costs none before it.
    """
    start = time.perf_counter()
    sets = {name: _first(tasks, questions, samples) for name, tasks in benchmarks.sets().items()}
    scores: dict[str, SetScores] = {}
    summary: dict[str, float] = {}
    for name, prompts in sets.items():
        key = (seed, EVALUATION_NOISE, crc32(name.encode()))
        trajectories = rollout.run(policy, prompts, samples, key, greedy=samples == 1)
        write_jsonl(directory / "transcripts" / f"{name}.jsonl", [record(trajectory) for trajectory in trajectories])
        scores[name] = score(name, trajectories, samples, seed)
        table = columns(scores, benchmarks.groups)
        settings = {"complete": len(scores) == len(sets), "samples": samples, "seed": seed}
        write_table(directory, table, settings)
        if samples > 1:
            summary |= {f"{m}/{name}": value for m, value in sampled_metrics(trajectories, samples).items()}
        seconds = time.perf_counter() - start
        _write_summary(directory, {**settings, **_flat(table), **summary, "seconds/total": seconds})
        em = scores[name].estimates()["em"].value
        print(f"{name}: EM {em:.3f} on {len(prompts)} questions after {seconds:.0f} seconds", flush=True)
    return table


def _first(tasks: Sequence[Task], questions: int | None, samples: int) -> list[tuple[int, Task]]:
    if samples < 1 or (questions is not None and questions < 1):
        raise ValueError(f"questions={questions}, samples={samples}: expected at least 1 of each")
    return [(i, tasks[i]) for i in range(len(tasks) if questions is None else min(questions, len(tasks)))]


def _flat(table: Sequence[Column]) -> dict[str, float]:
    """`em/nq`, `f1/single_hop/macro`, …, and how many questions each set had."""
    values = {f"{m}/{column.key}": e.value for column in table for m, e in column.estimates.items()}
    return {**values, **{f"questions/{column.key}": column.questions for column in table}}


def _write_summary(directory: Path, summary: dict[str, float]) -> None:
    (directory / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")


def sampled_metrics(trajectories: Sequence[Trajectory], samples: int) -> dict[str, float]:
    """mean@k and pass@j for j = 1, 2, 4, … k over groups of `samples` trajectories."""
    correct: dict[int, int] = {}
    for trajectory in trajectories:
        correct[trajectory.group] = correct.get(trajectory.group, 0) + (trajectory.metrics["em"] == 1.0)
    sizes = sorted({samples, *(2**i for i in range(samples.bit_length()) if 2**i <= samples)})
    passes = {f"pass@{k}": sum(pass_at_k(samples, c, k) for c in correct.values()) / len(correct) for k in sizes}
    return {f"mean@{samples}": sum(correct.values()) / (samples * len(correct)), **passes}
