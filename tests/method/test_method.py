"""`Method` as trainers see it: reductions to simpler methods, the equations as a loop, what is inert, and ranks."""

import math
from collections import defaultdict
from dataclasses import fields, replace
from statistics import fmean, pstdev

import pytest
import torch

from a2tgpo.method.accumulators.discounted import Discounted
from a2tgpo.method.accumulators.none import NoAccumulation
from a2tgpo.method.accumulators.variance_rescaled import VarianceRescaled
from a2tgpo.method.aggregations.token_mean import TokenMean
from a2tgpo.method.clippers.adaptive_turn import AdaptiveTurn
from a2tgpo.method.clippers.fixed import Fixed
from a2tgpo.method.combiners.additive import Additive
from a2tgpo.method.corrections.truncated_importance import TruncatedImportance
from a2tgpo.method.credits.anchor_groups import AnchorGroups
from a2tgpo.method.credits.belief_baseline import BeliefBaseline
from a2tgpo.method.credits.bellman_closure import BellmanClosure
from a2tgpo.method.credits.shrunken_groups import ShrunkenGroups
from a2tgpo.method.method import PAPER
from a2tgpo.method.ratios.sequence import SequenceRatio
from a2tgpo.method.ratios.token import TokenRatio
from a2tgpo.method.signals.none import NoSignal
from a2tgpo.method.turns import TurnCredit
from a2tgpo.system.distributed import all_gather_rows, local_rows
from tests.helpers.observed import random_observed, random_tokens, rows
from tests.helpers.ranks import on_ranks
from tests.helpers.shipped import settings

SEEDS = range(5)
WIDE = replace(PAPER, clipper=AdaptiveTurn(beta=0.3, eps_low=0.05, eps_high=0.06))
"""The paper's method where drifts of 0.1 are clipped here and there, not everywhere."""
GRPO = replace(PAPER, signal=NoSignal(), ratio=TokenRatio(), clipper=Fixed(eps_low=0.1, eps_high=0.15))


def same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def named(credit):
    return {field.name: getattr(credit, field.name) for field in fields(credit)}


def step(method, seen, tokens):
    """Loss, gradient by log-prob and clipped tokens of a mini-batch, from credit to loss."""
    logprobs = tokens.logprobs.clone().requires_grad_()
    weight = method.weigh(tokens.turn_ids, tokens.old_logprobs, tokens.rollout_logprobs)
    loss, clipped = method.loss(logprobs, tokens.old_logprobs, tokens.turn_ids, method.assign(seen), weight)
    return loss.detach(), torch.autograd.grad(loss, logprobs)[0], clipped


@pytest.fixture(params=SEEDS)
def seen(request):
    return random_observed(request.param)


@pytest.fixture
def tokens(request, seen):
    return random_tokens(seen.turn_mask, request.node.callspec.params["seen"], drift=0.1)


# ---- reductions ------------------------------------------------------------------------------------------------------


def test_beta_zero_is_fixed_clipping(seen, tokens):
    adaptive = replace(WIDE, clipper=replace(WIDE.clipper, beta=0.0))
    fixed = replace(WIDE, clipper=Fixed(WIDE.clipper.eps_low, WIDE.clipper.eps_high))
    loss, gradient, clipped = step(fixed, seen, tokens)
    same(step(adaptive, seen, tokens), (loss, gradient, clipped))
    assert clipped.any() and not torch.equal(step(WIDE, seen, tokens)[0], loss)


def grpo_by_hand(seen, tokens, eps_low, eps_high):
    """Mean over trajectories of the mean over their tokens of −min(r·A, clip(r)·A), A the standardised outcome."""
    outcome, prompts = seen.outcome.tolist(), seen.group_ids.tolist()
    total = torch.zeros((), dtype=torch.float64)
    for row, prompt in enumerate(prompts):
        group = [value for value, other in zip(outcome, prompts, strict=True) if other == prompt]
        advantage = (outcome[row] - fmean(group)) / pstdev(group) if max(group) > min(group) else 0.0
        own = (tokens.turn_ids[row] >= 0).nonzero()[:, 0].tolist()
        for token in own:
            ratio = (tokens.logprobs[row, token] - tokens.old_logprobs[row, token]).exp()
            bounded = ratio.clamp(1 - eps_low, 1 + eps_high)
            total = total - torch.minimum(ratio * advantage, bounded * advantage) / len(own) / len(prompts)
    return total


