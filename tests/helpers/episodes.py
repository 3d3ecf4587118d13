"""Builders of episodes: the search environment over any retriever, and what a dialect said in one."""

from collections.abc import Callable
from functools import partial
from typing import Any

from a2tgpo.environments.judges.answer_match import AnswerMatch
from a2tgpo.environments.protocols import Dialect
from a2tgpo.environments.tool_use import ToolUse
from a2tgpo.environments.tools.schema import read_tool
from a2tgpo.environments.tools.search import Search
from a2tgpo.retrievers.protocols import Retriever
from a2tgpo.rollouts.protocols import Chat
from a2tgpo.rollouts.trajectory import Task

SEARCH = read_tool("search", Search(None, 1)).tool
"""The search tool, as the policy is told of it."""


def tool_use(dialect: Dialect, tools: dict[str, Callable], **changes: Any) -> Callable[[Task], ToolUse]:
    """Episodes with these tools and answers that are names: 2 calls, 2 failures, 10 seconds."""
    settings = {
        "judge": AnswerMatch(),
        "max_calls": 2,
        "tool_timeout": 10.0,
        "max_tool_failures": 2,
        "deterministic": True,
    }
    return partial(ToolUse, dialect=dialect, tools=tools, **(settings | changes))


def search_qa(dialect: Dialect, retriever: Retriever, topk: int = 1, **changes: Any) -> Callable[[Task], ToolUse]:
    """Episodes with a search tool."""
    return tool_use(dialect, {"search": Search(retriever, topk)}, **changes)


def said(observation: str | Chat) -> list[str]:
    """The results of an observation, whatever its form."""
    return [message["content"] for message in observation.messages] if isinstance(observation, Chat) else [observation]
