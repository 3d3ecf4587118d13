"""What is counted over several steps: held-out episodes, and the optimizer steps of an iteration."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from a2tgpo.rollouts.trajectory import Trajectory
from a2tgpo.system.distributed import gather, max_over_ranks, mean_over_ranks
from a2tgpo.training.metrics import clip_metrics, episode_metrics, measured


class EpisodeMeter:
    """Means over all episodes of a split, on whatever rank they were played."""

    def __init__(self) -> None:
        self._means: dict[str, MeanMetric] = {}

    def add(self, trajectories: Sequence[Trajectory], device: torch.device) -> None:
        """Count these episodes; there may be none."""
        for name, value in episode_metrics(trajectories).items() if trajectories else ():
            self._means.setdefault(name, MeanMetric().to(device)).update(value, weight=measured(name, trajectories))

    def take(self, device: torch.device) -> dict[str, Tensor]:
        """The means, the same on every rank; then start anew."""
        names = sorted({name for names in gather(list(self._means)) for name in names})  # a rank may have played none
        means = {name: self._means.get(name, MeanMetric().to(device)).compute() for name in names}
        self._means.clear()
        return means


class IterationMeter:
    """The optimizer steps of one iteration, and the token positions that scoring and update put through a model."""

    def __init__(self) -> None:
        self.positions: Counter[str] = Counter()
        self.steps: list[dict[str, float]] = []
        self.clip_counts: Tensor | None = None

    def add_clipped(self, counts: Tensor) -> None:
        """Clipped and all action tokens by turn index [2, T] of a micro-batch."""
        self.clip_counts = counts if self.clip_counts is None else self.clip_counts + counts

    def summary(self) -> dict[str, float]:
        """The iteration's numbers, the same on every rank."""
        metrics = clip_metrics(self.clip_counts)
        for name in ("loss", "grad_norm", "lr"):
            metrics[f"update/{name}"] = sum(step[name] for step in self.steps) / len(self.steps)
        metrics["update/skipped_steps"] = sum(step["skipped"] for step in self.steps)
        loss = sum(gather(metrics["update/loss"]))  # each rank has its share of the global mini-batch
        metrics = mean_over_ranks(metrics) | {"update/loss": loss}
        metrics["update/first_step_max_log_ratio"] = max_over_ranks(self.steps[0]["max_log_ratio"])
        metrics["update/max_log_ratio"] = max_over_ranks(max(step["max_log_ratio"] for step in self.steps))
        tokens = sum(gather(self.positions), Counter())
        return metrics | {f"tokens/{name}": float(tokens[name]) for name in ("forwarded", "useful")}
