"""The learner: owns policy and reference, scores rollouts, has the method assign credit, takes the clipped steps."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from a2tgpo.method.functional import k3_kl
from a2tgpo.method.method import Method
from a2tgpo.method.protocols import ForkedCredit, ReferenceSignal, WithoutTurns
from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.trajectory import Task, Trajectory
from a2tgpo.scoring.batch import RolloutBatch
from a2tgpo.scoring.beliefs import require_context_length
from a2tgpo.scoring.noise import log_gain_noise
from a2tgpo.scoring.score import read, score, token_stats
from a2tgpo.system.distributed import mean_over_ranks
from a2tgpo.system.process import precision_context
from a2tgpo.system.settings import require
from a2tgpo.training.after_update import AfterUpdate, after_update
from a2tgpo.training.meters import IterationMeter
from a2tgpo.training.metrics import Movement, movement, rollout_metrics
from a2tgpo.training.optimization import require_finite_weights
from a2tgpo.training.policy_module import PolicyModule
from a2tgpo.training.protocols import RolloutSource


class A2TGPOModule(PolicyModule):
    """A²TGPO (arXiv 2605.06200), or whatever `method` composes, under Lightning.

    Each epoch the data module hands over fresh trajectories (`prepare`), then mini-batches of the result
    (`training_step`, one optimizer step each). Raises ValueError where settings do not go together.
    """

    def __init__(
        self,
        policy: Policy,
        reference: Callable[[Policy], Policy | None],
        method: Method,
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., torch.optim.lr_scheduler.LRScheduler],
        answer_wrapper: Sequence[str],
        micro_batch_tokens: int,
        kl_coef: float,
        max_grad_norm: float,
        max_skipped_steps: int,
    ) -> None:
        super().__init__(policy, optimizer, scheduler, micro_batch_tokens, max_grad_norm, max_skipped_steps)
        require("model.module.kl_coef", kl_coef)
        self.reference = reference(policy)  # not a submodule: rebuilt from the initial weights, never saved
        if kl_coef and self.reference is None:
            raise ValueError(f"model.module.kl_coef={kl_coef}: expected 0 with model/reference=none")
        self.by_reference = isinstance(method.signal, ReferenceSignal)
        if self.by_reference and self.reference is None:
            raise ValueError("model/reference=none: expected frozen_copy or disabled_adapter, which model/signal asks")
        self.method, self.answer_wrapper, self.kl_coef = method, tuple(answer_wrapper), kl_coef
        self.rollout_batch: RolloutBatch | None = None
        self.mini_batches: Sequence[Sequence[int]] = ()
        self.meter = IterationMeter()
        self.log_gain_noise: float | None = None
        """Rounding error of a log-gain (nats), measured on the first set of a run that has gains."""
        self.credit_memory: dict[str, Tensor] = {}
        """What the credit keeps from set to set."""

    # ---- scoring and credit ------------------------------------------------------------------------------------------

    def require_context_length(self, tasks: Iterable[Task], max_sequence_tokens: int) -> None:
        """Raises ValueError where an answer behind `max_sequence_tokens` would go past the model's last position."""
        require_context_length(self.policy, tasks, self.method.signal.answers, self.answer_wrapper, max_sequence_tokens)

    def prepare(
        self, trajectories: Sequence[Trajectory], mini_batches: Sequence[Sequence[int]], n_failed: int
    ) -> RolloutBatch:
        """Score this rank's trajectories and assign credit over the whole rollout set; returns this rank's rows.

        `mini_batches` are the rows of each optimizer step. `n_failed` episodes were lost and are only counted. Groups
        must be complete otherwise.
        """
        self.meter = IterationMeter()
        budget, answers = self.micro_batch_tokens, self.method.signal.answers
        with self.phases("scoring"):
            scored = score(
                self.policy,
                trajectories,
                answers,
                self.answer_wrapper,
                budget,
                mini_batches=mini_batches,
                reference=self.reference,
                by_reference=self.by_reference,
                without_turns=isinstance(self.method.signal, WithoutTurns),
                told=self.phases.step,
            )
            self.meter.positions.update(scored.positions)
        if self.log_gain_noise is None:
            with self.phases("rounding"):
                believer = self.reference if self.by_reference else self.policy
                self.log_gain_noise = log_gain_noise(believer, scored, budget)
        with self.phases("scoring"):
            observed = replace(scored.observed, log_gain_noise=self.log_gain_noise or 0.0)
            batch = replace(scored.batch, credit=self.method.assign(observed, self.credit_memory))
        self.trajectories, self.rollout_batch, self.mini_batches = trajectories, batch, mini_batches
        self.metrics = rollout_metrics(trajectories, batch, scored.entropy, self.reference is not None, answers)
        self.metrics["credit/log_gain_noise"] = observed.log_gain_noise
        self.metrics["train/failed_episodes"] = n_failed / (n_failed + len(trajectories))
        return batch

    # ---- update ------------------------------------------------------------------------------------------------------

    def training_step(self, mini_batch: RolloutBatch, batch_idx: int) -> None:
        """One optimizer step over a mini-batch, in micro-batches whose weighted losses add up to it exactly."""
        with self.phases("update"):
            loss_weight = self.method.weigh(mini_batch.turn_ids, mini_batch.old_logprobs, mini_batch.rollout_logprobs)
            mini_batch = replace(mini_batch, loss_weight=loss_weight)
            movements: list[Movement] = []

            def loss(part: RolloutBatch) -> Tensor:
                value, moved = self.loss(part)
                movements.append(moved)
                return value

            self.meter.add_step(self.update(mini_batch, loss), movements)
        if self.trainer.is_last_batch:
            self.finish_iteration()

    def loss(self, batch: RolloutBatch) -> tuple[Tensor, Movement]:
        """The method's loss plus kl_coef · Σ loss_weight · k3-KL to the reference; and how far the policy has moved."""
        logprobs = token_stats(self.policy, batch.input_ids, batch.turn_ids, with_entropy=False).logprobs
        loss, clipped = self.method.loss(logprobs, batch.old_logprobs, batch.turn_ids, batch.credit, batch.loss_weight)
        if self.kl_coef:
            loss = loss + self.kl_coef * (batch.loss_weight * k3_kl(logprobs, batch.ref_logprobs)).sum()
        log_ratio = self.method.ratio(logprobs.detach(), batch.old_logprobs, batch.turn_ids)
        return loss, movement(batch, logprobs.detach(), log_ratio, clipped)

    def finish_iteration(self) -> None:
        """Log what the rollout set and its steps looked like. Raises what `require_finite_weights` does."""
        require_finite_weights(self.model.parameters())
        self.metrics = mean_over_ranks(self.metrics) | self.meter.summary()
        self.seconds = self.phases.lap()
        throughput = self.metrics["tokens/useful"] / (self.seconds["scoring"] + self.seconds["update"])
        timings = {f"seconds/{phase}": spent for phase, spent in self.seconds.items()}
        self.log_dict(self.metrics | timings | {"tokens/per_second": throughput})

    def after_update(self) -> AfterUpdate:
        """The iteration's rollout set under the policy as it is now: a pass of its own, without beliefs."""
        device, precision = self.trainer.strategy.root_device, self.trainer.precision
        with self.phases("after_update"), precision_context(device, precision):
            batch, budget = self.rollout_batch, self.micro_batch_tokens
            reading = read(self.policy, batch, (), budget, self.mini_batches, with_entropy=False, told=self.phases.step)
        return after_update(self.method, batch, reading.tokens.logprobs)

    def setup(self, stage: str) -> None:
        """Raises ValueError for a precision that cannot be trained in, where credit compares trajectories of a prompt
        and there is only one, and where it asks for forks and none are played."""
        super().setup(stage)
        source: RolloutSource = self.trainer.datamodule
        if stage != "test" and self.method.credit.compares_trajectories and source.group_size < 2:
            raise ValueError(
                f"data.module.group_size={source.group_size}: expected at least 2, because the credit (model/outcome "
                "or model/normalizer) compares the trajectories of a prompt"
            )
        if stage != "test" and isinstance(self.method.credit, ForkedCredit) and not source.continuations:
            raise ValueError("data.module.continuations=0: expected at least 1, because model/credit asks for forks")

    def configure_model(self) -> None:
        """With `trainer=fsdp`, shard the policy and its reference. Raises ValueError where that cannot be done."""
        super().configure_model()
        if self.reference is not None:
            self.shard(self.reference.model)

    def on_fit_start(self) -> None:
        """Bring the reference to the policy's device."""
        if self.reference is not None:
            self.reference.model.to(self.device)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Keep what was measured, and what the credit remembers."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["log_gain_noise"] = self.log_gain_noise
        checkpoint["credit_memory"] = self.credit_memory

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Raises ValueError where the checkpoint belongs to another architecture."""
        super().on_load_checkpoint(checkpoint)
        self.log_gain_noise = checkpoint["log_gain_noise"]
        self.credit_memory = checkpoint["credit_memory"]
