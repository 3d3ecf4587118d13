"""Figures that say what a policy can do apart from how it plays: skill, closed-book knowledge, and what it knows of the
places of facts."""

import asyncio
from collections.abc import Callable, Sequence

import torch

from a2tgpo.embedded.demonstrations import search_action
from a2tgpo.embedded.placement import Placement
from a2tgpo.embedded.questions import read_query
from a2tgpo.engines.huggingface import HuggingFaceEngine
from a2tgpo.environments.tool_use import ToolUse
from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.chat_template import encode_prompt
from a2tgpo.rollouts.protocols import Sampling
from a2tgpo.rollouts.trajectory import StopReason, Task

MAX_ANSWER_TOKENS = 16


def forced_search_em(policy: Policy, tasks: Sequence[Task], environment: Callable[[Task], ToolUse]) -> float:
    """Skill: exact match when the right searches are made for the policy and it is then made to answer."""
    return _forced_answer_em(policy, tasks, environment, searches=True)


def closed_book_em(policy: Policy, tasks: Sequence[Task], environment: Callable[[Task], ToolUse]) -> float:
    """Knowledge: exact match when the policy is made to answer at once."""
    return _forced_answer_em(policy, tasks, environment, searches=False)


@torch.no_grad()
def home_probability(
    policy: Policy, tasks: Sequence[Task], environment: Callable[[Task], ToolUse], placement: Placement
) -> float:
    """Mean probability that the first search for what a question needs first names the right collection, of those
    there are: 1/K where nothing is known of the placement."""
    ids = [policy.tokenizer(f" {name}", add_special_tokens=False).input_ids[0] for name in placement.names]
    total = 0.0
    for task in tasks:
        relation, _ = read_query(task.reference_calls[0])
        text = f"{environment(task).prompt()}<think> need {relation}</think><search>"
        logits = policy.model(torch.tensor([policy.tokenizer(text).input_ids])).logits[0, -1, ids]
        total += float(logits.softmax(-1)[placement.names.index(placement.home[relation])])
    return total / len(tasks)


def _forced_answer_em(
    policy: Policy, tasks: Sequence[Task], environment: Callable[[Task], ToolUse], searches: bool
) -> float:
    episodes = [environment(task) for task in tasks]
    texts = [episode.prompt() for episode in episodes]
    for i, (task, episode) in enumerate(zip(tasks, episodes, strict=True)):
        for search in task.reference_calls if searches else ():
            action = search_action(search)
            texts[i] += action + episode.step(action).observation
    wrappers = [episode.dialect.answer_wrapper for episode in episodes]
    openings = [before.rstrip() for before, _ in wrappers]  # the blank belongs to the answer's token
    actions = asyncio.run(_complete(policy, [text + o for text, o in zip(texts, openings, strict=True)]))
    ems = []
    for episode, opening, action in zip(episodes, openings, actions, strict=True):
        stop = episode.step(opening + action).stop or StopReason.INVALID_ACTION
        ems.append(episode.finish(stop)["em"])
    return sum(ems) / len(ems)


async def _complete(policy: Policy, texts: Sequence[str]) -> list[str]:
    engine = HuggingFaceEngine(max_sessions=len(texts), deterministic=True)
    engine.sync(policy)
    sampling = Sampling(MAX_ANSWER_TOKENS, ("</answer>",), greedy=True, key=(0,))
    sessions = [(await engine.open(encode_prompt(policy, text, ""), 1))[0] for text in texts]

    async def one(session: object) -> str:
        completion = await engine.extend(session, (), sampling)
        engine.close(session)
        return policy.tokenizer.decode(completion.ids)

    return await asyncio.gather(*map(one, sessions))
