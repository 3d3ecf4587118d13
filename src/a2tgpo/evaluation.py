"""Evaluation of a policy outside training: greedy, or several samples a question."""

import json
import pickle
import time
from collections.abc import Sequence
from math import comb
from pathlib import Path

import torch

from a2tgpo.callbacks.rollout_files import record, write_jsonl
from a2tgpo.diagnostics import episode_metrics
from a2tgpo.policies.policy import Policy, require_same_architecture
from a2tgpo.rollout import EVALUATION_NOISE, Rollout
from a2tgpo.trajectory import Task, Trajectory


def load_weights(policy: Policy, path: Path) -> None:
    """Put the policy's weights from a training checkpoint in place.

    Raises ValueError where `path` is no checkpoint or belongs to another architecture.
    """
    if not path.is_file():
        raise ValueError(f"ckpt_path={path}: no such file; expected a checkpoint written by src/train.py")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    except (pickle.UnpicklingError, EOFError, RuntimeError, KeyError) as error:
        raise ValueError(f"ckpt_path={path}: not a checkpoint; expected one written by src/train.py") from error
    weights = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    require_same_architecture(policy, weights)
    policy.model.load_state_dict(weights)


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
    policy: Policy, rollout: Rollout, tasks: Sequence[Task], questions: int, samples: int, seed: int, directory: Path
) -> dict[str, float]:
    """Play the first `questions` tasks; write `summary.json` and `transcripts.jsonl` to `directory`.

    One sample a question is greedy; more are sampled and also give mean@k and pass@k.
    """
    start = time.perf_counter()
    if not len(tasks):
        raise ValueError("data.tasks: the split is empty; expected at least one question")
    if questions < 1 or samples < 1:
        raise ValueError(f"questions={questions}, samples={samples}: expected at least 1 of each")
    prompts = [(i, tasks[i]) for i in range(min(questions, len(tasks)))]
    trajectories = rollout.run(policy, prompts, samples, (seed, EVALUATION_NOISE), greedy=samples == 1)
    summary = {"questions": len(prompts), "samples": samples, **episode_metrics(trajectories)}
    if samples > 1:
        summary |= sampled_metrics(trajectories, samples)
    for kind in sorted({task.kind for _, task in prompts}):
        summary[f"em/kind_{kind}"] = episode_metrics([t for t in trajectories if t.task.kind == kind])["em"]
    summary["seconds/total"] = time.perf_counter() - start
    write_jsonl(directory / "transcripts.jsonl", [record(trajectory) for trajectory in trajectories])
    (directory / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def sampled_metrics(trajectories: Sequence[Trajectory], samples: int) -> dict[str, float]:
    """mean@k and pass@j for j = 1, 2, 4, … k over groups of `samples` trajectories."""
    correct: dict[int, int] = {}
    for trajectory in trajectories:
        correct[trajectory.group] = correct.get(trajectory.group, 0) + (trajectory.metrics["em"] == 1.0)
    sizes = sorted({samples, *(2**i for i in range(samples.bit_length()) if 2**i <= samples)})
    passes = {f"pass@{k}": sum(pass_at_k(samples, c, k) for c in correct.values()) / len(correct) for k in sizes}
    return {f"mean@{samples}": sum(correct.values()) / (samples * len(correct)), **passes}
