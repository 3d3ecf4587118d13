"""A tool that is broken, told from one that fails now and then."""

import logging
from collections import Counter
from collections.abc import Sequence

from a2tgpo.rollouts.trajectory import Call, CallResult, Trajectory
from a2tgpo.system.errors import SettingError

ENOUGH_CALLS = 16
"""So many calls of a tool without a single result are no coincidence."""

_log = logging.getLogger(__name__)


class ToolHealth:
    """Tells a tool that is broken from one that fails now and then, over all rollout sets of a process."""

    def __init__(self) -> None:
        self._in_vain: Counter[str] = Counter()
        """Calls of each tool since it last did its work."""
        self._found: set[str] = set()
        """Tools that have brought something."""

    def count(self, trajectories: Sequence[Trajectory]) -> None:
        """Log how many calls of each tool failed.

        Raises SettingError where a tool has not done its work in the last `ENOUGH_CALLS` calls or more. To refuse a
        call in words for the policy is its work too. To find nothing is not while it has never found anything; later
        it is the policy that asks for nothing.
        """
        by_tool: dict[str, list[Call]] = {}
        for call in (call for trajectory in trajectories for turn in trajectory.turns for call in turn.calls):
            by_tool.setdefault(call.tool, []).append(call)
        for tool, calls in by_tool.items():
            if any(call.result is CallResult.FOUND for call in calls):
                self._found.add(tool)
            not_its_work = {CallResult.FAILED} if tool in self._found else {CallResult.FAILED, CallResult.EMPTY}
            in_vain = [call for call in calls if call.result in not_its_work]
            failed = [call for call in calls if call.result is CallResult.FAILED]
            self._in_vain[tool] = self._in_vain[tool] + len(calls) if len(in_vain) == len(calls) else 0
            if self._in_vain[tool] >= ENOUGH_CALLS:
                raise SettingError(
                    f"data.environment.tools.{tool}: none of its last {self._in_vain[tool]} calls brought a result; "
                    f"expected some to. The last: {in_vain[-1].why}"
                )
            if failed:
                told = (tool, len(failed), len(calls), failed[-1].why)
                _log.warning("data.environment.tools.%s: %d of %d calls failed; the last: %s", *told)
