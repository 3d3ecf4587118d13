"""A trajectory as a person reads it, and as plain data."""

from dataclasses import asdict
from typing import Any

from a2tgpo.rollouts.trajectory import CallResult, Trajectory


def render(trajectory: Trajectory) -> str:
    """The question, each action with its tool result, and how it ended: one line each."""
    lines = [f"{trajectory.task.question}  (accepted: {', '.join(trajectory.task.answers)})"]
    for turn in trajectory.turns:
        lines += [f"  policy: {turn.action_text}", f"  tool:   {turn.observation_text}"]
        lines += [f"  {call.tool} failed: {call.why}" for call in turn.calls if call.result is CallResult.FAILED]
    lines.append(f"  {trajectory.stop}, reward {trajectory.outcome:g}")
    return "\n".join(line for line in lines if line != "  tool:   ")


def record(trajectory: Trajectory) -> dict[str, Any]:
    """Tokens, text, turns and how it ended, ready for JSON."""
    return {
        "task_id": trajectory.task.task_id,
        "question": trajectory.task.question,
        "answers": trajectory.task.answers,
        "kind": trajectory.task.kind,
        "group": trajectory.group,
        "sample": trajectory.sample,
        "n_shared": trajectory.n_shared,
        "prompt_ids": trajectory.prompt_ids,
        "turns": [
            {
                "action": turn.action_text,
                "observation": turn.observation_text,
                "action_ids": turn.action_ids,
                "action_logprobs": turn.action_logprobs,
                "observation_ids": turn.observation_ids,
                "useful": turn.useful,
                "calls": [asdict(call) for call in turn.calls],
            }
            for turn in trajectory.turns
        ],
        "outcome": trajectory.outcome,
        "stop": trajectory.stop,
        "metrics": dict(trajectory.metrics),
    }
