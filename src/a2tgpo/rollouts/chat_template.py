"""From what an environment says to tokens. A chat template renders the first prompt; afterwards ids are appended."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.protocols import Chat

LONGEST_TOKEN = 64
"""Characters of a text that stand behind a token at most, on average: what goes beyond is not even encoded."""

_QUESTION, _ACTION, _RESULT = "slot-question", "slot-action", "slot-result-{}-"


def encode_prompt(policy: Policy, prompt: str | Chat) -> tuple[int, ...]:
    """The ids that open an episode: plain text with the tokenizer's own special tokens, or messages through the
    model's chat template.

    Raises ValueError where the model has no chat template, or one that cannot render these messages.
    """
    if isinstance(prompt, str):
        return tuple(policy.tokenizer(prompt).input_ids)
    text = _render(policy.tokenizer, prompt.messages, prompt)
    return tuple(policy.tokenizer(text, add_special_tokens=False).input_ids)


def encode_observation(policy: Policy, observation: str | Chat, closed: bool, max_tokens: int) -> tuple[int, ...]:
    """The first `max_tokens` ids of a tool result, to be appended to an action.

    A text is encoded on its own. Messages are what the template writes between the action before them and the next
    one: the action's end token (left out where it is `closed`, so has sampled its own), the results, and the opening
    of the next message. History is never rendered again. Special tokens spelt out in a result are split: a tool
    cannot close its message.
    """
    if isinstance(observation, str):
        return _plain(policy.tokenizer, observation, max_tokens)
    slots = [_RESULT.format(i) for i in range(len(observation.messages))]
    before = ({"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ACTION})
    empty = tuple({**message, "content": slot} for message, slot in zip(observation.messages, slots, strict=True))
    text = _render(policy.tokenizer, (*before, *empty), observation).partition(_ACTION)[2]
    if closed:
        ends = policy.tokenizer.batch_decode([[i] for i in sorted(policy.end_ids)])
        text = text.removeprefix(next((end for end in ends if text.startswith(end)), ""))
    ids: list[int] = []
    for message, slot in zip(observation.messages, slots, strict=True):
        frame, found, text = text.partition(slot)
        if not found:
            raise ValueError("model.policy.path: its chat template leaves tool results out; expected one with tools")
        ids += policy.tokenizer(frame, add_special_tokens=False).input_ids
        ids += _plain(policy.tokenizer, message["content"], max_tokens)
    return (*ids, *policy.tokenizer(text, add_special_tokens=False).input_ids)[:max_tokens]


def _plain(tokenizer: PreTrainedTokenizerBase, text: str, max_tokens: int) -> tuple[int, ...]:
    text = text[: max_tokens * LONGEST_TOKEN]
    return tuple(tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)[:max_tokens]


def _render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], chat: Chat) -> str:
    if tokenizer.chat_template is None:
        raise ValueError(
            "model.policy.path: its tokenizer has no chat template; expected a chat model, or a dialect of plain text "
            "(data.dialect.chat=false)"
        )
    try:
        return tokenizer.apply_chat_template(
            list(messages), tools=list(chat.tools) or None, tokenize=False, add_generation_prompt=True, **chat.template
        )
    except TemplateError as error:
        roles = [message["role"] for message in messages]
        raise ValueError(f"model.policy.path: its chat template cannot render messages of {roles}: {error}") from error
