"""Dynamic sampling, as in DAPO (arXiv 2503.14476): a prompt that teaches nothing gives its place to another one."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from a2tgpo.rollouts.trajectory import Task, Trajectory
from a2tgpo.system.distributed import max_over_ranks

Prompts = Sequence[tuple[int, Task]]
"""Places in the rollout set, and the task that is asked at each."""
Play = Callable[[Prompts, int], Iterable[Trajectory]]
"""Plays a group at each place, with the noise of a draw."""


@dataclass(frozen=True)
class Filled:
    """This rank's groups by their place, and how many groups were played for them."""

    groups: dict[int, list[Trajectory]]
    n_played: int

    @property
    def telling(self) -> list[int]:
        """The places whose outcomes differ."""
        return [place for place, group in self.groups.items() if outcomes_differ(group)]


def outcomes_differ(group: Sequence[Trajectory]) -> bool:
    """Is there a difference to learn from?"""
    return len({trajectory.outcome for trajectory in group}) > 1


def fill(draws: Iterable[int], draw: Callable[[int], Prompts], play: Play) -> Filled:
    """Play the prompts of the first of `draws`, then in each further one those whose place still holds equal outcomes.

    All ranks play equally often, since an engine may speak with all of them; a rank may have nothing to play.
    """
    groups: dict[int, list[Trajectory]] = {}
    n_played = 0
    for number in draws:
        prompts = [(place, task) for place, task in draw(number) if not outcomes_differ(groups.get(place, []))]
        if not max_over_ranks(len(prompts)):
            break
        n_played += len(prompts)
        groups |= {place: [] for place, _ in prompts}
        for trajectory in play(prompts, number):
            groups[trajectory.group].append(trajectory)
    return Filled(groups, n_played)
