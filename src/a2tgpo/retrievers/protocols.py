"""What finds passages."""

from typing import Protocol

from a2tgpo.system.errors import SettingError


class EmptyCorpus(SettingError):
    """A retriever has nothing to search in: a wrong setting, not a tool that failed, so it ends the run."""


class Retriever(Protocol):
    """Finds passages. Raises EmptyCorpus where there are none at all."""

    def search(self, query: str, topk: int, corpus: str = "") -> list[str]:
        """The best `topk` passages for `query`, best first."""
        ...
