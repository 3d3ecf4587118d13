"""The policy's weights in the checkpoints of a training run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from a2tgpo.policies.checks import require_finite
from a2tgpo.policies.policy import Policy, require_same_architecture
from a2tgpo.system.checkpoint_io import read_checkpoint

PREFIX = "model."
"""What the learner's name for a weight has before the policy's own."""


def weights_in(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The trained weights by the names they have in the policy's model; frozen ones are in no checkpoint."""
    return {name.removeprefix(PREFIX): weight for name, weight in checkpoint["state_dict"].items()}


def iterations_in(path: Path) -> int:
    """How many iterations were done when the checkpoint at `path` was written. Raises ValueError where it is none."""
    checkpoint = read_checkpoint(path)
    return checkpoint["epoch"] + 1 if checkpoint["global_step"] else 0


def load_weights(policy: Policy, path: Path) -> None:
    """Put the policy's weights from a training checkpoint in place.

    Raises ValueError where `path` is no checkpoint, belongs to another architecture, or holds NaN or infinities.
    """
    checkpoint = read_checkpoint(path)
    if not isinstance(checkpoint, Mapping) or "state_dict" not in checkpoint:
        raise ValueError(f"ckpt_path={path}: no weights in it; expected a checkpoint written by src/train.py")
    weights = weights_in(checkpoint)
    require_same_architecture(policy, weights)
    try:
        require_finite(weights)
    except ValueError as error:
        raise ValueError(f"ckpt_path={path}: {error}") from error
    policy.model.load_state_dict(weights, strict=False)
