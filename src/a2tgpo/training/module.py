"""The learner: owns policy and reference, scores rollouts, has the method assign credit, takes the clipped steps."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor

from a2tgpo.method.functional import k3_kl
from a2tgpo.method.method import Method
from a2tgpo.policies.checkpoint import weights_in
from a2tgpo.policies.policy import Policy, require_float32, require_same_architecture, trained_names
from a2tgpo.rollouts.trajectory import Task, Trajectory
from a2tgpo.scoring.batch import RolloutBatch, micro_batches, token_positions
from a2tgpo.scoring.beliefs import require_context_length
from a2tgpo.scoring.noise import log_gain_noise
from a2tgpo.scoring.score import read, score, token_stats
from a2tgpo.system.distributed import max_over_ranks, mean_over_ranks
from a2tgpo.system.settings import require, require_all
from a2tgpo.system.timing import PhaseTimer
from a2tgpo.training.meters import EpisodeMeter, IterationMeter
from a2tgpo.training.metrics import Movement, movement, rollout_metrics
from a2tgpo.training.optimization import apply_schedule, optimizer_with_schedule, require_finite_weights
from a2tgpo.training.protocols import RolloutSource


class A2TGPOModule(LightningModule):
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
        super().__init__()
        require_float32(policy)
        own = {"micro_batch_tokens": micro_batch_tokens, "kl_coef": kl_coef}
        own |= {"max_grad_norm": max_grad_norm, "max_skipped_steps": max_skipped_steps}
        require_all(own, "model.module")
        self.automatic_optimization = False
        self.strict_loading = False  # frozen weights are in no checkpoint; `on_load_checkpoint` checks the others
        self.model, self.policy = policy.model.train(), policy
        self.reference = reference(policy)  # not a submodule: rebuilt from the initial weights, never saved
        if kl_coef and self.reference is None:
            raise ValueError(f"model.module.kl_coef={kl_coef}: expected 0 with model/reference=none")
        self.method = method
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        optimizer_with_schedule(self.model.parameters(), optimizer, scheduler, n_steps=1)  # what is wrong shows now
        self.answer_wrapper = tuple(answer_wrapper)
        self.micro_batch_tokens, self.kl_coef = micro_batch_tokens, kl_coef
        self.max_grad_norm, self.max_skipped_steps = max_grad_norm, max_skipped_steps
        self.phases = PhaseTimer()
        self.trajectories: Sequence[Trajectory] = ()
        self.rollout_batch: RolloutBatch | None = None
        self.metrics: dict[str, float] = {}
        """Numbers of the current iteration: of the rollout set first, of its optimizer steps once they are done."""
        self.meter, self.episodes = IterationMeter(), EpisodeMeter()
        self.seconds: dict[str, float] = {}
        """Seconds of each phase since the end of the iteration before; a validation counts for the next."""
        self.skipped_in_a_row = 0
        self.log_gain_noise: float | None = None
        """Rounding error of a log-gain (nats), measured on the first set of a run that has gains."""

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
        with self.phases("scoring"):
            budget, answers = self.micro_batch_tokens, self.method.signal.answers
            scored = score(self.policy, trajectories, answers, self.answer_wrapper, budget, mini_batches)
            self.meter.positions.update(scored.positions)
            if self.log_gain_noise is None:
                self.log_gain_noise = log_gain_noise(self.policy, scored, budget)
            observed = replace(scored.observed, log_gain_noise=self.log_gain_noise or 0.0)
            batch = replace(scored.batch, credit=self.method.assign(observed))
            if self.reference is not None:
                reading = read(self.reference, batch, [], budget, mini_batches, with_entropy=False)
                self.meter.positions.update(reading.positions)
                batch = replace(batch, ref_logprobs=reading.tokens.logprobs)
        self.trajectories, self.rollout_batch = trajectories, batch
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
            lengths = mini_batch.lengths.tolist()
            parts = micro_batches(lengths, self.micro_batch_tokens)
            self.meter.positions.update(token_positions(lengths, parts))
            optimizer = self.optimizers()
            optimizer.zero_grad(set_to_none=False)  # gradients stay where DDP sums them up, and are held once
            total, movements = 0.0, []
            for i, rows in enumerate(parts):
                with optimizer.toggle_model(sync_grad=i == len(parts) - 1):
                    loss, moved = self.loss(mini_batch.rows(rows).to(self.device))
                    self.manual_backward(loss * self.trainer.world_size)  # DDP averages over ranks
                total += loss.item()
                movements.append(moved)
            step = {"loss": total, "lr": optimizer.param_groups[0]["lr"]}
            self.meter.add_step(step | self.step(optimizer, total), movements)
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
        """Log what the rollout set and its steps looked like. Raises what `require_finite_weights` does."""
        require_finite_weights(self.model.parameters())
        self.metrics = mean_over_ranks(self.metrics) | self.meter.summary()
        self.seconds = self.phases.lap()
        throughput = self.metrics["tokens/useful"] / (self.seconds["scoring"] + self.seconds["update"])
        timings = {f"seconds/{phase}": spent for phase, spent in self.seconds.items()}
        self.log_dict(self.metrics | timings | {"tokens/per_second": throughput})

    def configure_optimizers(self) -> dict:
        """Optimizer over the policy's trainable weights; the schedule counts optimizer steps."""
        source: RolloutSource = self.trainer.datamodule
        steps = self.trainer.max_epochs * source.steps_per_iteration
        return optimizer_with_schedule(self.model.parameters(), self.make_optimizer, self.make_scheduler, steps)

    def setup(self, stage: str) -> None:
        """Raises ValueError for a precision that cannot be trained in, and where credit compares trajectories of a
        prompt and there is only one."""
        require("trainer.precision", self.trainer.precision)
        source: RolloutSource = self.trainer.datamodule
        if stage != "test" and self.method.credit.compares_trajectories and source.group_size < 2:
            raise ValueError(
                f"data.module.group_size={source.group_size}: expected at least 2, because the credit (model/outcome "
                "or model/normalizer) compares the trajectories of a prompt"
            )

    def on_fit_start(self) -> None:
        """Bring the reference to the policy's device."""
        if self.reference is not None:
            self.reference.model.to(self.device)

    def on_train_start(self) -> None:
        """Give a resumed run the learning rate of its own schedule."""
        apply_schedule(self.lr_schedulers())

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Leave frozen weights out: an adapter's checkpoint does not hold the model under it."""
        kept = {f"model.{name}" for name in trained_names(self.policy)}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in kept}
        checkpoint["log_gain_noise"] = self.log_gain_noise

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Raises ValueError where the checkpoint belongs to another architecture."""
        require_same_architecture(self.policy, weights_in(checkpoint))
        self.log_gain_noise = checkpoint.get("log_gain_noise")

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
