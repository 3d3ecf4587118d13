"""The obvious engine: one session at a time, the whole history read again for every token."""

from collections.abc import Sequence

import torch
from torch import Tensor

from a2tgpo.engines.sampling import keyed_uniforms
from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.protocols import Completion, Sampling


def drawn_from(logits: Tensor, policy: Policy) -> Tensor:
    """Probabilities [V] of the next token: the most likely ones until they have `top_p`, at the temperature."""
    probs = (logits.double() / policy.temperature).softmax(-1)
    order, mass = probs.argsort(descending=True).tolist(), 0.0
    for n, token in enumerate(order):
        if mass >= policy.top_p:
            probs[order[n:]] = 0.0
            break
        mass += float(probs[token])
    return probs / probs.sum()


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
            probs = logits.double().softmax(-1) if sampling.greedy else drawn_from(logits, self.policy)
            token = int(logits.argmax() if sampling.greedy else torch.searchsorted(probs.cumsum(-1), uniform))
            session.append(token)
            logprobs.append(float(probs[token].log()))
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
