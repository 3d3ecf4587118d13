"""How a rollout set is cut: nothing is lost, everything stays aligned, and what is not an action does not matter."""

from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from a2tgpo.method.aggregations.seq_mean_token_mean import SeqMeanTokenMean
from a2tgpo.method.aggregations.token_mean import TokenMean
from a2tgpo.method.clippers.adaptive_turn import AdaptiveTurn
from a2tgpo.method.functional import k3_kl
from a2tgpo.method.method import PAPER
from a2tgpo.method.ratios.sequence import SequenceRatio
from a2tgpo.method.ratios.token import TokenRatio
from a2tgpo.method.ratios.turn import TurnRatio
from a2tgpo.scoring.batch import PADDING, PER_TOKEN, collate, micro_batches, pack, token_positions
from a2tgpo.scoring.score import token_stats
from tests.helpers.build import build_trajectory
from tests.helpers.ranks import on_ranks

SEARCH, FOUND, ANSWER = "<search> director of Bemi</search>", "<result> Varo Tano.</result>", "<answer> Varo</answer>"
LENGTHS = st.lists(st.integers(1, 60), max_size=30)
BUDGETS = st.integers(1, 200)


@pytest.fixture
def trajectories(random_policy):
    """Rows of unlike lengths and numbers of turns."""
    return [
        build_trajectory(random_policy, [SEARCH] * n + [ANSWER], [FOUND] * n, n % 2, n // 2, outcome=float(n))
        for n in (2, 0, 3, 1)
    ]


@pytest.fixture
def batch(random_policy, trajectories):
    """Every field that scoring and credit fill holds numbers of its own."""
    empty = collate(trajectories, random_policy.pad_id)
    noise = torch.Generator().manual_seed(0)

    def filled(part, *names):
        return replace(part, **{name: torch.randn(getattr(part, name).shape, generator=noise) for name in names})

    names = ("gain", "belief", "normalized_gain", "advantage", "turn_credit", "clip_low", "clip_high")
    credit = replace(filled(empty.credit, *names), gain_mask=empty.process_mask)
    return replace(filled(empty, "old_logprobs", "ref_logprobs", "loss_weight"), credit=credit)


def tensors(batch):
    """Every tensor of a batch by its name."""
    own = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name != "credit"}
    return own | {f"credit.{f.name}": getattr(batch.credit, f.name) for f in fields(batch.credit)}


# ---- Micro-batches ---------------------------------------------------------------------------------------------------


def forwarded(lengths, parts):
    return token_positions(lengths, parts)["forwarded"]


@given(LENGTHS, BUDGETS, st.integers(1, 12))
def test_every_row_is_packed_once(lengths, budget, at_least):
    bins = pack(lengths, budget, at_least)
    assert sorted(row for rows in bins for row in rows) == list(range(len(lengths)))
    assert all(bins)


@given(LENGTHS, BUDGETS, st.integers(1, 12))
def test_a_micro_batch_keeps_the_budget_padding_included(lengths, budget, at_least):
    for rows in pack(lengths, budget, at_least):
        assert len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= budget


@given(LENGTHS, BUDGETS, st.integers(1, 12))
def test_padding_is_a_small_share_of_the_tokens(lengths, budget, at_least):
    assert forwarded(lengths, pack(lengths, budget, at_least)) <= (1 + PADDING) * sum(lengths)


@given(LENGTHS, BUDGETS, st.integers(1, 40))
def test_there_are_as_many_micro_batches_as_asked_for(lengths, budget, at_least):
    needed = len(pack(lengths, budget))
    assert len(pack(lengths, budget, at_least)) == max(needed, min(at_least, len(lengths)))


def ways_to_cut(rows):
    """Every partition of a list."""
    if not rows:
        yield []
    for others in ways_to_cut(rows[1:]) if rows else ():
        yield [rows[:1], *others]
        for i, part in enumerate(others):
            yield [*others[:i], [rows[0], *part], *others[i + 1 :]]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=7), BUDGETS, st.integers(1, 8))
