"""What a person sees while demonstrations are imitated."""

from collections.abc import Mapping

from a2tgpo.callbacks.progress import TrainingProgress


class ImitationProgress(TrainingProgress):
    """As in training, with the loss (nats a token) and the shares of held-out episodes that keep the format, come to an
    answer, and succeed: who only ever calls tools keeps the format too."""

    def held_out(self, m: Mapping[str, float]) -> tuple[str, str]:
        """What a validation found, in words."""
        shares = {"format": "val/format", "answered": "val/stop/answered", "success": "val/success"}
        words = " ".join(f"{name} {m[key]:.2f}" for name, key in shares.items())
        return words, words

    def figures(self, m: Mapping[str, float]) -> str:
        """What the line of an iteration says of its metrics."""
        return f"loss {m['update/loss']:.3f}  {self.validated}turns {m['train/turns']:.1f}"

    def reason(self, m: Mapping[str, float]) -> str:
        """Demonstrations always teach something."""
        return ""
