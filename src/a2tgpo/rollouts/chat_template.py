"""From what an environment says to tokens. A chat template renders the first prompt; afterwards ids are appended."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from itertools import accumulate
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.protocols import Chat

LONGEST_TOKEN = 64
"""Characters of a text that stand behind a token at most, on average: what goes beyond is not even encoded."""

_QUESTION, _ACTION, _RESULT, _SAID, _TOOL = (
    "slot-question",
    "slot-action",
    "slot-result-{}-",
    "slot-said-{}-",
    "slot-tool",
)
_log = logging.getLogger(__name__)


def encode_prompt(policy: Policy, prompt: str | Chat, question: str) -> tuple[int, ...]:
    """The ids that open an episode: plain text behind the tokenizer's begin token, or messages through the model's
    chat template. No end token follows, whatever the tokenizer appends to texts, and no begin token stands twice.
    Special tokens spelt out in the `question` are split, those of the frame around it are not.

    Raises ValueError where the model has no chat template, or one that cannot say this.
    """
    tokenizer, plain = policy.tokenizer, isinstance(prompt, str)
    prompt = prompt if plain else _sayable(tokenizer, prompt)
    if any(token in question for token in _special_tokens(tokenizer).values()):
        frame = _frame(tokenizer, prompt, question)
        ends = accumulate(len(part) + len(question) for part in frame[:-1])
        ids, _ = encode_quoting(tokenizer, question.join(frame), [(end - len(question), end) for end in ends])
    else:
        text = prompt if plain else _render(tokenizer, prompt.messages, prompt)
        ids = tuple(tokenizer(text, add_special_tokens=False).input_ids)
    begin = policy.opening_ids if plain else ()
    return ids if ids[: len(begin)] == begin else begin + ids


def encode_quoting(
    tokenizer: PreTrainedTokenizerBase, text: str, spans: Sequence[tuple[int, int]]
) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
    """The ids of `text`, and the characters (start, end) of each. Special tokens spelt out in `spans` of characters are
    split: what is quoted there controls nothing."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    special = _special_tokens(tokenizer)
    ids: list[int] = []
    offsets: list[tuple[int, int]] = []
    for i, (start, end) in zip(encoded.input_ids, encoded.offset_mapping, strict=True):
        quoted = i in special and any(start < last and first < end for first, last in spans)
        parts = _plain(tokenizer, text[start:end]) if quoted else (i,)
        ids += parts
        offsets += [(start, end)] * len(parts)
    return tuple(ids), offsets


def encode_observation(policy: Policy, observation: str | Chat, closed: bool, max_tokens: int) -> tuple[int, ...]:
    """The first `max_tokens` ids of a tool result, to be appended to an action.

    A text is encoded on its own. Messages are what the template writes between the action before them and the next
    one: the action's end token (left out where it is `closed`, so has sampled its own), the results, and the opening
    of the next message. History is never rendered again. Special tokens spelt out in a result are split: a tool
    cannot close its message.
    """
    if isinstance(observation, str):
        return _in_front_of_a_tag(policy.tokenizer, observation[: max_tokens * LONGEST_TOKEN])[:max_tokens]
    observation = _sayable(policy.tokenizer, observation)
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
        ids += _first(policy.tokenizer, message["content"], max_tokens)
    return (*ids, *policy.tokenizer(text, add_special_tokens=False).input_ids)[:max_tokens]


