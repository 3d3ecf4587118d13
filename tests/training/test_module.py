"""The learner on hand-built trajectories: exact micro-batches, ratios, reference, skipped steps, counted tokens."""

import copy
import inspect
import math
from dataclasses import replace

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning import Callback

from a2tgpo.method.functional import to_tokens
from a2tgpo.rollouts.trajectory import StopReason
from a2tgpo.scoring.batch import micro_batches
from a2tgpo.scoring.beliefs import encode_answer
from a2tgpo.scoring.score import token_stats
from a2tgpo.training.module import A2TGPOModule
from tests.helpers.build import build_trajectory
from tests.helpers.tiny_runs import SMALL, fit

BUDGETS = (1, 150, 260, 10_000)
AGGREGATIONS = ("seq_mean_token_mean", "seq_mean_token_sum", "token_mean", "token_sum_norm")


def search(query):
    return f"<search> {query}</search>"


@pytest.fixture
def trajectories(random_policy):
    """Two prompts of three trajectories: one to three turns, other results, outcomes of every kind."""
    results = ["<result> Varo is the director of Bemi.</result>", "<result> Nothing was found.</result>"]
    plays = [
        ([search("director Bemi"), search("Varo"), "<answer> Varo</answer>"], results, 1.0, StopReason.ANSWERED),
        ([search("Bemi"), "<answer> Bemi</answer>"], results[:1], 0.0, StopReason.ANSWERED),
        (["<think> need"], [], -1.0, StopReason.MAX_TOKENS),
    ]
    return [
        build_trajectory(random_policy, actions, found[:: (-1) ** group], group, sample, outcome, stop)
        for group in range(2)
        for sample, (actions, found, outcome, stop) in enumerate(plays)
    ]


@pytest.fixture
def learner(composed, policy_dir):
    """`learner("experiment=…", …)`: the composed module around the random policy."""

    def build(*overrides):
        config = composed(*overrides, f"paths.policy_dir={policy_dir}")
        return instantiate(config.model.module, _convert_="all")

    return build


