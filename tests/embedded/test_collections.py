"""Worlds with collections: where facts are kept, the search that must name a place, questions that narrow, and
demonstrations that tell nothing of the places."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from a2tgpo.embedded.collection_demonstrations import SearchHabits, demonstrate_search
from a2tgpo.embedded.collection_search import CollectionSearch
from a2tgpo.embedded.demonstrations import answer_action, search_action
from a2tgpo.embedded.names import SHARED_WORDS, WORDS
from a2tgpo.embedded.placement import NAMES, Placement
from a2tgpo.embedded.questions import NARROWING, make_question, query, read_query, reverse_query
from a2tgpo.embedded.tasks import EmbeddedTasks, world_of
from a2tgpo.embedded.tokenizer import COLLECTION_PIECES, build_tokenizer
from a2tgpo.embedded.world import RELATIONS, WorldSize, make_world
from a2tgpo.environments.protocols import Measured
from a2tgpo.rollouts.trajectory import Split, StopReason, Task
from tests.helpers.episodes import tool_use
from tests.helpers.shipped import placement, question_mix, settings, text_tags, world_size

SIZE, MIX, PLACEMENT = world_size("credit"), question_mix("credit"), placement()
TASKS = EmbeddedTasks(SIZE, MIX, 4, 400, 200, 200, PLACEMENT)
TOOL = CollectionSearch(SIZE, PLACEMENT, topk=1)
DIALECT = text_tags(
    settings("data/dialect/text_tags")["prompt_template"], ("<think> done</think><answer> ", "</answer>")
)
FLAWLESS = SearchHabits(informed=0.5, hasty_found=0.0, hasty_useless=0.0, repeat=0.0, wrong_relation=0.0)
WORLD = make_world(Split.TRAIN, 0, SIZE)


def episode(task: Task, tool: CollectionSearch = TOOL, max_calls: int = 4):
    return tool_use(DIALECT, {"search": tool}, max_calls=max_calls)(task)


@given(st.integers(1, 6), st.integers(0, 10**9))
def test_relations_are_dealt_evenly(collections, number):
    dealt = Counter(Placement(collections, number).home.values())
    assert set(dealt) <= set(NAMES[:collections])
    assert max(dealt.values()) - min(dealt.values()) <= 1 and sum(dealt.values()) == 12


def test_placements_of_many_draws_are_uniform():
    homes = [replace(PLACEMENT, number=number).home["mayor"] for number in range(4000)]
    assert all(abs(homes.count(name) / 4000 - 0.25) < 0.03 for name in PLACEMENT.names)  # 4.4 standard errors


def test_a_passage_states_all_subjects_of_an_object():
    for relation in RELATIONS.values():
        objects = {o for (_, name), o in WORLD.facts.items() if name == relation.name}
        assert 2 <= len(objects) <= SIZE.objects
        for object_ in objects:
            subjects = [s for (s, name), o in WORLD.facts.items() if name == relation.name and o == object_]
            (passage,) = {WORLD.passages[subject, relation.name] for subject in subjects}
            assert ", ".join(subjects) in passage and object_ in passage


def test_there_are_no_more_objects_than_entities_of_a_type():
    with pytest.raises(ValueError, match=r"data\.tasks\.size\.objects=3: expected <= 2"):
        WorldSize(film=9, person=9, city=9, company=9, country=2, person_words=None, objects=3)


def test_names_are_words_that_splits_share_and_nobody_has_a_namesake():
    names = [name for split in Split for names in make_world(split, 3, SIZE).entities.values() for name in names]
    assert set(names) <= set(SHARED_WORDS) and len(set(names)) > len(SHARED_WORDS) / 2
    world = make_world(Split.TEST, 3, SIZE)
    assert [world.aliases("person", name) for name in world.entities["person"]] == [
        (name,) for name in world.entities["person"]
    ]
    with pytest.raises(ValueError, match="a world of 170 words; expected <= 115"):
        replace(SIZE, film=130)


@pytest.mark.parametrize("split", list(Split))
def test_reference_calls_are_addressed_and_find_their_evidence(split):
    for task in TASKS.split(split):
        assert [TOOL(call, task) for call in task.reference_calls] == [[passage] for passage in task.evidence]


def test_another_collection_answers_with_a_decoy_or_nothing_and_never_with_evidence():
    results = Counter()
    for task in TASKS.split(Split.VALIDATION):
        for call, passage in zip(task.reference_calls, task.evidence, strict=True):
            home, wanted = call.split(" ", 1)
            for name in set(PLACEMENT.names) - {home}:
                decoys = TOOL(f"{name} {wanted}", task)
                assert passage not in decoys
                results["nothing" if not decoys else "gold" if task.answers[0] in decoys[0] else "other"] += 1
    assert min(results.values()) > 50 and len(results) == 3


@pytest.mark.parametrize("text", ["", "director of Varo", "museum director of Varo", "register director", "archive"])
def test_a_search_that_names_no_collection_or_nothing_else_finds_nothing(text):
    assert TOOL(text, TASKS.split(Split.TRAIN)[0]) == []


def test_a_tool_measures_first_choices_and_repeats():
    home = PLACEMENT.home
    other = next(name for name in PLACEMENT.names if name != home["star"])
    calls = [
        f"{home['director']} director of Varo",
        f"{other} star of Varo",
        f"{home['star']} star of Varo",  # a second choice
        f"{home['star']} star Bemi",
        f"{home['star']} star Bemi",
        f"{other} Varo",  # of no relation
    ]
    assert isinstance(TOOL, Measured)
    assert TOOL.measure([{"query": call} for call in calls]) == {
        "first_choice/director": 1.0,
        "first_choice/star": 0.5,
        "first_choice": 2 / 3,
        "repeats": 1.0,
    }
    assert TOOL.measure([]) == {"repeats": 0.0}


def test_an_episode_reports_how_its_tool_was_used():
    task = TASKS.split(Split.TRAIN)[0]
    game = episode(task)
    for call in task.reference_calls:
        game.step(search_action(call))
    game.step(answer_action(task.answers[0]))
    metrics = game.finish(StopReason.ANSWERED)
    assert (metrics["success"], metrics["first_choice"], metrics["repeats"], metrics["early_answer"]) == (1, 1, 0, 0)
    assert {name for name in metrics if "/" in name} == {
        f"first_choice/{read_query(call)[0]}" for call in task.reference_calls
    }


# ---- narrowing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [query("star", "Varo"), reverse_query("star", "Bemi")])
def test_a_search_is_read_as_it_was_written(call):
    assert read_query(call) == read_query(f"archive {call}") == ("star", call.split(" ", 1)[1].removeprefix("of "))


@pytest.mark.parametrize("narrowing", [0.0, 0.5, 1.0])
def test_the_dial_says_how_many_questions_narrow(narrowing):
    mix = question_mix("credit", narrowing=narrowing)
    kinds = [make_question(make_world(Split.TRAIN, i // 4, SIZE), i % 4, mix).kind for i in range(200)]
    assert abs(kinds.count(NARROWING) / 200 - narrowing) <= (0.14 if narrowing == 0.5 else 0)  # 4 standard errors


def test_the_properties_of_a_narrowing_question_belong_to_its_answer_alone():
    seen = Counter()
    for index in range(100):
        world = make_world(Split.TRAIN, index, SIZE)
        task = make_question(world, 0, question_mix("credit", narrowing=1.0))
        properties = [read_query(call) for call in task.reference_calls]
        kind = RELATIONS[properties[0][0]].subject
        having = [e for e in world.entities[kind] if all(world.facts[e, r] == o for r, o in properties)]
        assert having == [task.answers[0]]
        assert all(f"{relation} {object_}" in task.question for relation, object_ in properties)
        seen[kind, len(properties)] += 1
    assert set(seen) == {(k, 2) for k in ("film", "person", "city", "company", "country")} | {("film", 3)}


# ---- demonstrations and tokens ---------------------------------------------------------------------------------------


def demonstrations(habits: SearchHabits, count: int, max_calls: int = 16):
    """(task, turns), each world with a placement of its own."""
    rng = np.random.default_rng(0)
    for index in range(count):
        tool = CollectionSearch(SIZE, replace(PLACEMENT, number=index), topk=1)
        task = make_question(world_of(f"train-{index}", SIZE), 0, MIX)
        play = tool_use(DIALECT, {"search": tool}, max_calls=max_calls)
        yield task, tool, demonstrate_search(task, world_of(task.corpus, SIZE), play, tool.placement, habits, rng)


def test_a_demonstrator_without_bad_habits_finds_all_there_is_and_answers():
    for task, _, turns in demonstrations(FLAWLESS, 60):
        assert turns[-1][0] == answer_action(task.answers[0])
        assert all(any(passage in observation for _, observation in turns) for passage in task.evidence)


@pytest.mark.slow
def test_demonstrations_tell_nothing_of_the_placement():
    right, of, task_itself = 0, 0, CollectionSearch(SIZE, PLACEMENT, topk=1)
    for _, _, turns in demonstrations(SearchHabits(), 1500, max_calls=4):
        calls = [{"query": a.split("<search> ")[1].removesuffix("</search>")} for a, _ in turns if "<search>" in a]
        right, of = right + task_itself.measure(calls[:1]).get("first_choice", 0.0), of + 1
    assert abs(right / of - 0.25) < 0.045  # 4 standard errors


def test_names_and_collections_are_one_piece_and_all_other_pieces_keep_their_ids():
    plain, more = build_tokenizer(), build_tokenizer(COLLECTION_PIECES)
    assert all(len(more(f"<search> {word} year").input_ids) == 3 for word in (*NAMES, *SHARED_WORDS))
    text = f"Question: What is the star of {WORDS[Split.TEST][0]}?"
    assert plain(text).input_ids == more(text).input_ids
