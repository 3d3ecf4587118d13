"""Imperfect play in a world with collections: right reading, and nothing to learn of what is kept where.

The demonstrator looks for one fact after another, in one collection after another, until a result shows it; at times it
knows the placement of this world and goes there at once. Over worlds with placements of their own, each relation is
looked for in each collection equally often. It also answers before it knows all, asks again and asks for the wrong
relation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from a2tgpo.embedded.demonstrations import answer_action, search_action
from a2tgpo.embedded.placement import Placement
from a2tgpo.embedded.questions import COMPARISON, NARROWING, query, read_query
from a2tgpo.embedded.world import RELATIONS, World
from a2tgpo.rollouts.protocols import Environment
from a2tgpo.rollouts.trajectory import Task


@dataclass(frozen=True)
class SearchHabits:
    """How often the demonstrator knows the placement, and how often it decides badly: answers right after a new fact,
    or after a result that brought none, though more are needed; repeats its search; asks for another relation."""

    informed: float = 0.8
    hasty_found: float = 0.2
    hasty_useless: float = 0.08
    repeat: float = 0.03
    wrong_relation: float = 0.04


def demonstrate_search(
    task: Task,
    world: World,
    environment: Callable[[Task], Environment],
    placement: Placement,
    habits: SearchHabits,
    rng: np.random.Generator,
) -> list[tuple[str, str]]:
    """Play one episode; returns its (action, observation) texts."""
    episode = environment(task)
    turns: list[tuple[str, str]] = []
    steps, informed = _in_some_order(task, rng), rng.random() < habits.informed
    known, fresh, last, untried = 0, False, None, []
    while True:
        guess = _guess(task, world, [call for call, _ in steps[:known]], rng)
        if known == len(steps):
            action = answer_action(task.answers[0])
        elif guess is not None and rng.random() < (habits.hasty_found if fresh else habits.hasty_useless):
            action = answer_action(guess)
        elif last is not None and rng.random() < habits.repeat:
            action = last
        else:
            call, _ = steps[known]
            if rng.random() < habits.wrong_relation:
                other = query(_one(list(RELATIONS), rng), read_query(call)[1])
                action = search_action(f"{_one(placement.names, rng)} {other}")
            else:
                if not untried:
                    home = placement.home[read_query(call)[0]]
                    untried = [home] if informed else list(rng.permutation(placement.names))
                action = search_action(f"{untried.pop()} {call}")
        result = episode.step(action)
        turns.append((action, result.observation))
        if result.stop is not None:
            return turns
        last, fresh = action, known < len(steps) and steps[known][1] in result.observation
        if fresh:
            known, untried = known + 1, []


def _one(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[rng.integers(len(options))]


def _in_some_order(task: Task, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Searches and the passages they are to find, where the order is free in a random one."""
    steps = list(zip(task.reference_calls, task.evidence, strict=True))
    free = {COMPARISON: 2, NARROWING: len(steps)}.get(task.kind, 0)
    return [steps[i] for i in rng.permutation(free)] + steps[free:]


def _guess(task: Task, world: World, known: Sequence[str], rng: np.random.Generator) -> str | None:
    """An answer to a question of which these facts are known: the last thing that was found, or any entity that has
    the properties; None where nothing is known."""
    if not known:
        return None
    if task.kind == NARROWING:
        return _one(_having(world, known), rng)
    relation, subject = read_query(known[-1])
    return subject if task.kind == COMPARISON else world.facts[subject, relation]


def _having(world: World, searches: Sequence[str]) -> list[str]:
    """The entities that have all the properties searched for."""
    properties = [read_query(search) for search in searches]
    kind = RELATIONS[properties[0][0]].subject
    return [e for e in world.entities[kind] if all(world.facts[e, relation] == o for relation, o in properties)]
