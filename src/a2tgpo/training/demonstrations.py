"""The data of a warm-up: demonstrations, played through the real environment as a policy would have played them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from a2tgpo.environments.dialects.examples import Example
from a2tgpo.environments.protocols import Action
from a2tgpo.environments.recorded import RecordedTools
from a2tgpo.environments.tool_use import ToolUse
from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.demonstrated import DemonstratedEngine
from a2tgpo.rollouts.loop import Rollout
from a2tgpo.rollouts.protocols import Environment
from a2tgpo.rollouts.trajectory import Split, StopReason, Task, Trajectory
from a2tgpo.system.errors import SettingError
from a2tgpo.tasks.demonstrations import from_reference_calls, read_conversations
from a2tgpo.tasks.protocols import Tasks
from a2tgpo.training.datamodule import RolloutDataModule

WHAT_STOPS_IT = {
    StopReason.MAX_TOKENS: "data.module.max_action_tokens, data.module.max_response_tokens",
    StopReason.MAX_TURNS: "data.environment.max_calls",
    StopReason.INVALID_ACTION: "data.dialect",
    StopReason.TOOL_FAILURE: "data.environment.tools",
}
"""Where to look when a demonstration does not come to its end."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WithDemonstrations:
    """The questions of `tasks`, but for training those of the demonstrations."""

    tasks: Tasks
    demonstrated: Sequence[Task]

    def split(self, split: Split) -> Sequence[Task]:
        """The tasks of a split."""
        return self.demonstrated if split is Split.TRAIN else self.tasks.split(split)


class DemonstrationDataModule(RolloutDataModule):
    """One epoch is `prompts_per_iteration` demonstrations, one of each task that is drawn; evaluation is as ever.

    They are made from the reference calls and the answer of each training task, whose tools are called; or read from
    the file `demonstrations`, with the results that stand there.
    """

    def __init__(self, demonstrations: str | None, tasks: Tasks, **rollouts: Any) -> None:
        read = read_conversations(Path(demonstrations)) if demonstrations else []
        self._read = {example.key: example for example in read}
        one_each = {"group_size": 1, "refill_rounds": 0, "shaping": None, "branching": None, "continuations": 0}
        super().__init__(tasks=tasks, **(rollouts | one_each))
        self.ahead = None  # nobody samples
        if read:
            self.tasks = WithDemonstrations(tasks, [self._task(example) for example in read])

    def setup(self, stage: str) -> None:
        """As ever. Raises SettingError where a task that will be asked cannot be demonstrated, too."""
        super().setup(stage)
        for task in self._asked(Split.TRAIN):
            self._demonstration(task)

    def _require_room(self, splits: Sequence[Split]) -> None:
        super()._require_room([split for split in splits if split is not Split.TEST])  # a warm-up tests nothing

    def play(
        self, rollout: Rollout, policy: Policy, prompts: Sequence[tuple[int, Task]], key: tuple[int, ...]
    ) -> list[Trajectory]:
        """The demonstrations of these tasks that come to their end. Those that do not count as failed episodes: raises
        SettingError where they are more than `max_failed_share`."""
        actions = {group: self._actions(task) for group, task in prompts}
        engine = DemonstratedEngine(lambda key: actions[key[-2]])
        player = replace(rollout, engine=engine, environment=self._environment)
        played = player.run(policy, prompts, self.group_size, key, greedy=False)
        if unfinished := [trajectory for trajectory in played if trajectory.stop is not StopReason.ANSWERED]:
            last = unfinished[-1]
            told = (
                f"{WHAT_STOPS_IT[last.stop]}: {len(unfinished)} of {len(played)} demonstrations do not come to their "
                f"end; that of task {last.task.task_id} ends in {last.stop} after "
                f"{len(last.token_ids) - len(last.prompt_ids)} tokens, at {last.turns[-1].action_text[-80:]!r}"
            )
            if len(unfinished) > self.rollout.max_failed_share * len(prompts):
                raise SettingError(f"{told}; expected limits that they keep, in a form that is read")
            _log.warning("%s; they are left out", told)
        return [trajectory for trajectory in played if trajectory.stop is StopReason.ANSWERED]

    def _environment(self, task: Task) -> Environment:
        episode = self.rollout.environment(task)
        example = self._read.get(task.task_id)
        if example is None:
            return episode
        return RecordedTools(episode, [result for turn in example.turns for result in turn.results])

    def _task(self, example: Example) -> Task:
        task = Task(example.key, example.question, (example.answer,))
        episode, _ = self._demonstration(task)
        return replace(task, answers=(_answer(episode, example),))

    def _demonstration(self, task: Task) -> tuple[ToolUse, Example]:
        episode = self.rollout.environment(task)
        if not isinstance(episode, ToolUse):
            raise SettingError(
                f"data.environment={type(episode).__name__}: expected a ToolUse, whose dialect writes actions"
            )
        return episode, self._read.get(task.task_id) or from_reference_calls(task, episode.schemas)

    def _actions(self, task: Task) -> list[str]:
        """All that the policy says in the demonstration of a task, one text an action."""
        episode, example = self._demonstration(task)
        said = [text for turn in example.turns for text in episode.dialect.write(Action(turn.calls), turn.thought)]
        return [*said, *episode.dialect.write(Action(answer=_answer(episode, example)))]


def _answer(episode: ToolUse, example: Example) -> str:
    """The answer, which may stand in the dialect's own form."""
    own = episode.dialect.parse(example.answer, episode.schemas)
    return example.answer if own is None or own.answer is None else own.answer
