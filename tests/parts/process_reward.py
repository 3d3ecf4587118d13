"""A scorer of one's own for model/signal=process_reward."""

from collections.abc import Sequence

from a2tgpo.rollouts.trajectory import Trajectory


def shorter_is_better(trajectories: Sequence[Trajectory]) -> list[list[float]]:
    """Likes short actions."""
    return [[-float(len(turn.action_ids)) for turn in t.turns if turn.is_process] for t in trajectories]
