"""A soft penalty for responses that come close to the token limit, as in DAPO."""

from collections.abc import Sequence
from dataclasses import dataclass

from a2tgpo.rollouts.trajectory import Trajectory
from a2tgpo.system.settings import require_all


@dataclass(frozen=True)
class Overlong:
    """0 up to `buffer` tokens before the limit, then falling linearly to −1 at it (arXiv 2503.14476, eq. 13).

    Actions and tool results count, as both use up the limit. It is added to the outcome in training alone
    (`data/shaping`).
    """

    max_response_tokens: int
    buffer: int

    def __post_init__(self) -> None:
        require_all(vars(self), "data.shaping")
        if self.buffer > self.max_response_tokens:
            raise ValueError(
                f"data.shaping.buffer={self.buffer}: expected at most "
                f"data.module.max_response_tokens={self.max_response_tokens}"
            )

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[float]:
        """One penalty a trajectory, in order."""
        return [self._penalty(len(t.token_ids) - len(t.prompt_ids)) for t in trajectories]

    def _penalty(self, n_tokens: int) -> float:
        over = n_tokens - (self.max_response_tokens - self.buffer)
        return -min(max(over / self.buffer, 0.0), 1.0)
