"""The truth about tool calls: did a call bring evidence that was not seen before?"""

from collections.abc import Sequence

from a2tgpo.rollouts.trajectory import Trajectory
from a2tgpo.system.errors import SettingError


def usefulness(trajectories: Sequence[Trajectory]) -> list[list[float]]:
    """Of each trajectory 1 for a process turn that was useful, 0 for one that was not or whose call failed.

    Raises SettingError where a task does not know its evidence.
    """
    return [_scores(trajectory) for trajectory in trajectories]


def _scores(trajectory: Trajectory) -> list[float]:
    useful = [turn.useful for turn in trajectory.turns if turn.is_process]
    if None in useful and not trajectory.task.evidence:
        raise SettingError(
            f"model.signal.scorer=usefulness: task {trajectory.task.task_id} does not say what its answer rests on; "
            "expected questions with evidence (data.tasks), or another scorer"
        )
    return [float(value or False) for value in useful]
