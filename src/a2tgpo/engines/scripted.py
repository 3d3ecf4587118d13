"""An engine that replays written actions, for tests and for looking at an environment without a policy."""

from collections.abc import Callable, Iterator, Sequence

from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.protocols import Completion, Sampling


class ScriptedEngine:
    """Plays `script(key)`, the texts that are sampled one after another in the trajectory whose sampling key is `key`.

    An action that is longer than the token limit is cut there, one without a stop text ends with `eos`.
    """

    def __init__(self, script: Callable[[tuple[int, ...]], Sequence[str]]) -> None:
        self._script = script
        self._policy: Policy | None = None

    def sync(self, policy: Policy) -> None:
        """Take the policy's tokenizer."""
        self._policy = policy

    async def open(self, prompt_ids: Sequence[int], n: int) -> list[list[Iterator[str]]]:
        """`n` sessions; the sampling key of the first action says which script each follows."""
        return [[] for _ in range(n)]

    async def extend(self, session: list[Iterator[str]], new_ids: Sequence[int], sampling: Sampling) -> Completion:
        """The next text of the script."""
        if not session:
            session.append(iter(self._script(sampling.key[:-1])))
        text = next(session[0])
        ids = tuple(self._policy.tokenizer(text, add_special_tokens=False).input_ids)
        cut = ids[: sampling.max_tokens]
        finish = "stop" if any(stop in text for stop in sampling.stop_strings) else "eos"
        return Completion(cut, (-1.0,) * len(cut), finish if cut == ids else "length")

    def close(self, session: object) -> None:
        """Nothing is held."""
