"""What an episode earns."""

from dataclasses import dataclass

from a2tgpo.rollouts.trajectory import StopReason


@dataclass(frozen=True)
class Reward:
    """Outcome reward: `outcome` (em | f1) of a well-formed answer, a penalty for every other end of an episode."""

    outcome: str = "em"
    malformed: float = -1.0
    unanswered: float = -1.0

    def __post_init__(self) -> None:
        if self.outcome not in ("em", "f1"):
            raise ValueError(f"data.environment.reward.outcome={self.outcome!r}: expected 'em' or 'f1'")

    def __call__(self, stop: StopReason, metrics: dict[str, float]) -> float:
        if stop is StopReason.ANSWERED:
            return metrics[self.outcome]
        return self.malformed if stop is StopReason.INVALID_ACTION else self.unanswered
