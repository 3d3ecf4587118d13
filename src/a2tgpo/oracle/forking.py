"""A policy's rollouts and the forks of their states, within the time there is."""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from a2tgpo.method.beliefs import MAX_ALIASES
from a2tgpo.oracle.forked import Forked, distinct_states, distinct_turns
from a2tgpo.oracle.gradients import sketched_gradients
from a2tgpo.oracle.sketch import principal_coordinates
from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.loop import Rollout
from a2tgpo.rollouts.start import ORACLE_NOISE
from a2tgpo.rollouts.trajectory import Task, Trajectory
from a2tgpo.scoring.noise import log_gain_noise
from a2tgpo.scoring.score import score

SKETCH_WIDTH = 16384
"""Numbers that a gradient of all weights is sketched to: an inner product is off by about 1 / √width of the lengths."""
N_AXES = 256
"""Principal axes of the sketches that are kept."""
LARGEST_ROUND = 32
"""Forks of each state that are held at once."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Forking:
    """Up to `continuations` forks of each state of `samples` episodes a task, as many as `budget` seconds allow."""

    rollout: Rollout
    samples: int
    continuations: int
    budget: float
    seed: int

    def run(self, policy: Policy, tasks: Sequence[Task], answer_wrapper: tuple[str, str], token_budget: int) -> Forked:
        """Play, score, fork. Raises what a run would raise."""
        key = (self.seed, ORACLE_NOISE)
        trajectories = self.rollout.run(policy, list(enumerate(tasks)), self.samples, (*key, 0), greedy=False)
        scored = score(policy, trajectories, _answers, answer_wrapper, token_budget)
        batch, observed = scored.batch, scored.observed
        _, states = distinct_states(batch)
        turns, places = distinct_turns(batch)
        prefixes = [(trajectories[row], turn) for row, turn in states]
        outcomes = self.forks(policy, prefixes, key)
        sketched = sketched_gradients(policy, batch, places, SKETCH_WIDTH, self.seed)
        gradient, kept = principal_coordinates(sketched, turns[batch.turn_mask].bincount(), N_AXES)
        return Forked(
            trajectories,
            observed.answer_logprob,
            observed.alias_mask,
            observed.state_mask,
            log_gain_noise(policy, scored, token_budget) or 0.0,
            outcomes,
            gradient,
            kept,
        )

    def forks(
        self, policy: Policy, prefixes: Sequence[tuple[Trajectory, int]], key: tuple[int, ...]
    ) -> Float[Tensor, "C K"]:
        """Outcome of each fork of each prefix, NaN where it failed.

        Rounds of 2, 2, 4, 8, … forks: each doubles what is known, and is begun only if it should fit into the time.
        """
        rounds: list[Tensor] = []
        played, began = 0, time.perf_counter()
        while played < self.continuations:
            k = min(max(played, 2), LARGEST_ROUND, self.continuations - played)
            spent = time.perf_counter() - began
            if played and spent * (1 + k / played) > self.budget:
                break
            rounds.append(torch.full((len(prefixes), k), math.nan))
            forks = self.rollout.continue_from(policy, prefixes, k, (*key, 1 + len(rounds)))
            for row, of_prefix in enumerate(forks):
                for fork in of_prefix:
                    rounds[-1][row, fork.sample] = fork.outcome
            played += k
            _log.info("%d forks of each of %d states", played, len(prefixes))
        return torch.cat(rounds, dim=1)


def _answers(task: Task) -> Sequence[str]:
    return task.answers[:MAX_ALIASES]
