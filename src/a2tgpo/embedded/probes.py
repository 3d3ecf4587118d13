"""Two figures that say what a policy can do apart from how it plays: skill and closed-book knowledge."""

import asyncio
from collections.abc import Callable, Sequence

from a2tgpo.embedded.demonstrations import search_action
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
    engine = HuggingFaceEngine()
    engine.sync(policy)
    sampling = Sampling(MAX_ANSWER_TOKENS, ("</answer>",), greedy=True, key=(0,))
    sessions = [(await engine.open(encode_prompt(policy, text, ""), 1))[0] for text in texts]

    async def one(session: object) -> str:
        completion = await engine.extend(session, (), sampling)
        engine.close(session)
        return policy.tokenizer.decode(completion.ids)

    return await asyncio.gather(*map(one, sessions))
