"""An engine that writes demonstrations as a policy would have sampled them: what is to be imitated, token for token."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.chat_template import closing_id
from a2tgpo.rollouts.protocols import Completion, Sampling
from a2tgpo.rollouts.thinking import gone_on_with, opened_thought


@dataclass
class DemonstratedSession:
    """What the policy has read, and the actions that are still to be written, once it is known whose they are."""

    read: tuple[int, ...]
    actions: Iterator[str] | None = None


class DemonstratedEngine:
    """Writes `actions(key)`, one after another, in the trajectory whose sampling key is `key`.

    A thought that prompt or chat template has opened is gone on with. An action without a stop text is closed as the
    chat template closes messages; a longer one than the limit is cut there.
    """

    def __init__(self, actions: Callable[[tuple[int, ...]], Sequence[str]]) -> None:
        self._actions = actions
        self._policy: Policy | None = None
        self._end = -1

    def sync(self, policy: Policy) -> None:
        """Take the policy's tokenizer."""
        self._policy, self._end = policy, closing_id(policy)

    async def open(self, prompt_ids: Sequence[int], n: int) -> list[DemonstratedSession]:
        """`n` sessions; the sampling key of the first action says which demonstration each follows."""
        return [DemonstratedSession(tuple(prompt_ids)) for _ in range(n)]

    async def extend(self, session: DemonstratedSession, new_ids: Sequence[int], sampling: Sampling) -> Completion:
        """The next action of the demonstration."""
        if session.actions is None:
            session.actions = iter(self._actions(sampling.key[:-1]))
        tokenizer = self._policy.tokenizer
        opened = opened_thought(tokenizer, (*session.read, *new_ids))
        text = gone_on_with(next(session.actions), opened)
        stopped = any(stop in text for stop in sampling.stop_strings)
        ids = tuple(tokenizer(text, add_special_tokens=False).input_ids) + (() if stopped else (self._end,))
        cut = ids[: sampling.max_tokens]
        session.read = cut
        finish = "length" if cut != ids else "stop" if stopped else "eos"
        return Completion(cut, (0.0,) * len(cut), finish)

    def close(self, session: DemonstratedSession) -> None:
        """Nothing is held."""
