"""Every way in which a policy does not act is found, and what mends it is named."""

from dataclasses import replace

import pytest

from a2tgpo.check.actions import Ways, actions
from a2tgpo.check.findings import Verdict
from a2tgpo.rollouts.trajectory import Call, CallResult, StopReason
from tests.helpers.build import build_trajectory

SEARCH, ANSWER, RESULT = "<search> Varo</search>", "<answer> Varo</answer>", "<result> Varo is a town.</result>"
FOUND = Call("search", CallResult.FOUND)
SHOW, WARM_UP = "data/dialect/examples=search_qa", "python src/warm_up.py, with the same overrides"
GOOD, DOUBTFUL, BAD = Verdict.GOOD, Verdict.DOUBTFUL, Verdict.BAD


def episode(policy, said, stop=StopReason.ANSWERED, call=FOUND, useful=None):
    """All actions but the last are calls with this outcome."""
    made = build_trajectory(policy, said, [RESULT] * (len(said) - 1), stop=stop)
    turns = [replace(turn, calls=(call,), useful=useful) for turn in made.turns[:-1]]
    return replace(made, turns=(*turns, made.turns[-1]))


def found(trajectories, examples=SHOW, max_action_tokens=40):
    return {f.topic: f for f in actions(trajectories, Ways(examples, max_action_tokens, 200))}


def test_a_policy_that_acts_is_good(random_policy):
    report = found([episode(random_policy, [SEARCH, ANSWER], useful=True)] * 4)
    assert {finding.verdict for finding in report.values()} == {GOOD} and not any(f.mend for f in report.values())
    assert "100% of the turns bring something useful" in report["results"].says
    assert set(report) == {"form", "calls and answers", "length", "results"}


@pytest.mark.parametrize(("examples", "mend"), [(SHOW, SHOW), ("", WARM_UP)])
def test_a_policy_that_does_not_know_the_form_is_shown_it_or_warmed_up(random_policy, examples, mend):
    babble = episode(random_policy, ["Varo"], StopReason.INVALID_ACTION)
    report = found([babble] * 4, examples)
    assert report["form"].verdict is report["calls and answers"].verdict is BAD
    assert report["form"].mend == report["calls and answers"].mend == mend
    assert "results" not in report


def test_a_policy_that_ends_at_once_is_told_of(random_policy):
    report = found([episode(random_policy, [" "], StopReason.INVALID_ACTION)] * 3)
    assert report["form"].says.startswith("0 of 3 sampled actions are well-formed")
    assert report["form"].says.endswith("3 say nothing at all")


def test_answers_without_calls_have_no_gain(random_policy):
    report = found([episode(random_policy, [ANSWER])] * 4)
    assert report["form"].verdict is GOOD
    assert report["calls and answers"].verdict is BAD
    assert report["calls and answers"].says.startswith("0% of the episodes call a tool, 100% answer")


def test_a_third_in_form_is_doubtful(random_policy):
    good, babble = episode(random_policy, [SEARCH, ANSWER]), episode(random_policy, ["Varo"], StopReason.INVALID_ACTION)
    assert found([good, babble, babble])["form"].verdict is DOUBTFUL


def test_actions_that_are_cut_want_more_tokens(random_policy):
    cut = episode(random_policy, [SEARCH, ANSWER], StopReason.MAX_TOKENS)
    limit = max(len(turn.action_ids) for turn in cut.turns)
    report = found([cut], max_action_tokens=limit)
    assert report["length"].mend.startswith(f"data.module.max_action_tokens={2 * limit}")
    assert found([cut], max_action_tokens=limit + 1)["length"].mend == "data.module.max_response_tokens=400"


@pytest.mark.parametrize("result", [CallResult.EMPTY, CallResult.FAILED])
def test_tools_that_bring_nothing_are_told_of_with_their_reason(random_policy, result):
    call = Call("search", result, "it found nothing")
    report = found([episode(random_policy, [SEARCH, ANSWER], call=call)] * 4)
    assert report["results"].verdict is BAD and "0 of 4 calls bring something" in report["results"].says
    assert report["results"].says.endswith("the first that does not: search, it found nothing")
    assert "useful" not in report["results"].says  # nobody knows
