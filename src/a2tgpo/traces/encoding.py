"""Traces as recorded trajectories: their texts, and tokens of them."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from a2tgpo.environments.dialects.tool_calls import CALL, END_CALL
from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.chat_template import closing_id, encode_observation, encode_prompt
from a2tgpo.rollouts.protocols import Chat
from a2tgpo.rollouts.thinking import END_THINK, THINK, gone_on_with, opened_thought
from a2tgpo.rollouts.trajectory import Call, CallResult, StopReason, Task, Trajectory, Turn
from a2tgpo.traces.trace import Trace, TraceTurn

UNBOUNDED = 10**9
"""Tokens of a result: none is cut."""
END = 256
"""Behind the bytes of a text."""


def trajectory(trace: Trace) -> Trajectory:
    """The trajectory with its texts, and the tokens that were recorded of it, if any."""
    facts, turns = trace.facts, tuple(map(_turn, trace.turns))
    over = turns[-1].observation_text or trace.turns[-1].calls
    stop = facts.get("stop", StopReason.MAX_TURNS if over else StopReason.ANSWERED)
    return Trajectory(
        Task(facts["task_id"], facts["question"], tuple(facts["answers"]), kind=facts.get("kind", "")),
        facts["group"],
        facts["sample"],
        tuple(facts.get("prompt_ids", ())),
        turns,
        float(facts["outcome"]),
        StopReason(stop),
        {name: float(value) for name, value in facts.get("metrics", {}).items()},
        facts.get("n_shared", 0),
    )


def _turn(turn: TraceTurn) -> Turn:
    facts = turn.facts
    return Turn(
        tuple(facts.get("action_ids", ())),
        tuple(map(float, facts.get("action_logprobs", ()))),
        tuple(facts.get("observation_ids", ())),
        facts.get("action") or written(turn),
        facts.get("observation") or "\n".join(turn.results),
        facts.get("useful"),
        tuple(Call(c["tool"], CallResult(c["result"]), c["why"]) for c in facts.get("called", ())),
        action=json.dumps([turn.content, [[c.name, dict(c.arguments)] for c in turn.calls]], sort_keys=True),
    )


def written(turn: TraceTurn) -> str:
    """Thought, text and calls as Qwen and Hermes write them."""
    calls = [json.dumps({"name": c.name, "arguments": dict(c.arguments)}, ensure_ascii=False) for c in turn.calls]
    thought = f"{THINK}\n{turn.thought}\n{END_THINK}\n\n" if turn.thought else ""
    return thought + "\n".join(filter(None, [turn.content, *(f"{CALL}\n{call}\n{END_CALL}" for call in calls)]))


# ---- tokens ----------------------------------------------------------------------------------------------------------


def spelt(recorded: Trajectory) -> Trajectory:
    """The trajectory with a token a byte: equal texts are equal contexts, and nothing is said of any model."""
    last = len(recorded.turns) - 1
    turns = tuple(
        replace(
            turn,
            action_ids=_bytes(turn.action_text),
            action_logprobs=(0.0,) * len(_bytes(turn.action_text)),
            observation_ids=_bytes(turn.observation_text) if turn.observation_text or t < last else (),
        )
        for t, turn in enumerate(recorded.turns)
    )
    return replace(recorded, prompt_ids=_bytes(recorded.task.question), turns=turns)


def _bytes(text: str) -> tuple[int, ...]:
    return (*text.encode(), END)


def has_tokens_of(policy: Policy, recorded: Trajectory) -> bool:
    """Were the recorded tokens those of this policy's tokenizer? They are, where they spell the recorded texts."""
    return (
        bool(recorded.prompt_ids)
        and max(recorded.token_ids) < len(policy.tokenizer)
        and all(turn.is_process for turn in recorded.turns[:-1])
        and all(
            0 < len(turn.action_ids) == len(turn.action_logprobs)
            and policy.decode(turn.action_ids) == turn.action_text
            and policy.decode(turn.observation_ids) == turn.observation_text
            for turn in recorded.turns
        )
    )


def encoded(policy: Policy, trace: Trace, recorded: Trajectory) -> Trajectory:
    """The trajectory in the policy's tokens. A model with a chat template reads the messages through it; another one
    reads the texts one after another. The log-probs of the actions, which nobody knows, are 0.

    Raises ValueError where the template cannot say it.
    """
    chat = policy.tokenizer.chat_template is not None
    ids = _prompt(policy, trace, chat)
    prompt_ids, turns = ids, list[Turn]()
    for turn, known in zip(trace.turns, recorded.turns, strict=True):
        text = written(turn) if chat else known.action_text
        action = policy.tokenizer(gone_on_with(text, opened_thought(policy.tokenizer, ids)), add_special_tokens=False)
        action_ids = (*action.input_ids, *([closing_id(policy)] if chat else []))
        heard = _heard(policy, turn, known, chat)
        turns.append(
            replace(known, action_ids=action_ids, action_logprobs=(0.0,) * len(action_ids), observation_ids=heard)
        )
        ids = (*ids, *action_ids, *heard)
    return replace(recorded, prompt_ids=prompt_ids, turns=tuple(turns))


def _prompt(policy: Policy, trace: Trace, chat: bool) -> tuple[int, ...]:
    if not chat:
        text = "\n\n".join(message["content"] for message in trace.prompt)
        return encode_prompt(policy, text, trace.facts["question"])
    messages = tuple({**m, "role": "user" if m["role"] == "user" else "system"} for m in trace.prompt)
    return encode_prompt(policy, Chat(messages, trace.tools, without_tools=messages), trace.facts["question"])


def _heard(policy: Policy, turn: TraceTurn, known: Turn, chat: bool) -> tuple[int, ...]:
    results = turn.results
    if not results:
        return ()
    if not chat:
        text = turn.facts.get("observation") or f"\n{known.observation_text}\n"
        return encode_observation(policy, text, False, UNBOUNDED)
    said = Chat(_messages(turn), without_tools=(_in_words(results),))
    return encode_observation(policy, said, True, UNBOUNDED)


def _messages(turn: TraceTurn) -> tuple[dict[str, str], ...]:
    heard = [{"role": "tool", "content": call.result} for call in turn.calls if call.result is not None]
    return (*heard, *([{"role": "user", "content": turn.heard}] if turn.heard else []))


def _in_words(results: Sequence[str]) -> dict[str, Any]:
    return {
        "role": "user",
        "content": "\n".join(f"<tool_response>\n{result}\n</tool_response>" for result in results),
    }
