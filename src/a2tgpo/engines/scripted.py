"""An engine that replays written actions, for tests and for looking at an environment without a policy."""

from collections.abc import Callable, Sequence

from a2tgpo.interfaces import Completion, Sampling
from a2tgpo.policies.policy import Policy


class ScriptedEngine:
    """Plays `script(key)`, the list of action texts for the trajectory whose sampling key is `key`.

    An action that is longer than the token limit is cut there, one without a stop text ends with `eos`.
    """

    def __init__(self, script: Callable[[tuple[int, ...]], Sequence[str]]) -> None:
        self._script = script
        self._policy: Policy | None = None

    def sync(self, policy: Policy) -> None:
        """Take the policy's tokenizer."""
        self._policy = policy

    async def open(self, prompt_ids: Sequence[int], n: int) -> list[object]:
        """`n` sessions; the sampling key says which script each follows."""
        return [object() for _ in range(n)]

    async def extend(self, session: object, new_ids: Sequence[int], sampling: Sampling) -> Completion:
        """The next action of the script."""
        *trajectory, turn = sampling.key
        text = self._script(tuple(trajectory))[turn]
        ids = tuple(self._policy.tokenizer(text, add_special_tokens=False).input_ids)
        cut = ids[: sampling.max_tokens]
        finish = "stop" if any(stop in text for stop in sampling.stop_texts) else "eos"
        return Completion(cut, (-1.0,) * len(cut), finish if cut == ids else "length")

    def close(self, session: object) -> None:
        """Nothing is held."""
