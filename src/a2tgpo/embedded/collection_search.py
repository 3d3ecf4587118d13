"""The search tool of a world with collections: it looks in the one that a query names, and tells how well those were
chosen."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from a2tgpo.embedded.placement import Placement
from a2tgpo.embedded.tasks import world_of
from a2tgpo.embedded.world import RELATIONS, WorldSize
from a2tgpo.environments.protocols import Argument
from a2tgpo.retrievers.bm25 import BM25Retriever
from a2tgpo.rollouts.trajectory import Task
from a2tgpo.system.settings import require_all


@dataclass(frozen=True)
class CollectionSearch:
    """The `topk` best passages of one collection."""

    size: WorldSize
    placement: Placement
    topk: int

    def __post_init__(self) -> None:
        require_all(vars(self), "data.environment.tools.search")

    def __call__(self, query: str, task: Task) -> list[str]:
        """Searches one collection of texts and returns its best passages; one that does not exist holds none.

        Args:
            query: The name of a collection, then what to look for in it.
        """
        collection, _, wanted = query.strip().partition(" ")
        if collection not in self.placement.names:
            return []
        return self._retriever.search(wanted, self.topk, f"{task.corpus} {collection}")

    def measure(self, calls: Sequence[Mapping[str, Argument]]) -> dict[str, float]:
        """How well an episode chose collections.

        `first_choice/<relation>`, and `first_choice` over all relations: the share of what was looked for whose first
        search named the right collection. `repeats`: searches that had been made before.
        """
        queries = [str(call["query"]).split() for call in calls]
        first: dict[str, str] = {}
        for collection, *wanted in filter(None, queries):
            if wanted and wanted[0] in RELATIONS:
                first.setdefault(" ".join(wanted), collection)
        hits = defaultdict(list)
        for wanted, collection in first.items():
            relation = wanted.split()[0]
            hits[f"first_choice/{relation}"].append(float(collection == self.placement.home[relation]))
            hits["first_choice"].append(hits[f"first_choice/{relation}"][-1])
        repeats = float(len(queries) - len({*map(tuple, queries)}))
        return {name: sum(values) / len(values) for name, values in hits.items()} | {"repeats": repeats}

    @cached_property
    def _retriever(self) -> BM25Retriever:
        return BM25Retriever(self._passages, b=0.0)  # a list is no worse for being long: it is found by its two words

    def _passages(self, corpus: str) -> list[str]:
        world_id, collection = corpus.split(" ")
        passages = world_of(world_id, self.size).passages.items()
        return list(dict.fromkeys(text for (_, r), text in passages if self.placement.home[r] == collection))
