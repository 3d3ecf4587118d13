"""The search tool: passages from a retriever."""

from dataclasses import dataclass

from a2tgpo.retrievers.protocols import Retriever
from a2tgpo.rollouts.trajectory import Task
from a2tgpo.system.settings import require


@dataclass(frozen=True)
class Search:
    """The `topk` passages that the retriever finds for a query in the task's corpus."""

    retriever: Retriever
    topk: int

    def __post_init__(self) -> None:
        require("data.environment.tools.search.topk", self.topk)

    def __call__(self, query: str, task: Task) -> list[str]:
        """Searches a collection of texts and returns the best passages.

        Args:
            query: What to look for.
        """
        return self.retriever.search(query, self.topk, task.corpus)
