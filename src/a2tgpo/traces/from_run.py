"""The trajectories of a run directory as traces."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from a2tgpo.environments.dialects.tool_calls import schema
from a2tgpo.environments.protocols import Dialect, Tool
from a2tgpo.rollouts.thinking import END_THINK, THINK, cut_out
from a2tgpo.traces.facts import TRAJECTORY, TURN, known
from a2tgpo.traces.trace import Trace, TraceCall, TraceTurn
from a2tgpo.viewer.arithmetic import composition
from a2tgpo.viewer.groups import Group, groups_of, read_lines
from a2tgpo.viewer.run_data import ROLLOUTS, read_config, rollout_files, told

_SLOT = "slot-of-the-result"


@dataclass(frozen=True)
class Speech:
    """How the policy of a run spoke: reads tool calls out of its texts."""

    dialect: Dialect
    tools: Sequence[Tool]


def read_traces(directory: Path, speech: Speech | None) -> list[Trace]:
    """All trajectories of the run in `directory`, in the order of its files, with their tokens and credit.

    Without `speech` what was said stays text: the question, actions, and results. Raises ValueError naming the file
    that is missing or not of a run.
    """
    config = read_config(directory)
    made_of = composition(config)
    origin = {"run": directory.resolve().name, **told(config), **asdict(made_of)}
    frame = _frame(speech)
    traces = [
        _trace(group, member, speech, frame, origin)
        for path in rollout_files(directory)
        for group in groups_of(path, read_lines(path), False, made_of, tokens=True)
        for member in group.trajectories
    ]
    if not traces:
        raise ValueError(f"{directory / ROLLOUTS}: no trajectory in it; expected the rollout files of a run")
    return traces


def _trace(
    group: Group,
    member: Mapping[str, Any],
    speech: Speech | None,
    frame: tuple[str, str] | None,
    origin: Mapping[str, Any],
) -> Trace:
    facts = {"iteration": group.iteration, "rank": group.rank, "group": group.number, **group.prompt, **member}
    turns = tuple(_turn(t, turn, speech, frame) for t, turn in enumerate(member["turns"]))
    prompt, tools = _opening(group.prompt["question"], speech)
    return Trace(prompt, turns, {name: facts[name] for name in TRAJECTORY}, tools, origin)


def _opening(
    question: str, speech: Speech | None
) -> tuple[tuple[Mapping[str, str], ...], tuple[Mapping[str, Any], ...]]:
    """The messages of the prompt, and the schemas of the tools."""
    if speech is None:
        return ({"role": "user", "content": question},), ()
    said = speech.dialect.prompt(question, speech.tools)
    messages = ({"role": "user", "content": said},) if isinstance(said, str) else said.messages
    return tuple(messages), tuple(map(schema, speech.tools))


def _turn(number: int, turn: Mapping[str, Any], speech: Speech | None, frame: tuple[str, str] | None) -> TraceTurn:
    facts = known({**turn, "called": turn["calls"]})
    facts = {name: facts[name] for name in TURN if name in facts}
    written, heard = _opened(turn["action"]), turn["observation"]
    action = speech.dialect.parse(written, speech.tools) if speech else None
    if action is None:
        return TraceTurn(turn["action"], heard=heard, facts=facts)
    outside, thoughts = cut_out(written, THINK, END_THINK)
    content, thought = "".join(outside).strip(), "\n".join(thought.strip() for thought in thoughts)
    if not action.calls:
        return TraceTurn(content, thought, heard=heard, facts=facts)
    results = _results(heard, frame, len(action.calls))
    calls = tuple(
        TraceCall(f"call_{number}_{n}", call.name, call.arguments, result)
        for n, (call, result) in enumerate(zip(action.calls, results, strict=True))
    )
    return TraceTurn(content.partition("<")[0].strip(), thought, calls, facts=facts)


def _opened(action: str) -> str:
    """`action` with the tag of its thought, where the prompt had opened it."""
    end, start = action.find(END_THINK), action.find(THINK)
    return f"{THINK}{action}" if end >= 0 and not 0 <= start < end else action


def _frame(speech: Speech | None) -> tuple[str, str] | None:
    """What the dialect writes before and after a result; None where nobody says."""
    if speech is None:
        return None
    said = speech.dialect.observe([_SLOT], speech.tools)
    text = said if isinstance(said, str) else "".join(message["content"] for message in said.without_tools)
    before, _, after = text.partition(_SLOT)
    return (before.strip(), after.strip()) if before.strip() and after.strip() else None


def _results(heard: str, frame: tuple[str, str] | None, n_calls: int) -> Iterator[str | None]:
    """The result of each call; where they cannot be told apart, all of it is that of the first."""
    found = cut_out(heard, *frame)[1] if frame else []
    if not heard:
        return iter([None] * n_calls)
    return iter([result.strip() for result in found] if len(found) == n_calls else [heard, *[""] * (n_calls - 1)])
