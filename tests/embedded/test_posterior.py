"""The posterior of the answer is that of Bayes: hand numbers, and an enumeration of all worlds that fit."""

from collections import Counter
from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a2tgpo.embedded.posterior import posterior
from a2tgpo.embedded.questions import make_question, query, reverse_query
from a2tgpo.embedded.world import RELATIONS, World, make_world
from a2tgpo.rollouts.trajectory import Split, Task
from tests.helpers.shipped import question_mix, world_size

FILMS, STUDIOS, PEOPLE, YEARS_SHOWN = ("A", "B", "C", "D"), ("X", "Y", "Z"), ("P", "Q", "R"), ("1951", "1955", "1960")
ENTITIES = {"film": FILMS, "person": PEOPLE, "city": ("K", "L"), "company": STUDIOS, "country": ("M",)}


def world_of(studios, directors, years=("1951", "1951", "1955", "1960"), seats=("K", "K", "L")):
    """Four films with these properties, three companies with these seats; a passage an object."""
    facts = {}
    for relation, subjects, objects in (
        *(("studio", FILMS, studios), ("director", FILMS, directors), ("year", FILMS, years)),
        ("seat", STUDIOS, seats),
    ):
        facts |= {(subject, relation): object_ for subject, object_ in zip(subjects, objects, strict=True)}
    return World("w", ENTITIES, facts, {fact: f"{fact[1]} {o}" for fact, o in facts.items()})


def asked(kind, answer, *calls):
    return Task("t", "?", (answer,), reference_calls=calls, kind=kind)


WORLD = world_of("XXYY", "PQPQ")
BOTH = asked("narrowing", "A", reverse_query("studio", "X"), reverse_query("director", "P"))
CHAIN = asked("2", "K", query("studio", "A"), query("seat", "X"))
OLDER = asked("comparison", "P", query("year", "A"), query("year", "D"), query("director", "A"))
NARROWED = [
    ([], {"A": 1 / 4, "B": 1 / 4, "C": 1 / 4, "D": 1 / 4}),
    (["studio X"], {"A": 1 / 2, "B": 1 / 2}),
    (["director P"], {"A": 1 / 2, "C": 1 / 2}),
    (["studio Y"], {"A": 1 / 2, "B": 1 / 2}),  # films at another studio are not at this one
    (["studio X", "director P"], {"A": 1.0}),
    (["seat K", "year 1951"], {"A": 1 / 4, "B": 1 / 4, "C": 1 / 4, "D": 1 / 4}),
]
FOLLOWED = [
    ([], {"K": 1 / 2, "L": 1 / 2}),
    (["studio X"], {"K": 1 / 2, "L": 1 / 2}),
    (["studio X", "seat K"], {"K": 1.0}),
    (["seat K"], {"K": 2 / 3, "L": 1 / 3}),  # the studio is any of three, of which two are there
    (["seat K", "studio Y"], {"K": 1 / 2, "L": 1 / 2}),  # X or Z
]


@pytest.mark.parametrize(("seen", "expected"), NARROWED)
def test_narrowing_by_hand(seen, expected):
    assert posterior(WORLD, BOTH, seen, objects=2) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("seen", "expected"), FOLLOWED)
def test_a_chain_by_hand(seen, expected):
    assert posterior(WORLD, CHAIN, seen, objects=2) == pytest.approx(expected, abs=1e-12)


def test_a_comparison_by_hand():
    def believed(*seen):
        return posterior(WORLD, OLDER, seen, objects=2)

    assert believed() == pytest.approx({"P": 1 / 3, "Q": 1 / 3, "R": 1 / 3}, abs=1e-12)
    assert believed("year 1951", "year 1960", "director P") == {"P": 1.0}
    assert believed("director P", "director Q") == {"P": 0.5, "Q": 0.5}  # either may be the older
    # Of 1951 nothing is older: the other film, of an unseen year that lies apart, is the younger.
    assert believed("year 1951", "director P") == {"P": 1.0}
    # Of 1960 there are 5 years that are older by five or more, and 6 that are younger.
    older = (1955 - 1951 + 1) / (1955 - 1951 + 1 + 1970 - 1965 + 1)
    assert believed("year 1960", "director P", "director Q") == pytest.approx({"P": older, "Q": 1 - older}, abs=1e-12)


@pytest.mark.parametrize("seen", [[], ["studio Y"], ["studio X"], ["studio Z", "director Q"], ["director Q"]])
def test_narrowing_is_an_enumeration_of_all_worlds_that_fit(seen):
    """Every world of three objects a relation is as likely; those are kept that show what was seen, and in which the
    question could be asked."""
    truth = world_of("XYYZ", "PQRQ")
    weights = Counter()
    for studios, directors in product(product(STUDIOS, repeat=4), product(PEOPLE, repeat=4)):
        world = world_of(studios, directors)
        fits = all(
            [f for f in FILMS if world.facts[f, r] == o] == [f for f in FILMS if truth.facts[f, r] == o]
            for r, o in map(str.split, seen)
        )
        matching = [f for f in FILMS if (world.facts[f, "studio"], world.facts[f, "director"]) == ("X", "P")]
        weights[matching[0] if fits and len(matching) == 1 else None] += 1
    del weights[None]
    expected = {film: weight / weights.total() for film, weight in weights.items()}
    assert posterior(truth, BOTH, seen, objects=3) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=30)
@given(st.integers(0, 300), st.integers(0, 3), st.data())
def test_it_is_a_distribution_that_never_excludes_the_truth_and_ends_at_it(world_number, index, data):
    size = world_size("credit")
    world = make_world(Split.TRAIN, world_number, size)
    task = make_question(world, index, question_mix("credit"))
    passages = sorted(set(world.passages.values()))
    seen = data.draw(st.sets(st.sampled_from(passages)))
    believed = posterior(world, task, seen, size.objects)
    assert sum(believed.values()) == pytest.approx(1, abs=1e-12)
    assert believed[task.answers[0]] > 0
    assert posterior(world, task, {*seen, *task.evidence}, size.objects) == pytest.approx({task.answers[0]: 1.0})


def test_only_narrowing_moves_the_posterior_gradually():
    size, moved = world_size("credit"), Counter()
    for number in range(60):
        world = make_world(Split.TRAIN, number, size)
        task = make_question(world, 0, question_mix("credit"))
        beliefs = [posterior(world, task, task.evidence[:n], size.objects) for n in range(len(task.evidence) + 1)]
        steps = [after[task.answers[0]] - before[task.answers[0]] for before, after in pairwise(beliefs)]
        moved[task.kind == "narrowing", "last"] += steps[-1]
        moved[task.kind == "narrowing", "all"] += sum(steps)
        if task.kind == "narrowing":
            kind = RELATIONS[task.reference_calls[0].split()[0]].subject
            assert beliefs[0][task.answers[0]] == pytest.approx(1 / len(world.entities[kind]), abs=1e-12)
    assert moved[False, "last"] / moved[False, "all"] > 0.9 > 0.8 > moved[True, "last"] / moved[True, "all"]
