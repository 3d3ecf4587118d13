"""The obvious engine: one session at a time, the whole history read again for every token."""

from collections.abc import Sequence

import torch

from a2tgpo.engines.sampling import keyed_uniforms
from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.protocols import Completion, Sampling


class PlainEngine:
    """What every faster engine must equal."""

    def sync(self, policy: Policy) -> None:
        self.policy = policy

    async def open(self, prompt_ids: Sequence[int], n: int) -> list[list[int]]:
        return [list(prompt_ids) for _ in range(n)]

    async def extend(self, session: list[int], new_ids: Sequence[int], sampling: Sampling) -> Completion:
        session += new_ids
        start, logprobs, finish = len(session), [], "length"
        for uniform in keyed_uniforms(sampling.key, sampling.max_tokens):
            with torch.no_grad():
                logits = self.policy.model(torch.tensor([session]), use_cache=False).logits[0, -1]
            cdf = logits.double().softmax(-1).cumsum(-1)
            token = int(logits.argmax() if sampling.greedy else torch.searchsorted(cdf, uniform))
            session.append(token)
            logprobs.append(float(logits.log_softmax(-1)[token]))
            text = self.policy.tokenizer.decode(session[start:])
            if token == self.policy.tokenizer.eos_token_id:
                finish = "eos"
                break
            if any(stop in text for stop in sampling.stop_strings):
                finish = "stop"
                break
        return Completion(tuple(session[start:]), tuple(logprobs), finish)

    def close(self, session: list[int]) -> None:
        pass
