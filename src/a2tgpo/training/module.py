"""The learner: owns policy, reference and strategies; scores rollouts, gives credit, takes the clipped steps."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor

from a2tgpo.method.credits.staged import compares_within_groups
from a2tgpo.method.functional import clipped, k3_kl, to_tokens
from a2tgpo.method.protocols import Aggregation, Clipper, Correction, Credit, Ratio, Signal, Surrogate
from a2tgpo.policies.policy import Policy, require_same_architecture, trained_names
from a2tgpo.rollouts.trajectory import Task, Trajectory
from a2tgpo.scoring.batch import RolloutBatch, collate, pack
from a2tgpo.scoring.beliefs import encode_answer, plan_beliefs
from a2tgpo.scoring.score import score, token_stats
from a2tgpo.system.distributed import all_gather_rows, local_rows, max_over_ranks, mean_over_ranks, rank_and_world_size
from a2tgpo.system.timing import PhaseTimer
from a2tgpo.training import metrics as diagnostics
from a2tgpo.training.meters import EpisodeMeter, IterationMeter


class A2TGPOModule(LightningModule):
    """A²TGPO (arXiv 2605.06200) as a composition of strategies; it knows no algorithm by name.

    Each epoch the data module hands over fresh trajectories (`prepare`), then mini-batches of the result
    (`training_step`, one optimizer step each).
    """

    def __init__(
        self,
        policy: Policy,
        reference: Callable[[Policy], Policy | None],
        signal: Signal,
        credit: Credit,
        clipper: Clipper,
        ratio: Ratio,
        surrogate: Surrogate,
        aggregation: Aggregation,
        correction: Correction,
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., torch.optim.lr_scheduler.LRScheduler],
        answer_wrapper: Sequence[str],
        micro_batch_tokens: int,
        kl_coef: float,
        max_grad_norm: float,
        max_skipped_steps: int,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # frozen weights are in no checkpoint; `on_load_checkpoint` checks the others
        self.model, self.policy = policy.model.train(), policy
        self.reference = reference(policy)  # not a submodule: rebuilt from the start weights, never saved
        if kl_coef and self.reference is None:
            raise ValueError(f"model.module.kl_coef={kl_coef}: expected 0 with model/reference=none")
        self.signal, self.credit, self.clipper = signal, credit, clipper
        self.ratio, self.surrogate = ratio, surrogate
        self.aggregation, self.correction = aggregation, correction
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.answer_wrapper = tuple(answer_wrapper)
        self.micro_batch_tokens, self.kl_coef = micro_batch_tokens, kl_coef
        self.max_grad_norm, self.max_skipped_steps = max_grad_norm, max_skipped_steps
        self.phases = PhaseTimer()
        self.trajectories: Sequence[Trajectory] = ()
        self.rollout_batch: RolloutBatch | None = None
        self.metrics: dict[str, float] = {}
        """Numbers of the current iteration: of the rollout set first, of its optimizer steps once they are done."""
        self.meter = IterationMeter()
        self.episodes = EpisodeMeter()
        self.seconds: dict[str, float] = {}
        """Seconds of each phase since the end of the iteration before; a validation counts for the next."""
        self.skipped_in_a_row = 0

    # ---- scoring and credit ------------------------------------------------------------------------------------------

    def require_context_length(self, tasks: Sequence[Task], longest: int) -> None:
        """Raises ValueError where an answer behind `longest` tokens would go past the model's last position."""
        for task in tasks:
            for answer in task.answers[: self.signal.max_aliases]:
                needed = longest + encode_answer(self.policy.tokenizer, answer, self.answer_wrapper).n_input_tokens
                if needed > self.policy.max_length:
                    raise ValueError(
                        f"task {task.task_id}: a trajectory at data.module.max_prompt_tokens and max_response_tokens, "
                        f"and its accepted answer behind it, need {needed} positions; expected at most the "
                        f"{self.policy.max_length} of the model"
                    )

    def prepare(self, trajectories: Sequence[Trajectory]) -> RolloutBatch:
        """Score this rank's trajectories and give credit over the whole rollout set; returns this rank's rows."""
        self.meter = IterationMeter()
        with self.phases("scoring"):
            batch, entropy = self.score(trajectories)
            batch, turn_credit = self.give_credit(batch)
        self.trajectories, self.rollout_batch = trajectories, batch
        self.metrics = {
            **{f"train/{name}": value for name, value in diagnostics.episode_metrics(trajectories).items()},
            **diagnostics.credit_metrics(batch, turn_credit),
            **diagnostics.usefulness_metrics(trajectories, batch),
            **diagnostics.policy_metrics(batch, entropy, self.reference is not None),
            "credit/dropped_aliases": diagnostics.dropped_aliases(trajectories, self.signal.max_aliases),
        }
        return batch

    def score(self, trajectories: Sequence[Trajectory]) -> tuple[RolloutBatch, Tensor]:
        """Old log-probs, beliefs and gains in one cached pass, reference log-probs in another; and the entropy."""
        batch = collate(trajectories, self.policy.pad_id)
        plan = plan_beliefs(trajectories, self.policy.tokenizer, self.answer_wrapper, self.signal.max_aliases)
        stats, answers = score(self.policy, batch, plan.questions, self.micro_batch_tokens)
        gain, belief, gain_mask = self.signal(*plan.spread(answers))
        batch = replace(batch, old_logprobs=stats.logprobs, gain=gain, belief=belief, gain_mask=gain_mask)
        if self.reference is not None:
            reference, _ = score(self.reference, batch, [], self.micro_batch_tokens)
            batch = replace(batch, ref_logprobs=reference.logprobs)
        models = 1 if self.reference is None else 2
        self.meter.add_scored(batch.lengths.tolist(), plan.questions, self.micro_batch_tokens, models)
        return batch, stats.entropy

    def give_credit(self, batch: RolloutBatch) -> tuple[RolloutBatch, Tensor]:
        """Advantages and clip bounds of every turn; and the part of the advantage that the gains added.

        Strategies may look at all groups, so they see the gathered rollout set.
        """
        rank, n_ranks = rank_and_world_size()
        gain, belief = all_gather_rows(batch.gain, 0.0), all_gather_rows(batch.belief, 0.0)
        gain_mask, turn_mask = all_gather_rows(batch.gain_mask, False), all_gather_rows(batch.turn_mask, False)
        outcome, group_ids = all_gather_rows(batch.outcome, 0.0), all_gather_rows(batch.group_ids, 0)
        state_ids = all_gather_rows(batch.state_ids * n_ranks + rank, 0)
        context = (gain_mask, turn_mask, outcome, group_ids, state_ids)
        normalized, advantage = self.credit(gain, belief, *context)
        _, outcome_only = self.credit(torch.zeros_like(gain), belief, *context)
        low, high = self.clipper(normalized)
        own, turns = local_rows(len(batch)), batch.gain.shape[1]
        batch = replace(
            batch,
            normalized=normalized[own, :turns],
            advantage=advantage[own, :turns],
            clip_low=low[own, :turns],
            clip_high=high[own, :turns],
        )
        return batch, (advantage - outcome_only)[own, :turns]

    # ---- update ------------------------------------------------------------------------------------------------------

    def training_step(self, mini_batch: RolloutBatch, batch_idx: int) -> None:
        """One optimizer step over a mini-batch, in micro-batches whose weighted losses add up to it exactly."""
        with self.phases("update"):
            mini_batch = self.weigh(mini_batch)
            micro_batches = self.micro_batches(mini_batch)
            self.meter.tokens.update(diagnostics.token_positions(mini_batch.lengths.tolist(), micro_batches))
            optimizer = self.optimizers()
            optimizer.zero_grad(set_to_none=False)  # gradients stay where DDP sums them up, and are held once
            total, max_log_ratio = 0.0, 0.0
            for i, rows in enumerate(micro_batches):
                with optimizer.toggle_model(sync_grad=i == len(micro_batches) - 1):
                    loss, counts, log_ratio = self.loss(mini_batch.rows(rows).to(self.device))
                    self.manual_backward(loss * self.trainer.world_size)  # DDP averages over ranks
                total, max_log_ratio = total + loss.item(), max(max_log_ratio, log_ratio)
                self.meter.add_clipped(counts)
            step = {"loss": total, "max_log_ratio": max_log_ratio, "lr": optimizer.param_groups[0]["lr"]}
            self.meter.steps.append(step | self.step(optimizer, total))
        if self.trainer.is_last_batch:
            self.finish_iteration()

    def weigh(self, mini_batch: RolloutBatch) -> RolloutBatch:
        """The share of each token in the loss of the global mini-batch, corrected for the engine's own policy."""
        turn_ids = mini_batch.turn_ids
        share = self.aggregation(all_gather_rows(turn_ids, -1))[local_rows(len(mini_batch)), : turn_ids.shape[1]]
        correction = self.correction(mini_batch.old_logprobs, mini_batch.rollout_logprobs, turn_ids)
        return replace(mini_batch, weight=share * correction)

    def micro_batches(self, mini_batch: RolloutBatch) -> list[list[int]]:
        """Rows of each micro-batch, as many micro-batches on every rank."""
        lengths = mini_batch.lengths.tolist()
        needed = max_over_ranks(len(pack(lengths, self.micro_batch_tokens)))
        return pack(lengths, self.micro_batch_tokens, at_least=needed)

    def loss(self, batch: RolloutBatch) -> tuple[Tensor, Tensor, float]:
        """Σ weight · (surrogate + kl_coef · k3-KL) over the action tokens (eqs. 10–12).

        Also returns clipped and all action tokens by turn index [2, T], and the largest |log π_θ − log π_old|.
        """
        turn_ids = batch.turn_ids
        logprobs = token_stats(self.policy, batch.input_ids, turn_ids, with_entropy=False).logprobs
        log_ratio = self.ratio(logprobs, batch.old_logprobs, turn_ids)
        advantage, low, high = (to_tokens(x, turn_ids) for x in (batch.advantage, batch.clip_low, batch.clip_high))
        loss = (batch.weight * self.surrogate(log_ratio, logprobs, advantage, low, high)).sum()
        if self.kl_coef:
            loss = loss + self.kl_coef * (batch.weight * k3_kl(logprobs, batch.ref_logprobs)).sum()
        bound = clipped(log_ratio.detach(), advantage, low, high)
        return loss, *diagnostics.update_counts(batch, bound, logprobs.detach())

    def step(self, optimizer: LightningOptimizer, loss: float) -> dict[str, float]:
        """Clip the gradient and step; a loss or gradient that is not finite skips the step on every rank.

        Raises FloatingPointError after `max_skipped_steps` skips in a row.
        """
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm))
        if max_over_ranks(not torch.isfinite(torch.tensor([norm, loss])).all()):
            self.skipped_in_a_row += 1
            if self.skipped_in_a_row >= self.max_skipped_steps:
                raise FloatingPointError(
                    f"{self.skipped_in_a_row} optimizer steps in a row had a loss or gradient that is not finite "
                    f"(model.module.max_skipped_steps={self.max_skipped_steps}); checkpoints/last.ckpt holds the "
                    "policy before this rollout set"
                )
            return {"grad_norm": norm, "skipped": 1.0}
        self.skipped_in_a_row = 0
        optimizer.step()
        self.lr_schedulers().step()
        return {"grad_norm": norm, "skipped": 0.0}

    def finish_iteration(self) -> None:
        """Log what the rollout set and its steps looked like."""
        self.metrics = mean_over_ranks(self.metrics) | self.meter.summary()
        self.seconds = self.phases.lap()
        throughput = self.metrics["tokens/useful"] / (self.seconds["scoring"] + self.seconds["update"])
        timings = {f"seconds/{phase}": spent for phase, spent in self.seconds.items()}
        self.log_dict(self.metrics | timings | {"tokens/per_second": throughput})

    def configure_optimizers(self) -> dict:
        """Optimizer over the policy's trainable weights; the schedule counts optimizer steps."""
        optimizer = self.make_optimizer([p for p in self.model.parameters() if p.requires_grad])
        steps = self.trainer.max_epochs * self.trainer.datamodule.steps_per_iteration
        scheduler = self.make_scheduler(optimizer=optimizer, num_training_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def setup(self, stage: str) -> None:
        """Raises ValueError for a precision that cannot be trained in, and where credit compares trajectories of a
        prompt and there is only one."""
        if self.trainer.precision not in ("32-true", "bf16-mixed"):
            raise ValueError(f"trainer.precision={self.trainer.precision}: expected 32-true or bf16-mixed")
        if stage != "test" and compares_within_groups(self.credit) and self.trainer.datamodule.group_size < 2:
            raise ValueError(
                f"data.module.group_size={self.trainer.datamodule.group_size}: expected at least 2, "
                "because model/outcome or model/normalizer compares the trajectories of a prompt"
            )

    def on_fit_start(self) -> None:
        """Bring the reference to the policy's device."""
        if self.reference is not None:
            self.reference.model.to(self.device)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Leave frozen weights out: an adapter's checkpoint does not hold the model under it."""
        kept = {f"model.{name}" for name in trained_names(self.policy)}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in kept}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Raises ValueError where the checkpoint belongs to another architecture."""
        weights = {name.removeprefix("model."): tensor for name, tensor in checkpoint["state_dict"].items()}
        require_same_architecture(self.policy, weights)

    # ---- evaluation --------------------------------------------------------------------------------------------------

    def validation_step(self, trajectories: Sequence[Trajectory], batch_idx: int) -> None:
        """Count greedy episodes of held-out tasks."""
        self.episodes.add(trajectories, self.device)

    def test_step(self, trajectories: Sequence[Trajectory], batch_idx: int) -> None:
        """Count greedy episodes of test tasks."""
        self.episodes.add(trajectories, self.device)

    def on_validation_epoch_end(self) -> None:
        """Log `val/*`."""
        self.log_dict({f"val/{k}": mean for k, mean in self.episodes.take(self.device).items()}, sync_dist=True)

    def on_test_epoch_end(self) -> None:
        """Log `test/*`."""
        self.log_dict({f"test/{k}": mean for k, mean in self.episodes.take(self.device).items()}, sync_dist=True)
