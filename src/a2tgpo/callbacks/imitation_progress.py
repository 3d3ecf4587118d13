"""What a person sees while demonstrations are imitated."""

from collections.abc import Mapping
from typing import ClassVar

from a2tgpo.callbacks.progress import TrainingProgress


class ImitationProgress(TrainingProgress):
    """As in training, with the loss (nats a token) and the share of held-out episodes that keep the format."""

    validated_by: ClassVar[str] = "format"

    def figures(self, m: Mapping[str, float]) -> str:
        """What the line of an iteration says of its metrics."""
        turns = f"turns {m['train/turns']:.1f}  action tokens {m['train/action_tokens']:.0f}"
        return f"loss {m['update/loss']:.3f}  {self.validated}{turns}"

    def reason(self, m: Mapping[str, float]) -> str:
        """Demonstrations always teach something."""
        return ""