def test_no_way_to_cut_has_fewer_micro_batches_or_as_many_with_less_padding(lengths, budget, at_least):
    ways = [
        (len(parts), forwarded(lengths, parts))
        for parts in ways_to_cut(list(range(len(lengths))))
        if all(len(part) == 1 or forwarded(lengths, [part]) <= budget for part in parts)
    ]
    allowed = [way for way in ways if way[0] >= min(at_least, len(lengths)) and way[1] <= (1 + PADDING) * sum(lengths)]
    parts = pack(lengths, budget, at_least)
    assert (len(parts), forwarded(lengths, parts)) == min(allowed)


@given(st.integers(0, 1000), st.sampled_from([16, 64, 256]), st.sampled_from([0.3, 0.7, 1.2]))
@settings(max_examples=30, deadline=None)
def test_log_normal_lengths_are_hardly_padded_in_few_micro_batches(seed, n, spread):
    noise = torch.Generator().manual_seed(seed)
    lengths = (300 * (spread * torch.randn(n, generator=noise)).exp()).long().clamp(10, 8192).tolist()
    parts = pack(lengths, 8192)
    assert forwarded(lengths, parts) <= 1.05 * sum(lengths)
    assert len(parts) <= sum(lengths) / 8192 + 25


@pytest.mark.parametrize(
    ("lengths", "budget", "at_least", "expected"),
    [
        ([5, 9, 5, 2], 10, 1, [[1], [0, 2], [3]]),
        ([5, 9, 5, 2], 100, 1, [[1], [0, 2], [3]]),
        ([50, 48, 50, 47], 1000, 1, [[0, 2, 1, 3]]),
        ([50, 48, 50, 47], 1000, 2, [[0, 2], [1, 3]]),
        ([50, 48, 50, 47], 100, 1, [[0, 2], [1, 3]]),
        ([50, 48, 50, 47], 1, 1, [[0], [2], [1], [3]]),
        ([5, 9], 100, 7, [[1], [0]]),
        ([], 10, 3, []),
    ],
)
def test_packing_by_hand(lengths, budget, at_least, expected):
    assert pack(lengths, budget, at_least) == expected


def test_rows_of_like_length_share_a_micro_batch():
    lengths = [40, 2, 39, 2, 38, 2]
    assert [sorted(lengths[row] for row in rows) for rows in pack(lengths, 120)] == [[38, 39, 40], [2, 2, 2]]


# ---- Rows ------------------------------------------------------------------------------------------------------------


def test_a_rank_with_fewer_rows_than_others_have_micro_batches_has_empty_ones(monkeypatch):
    lengths = ([10, 10, 10], [5])
    cut = on_ranks(monkeypatch, 2, lambda rank: micro_batches(lengths[rank], 10, [range(len(lengths[rank]))] * 2))
    assert cut == [[[0], [1], [2]] * 2, [[0], [], []] * 2]
    assert token_positions(lengths[1], cut[1]) == {"forwarded": 10, "useful": 10}


@pytest.mark.parametrize("index", [[1], [3, 1], range(1, 4), [2, 0, 3, 1]])
def test_rows_are_taken_whole_and_cut_to_the_longest(batch, index):
    part = batch.rows(index)
    length = int(batch.lengths[list(index)].max())
    assert len(part) == len(index)
    for name, value in tensors(batch).items():
        expected = value[list(index)]
        assert torch.equal(tensors(part)[name], expected[:, :length] if name in PER_TOKEN else expected)


def test_what_is_cut_off_is_padding(random_policy, trajectories, batch):
    for row, trajectory in enumerate(trajectories):
        part = batch.rows([row])
        assert part.input_ids[0].tolist() == list(trajectory.token_ids)
        assert part.turn_ids[0].tolist() == list(trajectory.token_turns)
        assert (batch.input_ids[row, len(trajectory.token_ids) :] == random_policy.pad_id).all()


