"""Native tool calls of chat models: `<tool_call>…</tool_call>` around JSON, as Qwen and Hermes write them, or around
XML, as Qwen3-Coder does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from a2tgpo.environments.dialects.answers import require_wrapper, written_answer
from a2tgpo.environments.dialects.arguments import argument_from_json, argument_from_text
from a2tgpo.environments.passages import PassageLayout
from a2tgpo.environments.protocols import Action, Argument, Parameter, Tool, ToolCall
from a2tgpo.rollouts.protocols import Chat
from a2tgpo.rollouts.thinking import END_THINK, THINK, cut_out, without_thoughts
from a2tgpo.system.jsonl import read_json
from a2tgpo.system.settings import require_all

CALL, END_CALL = "<tool_call>", "</tool_call>"
FUNCTION, END_FUNCTION = "<function=", "</function>"
PARAMETER, END_PARAMETER = "<parameter=", "</parameter>"
_JSON_TYPES: dict[type[Argument], str] = {str: "string", int: "integer", float: "number", bool: "boolean"}


@dataclass(frozen=True)
class ToolCalls:
    """One or more calls an action, or an answer; the model's end token closes it.

    The chat template tells the model of the tools and writes their results. `template` are further arguments of it:
    `enable_thinking: false` switches Qwen3's thoughts off.
    """

    prompt_template: str
    answer_wrapper: tuple[str, str]
    answer_pattern: str
    """What of a message without calls is the answer, in group 1; thoughts are left out of it."""
    layout: PassageLayout
    system: str
    template: Mapping[str, Any]

    def __post_init__(self) -> None:
        require_all(vars(self), "data.dialect")
        require_wrapper(self.answer_wrapper)

    def stop_strings(self, tools: Sequence[Tool]) -> tuple[str, ...]:
        """None: an action may hold several calls."""
        return ()

    def prompt(self, question: str, tools: Sequence[Tool]) -> Chat:
        """System message, question and tools."""
        system = ({"role": "system", "content": self.system},) if self.system else ()
        user = {"role": "user", "content": self.prompt_template.replace("{question}", question)}
        return Chat((*system, user), tuple(map(schema, tools)), self.template)

    def parse(self, text: str, tools: Sequence[Tool]) -> Action | None:
        """All calls of the message, or its answer where it has none; thoughts are left out. None where a thought or a
        call does not begin or end, a call is neither a JSON object with `name` and `arguments` nor a function in XML,
        it has not a known name and arguments of the right names and types, or the answer is blank."""
        outside, bodies = cut_out(without_thoughts(text), CALL, END_CALL)
        calls = [_call(body, tools) for body in bodies]
        rest = "".join(outside)
        if None in calls or any(tag in rest for tag in (THINK, END_THINK, CALL, END_CALL)):
            return None
        return Action(tuple(calls)) if calls else written_answer(self.answer_pattern, rest)

    def observe(self, results: Sequence[str], tools: Sequence[Tool]) -> Chat:
        """One tool message a call."""
        return Chat(tuple({"role": "tool", "content": result} for result in results), template=self.template)


def schema(tool: Tool) -> dict[str, Any]:
    """The JSON schema that chat templates expect of a tool."""
    properties = {name: _property(parameter) for name, parameter in tool.parameters.items()}
    required = [name for name, parameter in tool.parameters.items() if parameter.required]
    parameters = {"type": "object", "properties": properties, "required": required}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _property(parameter: Parameter) -> dict[str, str]:
    described = {"description": parameter.description} if parameter.description else {}
    return {"type": _JSON_TYPES[parameter.type], **described}


def _call(body: str, tools: Sequence[Tool]) -> ToolCall | None:
    form, read = (
        (_from_xml, argument_from_text) if body.lstrip().startswith(FUNCTION) else (_from_json, argument_from_json)
    )
    name, written = form(body) or (None, {})
    tool = next((tool for tool in tools if tool.name == name), None)
    if tool is None or not written.keys() <= tool.parameters.keys():
        return None
    arguments = {name: read(value, tool.parameters[name]) for name, value in written.items()}
    required = {name for name, parameter in tool.parameters.items() if parameter.required}
    if None in arguments.values() or not required <= arguments.keys():
        return None
    return ToolCall(tool.name, arguments)


def _from_json(body: str) -> tuple[Any, dict[str, Any]] | None:
    """Name and arguments of `{"name": …, "arguments": {…}}`."""
    try:
        call = read_json(body.encode())
    except ValueError:
        return None
    if not isinstance(call, dict) or not isinstance(call.get("arguments"), dict):
        return None
    return call.get("name"), call["arguments"]


def _from_xml(body: str) -> tuple[str, dict[str, str]] | None:
    """Name and arguments of `<function=name><parameter=name>…</parameter>…</function>`."""
    name, opened, rest = body.strip().removeprefix(FUNCTION).partition(">")
    if not opened or not rest.endswith(END_FUNCTION):
        return None
    *parameters, after = rest.removesuffix(END_FUNCTION).split(END_PARAMETER)
    pairs = [parameter.strip().removeprefix(PARAMETER).partition(">") for parameter in parameters]
    whole = all(parameter.strip().startswith(PARAMETER) for parameter in parameters) and not after.strip()
    arguments = {name: value for name, _, value in pairs}
    return (name, arguments) if whole and len(arguments) == len(pairs) else None
