"""What callbacks may read of the learner."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from a2tgpo.method.protocols import Clipper
from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.trajectory import Trajectory
from a2tgpo.scoring.batch import RolloutBatch
from a2tgpo.system.timing import PhaseTimer
from a2tgpo.training.after_update import AfterUpdate


class ObservedMethod(Protocol):
    """The parts of the method that a callback asks."""

    clipper: Clipper


class ObservedLearner(Protocol):
    """A learner as those see it who watch a run; none of this may be changed, but for `phases.on_start`
    and `phases.on_step`."""

    policy: Policy
    reference: Policy | None
    method: ObservedMethod
    phases: PhaseTimer
    """Seconds of the whole run by phase, and whom to tell when a phase begins and how far it is."""
    seconds: Mapping[str, float]
    """Seconds of each phase of the last iteration."""
    metrics: Mapping[str, float]
    """Numbers of the last iteration: `train/*`, `credit/*`, `policy/*`, `update/*`, `tokens/*`."""
    trajectories: Sequence[Trajectory]
    """This rank's rollout set of the last iteration, in the order of the rows of `rollout_batch`."""
    rollout_batch: RolloutBatch | None
    micro_batch_tokens: int
    """Token positions a micro-batch may have."""
    model: torch.nn.Module
    """The weights of `policy`."""

    def after_update(self) -> AfterUpdate | None:
        """How far the last iteration's steps moved the policy, all ranks together; None where it was not scored before.

        It takes another scoring pass.
        """
        ...
