"""Calls that help and calls that do not, forced with the real tools."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from a2tgpo.environments.protocols import Action
from a2tgpo.environments.tool_use import ToolUse
from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.demonstrated import DemonstratedEngine
from a2tgpo.rollouts.loop import Rollout
from a2tgpo.rollouts.trajectory import Task, Trajectory
from a2tgpo.tasks.demonstrations import from_reference_calls


@dataclass(frozen=True)
class Pairs:
    """Of each task the episode of its own reference calls, and one of another task's, which do not help it."""

    tasks: Sequence[Task]
    own: Sequence[Trajectory]
    foreign: Sequence[Trajectory]


def force(rollout: Rollout, policy: Policy, tasks: Sequence[Task]) -> Pairs | None:
    """Play them with the real tools. None where fewer than two tasks have reference calls that could be played: the
    environment must have one tool, whose calls they are, and both episodes of a task a result."""
    episodes = {task.task_id: rollout.environment(task) for task in tasks if task.reference_calls}
    known = [task for task in tasks if isinstance(episodes.get(task.task_id), ToolUse)]
    known = [task for task in known if len(episodes[task.task_id].schemas) == 1]
    if len(known) < 2:
        return None
    calls = [task.reference_calls for task in known]
    played = [
        _play(rollout, policy, known, [_actions(episodes[t.task_id], t, c) for t, c in zip(known, some, strict=True)])
        for some in (calls, [*calls[1:], *calls[:1]])
    ]
    both = [n for n in range(len(known)) if n in played[0] and n in played[1]]
    if len(both) < 2:
        return None
    return Pairs([known[n] for n in both], *([side[n] for n in both] for side in played))


def _actions(episode: ToolUse, task: Task, calls: Sequence[str]) -> list[str]:
    example = from_reference_calls(replace(task, reference_calls=tuple(calls)), episode.schemas)
    said = [text for turn in example.turns for text in episode.dialect.write(Action(turn.calls), turn.thought)]
    return [*said, *episode.dialect.write(Action(answer=task.answers[0]))]


def _play(
    rollout: Rollout, policy: Policy, tasks: Sequence[Task], actions: Sequence[Sequence[str]]
) -> dict[int, Trajectory]:
    """By number of the task, those that had a result."""
    player = replace(rollout, engine=DemonstratedEngine(lambda key: actions[key[-2]]))
    played = player.run(policy, list(enumerate(tasks)), 1, (0,), greedy=False)
    return {trajectory.group: trajectory for trajectory in played if len(trajectory.context_lengths) > 1}
