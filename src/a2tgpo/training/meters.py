"""What is counted over several steps: held-out episodes, and the optimizer steps of an iteration."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from a2tgpo.rollouts.trajectory import Trajectory
from a2tgpo.system.distributed import gather, max_over_ranks, mean_over_ranks
from a2tgpo.training.metrics import Movement, clip_metrics, episode_metrics, family_metrics, measured


class EpisodeMeter:
    """Means over all episodes of a split, on whatever rank they were played."""

    def __init__(self) -> None:
        self._means: dict[str, MeanMetric] = {}

    def add(self, trajectories: Sequence[Trajectory], device: torch.device) -> None:
        """Count these episodes; there may be none."""
        for name, value in episode_metrics(trajectories).items() if trajectories else ():
            self._means.setdefault(name, MeanMetric().to(device)).update(value, weight=measured(name, trajectories))

    def take(self, device: torch.device) -> dict[str, Tensor]:
        """The means, and figures of families of them, the same on every rank; then start anew."""
        names = sorted({name for names in gather(list(self._means)) for name in names})  # a rank may have played none
        means = {name: self._means.get(name, MeanMetric().to(device)).compute() for name in names}
        self._means.clear()
        return means | {name: torch.tensor(value, device=device) for name, value in family_metrics(means).items()}


class IterationMeter:
    """The optimizer steps of one iteration, and the token positions that scoring and update put through a model."""

    def __init__(self) -> None:
        self.positions: Counter[str] = Counter()
        self.steps: list[dict[str, float]] = []
        self.movements: list[list[Movement]] = []

    def add_step(self, step: dict[str, float], movements: list[Movement]) -> None:
        """Count an optimizer step: its numbers, and what became of each of its micro-batches."""
        self.steps.append(step)
        self.positions.update({name: int(step[name]) for name in ("forwarded", "useful")})
        self.movements.append(movements)

    def summary(self) -> dict[str, float]:
        """The iteration's numbers, the same on every rank."""
        metrics = clip_metrics(sum(moved.clipped for step in self.movements for moved in step))
        for name in ("loss", "grad_norm", "lr"):
            metrics[f"update/{name}"] = sum(step[name] for step in self.steps) / len(self.steps)
        metrics["update/skipped_steps"] = sum(step["skipped"] for step in self.steps)
        loss = sum(gather(metrics["update/loss"]))  # each rank has its share of the global mini-batch
        metrics = mean_over_ranks(metrics) | {"update/loss": loss}
        largest = [max(moved.max_log_ratio for moved in step) for step in self.movements]
        metrics["update/max_log_ratio"] = max_over_ranks(max(largest))
        metrics["update/first_step_max_log_ratio"] = max_over_ranks(largest[0])
        outside, turns = sum(gather(sum(moved.outside for moved in self.movements[0]))).tolist()
        metrics["update/first_step_turns_outside"] = outside / max(turns, 1)
        tokens = sum(gather(self.positions), Counter())
        return metrics | {f"tokens/{name}": float(tokens[name]) for name in ("forwarded", "useful")}