def closing_id(policy: Policy) -> int:
    """The id that ends a message of the model, as its chat template writes it: one of `policy.end_ids`, or else the
    tokenizer's end token."""
    tokenizer, after = policy.tokenizer, ""
    if tokenizer.chat_template is not None:
        messages = ({"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ACTION})
        after = tokenizer.apply_chat_template(list(messages), tokenize=False).partition(_ACTION)[2]
    written = [i for i in tokenizer(after, add_special_tokens=False).input_ids if i in policy.end_ids]
    return written[0] if written else tokenizer.eos_token_id


@lru_cache(maxsize=8)
def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    return {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}


def _frame(tokenizer: PreTrainedTokenizerBase, prompt: str | Chat, question: str) -> list[str]:
    """What stands around the question in the text of the prompt."""
    if isinstance(prompt, str):
        return prompt.split(question)
    messages = [{**m, "content": m["content"].replace(question, _QUESTION)} for m in prompt.messages]
    return _render(tokenizer, messages, prompt).split(_QUESTION)


def _plain(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)


def _first(tokenizer: PreTrainedTokenizerBase, text: str, max_tokens: int) -> tuple[int, ...]:
    return _plain(tokenizer, text[: max_tokens * LONGEST_TOKEN])[:max_tokens]


def _in_front_of_a_tag(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """The ids of `text` as they are where a tag follows: some tokenizers cut line breaks at the end of a text into
    other tokens, behind which a model goes on with more of them."""
    if not text[-1:].isspace():
        return _plain(tokenizer, text)
    encoded = tokenizer(f"{text}<", add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    ids = [i for i, (start, _) in zip(encoded.input_ids, encoded.offset_mapping, strict=True) if start < len(text)]
    joined = any(start < len(text) < end for start, end in encoded.offset_mapping)
    return _plain(tokenizer, text) if joined else tuple(ids)


def _sayable(tokenizer: PreTrainedTokenizerBase, chat: Chat) -> Chat:
    """`chat`, in words where it speaks of tools and the model's template knows none. Raises ValueError where it has no
    words for that, or there is no template."""
    if tokenizer.chat_template is None:
        raise ValueError(
            "model.policy.path: its tokenizer has no chat template; expected a chat model, or a dialect of text tags "
            "in plain text, such as data/dialect=a_tgpo data.dialect.chat=false"
        )
    needs_tools = chat.tools or any(message["role"] == "tool" for message in chat.messages)
    if not needs_tools or _knows_tools(tokenizer, str(tokenizer.chat_template)):
        return chat
    if not chat.without_tools:
        raise ValueError("model.policy.path: its chat template leaves tools or results out; expected one with tools")
    return replace(chat, messages=chat.without_tools, tools=())


@lru_cache(maxsize=8)
def _knows_tools(tokenizer: PreTrainedTokenizerBase, chat_template: str) -> bool:
    """Does the template tell of tools and of their results? Some leave them out or refuse them."""
    roles = {"user": _QUESTION, "assistant": _ACTION, "tool": _RESULT}
    tool = {"name": _TOOL, "description": "", "parameters": {"type": "object", "properties": {}}}
    try:
        text = tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in roles.items()],
            tools=[{"type": "function", "function": tool}],
            tokenize=False,
        )
    except (TemplateError, TypeError):
        return False
    return _TOOL in text and _RESULT in text


def _render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], chat: Chat) -> str:
    """Messages as text, up to where the model goes on. What it said earlier stands there word for word, as in an
    episode: templates would leave out its thoughts."""
    dated = "date_string" in tokenizer.chat_template and "date_string" in chat.template
    if "strftime_now" in tokenizer.chat_template and not dated:
        _say_that_prompts_change()
    said = {_SAID.format(i): m["content"] for i, m in enumerate(messages) if m["role"] == "assistant"}
    slots = iter(said)
    shown = [{**m, "content": next(slots)} if m["role"] == "assistant" else m for m in messages]
    try:
        text = tokenizer.apply_chat_template(
            shown, tools=list(chat.tools) or None, tokenize=False, add_generation_prompt=True, **chat.template
        )
    except TemplateError as error:
        roles = [message["role"] for message in messages]
        raise ValueError(f"model.policy.path: its chat template cannot render messages of {roles}: {error}") from error
    asked = [message for message in shown if message["role"] != "tool"]  # of those the caller knows the place
    if left_out := [message["role"] for message in asked if message["content"].strip() not in text]:
        raise ValueError(
            f"model.policy.path: its chat template leaves messages of {left_out} out; expected all of them"
        )
    for slot, content in said.items():
        text = content.join(text.split(slot))
    return text + chat.prefix


@cache
def _say_that_prompts_change() -> None:
    _log.warning(
        "the chat template shows the date or time: prompts change with it, and a resumed run differs from one that was "
        "never interrupted; where the template takes a date, give it one: +data.dialect.template={date_string: …}"
    )
