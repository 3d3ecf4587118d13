"""Beliefs and log-probs from one cached pass equal those of plain forwards, however the rows are batched."""

import copy
import math
import re
from dataclasses import replace

import pytest
import torch

from a2tgpo.method.method import PAPER
from a2tgpo.method.normalizers.turn_group import TurnGroup
from a2tgpo.method.ratios.token import TokenRatio
from a2tgpo.method.ratios.turn import TurnRatio
from a2tgpo.scoring.batch import collate, pack
from a2tgpo.scoring.beliefs import encode_answer, plan_beliefs
from a2tgpo.scoring.noise import log_gain_noise
from a2tgpo.scoring.score import TokenStats, read, score, token_stats
from tests.helpers.build import build_trajectory
from tests.helpers.ranks import on_ranks

WRAPPER = ("<think> done</think><answer> ", "</answer>")
SEARCH, OTHER = "<search> director of Bemi</search>", "<think> need star</think><search> star of Bemi</search>"
FOUND, NOTHING = "<result> The director of Bemi is Varo Tano.</result>", "<result> Nothing was found.</result>"
ANSWER = "<answer> Varo</answer>"
ONE_ROW, ALL_ROWS = 1, 100_000


@pytest.fixture
def policy(random_policy):
    return random_policy


@pytest.fixture
def trajectories(policy):
    """Two groups of unlike lengths: with and without a terminal turn, without any result, with repeated turns."""
    first, second = {"answers": ("Varo Tano", "Tano")}, {"answers": ("Kelu", "The Kelu", "é", "director"), "group": 3}
    second["prompt"] = "Question: What is the birthplace of the director of Bemi?"
    return [
        build_trajectory(policy, [SEARCH, OTHER, ANSWER], [FOUND, NOTHING], sample=0, **first),
        build_trajectory(policy, [SEARCH, SEARCH], [FOUND, FOUND], sample=1, **first),
        build_trajectory(policy, [ANSWER], [], sample=2, **first),
        build_trajectory(policy, [OTHER, ANSWER], [NOTHING], sample=0, **second),
        build_trajectory(policy, [SEARCH, OTHER, SEARCH, ANSWER], [FOUND, NOTHING, FOUND], sample=1, **second),
    ]


def first(n):
    """The first `n` accepted answers of a task."""
    return lambda task: task.answers[:n]


def plan(policy, trajectories, max_aliases=8, wrapper=WRAPPER):
    context_ids = collate(trajectories, policy.pad_id).context_ids
    return plan_beliefs(trajectories, context_ids, policy.tokenizer, wrapper, first(max_aliases))


def ask(policy, trajectories, token_budget=ALL_ROWS, max_aliases=8):
    """Batch, token statistics, and what a signal observes."""
    scored = score(policy, trajectories, first(max_aliases), WRAPPER, token_budget)
    return scored.batch, TokenStats(scored.batch.old_logprobs, scored.entropy), scored.observed


def log_softmax(policy, ids):
    """Row l: log-probs of the token after ids[: l + 1], from one plain forward."""
    with torch.no_grad():
        return policy.model(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)


def oracle(policy, context, answer):
    """(1/L) Σⱼ log π(aⱼ | context, a_<j) from a forward over this context and this answer alone."""
    encoded = encode_answer(policy.tokenizer, answer, WRAPPER)
    ids = [*context, *encoded.ids]
    logprobs = log_softmax(policy, ids)
    own = range(len(context) + encoded.start, len(ids))
    return sum(float(logprobs[place - 1, ids[place]]) for place in own) / len(own)


def oracle_by_state(policy, trajectory):
    """[S, A]"""
    contexts = [trajectory.token_ids[:length] for length in trajectory.context_lengths]
    return torch.tensor([[oracle(policy, c, answer) for answer in trajectory.task.answers] for c in contexts])