def test_no_signal_with_token_ratios_and_fixed_clipping_is_grpo(seen, tokens):
    tokens = replace(tokens, logprobs=tokens.logprobs.requires_grad_())
    expected = grpo_by_hand(seen, tokens, eps_low=0.1, eps_high=0.15)
    gradient = torch.autograd.grad(expected, tokens.logprobs)[0]
    loss, found, clipped = step(GRPO, seen, replace(tokens, logprobs=tokens.logprobs.detach()))
    torch.testing.assert_close((loss, found), (expected.detach(), gradient), rtol=0, atol=1e-7)  # shares are fp32
    assert clipped.any() and torch.equal(found == 0, clipped | (tokens.turn_ids < 0) | (gradient == 0))


def test_gains_without_weight_are_no_signal(seen):
    deaf = replace(PAPER, credit=replace(PAPER.credit, combiner=Additive(alpha=0.0)))
    same(deaf.assign(seen).advantage, replace(PAPER, signal=NoSignal()).assign(seen).advantage)


def test_without_accumulation_a_turn_has_its_own_gain_and_the_outcome(seen):
    alone = replace(PAPER, credit=replace(PAPER.credit, accumulator=NoAccumulation())).assign(seen)
    same(alone.turn_credit, alone.normalized_gain)


def test_rescaling_divides_the_sum_by_the_root_of_its_terms(seen):
    plain, rescaled = (
        replace(PAPER, credit=replace(PAPER.credit, accumulator=part)).assign(seen)
        for part in (Discounted(gamma=0.9), VarianceRescaled(gamma=0.9))
    )
    terms = plain.gain_mask.flip(1).cumsum(1).flip(1).clamp(min=1).double()
    same(rescaled.turn_credit * terms.sqrt(), plain.turn_credit)


def test_one_turn_a_trajectory_makes_turn_and_sequence_the_same(seen, tokens):
    single = replace(tokens, turn_ids=tokens.turn_ids.clamp(max=0))
    same(step(WIDE, seen, single), step(replace(WIDE, ratio=SequenceRatio()), seen, single))


def test_a_correction_for_equal_policies_corrects_nothing(tokens):
    corrected = replace(PAPER, correction=TruncatedImportance(cap=2.0))
    old = tokens.old_logprobs
    assert torch.equal(corrected.weigh(tokens.turn_ids, old, old), PAPER.weigh(tokens.turn_ids, old, old))
    assert float(PAPER.weigh(tokens.turn_ids, old, old).sum()) == pytest.approx(1, rel=0, abs=1e-7)  # shares are fp32


def test_a_token_weighs_its_share_times_its_truncated_importance(tokens):
    corrected = replace(PAPER, correction=TruncatedImportance(cap=1.2))
    weight = corrected.weigh(tokens.turn_ids, tokens.old_logprobs, tokens.rollout_logprobs)
    ratio = (tokens.old_logprobs - tokens.rollout_logprobs).exp()
    same(weight, PAPER.aggregation(tokens.turn_ids) * ratio.clamp(max=1.2))
    own = ratio[tokens.turn_ids >= 0]
    assert (own > 1.2).any() and (own < 1.2).any()


# ---- the equations as a loop -----------------------------------------------------------------------------------------


def standardised(labelled, resolution=1e-6):
    """(x − mean) / population std among the values of equal label; 0 where a label's values are equal."""
    groups = defaultdict(list)
    for label, value in labelled.values():
        groups[label].append(value)
    return {
        place: (value - fmean(groups[label])) / pstdev(groups[label])
        if max(groups[label]) - min(groups[label]) > resolution
        else 0.0
        for place, (label, value) in labelled.items()
    }


