"""Native tool calls of chat models: `<tool_call>…</tool_call>` around JSON, as Qwen and Hermes write them, or around
XML, as Qwen3-Coder does."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from a2tgpo.environments.dialects.answers import require_prefix, require_wrapper, write_thought, written_answer
from a2tgpo.environments.dialects.arguments import argument_from_json, argument_from_text
from a2tgpo.environments.dialects.examples import Example, read_examples, require_readable
from a2tgpo.environments.passages import PassageLayout
from a2tgpo.environments.protocols import Action, Argument, Parameter, Tool, ToolCall
from a2tgpo.rollouts.protocols import Chat
from a2tgpo.rollouts.thinking import END_THINK, THINK, cut_out, prefixed, without_thoughts
from a2tgpo.system.jsonl import read_json
from a2tgpo.system.settings import require_all

_TOLD = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{schemas}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""
"""What templates of Qwen and Hermes tell of the tools, for those that tell nothing."""
CALL, END_CALL = "<tool_call>", "</tool_call>"
FUNCTION, END_FUNCTION = "<function=", "</function>"
PARAMETER, END_PARAMETER = "<parameter=", "</parameter>"
_JSON_TYPES: dict[type[Argument], str] = {str: "string", int: "integer", float: "number", bool: "boolean"}


@dataclass(frozen=True)
class ToolCalls:
    """One or more calls an action, or an answer; the model's end token closes it.

    The chat template tells the model of the tools and writes their results; where it knows no tools, the system text
    and messages of the user do, in the words of Qwen and Hermes. `template` are further arguments of it:
    `enable_thinking: false` switches Qwen3's thoughts off. `examples` are worked episodes, earlier turns of the chat;
    each message of the model begins with `assistant_prefix`.
    """

    prompt_template: str
    answer_wrapper: tuple[str, str]
    answer_pattern: str
    """What of a message without calls is the answer, in group 1; thoughts are left out of it."""
    layout: PassageLayout
    examples: Mapping[str, Any]
    assistant_prefix: str
    system: str
    template: Mapping[str, Any]

    def __post_init__(self) -> None:
        require_all(vars(self), "data.dialect")
        require_wrapper(self.answer_wrapper)
        require_prefix(self.assistant_prefix)

    def stop_strings(self, tools: Sequence[Tool]) -> tuple[str, ...]:
        """None: an action may hold several calls. Raises SettingError where a worked episode cannot be read."""
        require_readable(self.examples, self, tools)
        return ()

    def prompt(self, question: str, tools: Sequence[Tool]) -> Chat:
        """System message, worked episodes, question and tools."""
        schemas = tuple(map(schema, tools))
        told = _TOLD.format(schemas="\n".join(map(_to_json, schemas))) if schemas else ""
        examples = [self._written(example, tools) for example in read_examples(self.examples)]
        asked = {"role": "user", "content": self.prompt_template.replace("{question}", question)}
        system = [{"role": "system", "content": self.system}] if self.system else []
        messages = (*system, *chain(*(example.messages for example in examples)), asked)
        first, *rest = (*system, *chain(*(example.without_tools for example in examples)), asked)
        texts = (first["content"], told) if self.system else (told, first["content"])
        first = first | {"content": "\n\n".join(filter(None, texts))}
        return Chat(messages, schemas, self.template, (first, *rest), self.assistant_prefix)

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

    def write(self, action: Action, thought: str = "") -> tuple[str]:
        """All calls as JSON, the `thought` before them, or the answer in its wrapper, which has its own."""
        if action.answer is not None:
            return (action.answer.join(self.answer_wrapper),)
        calls = [_to_json({"name": call.name, "arguments": dict(call.arguments)}) for call in action.calls]
        return (write_thought(thought, self.answer_wrapper) + "\n".join(f"{CALL}\n{c}\n{END_CALL}" for c in calls),)

    def observe(self, results: Sequence[str], tools: Sequence[Tool]) -> Chat:
        """One tool message a call."""
        messages = tuple({"role": "tool", "content": result} for result in results)
        in_words = "\n".join(f"<tool_response>\n{result}\n</tool_response>" for result in results)
        user = {"role": "user", "content": in_words}
        return Chat(messages, (), self.template, (user,), self.assistant_prefix)

    def _written(self, example: Example, tools: Sequence[Tool]) -> Chat:
        """The worked episode as messages. Those of the model are text, as its own are: a template would write calls in
        a form of its own, which this dialect may not read."""
        asked = {"role": "user", "content": self.prompt_template.replace("{question}", example.question)}
        messages, in_words = [asked], [asked]
        for turn in example.turns:
            (call,) = self.write(Action(turn.calls), turn.thought)
            said = {"role": "assistant", "content": prefixed(self.assistant_prefix, call)}
            heard = self.observe([r if isinstance(r, str) else self.layout(r) for r in turn.results], tools)
            messages += [said, *heard.messages]
            in_words += [said, *heard.without_tools]
        (answer,) = self.write(Action(answer=example.answer))
        last = {"role": "assistant", "content": prefixed(self.assistant_prefix, answer)}
        return Chat((*messages, last), without_tools=(*in_words, last))


def schema(tool: Tool) -> dict[str, Any]:
    """The JSON schema that chat templates expect of a tool."""
    properties = {name: _property(parameter) for name, parameter in tool.parameters.items()}
    required = [name for name, parameter in tool.parameters.items() if parameter.required]
    parameters = {"type": "object", "properties": properties, "required": required}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _to_json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)


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
