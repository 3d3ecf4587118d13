"""A trajectory with the credit of its turns as plain data: a line of rollouts/*.jsonl."""

from typing import Any

from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.trajectory import Trajectory
from a2tgpo.rollouts.transcripts import record
from a2tgpo.scoring.batch import RolloutBatch
from a2tgpo.training.after_update import AfterUpdate

VERSION = 4
"""Of the lines. 3 does not say which weights sampled; 2 has nothing of what other credits and the policy after the
update need either; 1 has no version and no `turn_credit`."""
CREDIT = ("gain", "normalized_gain", "advantage", "turn_credit", "clip_low", "clip_high")
"""What each turn was given."""
STATES = ("state_ids", "did_ids", "n_new_pieces")
"""What a credit may compare turns by: equal numbers are equal anchor states, or actions, of the file's prompts."""
DIGITS = 3
"""Significant digits of a token's change."""


def credit_record(trajectory: Trajectory, batch: RolloutBatch, row: int) -> dict[str, Any]:
    """What was played, and what its turns were given: gains, advantages, clip bounds; and the beliefs between them."""
    credit, turns = batch.credit, len(trajectory.turns)
    states = (batch.state_ids, batch.action_ids, batch.n_new_pieces)
    return record(trajectory) | {
        "version": VERSION,
        **{name: getattr(credit, name)[row, :turns].tolist() for name in CREDIT},
        "has_gain": credit.gain_mask[row, :turns].tolist(),
        "belief": credit.belief[row, : len(trajectory.context_lengths)].tolist(),
        **{name: values[row, :turns].tolist() for name, values in zip(STATES, states, strict=True)},
        "values": list(trajectory.values),
        "weights_version": [turn.weights_version for turn in trajectory.turns],
    }


def update_record(
    trajectory: Trajectory, batch: RolloutBatch, row: int, after: AfterUpdate, policy: Policy
) -> dict[str, Any]:
    """What the update made of its turns: ratio, share of clipped tokens; the change of each token's log-prob (nats) and
    how many characters of the action's text are that token's."""
    turns = range(len(trajectory.turns))
    changes = [after.logprob_change[row][batch.turn_ids[row] == k].tolist() for k in turns]
    return {
        "ratio": after.ratio[row, : len(turns)].tolist(),
        "clipped": after.clipped[row, : len(turns)].tolist(),
        "logprob_change": [[float(f"{change:.{DIGITS}g}") for change in of_turn] for of_turn in changes],
        "token_lengths": [policy.text_lengths(turn.action_ids) for turn in trajectory.turns],
    }