def test_rows_of_rows_are_rows(batch):
    twice, once = batch.rows([3, 0, 1]).rows([2, 0]), batch.rows([1, 3])
    assert all(torch.equal(value, tensors(once)[name]) for name, value in tensors(twice).items())


def test_a_batch_says_which_turns_exist_and_which_had_a_result(batch):
    assert batch.turn_mask.sum(1).tolist() == [3, 1, 4, 2]
    assert batch.process_mask.sum(1).tolist() == [2, 0, 3, 1]
    assert batch.outcome.tolist() == [2.0, 0.0, 3.0, 1.0] and batch.group_ids.tolist() == [0, 0, 1, 1]
    assert torch.equal(batch.turn_ids.amax(1) + 1, batch.turn_mask.sum(1))


def test_contexts_of_two_groups_are_never_equal(random_policy):
    same = [build_trajectory(random_policy, [SEARCH, ANSWER], [FOUND], group, 0) for group in (0, 0, 1)]
    batch = collate(same, random_policy.pad_id)
    for ids in (batch.context_ids, batch.state_ids):
        first, second, other = ids.tolist()
        assert first == second and not set(first) & set(other)


def test_states_are_those_of_the_environment_where_it_knows_them(random_policy):
    def seen(trajectory, *states):
        turns = [replace(turn, state=state) for turn, state in zip(trajectory.turns, states, strict=True)]
        return replace(trajectory, turns=tuple(turns))

    other = "<search> star of Bemi</search>"
    plays = [([SEARCH, ANSWER], 0), ([other, ANSWER], 0), ([SEARCH, ANSWER], 0), ([SEARCH, ANSWER], 1)]
    rows = [build_trajectory(random_policy, actions, [FOUND], group, i) for i, (actions, group) in enumerate(plays)]
    rows = [seen(rows[0], "", "a"), seen(rows[1], "", "a"), rows[2], seen(rows[3], "", "a")]
    states = collate(rows, random_policy.pad_id).state_ids.tolist()
    assert states[0] == states[1]  # another query, the same passages
    assert not set(states[0]) & (set(states[2]) | set(states[3]))  # unknown states, another prompt
    contexts = collate(rows, random_policy.pad_id).context_ids.tolist()
    assert contexts[0] == contexts[2] and contexts[0][1] != contexts[1][1]


def test_actions_are_those_of_the_environment_where_it_names_them(random_policy):
    def named(trajectory, *names, new=(0, 0)):
        turns = zip(trajectory.turns, names, new, strict=True)
        return replace(trajectory, turns=tuple(replace(turn, action=a, n_new_pieces=n) for turn, a, n in turns))

    other = "<search> star of Bemi</search>"
    plays = [([SEARCH, ANSWER], 0), ([other, ANSWER], 0), ([SEARCH, ANSWER], 0), ([SEARCH, ANSWER], 1)]
    rows = [build_trajectory(random_policy, actions, [FOUND], group, i) for i, (actions, group) in enumerate(plays)]
    rows = [named(rows[0], "a", "b", new=(2, 0)), named(rows[1], "a", None), rows[2], named(rows[3], "a", "b")]
    batch = collate(rows, random_policy.pad_id)
    ids = batch.action_ids.tolist()
    assert ids[0][0] == ids[1][0] != ids[2][0]  # other words for the same; nobody says what the words do
    assert ids[1][1] == ids[2][1] != ids[0][1]  # the same words
    assert not set(ids[3]) & {i for row in ids[:3] for i in row}  # another prompt
    assert batch.n_new_pieces.tolist() == [[2, 0], [0, 0], [0, 0], [0, 0]]


def test_turns_that_do_not_exist_have_no_context_and_no_state(batch):
    assert torch.equal(batch.state_ids >= 0, batch.turn_mask) and torch.equal(batch.action_ids >= 0, batch.turn_mask)
    assert torch.equal(batch.context_ids[:, 1:] >= 0, batch.turn_mask) and (batch.context_ids[:, 0] >= 0).all()