def by_hand(seen, gain, aliases, baseline, gamma, alpha):
    """Eqs. 2, 3, 6–9 and 11, number by number: gain, îg, Â and the scale of the clip range by (row, turn)."""
    prompts, gains = seen.group_ids.tolist(), {}
    for row, t in seen.process_mask.nonzero().tolist():
        known = seen.alias_mask[row].sum()
        beliefs = []
        for state in (t, t + 1):
            probabilities = seen.answer_logprob[row, state, :known].exp().tolist()
            beliefs.append(
                {"first": probabilities[0], "max": max(probabilities), "mean": fmean(probabilities)}[aliases]
            )
        if t > 0 or baseline == "query":
            gains[row, t] = beliefs[1] - beliefs[0] if gain == "prob" else math.log(beliefs[1] / beliefs[0])
    hat = standardised({(row, t): ((prompts[row], t), value) for (row, t), value in gains.items()})
    outcome_hat = standardised({row: (prompts[row], value) for row, value in enumerate(seen.outcome.tolist())})
    advantage, scale = {}, {}
    for row, t in seen.turn_mask.nonzero().tolist():
        to_come = [k for k in range(t, seen.turn_mask.shape[1]) if (row, k) in gains] if (row, t) in gains else []
        total = sum(gamma ** (k - t) * hat[row, k] for k in to_come)
        advantage[row, t] = alpha * total / math.sqrt(max(len(to_come), 1)) + outcome_hat[row]
        scale[row, t] = 1 + 0.3 * (2 / (1 + math.exp(-hat.get((row, t), 0.0))) - 1)
    return gains, hat, advantage, scale


def table(values, shape):
    result = torch.zeros(shape, dtype=torch.float64)
    for place, value in values.items():
        result[place] = value
    return result


@pytest.mark.parametrize(("gamma", "alpha"), [(1.0, 1.0), (0.9, 0.3)])
@pytest.mark.parametrize("baseline", ["query", "first_turn"])
@pytest.mark.parametrize(("gain", "aliases"), [("prob", "first"), ("prob", "max"), ("log_prob", "mean")])
def test_assign_equals_a_loop_over_the_equations(seen, gain, aliases, baseline, gamma, alpha):
    signal = replace(PAPER.signal, gain=gain, aliases=aliases, baseline=baseline)
    stages = replace(PAPER.credit, accumulator=VarianceRescaled(gamma), combiner=Additive(alpha))
    credit = replace(PAPER, signal=signal, credit=stages).assign(seen)
    gains, hat, advantage, scale = (
        table(values, seen.turn_mask.shape) for values in by_hand(seen, gain, aliases, baseline, gamma, alpha)
    )
    close = {"rtol": 0, "atol": 1e-10}  # a z-score of close gains magnifies their rounding
    torch.testing.assert_close(credit.gain, gains, **close)
    torch.testing.assert_close(credit.normalized_gain, hat, **close)
    torch.testing.assert_close(credit.advantage, advantage, **close)
    exists = seen.turn_mask
    torch.testing.assert_close(torch.where(exists, credit.clip_low, 0.0), 3e-3 * scale, **close)
    torch.testing.assert_close(torch.where(exists, credit.clip_high, 0.0), 4e-3 * scale, **close)
    assert hat.any() and (credit.gain_mask == (gains != 0)).all()


# ---- what is not looked at -------------------------------------------------------------------------------------------


def noise(like, seed=7):
    return 50 * torch.randn(like.shape, dtype=like.dtype, generator=torch.Generator().manual_seed(seed))


def test_what_was_not_scored_changes_no_credit(seen):
    scored = seen.state_mask[:, :, None] & seen.alias_mask[:, None]
    others = torch.where(scored, seen.answer_logprob, noise(seen.answer_logprob))
    hidden = replace(seen, answer_logprob=others, group_ids=-3 * seen.group_ids - 5, state_ids=seen.state_ids + 11)
    for signal in (PAPER.signal, replace(PAPER.signal, aliases="mean"), replace(PAPER.signal, aliases="max")):
        method = replace(PAPER, signal=signal)
        credit, again = method.assign(seen), method.assign(hidden)
        assert all(torch.equal(value, named(again)[name]) for name, value in named(credit).items())


