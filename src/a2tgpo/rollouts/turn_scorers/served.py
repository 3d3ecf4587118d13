"""A process reward model behind a server."""

import json
import time
from collections.abc import Sequence
from typing import Any

from a2tgpo.rollouts.trajectory import Trajectory
from a2tgpo.system.http_client import SHOWN, HttpClient, RetryBudget, Unavailable
from a2tgpo.system.settings import require_all

KEY = "model.signal.scorer"
"""Where its settings stand on the command line."""
DELAYS = 0.1, 5.0
"""Seconds before the first retry, and the longest."""


class ServedScorer:
    """Asks the server at `url` what process turns are worth, `batch_size` trajectories a request.

    POST {"trajectories": [{"question", "answers", "turns": [{"action", "observation"}, …]}, …]}, of which the turns are
    the process turns; expected is {"scores": [[number, …], …]}, one number a turn. A request that has no answer within
    `timeout` seconds, or a server error for one, is tried again until `patience` seconds have passed.
    """

    def __init__(self, url: str, timeout: float, patience: float, batch_size: int) -> None:
        require_all({"patience": patience, "batch_size": batch_size}, KEY)
        self._server = HttpClient(url, timeout, KEY, max_connections=1)
        self._patience, self._batch_size = patience, batch_size

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        """Scores of each trajectory's process turns. Raises ValueError where the server refuses, is silent for too long
        or sends anything else."""
        scores: list[list[float]] = []
        for i in range(0, len(trajectories), self._batch_size):
            scores += self._ask(trajectories[i : i + self._batch_size])
        return scores

    def _ask(self, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        body, budget = {"trajectories": list(map(_told, trajectories))}, RetryBudget(self._patience, *DELAYS)
        while True:
            try:
                return self._read(self._server.post("", body), trajectories)
            except Unavailable as error:
                pause = budget.pause()
                if pause is None:
                    told = f"no answer for {self._patience:g} s ({KEY}.patience); last {error}"
                    raise ValueError(f"{KEY}.url={self._server.url}: {told}; expected a running server") from error
            time.sleep(pause)

    def _read(self, answer: Any, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        scores = answer.get("scores") if isinstance(answer, dict) else None
        lists = [own for own in scores if isinstance(own, list)] if isinstance(scores, list) else []
        numbers = all(type(score) in (int, float) for own in lists for score in own)
        if not numbers or list(map(len, lists)) != [sum(turn.is_process for turn in t.turns) for t in trajectories]:
            raise ValueError(
                f"{KEY}.url={self._server.url}: expected {{'scores': […]}} with one list of numbers a trajectory, one "
                f"a turn, found {json.dumps(answer)[:SHOWN]}"
            )
        return lists


def _told(trajectory: Trajectory) -> dict[str, Any]:
    turns = [turn for turn in trajectory.turns if turn.is_process]
    return {
        "question": trajectory.task.question,
        "answers": list(trajectory.task.answers),
        "turns": [{"action": turn.action_text, "observation": turn.observation_text} for turn in turns],
    }
