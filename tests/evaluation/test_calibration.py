"""Beliefs held against Bayes: the states, the passages seen in them, and both probabilities by themselves."""

from dataclasses import replace

import pytest
import torch

from a2tgpo.embedded.collection_search import CollectionSearch
from a2tgpo.embedded.demonstrations import answer_action, search_action
from a2tgpo.embedded.posterior import posterior
from a2tgpo.embedded.tasks import EmbeddedTasks, world_of
from a2tgpo.evaluation.calibration import BeliefState, belief_states, calibration_gap, passages_seen
from a2tgpo.rollouts.trajectory import Split
from tests.helpers.build import build_trajectory
from tests.helpers.shipped import placement, question_mix, world_size

SIZE, WRAPPER = world_size("credit"), ("<think> done</think><answer> ", "</answer>")
TASKS = EmbeddedTasks(SIZE, question_mix("credit", narrowing=1.0), 4, 40, 40, 40, placement()).split(Split.TRAIN)
TASK = next(task for task in TASKS if len(task.reference_calls) == 3)


@pytest.fixture
def trajectory(random_policy):
    """Three right searches, with their results, and the answer."""
    search = CollectionSearch(SIZE, placement(), topk=1)
    results = [f"<result> {search(call, TASK)[0]}</result>" for call in TASK.reference_calls]
    actions = [*map(search_action, TASK.reference_calls), answer_action(TASK.answers[0])]
    return replace(build_trajectory(random_policy, actions, results), task=TASK)


def test_states_are_those_between_results_with_the_posterior_of_what_was_seen(random_policy, trajectory):
    states = belief_states(random_policy, [trajectory], SIZE, WRAPPER, 4096)
    world = world_of(TASK.corpus, SIZE)
    assert [(state.kind, state.results) for state in states] == [("narrowing", n) for n in range(4)]
    seen = [posterior(world, TASK, TASK.evidence[:n], SIZE.objects)[TASK.answers[0]] for n in range(4)]
    assert [state.posterior for state in states] == seen
    assert seen[0] == pytest.approx(1 / SIZE.film) and seen[3] == 1.0 and seen == sorted(seen)
    assert [passages_seen(world, trajectory, n) for n in range(4)] == [set(TASK.evidence[:n]) for n in range(4)]


def test_a_belief_is_the_probability_of_the_whole_answer(random_policy, trajectory):
    tokenizer = random_policy.tokenizer
    states = belief_states(random_policy, [trajectory], SIZE, WRAPPER, 4096)
    for state, length in zip(states, trajectory.context_lengths, strict=True):
        context = [*trajectory.token_ids[:length], *tokenizer(WRAPPER[0].rstrip()).input_ids]
        answer = tokenizer(f" {TASK.answers[0]}").input_ids
        with torch.no_grad():
            logits = random_policy.model(torch.tensor([context + answer])).logits[0, len(context) - 1 : -1]
        assert state.belief == pytest.approx(float(logits.softmax(-1)[range(len(answer)), answer].prod()), rel=1e-4)


def test_the_gap_is_the_mean_distance():
    assert calibration_gap([BeliefState("1", 0, 0.25, 0.5), BeliefState("1", 1, 1.0, 0.25)]) == 0.5
    with pytest.raises(ValueError, match="expected at least one state"):
        calibration_gap([])


def test_a_world_without_a_number_of_objects_has_no_posterior(random_policy, trajectory):
    with pytest.raises(ValueError, match=r"data\.tasks\.size\.objects=null: expected a number"):
        belief_states(random_policy, [trajectory], world_size(), WRAPPER, 4096)
