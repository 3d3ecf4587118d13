"""Questions about a world: chains of one to four hops, and comparisons that ask for a property of the winner."""

from dataclasses import dataclass
from zlib import crc32

import numpy as np

from a2tgpo.embedded.world import RELATIONS, World
from a2tgpo.rollouts.trajectory import Task
from a2tgpo.system.settings import require_all

MIN_YEAR_GAP = 5
COMPARISON = "comparison"
CHAINED = tuple(name for name in RELATIONS if name != "year")


@dataclass(frozen=True)
class QuestionMix:
    """Share of each kind of question."""

    hop1: float
    hop2: float
    hop3: float
    hop4: float
    comparison: float

    def __post_init__(self) -> None:
        require_all(vars(self), "data.tasks.mix")
        total = self.hop1 + self.hop2 + self.hop3 + self.hop4 + self.comparison
        if abs(total - 1) > 1e-6:
            raise ValueError(f"data.tasks.mix: its shares sum to {total:g}; expected 1")

    def draw(self, rng: np.random.Generator) -> str:
        """A kind of question: "1" … "4" hops or "comparison"."""
        kinds = ("1", "2", "3", "4", COMPARISON)
        return kinds[rng.choice(5, p=[self.hop1, self.hop2, self.hop3, self.hop4, self.comparison])]


def query(relation: str, subject: str) -> str:
    """The search that finds a fact."""
    return f"{relation} of {subject}"


def make_question(world: World, index: int, mix: QuestionMix) -> Task:
    """Question number `index` of `world`; drawn again until its answer cannot be read from the question itself."""
    rng = np.random.default_rng([crc32(world.world_id.encode()), index])
    while True:
        kind = mix.draw(rng)
        task = _comparison(world, rng) if kind == COMPARISON else _chain(world, int(kind), rng)
        if task is not None:
            return Task(f"{world.world_id}/{index}", corpus=world.world_id, kind=kind, **task)


def _chain(world: World, hops: int, rng: np.random.Generator) -> dict | None:
    kind = list(world.entities)[rng.integers(len(world.entities))]
    start = entity = world.entities[kind][rng.integers(len(world.entities[kind]))]
    path: list[tuple[str, str]] = []
    visited = {start}
    for _ in range(hops):
        options = [name for name in CHAINED if RELATIONS[name].subject == kind and all(name != r for _, r in path)]
        if not options:
            return None
        relation = options[rng.integers(len(options))]
        path.append((entity, relation))
        kind, entity = RELATIONS[relation].object, world.facts[entity, relation]
        if entity in visited:
            return None
        visited.add(entity)
    chain = " of the ".join(relation for _, relation in reversed(path))
    return _task(world, f"What is the {chain} of {start}?", kind, entity, path)


def _comparison(world: World, rng: np.random.Generator) -> dict | None:
    first, second = (world.entities["film"][i] for i in rng.choice(len(world.entities["film"]), 2, replace=False))
    years = [int(world.facts[film, "year"]) for film in (first, second)]
    if abs(years[0] - years[1]) < MIN_YEAR_GAP:
        return None
    winner = first if years[0] < years[1] else second
    relation = ("director", "star", "studio")[rng.integers(3)]
    path = [(first, "year"), (second, "year"), (winner, relation)]
    answer = world.facts[winner, relation]
    return _task(
        world, f"What is the {relation} of the older of {first} and {second}?", RELATIONS[relation].object, answer, path
    )


def _task(world: World, question: str, kind: str, answer: str, path: list[tuple[str, str]]) -> dict | None:
    answers = world.aliases(kind, answer)
    if any(word in question.rstrip("?").split() for alias in answers for word in alias.split()):
        return None
    return {
        "question": question,
        "answers": answers,
        "reference_calls": tuple(query(relation, subject) for subject, relation in path),
        "evidence": tuple(world.passages[subject, relation] for subject, relation in path),
    }
