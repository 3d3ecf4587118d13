"""A trajectory from texts."""

from collections.abc import Sequence

from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.trajectory import StopReason, Task, Trajectory, Turn


def build_trajectory(
    policy: Policy,
    actions: Sequence[str],
    observations: Sequence[str],
    group: int = 0,
    sample: int = 0,
    outcome: float = 0.0,
    stop: StopReason = StopReason.ANSWERED,
    answers: tuple[str, ...] = ("Varo",),
    prompt: str = "Question: What is the director of Bemi?",
) -> Trajectory:
    """A trajectory from texts; observations may be one fewer than actions (a terminal turn)."""

    def encode(text: str) -> tuple[int, ...]:
        return tuple(policy.tokenizer(text, add_special_tokens=False).input_ids)

    padded = [*observations, *[""] * (len(actions) - len(observations))]
    turns = tuple(
        Turn(encode(action), (-1.0,) * len(encode(action)), encode(observation), action, observation)
        for action, observation in zip(actions, padded, strict=True)
    )
    task = Task(f"task-{group}", prompt, answers)
    return Trajectory(task, group, sample, encode(prompt), turns, outcome, stop)
