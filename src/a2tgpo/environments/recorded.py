"""An episode whose tools are not called: they say again what was recorded of them."""

from collections.abc import Iterable, Mapping
from itertools import islice

from a2tgpo.environments.tool_use import ToolUse
from a2tgpo.rollouts.protocols import Chat, StepResult
from a2tgpo.rollouts.trajectory import StopReason


class RecordedTools:
    """`episode` with the recorded `results` of its calls, in order."""

    deterministic = True

    def __init__(self, episode: ToolUse, results: Iterable[str]) -> None:
        self._episode, self._results, self._calls = episode, iter(results), 0
        self.stop_strings = episode.stop_strings

    def prompt(self) -> str | Chat:
        """What opens the episode."""
        return self._episode.prompt()

    def step(self, action_text: str) -> StepResult:
        """The results of the action's calls; its answer, or what is malformed, is the episode's own affair."""
        dialect, tools = self._episode.dialect, self._episode.schemas
        action = dialect.parse(action_text, tools)
        if action is None or not action.calls:
            return self._episode.step(action_text)
        self._calls += len(action.calls)
        if self._calls > self._episode.max_calls:
            return StepResult(stop=StopReason.MAX_TURNS)
        return StepResult(dialect.observe([*islice(self._results, len(action.calls))], tools))

    def state(self) -> None:
        """Nobody knows it."""

    def finish(self, stop: StopReason) -> Mapping[str, float]:
        """Metrics of the episode; no call is counted."""
        return self._episode.finish(stop)