@pytest.mark.parametrize("filler", [noise, lambda like: torch.full_like(like, torch.nan)])
@pytest.mark.parametrize("ratio", [PAPER.ratio, TokenRatio(), SequenceRatio()])
def test_tokens_that_are_no_action_and_turns_that_do_not_exist_change_no_loss(seen, tokens, ratio, filler):
    method = replace(WIDE, ratio=ratio, correction=TruncatedImportance(cap=2.0))
    credit, own = method.assign(seen), tokens.turn_ids >= 0
    expected = None
    for fill in (lambda like: like, filler):
        new, old, rollout = (
            torch.where(own, values, fill(values))
            for values in (tokens.logprobs, tokens.old_logprobs, tokens.rollout_logprobs)
        )
        turns = {name: getattr(credit, name) for name in ("advantage", "clip_low", "clip_high")}
        turns = {name: torch.where(seen.turn_mask, value, fill(value)) for name, value in turns.items()}
        logprobs = new.requires_grad_()
        weight = method.weigh(tokens.turn_ids, old, rollout)
        loss, clipped = method.loss(logprobs, old, tokens.turn_ids, replace(credit, **turns), weight)
        found = (weight, loss.detach(), clipped, torch.autograd.grad(loss, logprobs)[0])
        expected = expected or found
        assert all(torch.equal(value, other) for value, other in zip(found, expected, strict=True))
    assert not expected[3][~own].any() and expected[3][own].any()


def test_credit_and_bounds_carry_no_gradient(seen):
    credit = PAPER.assign(replace(seen, answer_logprob=seen.answer_logprob.requires_grad_()))
    assert not any(value.requires_grad for value in named(credit).values())


# ---- order -----------------------------------------------------------------------------------------------------------


def test_permuting_trajectories_permutes_credit_and_gradient(seen, tokens):
    order = torch.randperm(len(seen.outcome), generator=torch.Generator().manual_seed(3))
    moved = rows(seen, order)
    for name, value in named(PAPER.assign(moved)).items():
        same(value, named(PAPER.assign(seen))[name][order])
    shuffled = replace(tokens, **{f.name: getattr(tokens, f.name)[order] for f in fields(tokens)})
    loss, gradient, clipped = step(WIDE, seen, tokens)
    same(step(WIDE, moved, shuffled), (loss, gradient[order], clipped[order]))


# ---- ranks -----------------------------------------------------------------------------------------------------------

UNEQUAL = ((0, 4), (4, 5), (5, 9))
"""Rows of three ranks: four, one and four."""


def part(seen, rank):
    """A rank's trajectories, as wide as the longest of them."""
    own = rows(seen, torch.arange(*UNEQUAL[rank]))
    width = int(own.turn_mask.sum(1).max())
    names = ("turn_mask", "process_mask", "state_ids", "node_ids", "action_ids", "n_new_pieces")
    names += ("answer_logprob_without",)
    per_turn = {name: getattr(own, name)[:, :width] for name in names}
    per_state = {name: getattr(own, name)[:, : width + 1] for name in ("answer_logprob", "state_mask")}
    return replace(own, **per_turn, **per_state)


def test_rows_of_all_ranks_are_gathered_in_order_and_each_finds_its_own(monkeypatch):
    whole = torch.arange(45).view(9, 5)
    widths = (5, 2, 3)

    def work(rank):
        own = whole[slice(*UNEQUAL[rank]), : widths[rank]]
        gathered, flat = all_gather_rows(own, -1), all_gather_rows(own[:, 0], -1)
        return gathered, flat, gathered[local_rows(len(own)), : widths[rank]]

    for rank, (gathered, flat, own) in enumerate(on_ranks(monkeypatch, 3, work)):
        assert gathered.shape == whole.shape and torch.equal(flat, whole[:, 0])
        assert torch.equal(own, whole[slice(*UNEQUAL[rank]), : widths[rank]])
        for (first, end), width in zip(UNEQUAL, widths, strict=True):
            assert torch.equal(gathered[first:end, :width], whole[first:end, :width])
            assert (gathered[first:end, width:] == -1).all()


