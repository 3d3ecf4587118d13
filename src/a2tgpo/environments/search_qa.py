"""Answer a question with the help of a search tool."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from a2tgpo.environments.matching import exact_match, f1
from a2tgpo.environments.protocols import Action, Dialect, Tool
from a2tgpo.environments.reward import Reward
from a2tgpo.environments.tools import call_with_timeout
from a2tgpo.retrievers.protocols import EmptyCorpus, Retriever
from a2tgpo.rollouts.protocols import Chat, StepResult
from a2tgpo.rollouts.trajectory import StopReason, Task

SEARCH = Tool("search", "Searches a collection of texts and returns the best passages.", {"query": "What to look for."})


@dataclass
class SearchQA:
    """One episode: up to `max_searches` searches, then an answer.

    A search that raises or takes longer than `tool_timeout` seconds becomes an observation that says so; after
    `max_tool_failures` of them the episode ends.
    """

    task: Task
    retriever: Retriever
    reward: Reward
    dialect: Dialect
    answer_wrapper: tuple[str, str]
    max_searches: int
    topk: int
    tool_timeout: float
    max_tool_failures: int
    _searches: int = 0
    _failures: int = 0
    _useful: int = 0
    _answer: str | None = None
    _unseen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._unseen = set(self.task.evidence)
        self.stop_strings = self.dialect.stop_strings([SEARCH])

    def prompt(self) -> str | Chat:
        """What opens the episode."""
        return self.dialect.prompt(self.task.question, [SEARCH])

    def step(self, action_text: str) -> StepResult:
        """Carry out one action: run its searches, take the answer, or end the episode on a malformed action."""
        action = self.dialect.parse(action_text, [SEARCH])
        if action is None:
            return StepResult(stop=StopReason.INVALID_ACTION)
        if action.answer is not None:
            self._answer = action.answer
            return StepResult(stop=StopReason.ANSWERED)
        if self._searches + len(action.calls) > self.max_searches:
            return StepResult(stop=StopReason.MAX_TURNS)
        return self._search_all(action)

    def _search_all(self, action: Action) -> StepResult:
        texts, found = zip(*(self._search(call.arguments["query"]) for call in action.calls), strict=True)
        answered = any(passages is not None for passages in found)
        passages = {passage for result in found for passage in result or ()}
        useful = bool(self._unseen & passages)
        self._unseen -= passages
        self._useful += useful
        return StepResult(
            self.dialect.observe(texts, [SEARCH]),
            stop=StopReason.TOOL_FAILURE if self._failures >= self.max_tool_failures else None,
            useful=useful if self.task.evidence and answered else None,
            empty=answered and not passages,
        )

    def _search(self, query: str) -> tuple[str, Sequence[str] | None]:
        """The result as text, and the passages in it; None where the search failed."""
        self._searches += 1
        try:
            arguments = (query, self.topk, self.task.corpus)
            passages = call_with_timeout(self.retriever.search, self.tool_timeout, *arguments)
            return self.dialect.layout(passages), passages
        except EmptyCorpus:
            raise
        except TimeoutError:
            why = f"no answer within {self.tool_timeout:g} seconds"
        except Exception as error:  # whatever a user's tool raises is news for the policy, and counted
            why = f"{type(error).__name__}: {error}"
        self._failures += 1
        return f"The search failed: {why}.", None

    def finish(self, stop: StopReason) -> tuple[float, dict[str, float]]:
        """The outcome reward and the metrics of the episode, however it ended."""
        answered = stop is StopReason.ANSWERED
        metrics = {
            "em": exact_match(self._answer, self.task.answers) if answered else 0.0,
            "f1": f1(self._answer, self.task.answers) if answered else 0.0,
            "format": float(stop.keeps_format),
            "searches": float(self._searches),
            "useful_searches": float(self._useful),
            "tool_failures": float(self._failures),
        }
        return self.reward(stop, metrics), metrics
