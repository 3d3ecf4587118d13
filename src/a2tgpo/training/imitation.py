"""The learner of a warm-up: it makes the actions of demonstrations more likely, and nothing else."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from a2tgpo.rollouts.trajectory import Task, Trajectory
from a2tgpo.scoring.batch import RolloutBatch, collate
from a2tgpo.scoring.score import token_stats
from a2tgpo.system.distributed import gather, mean_over_ranks
from a2tgpo.training.metrics import episode_metrics
from a2tgpo.training.optimization import require_finite_weights
from a2tgpo.training.policy_module import PolicyModule


class ImitationModule(PolicyModule):
    """Imitation under Lightning: the loss is the mean negative log-prob (nats) of the action tokens of a mini-batch."""

    rollout_batch: RolloutBatch | None = None

    def require_context_length(self, tasks: Iterable[Task], max_sequence_tokens: int) -> None:
        """No answer is scored behind a trajectory."""

    def prepare(
        self, trajectories: Sequence[Trajectory], mini_batches: Sequence[Sequence[int]], n_failed: int
    ) -> RolloutBatch:
        """Demonstrations as a batch; nothing is to be scored. `n_failed` were lost and are only counted."""
        self.trajectories, self.rollout_batch = trajectories, collate(trajectories, self.policy.pad_id)
        self.metrics = {f"train/{name}": mean for name, mean in episode_metrics(trajectories).items()}
        self.metrics["train/failed_episodes"] = n_failed / (n_failed + len(trajectories))
        self.steps: list[dict[str, float]] = []
        return self.rollout_batch

    def training_step(self, mini_batch: RolloutBatch, batch_idx: int) -> None:
        """One optimizer step over a mini-batch."""
        with self.phases("update"):
            n_tokens = max(1, sum(gather(int((mini_batch.turn_ids >= 0).sum()))))

            def loss(part: RolloutBatch) -> Tensor:
                stats = token_stats(self.policy, part.input_ids, part.turn_ids, with_entropy=False)
                return -stats.logprobs.sum() / n_tokens

            self.steps.append(self.update(mini_batch, loss))
        if self.trainer.is_last_batch:
            self.finish_iteration()

    def after_update(self) -> None:
        """Nothing was scored before the update."""

    def finish_iteration(self) -> None:
        """Log what the steps looked like. Raises what `require_finite_weights` does."""
        require_finite_weights(self.model.parameters())
        names = ("loss", "grad_norm", "lr")
        means = {f"update/{name}": sum(step[name] for step in self.steps) / len(self.steps) for name in names}
        totals = {name: sum(gather(sum(step[name] for step in self.steps))) for name in ("forwarded", "useful")}
        loss = sum(gather(means["update/loss"]))  # each rank has its share of the global mini-batch
        self.metrics = mean_over_ranks(self.metrics | means) | {"update/loss": loss}
        self.metrics |= {"update/skipped_steps": sum(step["skipped"] for step in self.steps)}
        self.metrics |= {f"tokens/{name}": float(total) for name, total in totals.items()}
        self.seconds = self.phases.lap()
        self.log_dict(self.metrics | {f"seconds/{phase}": spent for phase, spent in self.seconds.items()})
