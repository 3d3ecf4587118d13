"""The embedded question set: each question belongs to a small world made from its number."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from a2tgpo.embedded.placement import Placement
from a2tgpo.embedded.questions import QuestionMix, make_question
from a2tgpo.embedded.world import World, WorldSize, make_world
from a2tgpo.rollouts.trajectory import Split, Task
from a2tgpo.system.settings import require_all

cached_world = lru_cache(maxsize=1024)(make_world)


def world_of(corpus: str, size: WorldSize) -> World:
    """The world that a task's `corpus` names."""
    split, index = corpus.rsplit("-", 1)
    return cached_world(Split(split), int(index), size)


@dataclass(frozen=True)
class WorldPassages:
    """Maps the name of a corpus to the passages of its world."""

    size: WorldSize

    def __call__(self, corpus: str) -> list[str]:
        return list(dict.fromkeys(world_of(corpus, self.size).passages.values()))


@dataclass(frozen=True)
class WorldQuestions(Sequence[Task]):
    """The questions of one split, each made when it is asked for."""

    split: Split
    size: WorldSize
    mix: QuestionMix
    total: int
    per_world: int
    placement: Placement | None

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: int) -> Task:
        if not 0 <= index < self.total:
            raise IndexError(index)
        world = cached_world(self.split, index // self.per_world, self.size)
        task = make_question(world, index % self.per_world, self.mix)
        return self.placement.addressed(task) if self.placement else task


@dataclass(frozen=True)
class EmbeddedTasks:
    """Multi-hop questions over invented worlds; no entity of one split appears in another.

    With a `placement`, facts are kept in collections, and each reference call names one.
    """

    size: WorldSize
    mix: QuestionMix
    questions_per_world: int
    train_questions: int
    val_questions: int
    test_questions: int
    placement: Placement | None

    def __post_init__(self) -> None:
        require_all(vars(self), "data.tasks")

    def split(self, split: Split) -> WorldQuestions:
        """The questions of `split`."""
        counts = {
            Split.TRAIN: self.train_questions,
            Split.VALIDATION: self.val_questions,
            Split.TEST: self.test_questions,
        }
        return WorldQuestions(split, self.size, self.mix, counts[split], self.questions_per_world, self.placement)
