"""Answer a word problem with the help of a calculator."""

from dataclasses import dataclass, field

from a2tgpo.environments.protocols import Dialect, Tool
from a2tgpo.environments.reward import Reward
from a2tgpo.environments.safe_arithmetic import ExpressionError, evaluate, read_number, write_number
from a2tgpo.environments.tools import call_with_timeout
from a2tgpo.rollouts.protocols import Chat, StepResult
from a2tgpo.rollouts.trajectory import StopReason, Task

CALCULATOR = Tool(
    "calculator",
    "Computes the value of an arithmetic expression.",
    {"expression": "Numbers, + - * / // % ** and parentheses."},
)


@dataclass
class Calculator:
    """One episode: up to `max_calls` calculations, then an answer.

    An expression that has no value, or none within `tool_timeout` seconds, becomes an observation that says why; after
    `max_tool_failures` of them the episode ends. A calculation is useful where it yields a number of the task's
    evidence, the results on the way to the answer, for the first time.
    """

    task: Task
    reward: Reward
    dialect: Dialect
    answer_wrapper: tuple[str, str]
    max_calls: int
    tool_timeout: float
    max_tool_failures: int
    _calls: int = 0
    _failures: int = 0
    _answer: str = ""
    _unseen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._unseen = set(self.task.evidence)
        self.stop_strings = self.dialect.stop_strings([CALCULATOR])

    def prompt(self) -> str | Chat:
        """What opens the episode."""
        return self.dialect.prompt(self.task.question, [CALCULATOR])

    def step(self, action_text: str) -> StepResult:
        """Carry out one action: calculate, take the answer, or end the episode on a malformed action."""
        action = self.dialect.parse(action_text, [CALCULATOR])
        if action is None:
            return StepResult(stop=StopReason.INVALID_ACTION)
        if action.answer is not None:
            self._answer = action.answer
            return StepResult(stop=StopReason.ANSWERED)
        if self._calls + len(action.calls) > self.max_calls:
            return StepResult(stop=StopReason.MAX_TURNS)
        results = [self._calculate(call.arguments["expression"]) for call in action.calls]
        useful = not self._unseen.isdisjoint(results)
        self._unseen.difference_update(results)
        return StepResult(
            self.dialect.observe(results, [CALCULATOR]),
            stop=StopReason.TOOL_FAILURE if self._failures >= self.max_tool_failures else None,
            useful=useful if self.task.evidence else None,
        )

    def _calculate(self, expression: str) -> str:
        self._calls += 1
        try:
            return write_number(call_with_timeout(evaluate, self.tool_timeout, expression))
        except ExpressionError as error:
            why = str(error)
        except TimeoutError:
            why = f"no answer within {self.tool_timeout:g} seconds"
        self._failures += 1
        return f"The calculation failed: {why}."

    def finish(self, stop: StopReason) -> tuple[float, dict[str, float]]:
        """The outcome reward and the metrics of the episode, however it ended."""
        words = [read_number(word) for word in self._answer.split()] if stop is StopReason.ANSWERED else []
        hits = len({read_number(answer) for answer in self.task.answers}.intersection(words) - {None})
        metrics = {
            "em": float(hits == len(words) == 1),
            "f1": 2 * min(hits, 1) / (len(words) + 1),
            "format": float(stop.keeps_format),
            "calls": float(self._calls),
            "tool_failures": float(self._failures),
        }
        return self.reward(stop, metrics), metrics
