"""Groups that are trees: trajectories that branch off each other at their turns, as in Tree-GRPO."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.loop import Rollout
from a2tgpo.rollouts.trajectory import Task, Trajectory
from a2tgpo.system.settings import require_all


@dataclass(frozen=True)
class Branching:
    """Of the trajectories of a group `share` branch off the others, one after the other (arXiv 2509.21240).

    Each leaves a trajectory of its group that was drawn evenly, behind a turn of it that was drawn evenly; one whose
    trunk has a single turn begins anew.
    """

    share: float
    """Part of a group that branches off, rounded down; at least one trajectory does not."""

    def __post_init__(self) -> None:
        require_all(vars(self), "data.branching")

    def __call__(
        self,
        rollout: Rollout,
        policy: Policy,
        prompts: Sequence[tuple[int, Task]],
        group_size: int,
        key: tuple[int, ...],
    ) -> list[Trajectory]:
        """The trajectories of all groups, each group together, less those that failed."""
        n_branches = int(self.share * group_size)
        n_trunks = group_size - n_branches
        trees: dict[int, list[Trajectory]] = {group: [] for group, _ in prompts}
        for trunk in rollout.run(policy, prompts, n_trunks, key, greedy=False):
            trees[trunk.group].append(trunk)
        for branch in range(n_branches):
            grown = [group for group, tree in trees.items() if tree]
            prefixes = [_drawn(trees[group], Random(repr((*key, group, branch)))) for group in grown]
            forks = rollout.continue_from(policy, prefixes, 1, (*key, branch))
            for group, (_, n_turns), found in zip(grown, prefixes, forks, strict=True):
                trees[group] += [
                    replace(fork, group=group, sample=n_trunks + branch, n_shared=n_turns) for fork in found
                ]
        return [trajectory for tree in trees.values() for trajectory in tree]


def _drawn(tree: Sequence[Trajectory], rng: Random) -> tuple[Trajectory, int]:
    """A trajectory, and how many of its turns a branch keeps: never all of them."""
    trunk = rng.choice(tree)
    return trunk, rng.randrange(1, len(trunk.turns)) if len(trunk.turns) > 1 else 0
