"""A policy under Lightning, whatever it is trained on: optimizer steps, checkpoints, greedy evaluation."""

from collections.abc import Callable, Sequence

import torch
from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor

from a2tgpo.policies.checkpoint import weights_in
from a2tgpo.policies.policy import Policy, require_float32, require_same_architecture, trained_names
from a2tgpo.policies.sharding import shard, whole
from a2tgpo.rollouts.trajectory import Trajectory
from a2tgpo.scoring.batch import RolloutBatch, micro_batches, token_positions
from a2tgpo.system.distributed import max_over_ranks
from a2tgpo.system.settings import require, require_all
from a2tgpo.system.timing import PhaseTimer
from a2tgpo.training.meters import EpisodeMeter
from a2tgpo.training.optimization import apply_schedule, optimizer_with_schedule
from a2tgpo.training.protocols import RolloutSource


class PolicyModule(LightningModule):
    """What learners share. One `update` is one optimizer step over a mini-batch, whatever its size."""

    def __init__(
        self,
        policy: Policy,
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., torch.optim.lr_scheduler.LRScheduler],
        micro_batch_tokens: int,
        max_grad_norm: float,
        max_skipped_steps: int,
    ) -> None:
        super().__init__()
        require_float32(policy)
        own = {"micro_batch_tokens": micro_batch_tokens, "max_grad_norm": max_grad_norm}
        require_all(own | {"max_skipped_steps": max_skipped_steps}, "model.module")
        self.automatic_optimization = False
        self.strict_loading = False  # frozen weights are in no checkpoint; `on_load_checkpoint` checks the others
        self.model, self.policy = policy.model.train(), policy
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        optimizer_with_schedule(self.model, optimizer, scheduler, n_steps=1)  # what is wrong shows now
        self.micro_batch_tokens = micro_batch_tokens
        self.max_grad_norm, self.max_skipped_steps = max_grad_norm, max_skipped_steps
        self.phases = PhaseTimer()
        self.trajectories: Sequence[Trajectory] = ()
        self.metrics: dict[str, float] = {}
        """Numbers of the current iteration: of its trajectories first, of its optimizer steps once they are done."""
        self.episodes = EpisodeMeter()
        self.seconds: dict[str, float] = {}
        """Seconds of each phase since the end of the iteration before; a validation counts for the next."""
        self.skipped_in_a_row = 0

    # ---- update ------------------------------------------------------------------------------------------------------

    def update(self, mini_batch: RolloutBatch, loss: Callable[[RolloutBatch], Tensor]) -> dict[str, float]:
        """One optimizer step over a mini-batch, in micro-batches whose losses add up to it exactly.

        Returns its loss, learning rate, gradient norm, whether it was skipped, and the token positions it took.
        """
        lengths = mini_batch.lengths.tolist()
        parts = micro_batches(lengths, self.micro_batch_tokens)
        optimizer = self.optimizers()
        optimizer.zero_grad(set_to_none=False)  # gradients stay where DDP sums them up, and are held once
        total = 0.0
        for i, rows in enumerate(parts):
            with optimizer.toggle_model(sync_grad=i == len(parts) - 1):
                part = loss((mini_batch.rows(rows) if rows else mini_batch.stand_in()).to(self.device))
                self.manual_backward(part * self.trainer.world_size)  # DDP and FSDP average over ranks
            total += part.item()
        step = {"loss": total, "lr": optimizer.param_groups[0]["lr"], **token_positions(lengths, parts)}
        return step | self.step(optimizer, total)

    def step(self, optimizer: LightningOptimizer, loss: float) -> dict[str, float]:
        """Clip the gradient and step; a loss or gradient that is not finite skips the step on every rank.

        Raises FloatingPointError after `max_skipped_steps` skips in a row.
        """
        norm = float(whole(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)))
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

    def configure_optimizers(self) -> dict:
        """Optimizer over the policy's trainable weights; the schedule counts optimizer steps."""
        source: RolloutSource = self.trainer.datamodule
        steps = self.trainer.max_epochs * source.steps_per_iteration
        return optimizer_with_schedule(self.model, self.make_optimizer, self.make_scheduler, steps)

    def setup(self, stage: str) -> None:
        """Raises ValueError for a precision that cannot be trained in."""
        require("trainer.precision", self.trainer.precision)

    def configure_model(self) -> None:
        """With `trainer=fsdp`, shard the policy. Raises ValueError where that cannot be done."""
        self.shard(self.model)

    def shard(self, model: torch.nn.Module) -> None:
        """Shard `model` over the mesh of the strategy, if it has one."""
        if self.device_mesh is not None:
            shard(model, self.device_mesh, torch.bfloat16 if self.trainer.precision == "bf16-mixed" else None)

    def on_train_start(self) -> None:
        """Give a resumed run the learning rate of its own schedule."""
        apply_schedule(self.lr_schedulers())

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Leave frozen weights out: an adapter's checkpoint does not hold the model under it."""
        kept = {f"model.{name}" for name in trained_names(self.policy)}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in kept}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Raises ValueError where the checkpoint belongs to another architecture."""
        require_same_architecture(self.policy, weights_in(checkpoint))

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