def test_ranks_without_rows_are_passed_over(monkeypatch):
    found = on_ranks(monkeypatch, 3, lambda rank: local_rows((3, 0, 2)[rank]))
    assert found == [slice(0, 3), slice(3, 3), slice(3, 5)]


CRITIC = replace(PAPER, credit=BeliefBaseline(**settings("model/credit/belief_baseline")))


@pytest.mark.parametrize("method", [PAPER, CRITIC], ids=["paper", "belief_baseline"])
def test_ranks_with_unequal_rows_assign_what_one_process_would(monkeypatch, seen, method):
    whole = named(method.assign(seen))
    found = on_ranks(monkeypatch, 3, lambda rank: method.assign(part(seen, rank)))
    for (first, end), credit in zip(UNEQUAL, found, strict=True):
        for name, value in named(credit).items():
            assert torch.equal(value, whole[name][first:end, : value.shape[1]]), name


OUTCOME = {"outcome": PAPER.credit.outcome}
BY_STATE = {
    "anchor_groups": AnchorGroups(**settings("model/credit/anchor_groups") | OUTCOME),
    "bellman_closure": BellmanClosure(**settings("model/credit/bellman_closure") | OUTCOME),
    "shrunken_groups": ShrunkenGroups(**settings("model/credit/shrunken_groups") | OUTCOME | {"min_visits": 1}),
}


@pytest.mark.parametrize("credit", BY_STATE)
def test_equal_state_ids_of_two_ranks_are_not_the_same_state(monkeypatch, seen, credit):
    method = replace(PAPER, credit=BY_STATE[credit])
    rank_of_row = torch.tensor([0] * 4 + [1] + [2] * 4)[:, None]
    seen = replace(seen, action_ids=seen.action_ids % 3)
    apart = {name: getattr(seen, name) + 100 * rank_of_row for name in ("state_ids", "action_ids")}
    whole = method.assign(replace(seen, **apart))
    found = on_ranks(monkeypatch, 3, lambda rank: method.assign(part(seen, rank)))
    for (first, end), credit in zip(UNEQUAL, found, strict=True):
        same(credit.turn_credit, whole.turn_credit[first:end, : credit.turn_credit.shape[1]])
    assert whole.turn_credit.any() and not torch.equal(whole.turn_credit, method.assign(seen).turn_credit)


@pytest.mark.parametrize("aggregation", [PAPER.aggregation, TokenMean()])
def test_ranks_with_unequal_rows_weigh_as_one_process_would(monkeypatch, seen, tokens, aggregation):
    method = replace(PAPER, aggregation=aggregation, correction=TruncatedImportance(cap=2.0))
    whole = method.weigh(tokens.turn_ids, tokens.old_logprobs, tokens.rollout_logprobs)

    def work(rank):
        own = slice(*UNEQUAL[rank])
        width = int((tokens.turn_ids[own] >= 0).nonzero()[:, 1].max()) + 1
        cut = (getattr(tokens, name)[own, :width] for name in ("turn_ids", "old_logprobs", "rollout_logprobs"))
        return method.weigh(*cut)

    for (first, end), weight in zip(UNEQUAL, on_ranks(monkeypatch, 3, work), strict=True):
        assert torch.equal(weight, whole[first:end, : weight.shape[1]])
    assert not torch.equal(method.weigh(tokens.turn_ids[:4], *[tokens.old_logprobs[:4]] * 2), whole[:4])


# ---- the credit of turns as a value ----------------------------------------------------------------------------------


def test_rows_and_zeros_of_credit_keep_every_field(seen):
    credit, index = PAPER.assign(seen), torch.tensor([3, 0])
    for name, value in named(credit.rows(index)).items():
        assert torch.equal(value, getattr(credit, name)[index])
    zeros = named(TurnCredit.zeros(*seen.turn_mask.shape))
    assert all(value.shape == getattr(credit, name).shape and not value.any() for name, value in zeros.items())
