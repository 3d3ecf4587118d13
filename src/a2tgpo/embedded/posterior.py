"""What Bayes would believe: the exact posterior of the answer, given the passages seen.

The prior is that of one who knows the entities of a world and how worlds and questions are made, and no fact: each
relation has `objects` different objects, every choice of them as likely as another; each subject has one of them,
independently and uniformly; a passage states all subjects of its object. Narrowing asks for a subject drawn uniformly,
and is asked only where no other has all the properties; the years of a comparison lie apart. What else may keep a
question from being asked, such as an answer that can be read from it, is left out.
"""

from collections import Counter
from collections.abc import Collection, Mapping

from a2tgpo.embedded.questions import COMPARISON, MIN_YEAR_GAP, NARROWING, read_query
from a2tgpo.embedded.world import RELATIONS, YEARS, World
from a2tgpo.rollouts.trajectory import Task

Facts = Mapping[tuple[str, str], str]
"""{(subject, relation): object}"""


def posterior(world: World, task: Task, seen: Collection[str], objects: int) -> dict[str, float]:
    """p(answer | passages `seen`) of every answer that is possible; sums to 1."""
    told = {fact: world.facts[fact] for fact, passage in world.passages.items() if passage in seen}
    queries = [read_query(call) for call in task.reference_calls]
    if task.kind == NARROWING:
        return _narrowing(world, told, queries, objects)
    if task.kind == COMPARISON:
        (_, first), (_, second), (relation, _) = queries
        older = _first_is_older(told, first, second)
        return _follow(world, told, {first: older, second: 1 - older}, relation)
    believed = {queries[0][1]: 1.0}
    for relation, _ in queries:
        believed = _follow(world, told, believed, relation)
    return believed


def _follow(world: World, told: Facts, subjects: Mapping[str, float], relation: str) -> dict[str, float]:
    """Beliefs about the object of a subject, of which there are beliefs too."""
    kind = RELATIONS[relation].object
    shown = _shown(told, relation)
    unseen = [name for name in (YEARS if kind == "number" else world.entities[kind]) if name not in shown]
    believed: Counter[str] = Counter()
    for subject, probability in subjects.items():
        options = [told[subject, relation]] if (subject, relation) in told else unseen
        believed.update({name: probability / len(options) for name in options})
    return {name: probability for name, probability in believed.items() if probability}


def _shown(told: Facts, relation: str) -> set[str]:
    """The objects of a relation whose passage was seen."""
    return {object_ for (_, name), object_ in told.items() if name == relation}


def _first_is_older(told: Facts, first: str, second: str) -> float:
    shown = {int(year) for year in _shown(told, "year")}
    unseen = [year for year in map(int, YEARS) if year not in shown]
    options = [[int(told[film, "year"])] if (film, "year") in told else unseen for film in (first, second)]
    pairs = [(a, b) for a in options[0] for b in options[1] if abs(a - b) >= MIN_YEAR_GAP]
    return sum(a < b for a, b in pairs) / len(pairs)


def _narrowing(world: World, told: Facts, properties: list[tuple[str, str]], objects: int) -> dict[str, float]:
    """∝ q(e) Π_{f≠e} (1 − q(f)), q(e) the probability that `e` has all properties."""
    has_all = dict.fromkeys(world.entities[RELATIONS[properties[0][0]].subject], 1.0)
    for relation, object_ in properties:
        shown = _shown(told, relation)
        for entity in has_all:
            if (entity, relation) in told:
                has_all[entity] *= told[entity, relation] == object_
            else:
                has_all[entity] *= 0.0 if object_ in shown else 1 / (objects - len(shown))
    weights = {}
    for entity, own in has_all.items():
        weights[entity] = own
        for other, q in has_all.items():
            weights[entity] *= 1 if other == entity else 1 - q
    total = sum(weights.values())
    return {entity: weight / total for entity, weight in weights.items() if weight}
