"""A small invented world: entities, the facts between them, and the passages that state them."""

from dataclasses import dataclass

import numpy as np

from a2tgpo.embedded.names import SHARED_WORDS, WORDS, draw_words
from a2tgpo.rollouts.trajectory import Split
from a2tgpo.system.settings import require_all

FIRST_YEAR, LAST_YEAR = 1951, 1970
YEARS = tuple(map(str, range(FIRST_YEAR, LAST_YEAR + 1)))


@dataclass(frozen=True)
class Relation:
    """A kind of fact. Every template names subject and object once and carries the relation's own word."""

    name: str
    subject: str
    object: str
    templates: tuple[str, ...]


RELATIONS: dict[str, Relation] = {
    relation.name: relation
    for relation in (
        Relation("director", "film", "person", ("The director of {s} is {o}.", "{s} was made by director {o}.")),
        Relation("star", "film", "person", ("The star of {s} is {o}.", "{s} was made with star {o}.")),
        Relation("studio", "film", "company", ("The studio of {s} is {o}.", "{s} was made at studio {o}.")),
        Relation("year", "film", "number", ("The year of {s} is {o}.", "{s} was made in year {o}.")),
        Relation("birthplace", "person", "city", ("The birthplace of {s} is {o}.", "{s} comes from birthplace {o}.")),
        Relation("employer", "person", "company", ("The employer of {s} is {o}.", "{s} works for employer {o}.")),
        Relation("mayor", "city", "person", ("The mayor of {s} is {o}.", "{s} is led by mayor {o}.")),
        Relation("country", "city", "country", ("The country of {s} is {o}.", "{s} lies in country {o}.")),
        Relation("founder", "company", "person", ("The founder of {s} is {o}.", "{s} was started by founder {o}.")),
        Relation("seat", "company", "city", ("The seat of {s} is {o}.", "{s} has its seat in {o}.")),
        Relation("capital", "country", "city", ("The capital of {s} is {o}.", "{s} is ruled from capital {o}.")),
        Relation("president", "country", "person", ("The president of {s} is {o}.", "{s} is led by president {o}.")),
    )
}


@dataclass(frozen=True)
class WorldSize:
    """How many entities of each type a world holds. Fewer words for people means more namesakes; with None there are
    none: every name is one of the words that all splits share.

    With `objects`, a relation has so many different objects, and one passage states all subjects of one; with None any
    entity of the type is one, and there is a passage a fact.
    """

    film: int
    person: int
    city: int
    company: int
    country: int
    person_words: int | None
    objects: int | None

    def __post_init__(self) -> None:
        key = "data.tasks.size"
        most = len(SHARED_WORDS) if self.person_words is None else min(map(len, WORDS.values()))
        require_all(vars(self), key)
        words = self.person if self.person_words is None else self.person_words
        if self.person_words is not None and self.person > (names := (words // 2) * (words - words // 2)):
            raise ValueError(f"{key}.person={self.person}: expected <= {names}, the names of {key}.person_words")
        fewest = min(self.person, self.city, self.company, self.country, len(YEARS))
        if self.objects is not None and self.objects > fewest:
            raise ValueError(f"{key}.objects={self.objects}: expected <= {fewest}, or a type has fewer entities")
        words += self.film + self.city + self.company + self.country
        if words > most:
            raise ValueError(f"{key}: a world of {words} words; expected <= {most}, which is all there are")


@dataclass(frozen=True)
class World:
    """Entities by type, facts as {(subject, relation): object}, and the passage that states each fact."""

    world_id: str
    entities: dict[str, tuple[str, ...]]
    facts: dict[tuple[str, str], str]
    passages: dict[tuple[str, str], str]

    def aliases(self, kind: str, name: str) -> tuple[str, ...]:
        """Accepted ways to write an entity: its name, and a person's surname where nobody else bears it."""
        surname = name.split()[-1]
        if (
            kind == "person"
            and surname != name
            and sum(surname in person.split() for person in self.entities["person"]) == 1
        ):
            return (name, surname)
        return (name,)


def _people(rng: np.random.Generator, words: list[str], count: int) -> tuple[str, ...]:
    """`count` different "First Last" names over few words, so that people share parts of their names."""
    half = len(words) // 2
    pairs = [f"{first} {last}" for first in words[:half] for last in words[half:]]
    return tuple(pairs[i] for i in rng.choice(len(pairs), size=count, replace=False))


def make_world(split: Split, index: int, size: WorldSize) -> World:
    """World number `index` of `split`: a pure function of its arguments."""
    rng = np.random.default_rng([list(Split).index(split), index])
    counts = {"film": size.film, "city": size.city, "company": size.company, "country": size.country}
    if size.person_words is None:
        start = size.person
        words = draw_words(rng, SHARED_WORDS, sum(counts.values()) + start)
        entities: dict[str, tuple[str, ...]] = {"person": tuple(words[:start])}
    else:
        start = size.person_words
        words = draw_words(rng, WORDS[split], sum(counts.values()) + start)
        entities = {"person": _people(rng, words[:start], size.person)}
    for kind, count in counts.items():
        entities[kind] = tuple(words[start : start + count])
        start += count
    facts: dict[tuple[str, str], str] = {}
    passages: dict[tuple[str, str], str] = {}
    for relation in RELATIONS.values():
        objects = _objects(rng, relation, entities, size.objects)
        templates: dict[str, str] = {}
        for subject in entities[relation.subject]:
            facts[subject, relation.name] = objects[rng.integers(len(objects))]
            templates[subject] = relation.templates[rng.integers(len(relation.templates))]
        for subject in templates:
            object_ = facts[subject, relation.name]
            sharing = [s for s in templates if s == subject or (size.objects and facts[s, relation.name] == object_)]
            passages[subject, relation.name] = templates[sharing[0]].format(s=", ".join(sharing), o=object_)
    return World(f"{split}-{index}", entities, facts, passages)


def _objects(
    rng: np.random.Generator, relation: Relation, entities: dict[str, tuple[str, ...]], count: int | None
) -> tuple[str, ...]:
    every = YEARS if relation.object == "number" else entities[relation.object]
    if count is None:
        return every
    return tuple(every[i] for i in rng.choice(len(every), size=count, replace=False))