def close(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def eager(policy):
    other = copy.deepcopy(policy)
    other.model.set_attn_implementation("eager")
    assert other.model.config._attn_implementation == "eager"
    return other


# ---- Beliefs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("token_budget", [ONE_ROW, 180, ALL_ROWS])
def test_answers_in_one_cached_pass_equal_one_forward_per_prefix(policy, trajectories, token_budget, attention):
    assert len(pack([len(t.token_ids) for t in trajectories], 180)) in (2, 3, 4)
    scorer = policy if attention == "sdpa" else eager(policy)
    _, _, seen = ask(scorer, trajectories, token_budget)
    answers, alias_mask, state_mask = seen.answer_logprob, seen.alias_mask, seen.state_mask
    for row, trajectory in enumerate(trajectories):
        expected = oracle_by_state(policy, trajectory)
        states, aliases = expected.shape
        assert state_mask[row].tolist() == [state < states for state in range(state_mask.shape[1])]
        assert alias_mask[row].tolist() == [alias < aliases for alias in range(alias_mask.shape[1])]
        close(answers[row, :states, :aliases], expected)


@pytest.mark.parametrize("reads", ["segments", pytest.param("tokens", marks=pytest.mark.slow)])
@pytest.mark.parametrize("token_budget", [ONE_ROW, 180, ALL_ROWS])
def test_answers_in_the_models_own_memory_are_those_of_the_block(policy, trajectories, token_budget, reads):
    _, stats, expected = ask(policy, trajectories)
    _, own_stats, seen = ask(replace(policy, reads=reads), trajectories, token_budget)
    close(seen.answer_logprob, expected.answer_logprob)
    close(own_stats.logprobs, stats.logprobs)


def test_by_segments_a_shared_beginning_is_read_once_and_what_lies_behind_the_last_context_never(policy, trajectories):
    group, forwarded = trajectories[:2], []
    assert len(pack([len(t.token_ids) for t in group], ALL_ROWS)) == 1
    batch, queries = collate(group, policy.pad_id), plan(policy, group).queries
    policy.model.register_forward_pre_hook(
        lambda module, args, kwargs: forwarded.append(args[0].numel()), with_kwargs=True
    )
    positions = read(replace(policy, reads="segments"), batch, queries, ALL_ROWS).positions
    contexts = {t.token_ids[:n] for t in group for n in range(1, t.context_lengths[-1] + 1)}
    answers = sum(query.answer.n_input_tokens for query in queries)
    assert positions["useful"] == int(batch.lengths.sum()) + len(contexts) + answers
    assert positions["forwarded"] == sum(forwarded)


JOIN = {"first": lambda p: p[:, 0], "max": lambda p: p.amax(1), "mean": lambda p: p.mean(1)}


@pytest.mark.parametrize("aliases", JOIN)
@pytest.mark.parametrize("gain", ["prob", "log_prob"])
def test_beliefs_and_gains_follow_from_the_forwards(policy, trajectories, aliases, gain):
    signal = replace(PAPER.signal, gain=gain, aliases=aliases)
    scored = score(policy, trajectories, signal.answers, WRAPPER, 180)
    found = signal(scored.observed)
    gains, beliefs, gain_mask = found.gain, found.belief, found.gain_mask
    for row, trajectory in enumerate(trajectories):
        belief = JOIN[aliases](oracle_by_state(policy, trajectory).exp())
        turns = len(belief) - 1
        close(beliefs[row, : turns + 1], belief)
        close(gains[row, :turns], (belief if gain == "prob" else belief.log()).diff())
        assert gain_mask[row].tolist() == [turn < turns for turn in range(gain_mask.shape[1])]
        assert not gains[row, turns:].any()


def test_the_same_number_of_forward_passes_whichever_rows_are_asked_about(policy, trajectories):
    batch = collate(trajectories, policy.pad_id)
    queries = plan(policy, trajectories, 1).queries
    forwards = []
    policy.model.register_forward_pre_hook(lambda *_: forwards.append(1))
    counts, few = [], [query for query in queries if query.row == 3]
    for asked in (queries, few):
        forwards.clear()
        answers = read(policy, batch, asked, ONE_ROW).answer_logprobs
        counts.append(len(forwards))
    assert counts == [10, 10]  # two for each of five rows
    close(answers, read(policy, batch, queries, ALL_ROWS).answer_logprobs[[queries.index(query) for query in few]])


def test_rows_that_nobody_asks_about_are_not_read_on(policy, trajectories):
    same = [replace(trajectories[0], sample=i) for i in range(4)]
    batch, queries = collate(same, policy.pad_id), plan(policy, same, 2).queries
    assert {query.row for query in queries} == {0}
    reading = read(policy, batch, queries, ALL_ROWS)
    assert reading.positions["forwarded"] == reading.positions["useful"]
    close(reading.answer_logprobs, read(policy, batch.rows([0]), queries, ALL_ROWS).answer_logprobs)


@pytest.mark.parametrize("token_budget", [ONE_ROW, 180, ALL_ROWS])
def test_positions_are_counted_where_they_are_forwarded(policy, trajectories, token_budget):
    batch, forwarded = collate(trajectories, policy.pad_id), []
    policy.model.register_forward_pre_hook(lambda module, args: forwarded.append(args[0].numel()))
    queries = plan(policy, trajectories, 2).queries
    few = [query for query in queries if query.row == 3]
    for asked in (queries, few, []):
        forwarded.clear()
        positions = read(policy, batch, asked, token_budget).positions
        assert positions["forwarded"] == sum(forwarded)
        own = sum(query.answer.n_input_tokens for query in asked)  # a query that nobody asked is not useful
        assert positions["useful"] == int(batch.lengths.sum()) + own


def test_the_context_of_a_belief_ends_after_the_result(policy):
    pair = [build_trajectory(policy, [SEARCH, ANSWER], [result], sample=i) for i, result in enumerate((FOUND, NOTHING))]
    beliefs = PAPER.signal(ask(policy, pair, max_aliases=1)[2]).belief
    assert beliefs[0, 0] == beliefs[1, 0]
    assert abs(beliefs[0, 1] - beliefs[1, 1]) > 1e-5


def test_no_more_than_the_first_eight_answers_are_asked_for(policy):
    answers = tuple(f"Varo {n}" for n in range(10))
    trajectory = build_trajectory(policy, [ANSWER], [], answers=answers)
    for aliases, n in (("first", 1), ("max", 8), ("mean", 8)):
        asked = replace(PAPER.signal, aliases=aliases).answers
        made = plan_beliefs([trajectory], torch.tensor([[0, 1]]), policy.tokenizer, WRAPPER, asked)
        assert [q.answer for q in made.queries] == [encode_answer(policy.tokenizer, a, WRAPPER) for a in answers[:n]]


def test_nothing_is_asked_where_no_signal_needs_it(policy, trajectories):
    made = plan(policy, trajectories, 0)
    answers, alias_mask, state_mask = made.scatter(torch.zeros(0))
    assert (made.queries, answers.shape, alias_mask.shape) == ([], (5, 5, 0), (5, 0))
    assert not state_mask.any()


def test_a_task_without_answer_is_refused_by_name(policy):
    open_ended = build_trajectory(policy, [ANSWER], [], group=4, answers=())
    with pytest.raises(ValueError, match=r"task task-4: .*model/signal=none"):
        score(policy, [open_ended], PAPER.signal.answers, WRAPPER, ALL_ROWS)


# ---- Where the answer is ---------------------------------------------------------------------------------------------

SPANS = [
    (WRAPPER, "Varo", ["▁Va", "ro"]),  # the blank of the wrapper is in the answer's first token
    (WRAPPER, "Varo Tano", ["▁Va", "ro", "▁Ta", "no"]),
    (("<answer>", "</answer>"), " director", ["▁director"]),
    (("<answer> dir", "</answer>"), "ector", ["▁director"]),
    (("<answer> dir", "or</answer>"), "ect", ["▁director"]),
    (("<answer> di", "</answer>"), "rector of", ["▁director", "▁of"]),
    (("<answer> of ", " of</answer>"), "of", ["▁of"]),
    (("<answer> ", "</answer>"), "é", ["<0xC3>", "<0xA9>"]),
]


@pytest.mark.parametrize(("wrapper", "answer", "expected"), SPANS)
def test_the_answers_tokens_are_those_that_overlap_its_characters(policy, wrapper, answer, expected):
    encoded = encode_answer(policy.tokenizer, answer, wrapper)
    whole = policy.tokenizer("".join((wrapper[0], answer, wrapper[1])), add_special_tokens=False).input_ids
    assert list(encoded.ids) == whole[: len(encoded.ids)]
    own = policy.tokenizer.convert_ids_to_tokens(encoded.ids[encoded.start :])
    assert own == expected


@pytest.mark.parametrize("answer", ["", " ", "\n\t"])
def test_a_blank_answer_is_refused(policy, answer):
    with pytest.raises(ValueError, match="blank"):
        encode_answer(policy.tokenizer, answer, WRAPPER)


def test_a_wrapper_without_text_before_the_answer_is_refused(policy):
    with pytest.raises(ValueError, match=re.escape("data.dialect.answer_wrapper=('', '</answer>')")):
        encode_answer(policy.tokenizer, "Varo", ("", "</answer>"))


# ---- Equal contexts --------------------------------------------------------------------------------------------------


def test_a_reference_is_read_beside_the_policy_or_believed_in_its_place(policy, trajectories):
    other = replace(policy, model=copy.deepcopy(policy.model))
    with torch.no_grad():
        for weight in other.model.parameters():
            weight.mul_(1.5)
    own, others = (score(p, trajectories, first(8), WRAPPER, ALL_ROWS) for p in (policy, other))
    beside, instead = (
        score(policy, trajectories, first(8), WRAPPER, ALL_ROWS, reference=other, by_reference=by)
        for by in (False, True)
    )
    for scored in (beside, instead):
        assert torch.equal(scored.batch.old_logprobs, own.batch.old_logprobs)
        assert torch.equal(scored.batch.ref_logprobs, others.batch.old_logprobs)
    assert torch.equal(beside.observed.answer_logprob, own.observed.answer_logprob)
    assert torch.equal(instead.observed.answer_logprob, others.observed.answer_logprob)
    assert not torch.equal(own.observed.answer_logprob, others.observed.answer_logprob)
    assert not own.batch.ref_logprobs.any() and instead.positions == beside.positions


def test_beliefs_without_a_turn_are_those_of_the_other_tokens(policy, trajectories):
    scored = score(policy, trajectories, first(2), WRAPPER, 150, without_turns=True)
    deleted = tuple(policy.tokenizer("[DELETE]", add_special_tokens=False).input_ids)
    without = scored.observed.answer_logprob_without
    for row, trajectory in enumerate(trajectories):
        process = [turn for turn in trajectory.turns if turn.is_process]
        for t in range(len(trajectory.turns)):
            parts = [deleted if k == t else turn.action_ids + turn.observation_ids for k, turn in enumerate(process)]
            context = trajectory.prompt_ids + sum(parts, ())
            for alias, answer in enumerate(trajectory.task.answers[:2]):
                expected = oracle(policy, context, answer) if t < len(process) else 0.0
                assert float(without[row, t, alias]) == pytest.approx(expected, rel=0, abs=2e-5)
    plain = score(policy, trajectories, first(2), WRAPPER, 150)
    assert plain.observed.answer_logprob_without is None and plain.positions["useful"] < scored.positions["useful"]
    assert torch.equal(plain.observed.answer_logprob, scored.observed.answer_logprob)
    nobody = score(policy, trajectories[2:3], first(2), WRAPPER, 150, without_turns=True)
    assert not nobody.observed.answer_logprob_without.any()


def test_equal_contexts_of_a_group_are_scored_once(policy):
    branches = [[SEARCH, ANSWER], [SEARCH, ANSWER], [SEARCH, SEARCH, ANSWER], [OTHER, ANSWER]]
    found = [[FOUND], [FOUND], [FOUND, FOUND], [FOUND]]
    both = [
        build_trajectory(policy, actions, results, group, sample)
        for group in (0, 1)
        for sample, (actions, results) in enumerate(zip(branches, found, strict=True))
    ]
    assert len(plan(policy, both, 1).queries) == 2 * 4  # query · search · search, search · other
    states = collate(both, 0).state_ids
    for group in (states[:4], states[4:]):
        query, after_search, after_two, after_other = group[0, 0], group[0, 1], group[2, 2], group[3, 1]
        assert (group[:, 0] == query).all() and (group[:3, 1] == after_search).all()
        assert len({int(state) for state in (query, after_search, after_two, after_other)}) == 4
    assert not set(states[:4, :2].flatten().tolist()) & set(states[4:, :2].flatten().tolist())


@pytest.fixture
def same_first_turn(policy):
    """The same first turn four times, before rests of unlike length."""
    rests = [[ANSWER], [OTHER, ANSWER], [OTHER, OTHER, ANSWER], [SEARCH, OTHER, OTHER, ANSWER]]
    return [
        build_trajectory(policy, [SEARCH, *rest], [FOUND] + [NOTHING] * (len(rest) - 1), sample=sample)
        for sample, rest in enumerate(rests)
    ]


@pytest.mark.parametrize("gain", ["prob", "log_prob"])
def test_a_turn_taken_alike_by_all_stands_out_nowhere(policy, same_first_turn, gain):
    found = replace(PAPER.signal, gain=gain)(ask(policy, same_first_turn, ONE_ROW, 1)[2])
    gains, mask = found.gain, found.gain_mask
    normalized = TurnGroup(resolution=0.0)(gains, mask, torch.zeros(4, dtype=torch.long))
    assert not normalized[:, 0].any()
    assert normalized[mask[:, 1], 1].abs().min() > 0


def test_rounding_between_batches_is_no_spread(policy, same_first_turn):
    longer = build_trajectory(policy, [OTHER] * 5, [FOUND] * 5, group=1)
    apart = [ask(policy, [t, longer][: 1 + i % 2], max_aliases=1)[2] for i, t in enumerate(same_first_turn)]
    beliefs = torch.stack([PAPER.signal(seen).belief[0, :2] for seen in apart])
    gains, mask = beliefs.diff(dim=1), torch.ones(4, 1, dtype=torch.bool)
    assert gains.abs().max() > 0 and gains.max() - gains.min() < 1e-6
    assert not PAPER.credit.normalizer(gains, mask, torch.zeros(4, dtype=torch.long)).any()


# ---- Log-probs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("token_budget", [ONE_ROW, 180, ALL_ROWS])
def test_token_statistics_equal_a_plain_forward(policy, trajectories, token_budget, attention):
    batch, stats, _ = ask(policy if attention == "sdpa" else eager(policy), trajectories, token_budget)
    for row, trajectory in enumerate(trajectories):
        logprobs = log_softmax(policy, trajectory.token_ids)
        place = (batch.turn_ids[row] >= 0).nonzero()[:, 0]
        expected = torch.zeros(2, batch.turn_ids.shape[1])
        expected[0, place] = logprobs[place - 1, batch.input_ids[row, place]]
        expected[1, place] = -(logprobs.exp() * logprobs).sum(-1)[place - 1]
        close(torch.stack([stats.logprobs[row], stats.entropy[row]]), expected)


@pytest.mark.parametrize("ratio", [TokenRatio(), TurnRatio()])
@pytest.mark.parametrize("train", [False, True])
def test_the_first_step_after_a_rollout_has_ratio_one(policy, trajectories, ratio, train):
    batch, stats, _ = ask(policy, trajectories, 180)
    policy.model.train(train)

    def largest_log_ratio(token_budget):
        largest = 0.0
        for rows in pack(batch.lengths.tolist(), token_budget):
            part = batch.rows(rows)
            logprobs = token_stats(policy, part.input_ids, part.turn_ids).logprobs
            old = stats.logprobs[rows][:, : logprobs.shape[1]]
            largest = max(largest, float(ratio(logprobs.detach(), old, part.turn_ids).abs().max()))
        return largest

    assert largest_log_ratio(180) == 0.0
    assert max(largest_log_ratio(budget) for budget in (ONE_ROW, 100, ALL_ROWS)) <= 1e-5


@pytest.mark.parametrize("train", [False, True])
def test_dropout_is_off_while_scoring_and_the_mode_comes_back(policy, trajectories, train):
    _, expected, seen = ask(policy, trajectories)
    for layer in policy.model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    policy.model.train(train)
    _, stats, again = ask(policy, trajectories)
    assert policy.model.training == train
    assert torch.equal(stats.logprobs, expected.logprobs)
    assert torch.equal(again.answer_logprob, seen.answer_logprob)


def test_eager_attention_gets_numbers_and_sdpa_gets_the_mask(policy):
    mask = torch.tensor([[[[True, False], [True, True]]]])
    positions = torch.tensor([[0, 1]])
    assert torch.equal(policy.attention_mask(mask, positions, positions), mask)
    added = eager(policy).attention_mask(mask, positions, positions)
    assert added.dtype == torch.float32
    assert torch.equal(added == 0, mask) and added[~mask].max() < -1e30


def test_a_belief_is_at_most_one(policy, trajectories):
    _, _, seen = ask(policy, trajectories)
    known = seen.answer_logprob[seen.state_mask[:, :, None] & seen.alias_mask[:, None]]
    assert -math.inf < known.min() and known.max() < 0


def test_ranks_go_forward_equally_often_whatever_each_has_to_score(policy, trajectories, monkeypatch):
    shares, models = (trajectories, trajectories[2:3]), [copy.deepcopy(policy.model) for _ in range(2)]
    alone = score(policy, shares[1], first(0), WRAPPER, ONE_ROW)

    def work(rank):
        passes, own = [], replace(policy, model=models[rank])
        own.model.register_forward_hook(lambda *_: passes.append(rank))
        scored = score(own, shares[rank], first(2 * (1 - rank)), WRAPPER, ONE_ROW)
        n_scoring = len(passes)
        with torch.autocast("cpu", torch.bfloat16):
            noise = log_gain_noise(own, scored, ONE_ROW)
        return n_scoring, len(passes), noise, scored.batch.old_logprobs

    one, two = on_ranks(monkeypatch, 2, work)
    assert two[0] == one[0] == 2 * len(trajectories) < two[1] == one[1]
    assert two[2] == one[2]
    torch.testing.assert_close(two[3], alone.batch.old_logprobs, rtol=0, atol=1e-6)
