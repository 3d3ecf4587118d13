"""An environment without questions to match: guess the hidden number between hints; it knows success alone."""

from dataclasses import dataclass
from zlib import crc32

from a2tgpo.rollouts.protocols import StepResult
from a2tgpo.rollouts.trajectory import StopReason, Task


@dataclass
class Guess:
    """Every action that names a number is a guess; the tool says higher or lower."""

    task: Task
    max_guesses: int
    deterministic: bool = True
    stop_strings: tuple[str, ...] = ("</search>", "</answer>")
    _guesses: int = 0
    _found: bool = False

    def __post_init__(self) -> None:
        self._hidden = 1951 + crc32(self.task.task_id.encode()) % 20

    def prompt(self) -> str:
        """What opens the episode."""
        return "Question: What year is it?"

    def step(self, action_text: str) -> StepResult:
        """Compare the guess with the hidden number."""
        numbers = [int(word) for word in action_text.replace("<", " ").replace(">", " ").split() if word.isdecimal()]
        self._guesses += 1
        if numbers and numbers[-1] == self._hidden:
            self._found = True
            return StepResult(stop=StopReason.ANSWERED)
        if self._guesses == self.max_guesses:
            return StepResult(stop=StopReason.MAX_TURNS)
        return StepResult(
            "<result> older</result>" if numbers and numbers[-1] < self._hidden else "<result> no</result>"
        )

    def state(self) -> None:
        """Only equal contexts are the same state."""

    def finish(self, stop: StopReason) -> dict[str, float]:
        """Success, and how many guesses it took."""
        return {"success": float(self._found), "guesses": float(self._guesses)}
