"""Answer a question with the help of a search tool."""

from dataclasses import dataclass, field

from a2tgpo.environments.matching import exact_match, f1
from a2tgpo.environments.tags import STOP_TEXTS, format_result, parse_action
from a2tgpo.environments.tools import call_with_timeout
from a2tgpo.interfaces import EmptyCorpus, Retriever, StepResult
from a2tgpo.trajectory import StopReason, Task


@dataclass(frozen=True)
class Reward:
    """Outcome reward: `outcome` (em | f1) of a well-formed answer, a penalty for every other end of an episode."""

    outcome: str = "em"
    malformed: float = -1.0
    unanswered: float = -1.0

    def __post_init__(self) -> None:
        if self.outcome not in ("em", "f1"):
            raise ValueError(f"data.environment.reward.outcome={self.outcome!r}: expected 'em' or 'f1'")

    def __call__(self, stop: StopReason, metrics: dict[str, float]) -> float:
        if stop is StopReason.ANSWERED:
            return metrics[self.outcome]
        return self.malformed if stop is StopReason.INVALID_ACTION else self.unanswered


@dataclass
class SearchQA:
    """One episode: up to `max_searches` searches, then an answer.

    A search that raises or takes longer than `tool_timeout` seconds becomes an observation that says so; after
    `max_tool_failures` of them the episode ends.
    """

    task: Task
    retriever: Retriever
    reward: Reward
    prompt_template: str
    answer_wrapper: tuple[str, str]
    max_searches: int
    topk: int
    tool_timeout: float
    max_tool_failures: int
    stop_texts: tuple[str, ...] = STOP_TEXTS
    _searches: int = 0
    _failures: int = 0
    _useful: int = 0
    _answer: str | None = None
    _unseen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._unseen = set(self.task.evidence)

    def prompt(self) -> str:
        """The text that opens the episode."""
        return self.prompt_template.format(question=self.task.question)

    def step(self, action_text: str) -> StepResult:
        """Carry out one action: run the search, take the answer, or end the episode on a malformed action."""
        action = parse_action(action_text)
        if action is None:
            return StepResult(stop=StopReason.INVALID_ACTION)
        if action.tag == "answer":
            self._answer = action.body
            return StepResult(stop=StopReason.ANSWERED)
        if self._searches == self.max_searches:
            return StepResult(stop=StopReason.MAX_TURNS)
        self._searches += 1
        return self._search(action.body)

    def _search(self, query: str) -> StepResult:
        arguments = (query, self.topk, self.task.corpus)
        try:
            passages = call_with_timeout(self.retriever.search, self.tool_timeout, *arguments)
        except EmptyCorpus:
            raise
        except TimeoutError:
            return self._failed(f"no answer within {self.tool_timeout:g} seconds")
        except Exception as error:  # whatever a user's tool raises is news for the policy, and counted
            return self._failed(f"{type(error).__name__}: {error}")
        useful = bool(self._unseen.intersection(passages))
        self._unseen.difference_update(passages)
        self._useful += useful
        text = " ".join(passages) if passages else "Nothing was found."
        return StepResult(format_result(text), useful=useful if self.task.evidence else None, empty=not passages)

    def _failed(self, why: str) -> StepResult:
        self._failures += 1
        stop = StopReason.TOOL_FAILURE if self._failures >= self.max_tool_failures else None
        return StepResult(format_result(f"The search failed: {why}."), stop=stop)

    def finish(self, stop: StopReason) -> tuple[float, dict[str, float]]:
        """The outcome reward and the metrics of the episode, however it ended."""
        answered = stop is StopReason.ANSWERED
        metrics = {
            "em": exact_match(self._answer, self.task.answers) if answered else 0.0,
            "f1": f1(self._answer, self.task.answers) if answered else 0.0,
            "format": float(stop is not StopReason.INVALID_ACTION),
            "searches": float(self._searches),
            "useful_searches": float(self._useful),
            "tool_failures": float(self._failures),
        }
        return self.reward(stop, metrics), metrics
