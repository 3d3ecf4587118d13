"""What finds passages: for a trainer, and for a server that gives them a name and a score."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from a2tgpo.system.errors import SettingError


class EmptyCorpus(SettingError):
    """A retriever has nothing to search in: a wrong setting, not a tool that failed, so it ends the run."""


class Retriever(Protocol):
    """Finds passages. Raises EmptyCorpus where there are none at all."""

    def search(self, query: str, topk: int, corpus: str = "") -> list[str]:
        """The best `topk` passages for `query`, best first."""
        ...


@dataclass(frozen=True)
class Passage:
    """One passage that was found. Scores of one query can be compared, those of two queries cannot."""

    id: str
    contents: str
    score: float


@runtime_checkable
class PassageRetriever(Protocol):
    """A retriever over one corpus that answers several queries at once and says how well each passage fits."""

    def search_many(self, queries: Sequence[str], topk: int) -> list[list[Passage]]:
        """For each query its best `topk` passages, best first."""
        ...