# ---- What does not matter --------------------------------------------------------------------------------------------

KL_COEF = 0.1


def loss_and_gradient(batch, logprobs, ratio):
    """The loss as the learner adds it up, and its gradient by log-prob."""
    logprobs = logprobs.clone().requires_grad_()
    low, high = AdaptiveTurn(0.3, 0.3, 0.4)(batch.credit.normalized_gain)
    credit = replace(batch.credit, clip_low=low, clip_high=high)
    method = replace(PAPER, ratio=ratio)
    loss, _ = method.loss(logprobs, batch.old_logprobs, batch.turn_ids, credit, batch.loss_weight)
    loss = loss + KL_COEF * (batch.loss_weight * k3_kl(logprobs, batch.ref_logprobs)).sum()
    loss.backward()
    return loss.detach(), logprobs.grad


@pytest.mark.parametrize("aggregation", [SeqMeanTokenMean(), TokenMean()])
@pytest.mark.parametrize("ratio", [TokenRatio(), TurnRatio(), SequenceRatio()])
def test_logprobs_of_tool_prompt_and_padding_tokens_change_nothing(batch, ratio, aggregation):
    noise = torch.Generator().manual_seed(1)
    batch = replace(batch, loss_weight=aggregation(batch.turn_ids))
    logprobs = batch.old_logprobs + 0.2 * torch.randn(batch.turn_ids.shape, generator=noise)
    other = torch.where(batch.turn_ids >= 0, 0.0, 3 * torch.randn(batch.turn_ids.shape, generator=noise))
    loss, gradient = loss_and_gradient(batch, logprobs, ratio)
    changed = replace(batch, old_logprobs=batch.old_logprobs - other, ref_logprobs=batch.ref_logprobs + other)
    loss_again, gradient_again = loss_and_gradient(changed, logprobs + 2 * other, ratio)
    assert torch.equal(loss_again, loss) and torch.equal(gradient_again, gradient)
    assert not gradient[batch.turn_ids < 0].any() and gradient[batch.turn_ids >= 0].any()


@pytest.mark.parametrize("budget", [1, 90, 100_000])
def test_any_split_into_micro_batches_adds_up_to_the_same_gradient(batch, budget):
    batch = replace(batch, loss_weight=SeqMeanTokenMean()(batch.turn_ids))
    logprobs = batch.old_logprobs + 0.1
    loss, gradient = loss_and_gradient(batch, logprobs, TurnRatio())
    total, summed = torch.zeros(()), torch.zeros_like(gradient)
    for rows in pack(batch.lengths.tolist(), budget):
        part = batch.rows(rows)
        width = part.turn_ids.shape[1]
        part_loss, part_gradient = loss_and_gradient(part, logprobs[rows][:, :width], TurnRatio())
        total += part_loss
        summed[rows, :width] = part_gradient
    torch.testing.assert_close((total, summed), (loss, gradient), rtol=0, atol=1e-6)


def test_what_padding_is_made_of_changes_no_logprob(random_policy, trajectories):
    batches = [collate(trajectories, pad_id) for pad_id in (random_policy.pad_id, 77)]
    first, second = (token_stats(random_policy, b.input_ids, b.turn_ids) for b in batches)
    assert torch.equal(first.logprobs, second.logprobs) and torch.equal(first.entropy, second.entropy)


def test_token_positions_with_and_without_padding():
    # Rows of 5 and 3 padded to 2·5, a row of 4 alone.
    assert token_positions([5, 3, 4], [[0, 1], [2]]) == {"forwarded": 14, "useful": 12}


def test_as_many_micro_batches_as_ranks_need_are_counted_as_they_run():
    lengths = [100, 99, 99, 96, 96]
    assert forwarded(lengths, pack(lengths, 600)) == 500
    assert forwarded(lengths, pack(lengths, 600, at_least=2)) == 300 + 192
    assert forwarded(lengths, pack(lengths, 600, at_least=3)) == 100 + 198 + 192
