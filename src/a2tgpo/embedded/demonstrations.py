"""Imperfect play for pretraining: right reading, poor decisions.

The demonstrator always copies names rightly. What it decides badly is what reinforcement learning has to repair: it
answers before the chain is complete (with the last thing it found), asks for the wrong relation, or asks again.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from a2tgpo.embedded.questions import COMPARISON, query
from a2tgpo.embedded.world import RELATIONS, World
from a2tgpo.rollouts.protocols import Environment
from a2tgpo.rollouts.trajectory import Task


@dataclass(frozen=True)
class Habits:
    """How often the demonstrator decides badly.

    `hasty[k]`: probability of answering too early in a chain once k facts are known and more are needed;
    `hasty_comparison[k]`: the same in a comparison.
    """

    hasty: tuple[float, ...] = (0.0, 0.25, 0.6, 0.4)
    hasty_comparison: tuple[float, ...] = (0.0, 0.6, 0.35)
    wrong_relation: float = 0.12
    repeat: float = 0.05


def search_action(search: str) -> str:
    """A search as the demonstrator writes it; the thought is the relation that it looks for, or else its first word."""
    words = search.split()
    needed = next((word for word in words if word in RELATIONS), words[0])
    return f"<think> need {needed}</think><search> {search}</search>"


def answer_action(answer: str) -> str:
    """An answer as the demonstrator writes it."""
    return f"<think> done</think><answer> {answer}</answer>"


def demonstrate(
    task: Task,
    world: World,
    environment: Callable[[Task], Environment],
    habits: Habits,
    rng: np.random.Generator,
) -> list[tuple[str, str]]:
    """Play one episode; returns its (action, observation) texts."""
    episode = environment(task)
    turns: list[tuple[str, str]] = []
    searches = list(task.reference_calls)
    if task.kind == COMPARISON and rng.random() < 0.5:
        searches[:2] = reversed(searches[:2])
    known, last_search, found = 0, None, None
    while True:
        if known == len(searches):
            action = answer_action(task.answers[0])
        elif found is not None and rng.random() < _hastiness(task, known, habits):
            action = answer_action(found)
        else:
            search = _choose_search(searches, known, last_search, habits, rng)
            if search == searches[known]:
                known += 1
                relation, subject = search.split(" of ")
                found = subject if task.kind == COMPARISON else world.facts[subject, relation]
            last_search = search
            action = search_action(search)
        result = episode.step(action)
        turns.append((action, result.observation))
        if result.stop is not None:
            return turns


def _hastiness(task: Task, known: int, habits: Habits) -> float:
    return (habits.hasty_comparison if task.kind == COMPARISON else habits.hasty)[known]


def _choose_search(
    searches: list[str], known: int, last_search: str | None, habits: Habits, rng: np.random.Generator
) -> str:
    right = searches[known]
    draw = rng.random()
    if last_search is not None and draw < habits.repeat:
        return last_search
    if draw > 1 - habits.wrong_relation:
        others = [s.split(" of ")[0] for s in searches if s != right]
        relation = others[rng.integers(len(others))] if others else list(RELATIONS)[rng.integers(len(RELATIONS))]
        return query(relation, right.split(" of ")[1])
    return right