def shake(learner, scale=0.02):
    """Move the policy away from the one that was scored."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in learner.model.parameters():
            parameter.add_(scale * torch.randn_like(parameter) * parameter.std())


def weighed(learner, batch):
    """The batch as one mini-batch."""
    weight = learner.method.weigh(batch.turn_ids, batch.old_logprobs, batch.rollout_logprobs)
    return replace(batch, loss_weight=weight)


def gradient(learner, batch, budget):
    """Loss and flat gradient of one mini-batch in micro-batches of `budget` tokens."""
    learner.micro_batch_tokens = budget
    learner.model.zero_grad()
    batch, total = weighed(learner, batch), 0.0
    for rows in micro_batches(batch.lengths.tolist(), budget):
        loss, _ = learner.loss(batch.rows(rows))
        loss.backward()
        total += loss.item()
    return total, torch.cat([p.grad.flatten() for p in learner.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("kl_coef", [0.0, 0.5])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_any_split_into_micro_batches_gives_the_same_gradient(learner, trajectories, aggregation, kl_coef):
    length = ["model.aggregation.max_length=384"] if aggregation == "token_sum_norm" else []
    module = learner(f"model/aggregation={aggregation}", f"model.module.kl_coef={kl_coef}", *length)
    batch = module.prepare(trajectories, [], 0)
    shake(module)
    splits = {budget: gradient(module, batch, budget) for budget in BUDGETS}
    whole_loss, whole = splits[BUDGETS[-1]]
    assert whole.norm() > 1e-4
    for loss, part in splits.values():
        assert (part - whole).norm() <= 1e-6 * whole.norm()
        assert loss == pytest.approx(whole_loss, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("aggregation", AGGREGATIONS[:3])
def test_micro_batches_carry_the_weights_of_the_whole(learner, trajectories, aggregation):
    module = learner(f"model/aggregation={aggregation}", "model.module.micro_batch_tokens=150")
    batch = weighed(module, module.prepare(trajectories, [], 0))
    splits = micro_batches(batch.lengths.tolist(), 150)
    assert len(splits) > 1 and sorted(i for rows in splits for i in rows) == list(range(len(batch)))
    for rows in splits:
        part = batch.rows(rows)
        assert torch.equal(part.loss_weight, batch.loss_weight[rows][:, : part.loss_weight.shape[1]])
    expected = {"seq_mean_token_sum": sum(map(n_actions, trajectories)) / len(trajectories)}
    assert batch.loss_weight.sum().item() == pytest.approx(expected.get(aggregation, 1.0), rel=1e-6)


def largest_log_ratio(module, batch, budget):
    """In micro-batches of `budget` tokens."""
    parts = micro_batches(batch.lengths.tolist(), budget)
    return max(module.loss(batch.rows(rows))[1].max_log_ratio for rows in parts)


def n_actions(trajectory):
    return sum(len(turn.action_ids) for turn in trajectory.turns)


def test_first_step_after_scoring_has_ratio_exactly_one(learner, trajectories):
    module = learner()
    batch = weighed(module, module.prepare(trajectories, [], 0))
    assert largest_log_ratio(module, batch, module.micro_batch_tokens) == 0.0


@pytest.mark.parametrize("budget", BUDGETS[:3])
def test_other_micro_batches_than_scorings_move_the_ratio_by_rounding_only(learner, trajectories, budget):
    module = learner()
    batch = weighed(module, module.prepare(trajectories, [], 0))
    assert largest_log_ratio(module, batch, budget) <= 1e-5


def test_what_a_step_trains_was_scored_in_the_micro_batches_of_that_step(learner, trajectories):
    module = learner("model.module.micro_batch_tokens=60")
    steps = [list(range(i, len(trajectories), 2)) for i in range(2)]
    batch = module.prepare(trajectories, steps, 0)
    for rows in steps:
        mini_batch = weighed(module, batch.rows(rows))
        assert len(micro_batches(mini_batch.lengths.tolist(), 60)) > 1
        assert largest_log_ratio(module, mini_batch, 60) == 0.0


def test_other_micro_batches_move_the_first_ratio_and_those_of_the_step_do_not(learner, trajectories):
    module = learner("model.module.micro_batch_tokens=60")
    module.model.to(torch.bfloat16)

    def rounded(_, args, out):  # by the shape of the batch, as bf16 is on some processors
        out.last_hidden_state = out.last_hidden_state * (1 + len(out.last_hidden_state) / 64)

    module.model.get_decoder().register_forward_hook(rounded)
    batch = weighed(module, module.prepare(trajectories, [], 0))
    assert largest_log_ratio(module, batch, 60) == 0.0
    assert module.loss(batch)[1].max_log_ratio > 1e-3  # all rows in one


def at_temperature(model, row, temperature):
    """Log-probs [L − 1] of the tokens of a row after the first, from one plain forward."""
    with torch.no_grad():
        logits = model(row[None], use_cache=False).logits[0, :-1]
    return (logits / temperature).log_softmax(-1).gather(-1, row[1:, None])[:, 0]


def test_old_new_and_reference_are_the_policy_at_its_temperature_and_beliefs_are_not(learner, trajectories):
    plain, warm = learner(), learner("model.policy.temperature=0.7")
    shake(warm)  # old and reference differ
    plain.model.load_state_dict(warm.model.state_dict())
    cold, batch = plain.prepare(trajectories, [], 0), weighed(warm, warm.prepare(trajectories, [], 0))
    assert torch.equal(batch.credit.belief, cold.credit.belief) and batch.credit.gain.any()
    for b, row in enumerate(batch.input_ids):
        own = batch.turn_ids[b, 1:] >= 0
        for model, found in ((warm.model, batch.old_logprobs), (warm.reference.model, batch.ref_logprobs)):
            expected = at_temperature(model, row, 0.7)[own]
            torch.testing.assert_close(found[b, 1:][own], expected, rtol=0, atol=1e-5)
    assert (batch.old_logprobs - cold.old_logprobs).abs().max() > 0.1
    assert largest_log_ratio(warm, batch, warm.micro_batch_tokens) == 0.0
    assert warm.loss(replace(batch, old_logprobs=cold.old_logprobs))[1].max_log_ratio > 0.1


def test_a_run_at_a_temperature_starts_at_ratio_one_and_close_to_its_engine(composed, policy_dir):
    once = ("trainer.max_epochs=1", "model.policy.temperature=0.7")
    metrics = train(composed, policy_dir, [], *once).lightning_module.metrics
    assert metrics["update/first_step_max_log_ratio"] == 0.0
    assert 0.0 < metrics["policy/rollout_gap_max"] < 1e-5


def test_the_correction_weighs_what_top_p_left_out(composed, policy_dir):
    once = ("trainer.max_epochs=1", "model.policy.top_p=0.8", "model/correction=truncated_importance")
    module = train(composed, policy_dir, [], *once).lightning_module
    batch = module.rollout_batch
    own = batch.turn_ids >= 0
    factor = module.method.correction(batch.old_logprobs, batch.rollout_logprobs, batch.turn_ids)[own]
    assert 0.8 - 1e-5 < factor.min() < 0.9 and factor.max() < 1 + 1e-5  # the mass of the tokens that could be drawn


def test_the_learner_is_small():
    assert len(inspect.getsource(A2TGPOModule).splitlines()) < 200
    assert len(inspect.signature(A2TGPOModule).parameters) <= 10


def test_state_dict_is_the_policy_alone(learner):
    module = learner()
    assert module.reference is not None
    assert set(module.state_dict()) == {f"model.{name}" for name in module.policy.model.state_dict()}
    assert len(list(module.parameters())) == len(list(module.policy.model.parameters()))


def test_reference_needs_to_exist_for_kl(learner):
    with pytest.raises(InstantiationException, match=r"kl_coef=0\.1: expected 0 with model/reference=none"):
        learner("model/reference=none", "model.module.kl_coef=0.1")


def test_a_signal_of_the_reference_needs_one_and_never_moves(learner, trajectories):
    with pytest.raises(InstantiationException, match=r"model/reference=none: expected frozen_copy or disabled_adapter"):
        learner("model/signal=reference_progress", "model/reference=none")
    module = learner("model/signal=reference_progress")
    before = module.prepare(trajectories, [range(len(trajectories))], 0)
    shake(module)
    after = module.prepare(trajectories, [range(len(trajectories))], 0)
    assert torch.equal(before.credit.belief, after.credit.belief) and before.credit.gain.any()
    assert torch.equal(before.ref_logprobs, after.ref_logprobs)
    assert not torch.equal(before.old_logprobs, after.old_logprobs)


@pytest.mark.parametrize("kl_coef", [0.0, 0.3])
def test_loss_is_that_of_the_equations_where_ratios_left_one(learner, trajectories, kl_coef):
    overrides = ("model.clipper.eps_low=0.03", "model.clipper.eps_high=0.04", f"model.module.kl_coef={kl_coef}")
    module = learner("experiment=a2tgpo", "model.signal.gain=log_prob", *overrides)
    batch = weighed(module, module.prepare(trajectories, [], 0))
    assert batch.credit.normalized_gain.any()
    shake(module)
    drift = 0.1 * torch.randn(batch.turn_mask.shape, generator=torch.Generator().manual_seed(0))
    batch = replace(batch, old_logprobs=batch.old_logprobs + to_tokens(drift, batch.turn_ids))
    loss, moved = module.loss(batch)
    with torch.no_grad():
        new = token_stats(module.policy, batch.input_ids, batch.turn_ids).logprobs
    total, bound, outside = 0.0, 0, set()
    for b in range(len(batch)):
        tokens = (batch.turn_ids[b] >= 0).nonzero()[:, 0].tolist()
        row = 0.0
        for token in tokens:
            turn = int(batch.turn_ids[b, token])
            own = [t for t in tokens if batch.turn_ids[b, t] == turn]
            s = math.exp(sum(float(new[b, t] - batch.old_logprobs[b, t]) for t in own) / len(own))
            c = 1 + 0.3 * (2 / (1 + math.exp(-float(batch.credit.normalized_gain[b, turn]))) - 1)
            advantage, low, high = float(batch.credit.advantage[b, turn]), 1 - 0.03 * c, 1 + 0.04 * c
            row -= min(s * advantage, min(max(s, low), high) * advantage)
            bound += (advantage > 0 and s > high) or (advantage < 0 and s < low)
            outside |= {(b, turn)} if not low <= s <= high else set()
            d = float(batch.ref_logprobs[b, token] - new[b, token])
            row += kl_coef * (math.exp(d) - d - 1)
        total += row / len(tokens) / len(batch)
    assert 0 < bound < sum(map(n_actions, trajectories))
    assert loss.item() == pytest.approx(total, rel=1e-5, abs=1e-6)
    assert moved.clipped.sum(1).tolist() == [bound, sum(map(n_actions, trajectories))]
    assert moved.outside.tolist() == [len(outside), sum(len(t.turns) for t in trajectories)]


# ---- in the training loop --------------------------------------------------------------------------------------------


class Poison(Callback):
    """Puts `value` into the advantages of the batches whose number `when` accepts."""

    def __init__(self, value, when):
        self.value, self.when = value, when
        self.weights = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.weights.append(copy.deepcopy(pl_module.model.state_dict()))
        if self.when(batch_idx):
            batch.credit.advantage.fill_(self.value)


def train(composed, policy_dir, callbacks, *overrides):
    """Two iterations of two steps around the random policy; returns the trainer."""
    config = composed(*SMALL, "trainer.max_epochs=2", f"paths.policy_dir={policy_dir}", *overrides)
    return fit(config, callbacks)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_step_without_finite_gradient_is_skipped_and_counted(composed, policy_dir, value):
    poison = Poison(value, when=lambda index: index == 0)
    lively = ["model.optimizer.lr=0.01", "model.scheduler.num_warmup_steps=0"]
    trainer = train(composed, policy_dir, [poison], *lively)
    assert trainer.lightning_module.metrics["update/skipped_steps"] == 1.0
    assert trainer.global_step == 2  # one of two steps in each of two iterations
    before, after = poison.weights[0], poison.weights[1]
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(not torch.equal(after[name], poison.weights[2][name]) for name in after)


def test_too_many_skipped_steps_in_a_row_stop_the_run(composed, policy_dir):
    poison = Poison(math.nan, when=lambda index: True)
    message = r"3 optimizer steps in a row had a loss or gradient that is not finite .*max_skipped_steps=3.*last\.ckpt"
    with pytest.raises(FloatingPointError, match=message):
        train(composed, policy_dir, [poison], "model.module.max_skipped_steps=3")
    assert len(poison.weights) == 3


def test_policy_gone_to_nan_stops_the_run(composed, policy_dir):
    class Break(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            torch.nn.init.constant_(next(pl_module.model.parameters()), math.nan)

    with pytest.raises(FloatingPointError, match="2 optimizer steps in a row"):
        train(composed, policy_dir, [Break()], "model.module.max_skipped_steps=2")


class Positions(Callback):
    """Counts the token positions that go through policy and reference, by the phase they go through in."""

    def on_fit_start(self, trainer, pl_module):
        self.phase, self.seen = "", {}
        pl_module.phases.on_start = lambda phase: setattr(self, "phase", phase)
        for model in (pl_module.policy.model, pl_module.reference.model):
            model.register_forward_pre_hook(self.count)

    def count(self, model, args):
        self.seen[self.phase] = self.seen.get(self.phase, 0) + args[0].numel()


@pytest.mark.parametrize("budget", [1, 400])
def test_forwarded_tokens_are_those_that_go_through_the_models(composed, policy_dir, budget):
    positions = Positions()
    one = ["trainer.max_epochs=1", f"model.module.micro_batch_tokens={budget}"]
    trainer = train(composed, policy_dir, [positions], *one)
    metrics, batch = trainer.lightning_module.metrics, trainer.lightning_module.rollout_batch
    assert metrics["tokens/forwarded"] == positions.seen["scoring"] + positions.seen["update"]
    answers = metrics["tokens/useful"] - 3 * int(batch.lengths.sum())  # policy twice, reference once
    assert answers > 0
    assert metrics["tokens/forwarded"] > metrics["tokens/useful"]  # padding, or a query that nobody asked


def test_an_answer_must_fit_behind_the_longest_trajectory(learner, trajectories):
    owner = learner("experiment=a2tgpo")
    task = replace(trajectories[0].task, answers=("Varo", "Varo Tano"))
    needed = encode_answer(owner.policy.tokenizer, "Varo Tano", owner.answer_wrapper).n_input_tokens
    longest = owner.policy.max_length - needed
    owner.require_context_length([task], longest + 1)  # by default the first answer alone is looked at
    owner.method = replace(owner.method, signal=replace(owner.method.signal, aliases="max"))
    owner.require_context_length([task], longest)
    with pytest.raises(ValueError, match=r"too long: 1; .* need 1025 positions; expected at most the 1024"):
        owner.require_context_length([task], longest + 1)


def test_reference_stays_at_the_start_while_the_policy_trains(composed, policy_dir):
    start = instantiate(composed(f"paths.policy_dir={policy_dir}").model.policy).model.state_dict()
    trainer = train(composed, policy_dir, [], "model.optimizer.lr=0.01", "experiment=a2tgpo")
    module = trainer.lightning_module
    assert all(torch.equal(module.reference.model.state_dict()[name], start[name]) for name in start)
    assert any(not torch.equal(module.model.state_dict()[name], start[name]) for name in start)
