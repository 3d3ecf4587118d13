"""Questions about a world: chains of one to four hops, comparisons that ask for a property of the winner, and
narrowing, which asks for the one entity that has all of some properties."""

from dataclasses import dataclass
from zlib import crc32

import numpy as np

from a2tgpo.embedded.world import RELATIONS, World
from a2tgpo.rollouts.trajectory import Task
from a2tgpo.system.settings import require_all

MIN_YEAR_GAP = 5
COMPARISON, NARROWING = "comparison", "narrowing"
CHAINED = tuple(name for name in RELATIONS if name != "year")


@dataclass(frozen=True)
class QuestionMix:
    """Share of each kind of question: `narrowing` of all, the others of those that are left."""

    hop1: float
    hop2: float
    hop3: float
    hop4: float
    comparison: float
    narrowing: float

    def __post_init__(self) -> None:
        require_all(vars(self), "data.tasks.mix")
        total = self.hop1 + self.hop2 + self.hop3 + self.hop4 + self.comparison
        if abs(total - 1) > 1e-6:
            raise ValueError(f"data.tasks.mix: its shares but narrowing sum to {total:g}; expected 1")

    def draw(self, rng: np.random.Generator) -> str:
        """A kind of question: "1" … "4" hops, "comparison" or "narrowing"."""
        return NARROWING if self.narrowing and rng.random() < self.narrowing else self.draw_other(rng)

    def draw_other(self, rng: np.random.Generator) -> str:
        """A kind other than narrowing."""
        kinds = ("1", "2", "3", "4", COMPARISON)
        return kinds[rng.choice(5, p=[self.hop1, self.hop2, self.hop3, self.hop4, self.comparison])]


def query(relation: str, subject: str) -> str:
    """The search that finds a fact by its subject."""
    return f"{relation} of {subject}"


def reverse_query(relation: str, object_: str) -> str:
    """The search that finds facts by their object."""
    return f"{relation} {object_}"


def read_query(call: str) -> tuple[str, str]:
    """Relation and name of a search that `query` or `reverse_query` wrote, whatever stands before."""
    words = call.split()
    place = next(i for i, word in enumerate(words) if word in RELATIONS)
    return words[place], " ".join(words[place + 1 :]).removeprefix("of ")


def make_question(world: World, index: int, mix: QuestionMix) -> Task:
    """Question number `index` of `world`; drawn again until its answer cannot be read from the question itself."""
    rng = np.random.default_rng([crc32(world.world_id.encode()), index])
    kind = mix.draw(rng)
    while (task := _draw(world, kind, rng)) is None:
        kind = NARROWING if kind == NARROWING else mix.draw_other(rng)
    return Task(f"{world.world_id}/{index}", corpus=world.world_id, kind=kind, **task)


def _draw(world: World, kind: str, rng: np.random.Generator) -> dict | None:
    if kind == COMPARISON:
        return _comparison(world, rng)
    return _narrowing(world, rng) if kind == NARROWING else _chain(world, int(kind), rng)


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
    calls = [query(relation, subject) for subject, relation in path]
    return _task(world, f"What is the {chain} of {start}?", kind, entity, path, calls)


def _comparison(world: World, rng: np.random.Generator) -> dict | None:
    first, second = (world.entities["film"][i] for i in rng.choice(len(world.entities["film"]), 2, replace=False))
    years = [int(world.facts[film, "year"]) for film in (first, second)]
    if abs(years[0] - years[1]) < MIN_YEAR_GAP:
        return None
    winner = first if years[0] < years[1] else second
    relation = ("director", "star", "studio")[rng.integers(3)]
    path = [(first, "year"), (second, "year"), (winner, relation)]
    calls = [query(name, film) for film, name in path]
    question = f"What is the {relation} of the older of {first} and {second}?"
    return _task(world, question, RELATIONS[relation].object, world.facts[winner, relation], path, calls)


def _narrowing(world: World, rng: np.random.Generator) -> dict | None:
    """Two or three properties of an entity, which no other entity has together."""
    kind = list(RELATIONS.values())[rng.integers(len(RELATIONS))].subject
    entity = world.entities[kind][rng.integers(len(world.entities[kind]))]
    relations = [name for name in RELATIONS if RELATIONS[name].subject == kind]
    count = min(rng.integers(2, 4), len(relations))
    path = [(entity, relations[i]) for i in rng.choice(len(relations), size=count, replace=False)]
    properties = [(relation, world.facts[entity, relation]) for _, relation in path]
    if sum(all(world.facts[other, r] == o for r, o in properties) for other in world.entities[kind]) > 1:
        return None
    wanted = " and ".join(f"{relation} {object_}" for relation, object_ in properties)
    calls = [reverse_query(relation, object_) for relation, object_ in properties]
    return _task(world, f"Which {kind} has {wanted}?", kind, entity, path, calls)


def _task(
    world: World, question: str, kind: str, answer: str, path: list[tuple[str, str]], calls: list[str]
) -> dict | None:
    answers = world.aliases(kind, answer)
    if any(word in question.rstrip("?").split() for alias in answers for word in alias.split()):
        return None
    return {
        "question": question,
        "answers": answers,
        "reference_calls": tuple(calls),
        "evidence": tuple(world.passages[subject, relation] for subject, relation in path),
    }
