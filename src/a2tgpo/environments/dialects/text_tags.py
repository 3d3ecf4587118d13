"""Actions and results between text tags: `<search> … </search>`, `<result> … </result>`, `<answer> … </answer>`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from a2tgpo.environments.dialects.answers import (
    leading_blanks,
    require_prefix,
    require_wrapper,
    write_thought,
    written_answer,
)
from a2tgpo.environments.dialects.arguments import argument_from_text, argument_to_text
from a2tgpo.environments.dialects.examples import Example, read_examples, require_readable
from a2tgpo.environments.passages import PassageLayout
from a2tgpo.environments.protocols import Action, Tool, ToolCall
from a2tgpo.rollouts.protocols import Chat
from a2tgpo.rollouts.thinking import prefixed, without_thoughts
from a2tgpo.system.errors import SettingError
from a2tgpo.system.settings import require_all, shown


@dataclass(frozen=True)
class TextTags:
    """One call or one answer an action, in tags of plain text. What stands in a call's tag is the tool's first
    argument.

    With `chat`, the chat template renders the prompt; all that follows is appended to the model's first message.
    `examples` are worked episodes: earlier turns of the chat, or without one parts of the prompt. The model goes on
    from `assistant_prefix`.
    """

    prompt_template: str
    answer_wrapper: tuple[str, str]
    answer_pattern: str
    """What of the answer tag's body is the answer, in group 1."""
    call_tags: Mapping[str, str] | None
    """The tag of a tool's calls, where it is not the name of the tool."""
    answer_tag: str
    result_tag: str
    result_template: str
    layout: PassageLayout
    examples: Mapping[str, Any]
    assistant_prefix: str
    chat: bool
    system: str
    template: Mapping[str, Any] | None

    def __post_init__(self) -> None:
        require_all(vars(self), "data.dialect")
        require_wrapper(self.answer_wrapper)
        require_prefix(self.assistant_prefix)
        if self.answer_tag in (self.result_tag, "think"):
            raise ValueError(
                f"data.dialect.answer_tag={self.answer_tag!r}: expected another tag than those of thoughts and results"
            )
        opening, _, closing = self.result_template.partition("{result}")
        if f"<{self.result_tag}>" not in opening or f"</{self.result_tag}>" not in closing:
            raise ValueError(
                f"data.dialect.result_template={self.result_template!r}: expected {{result}} inside the tag "
                f"data.dialect.result_tag={self.result_tag}"
            )

    def stop_strings(self, tools: Sequence[Tool]) -> tuple[str, ...]:
        """The closing tags of calls and answers. Raises SettingError where a tool needs more than one argument, two
        things have the same tag, or a worked episode cannot be read."""
        for tool in tools:
            if any(parameter.required for parameter in [*tool.parameters.values()][1:]):
                raise SettingError(
                    f"data.dialect: tags hold one argument, and tool {tool.name!r} has {[*tool.parameters]}; "
                    "expected one without a default, or data/dialect=tool_calls"
                )
        tags = [*(self._tag(tool.name) for tool in tools), self.answer_tag]
        if taken := {tag for tag in tags if [*tags, self.result_tag, "think"].count(tag) > 1}:
            raise SettingError(
                f"data.dialect.call_tags={shown(self.call_tags)}: {sorted(taken)} taken, where results are in "
                f"{self.result_tag!r} and answers in {self.answer_tag!r}; expected a tag a tool"
            )
        require_readable(self.examples, self, tools)
        return self._closing(tools)

    def prompt(self, question: str, tools: Sequence[Tool]) -> str | Chat:
        """Worked episodes, then the template with the question in it, as plain text or as messages."""
        shown = [(self._asked(e.question), self._written(e, tools)) for e in read_examples(self.examples)]
        if not self.chat:
            earlier = "".join(f"{asked}{written}\n\n" for asked, written in shown)
            return earlier + self._asked(question) + self.assistant_prefix
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for asked, written in shown:
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": written}]
        messages.append({"role": "user", "content": self._asked(question)})
        return Chat(tuple(messages), template=self.template or {}, prefix=self.assistant_prefix)

    def parse(self, text: str, tools: Sequence[Tool]) -> Action | None:
        """The action `text` stands for, or None where it is not well-formed.

        A thought counts as a blank; all that follows the first closing action tag (the end of a token that overshot
        the stop text) is dropped. What remains must hold exactly one opening and one closing tag, of the same kind,
        with a body that is not blank: several tags, nested tags, a stray or unclosed tag are all malformed. So is a
        body that is not of the type of the tool's first parameter; a tool without parameters has a blank body.
        """
        text = without_thoughts(text)
        ends = [text.find(stop) + len(stop) for stop in self._closing(tools) if stop in text]
        if not ends:
            return None
        text = text[: min(ends)]
        tags = self._tag_pattern(tools).findall(text)
        if len(tags) != 2 or tags[1] != f"</{tags[0][1:]}":
            return None
        body = text.split(tags[0])[1].removesuffix(tags[1]).strip()
        if tags[0] == f"<{self.answer_tag}>":
            return written_answer(self.answer_pattern, body)
        tool = next((tool for tool in tools if tags[0] == f"<{self._tag(tool.name)}>"), None)
        return _call(tool, body) if tool else None

    def write(self, action: Action, thought: str = "") -> tuple[str, ...]:
        """A text for each call, the `thought` before the first, or the answer in its wrapper, which has its own."""
        if action.answer is not None:
            return (action.answer.join(self.answer_wrapper),)
        before, after = self.answer_wrapper
        blanks = leading_blanks(before.rpartition(f"<{self.answer_tag}>")[2]), leading_blanks(after)
        tags = [self._tag(call.name) for call in action.calls]
        bodies = [_argument(call).join(blanks) for call in action.calls]
        calls = [f"<{tag}>{body}</{tag}>" for tag, body in zip(tags, bodies, strict=True)]
        return (write_thought(thought, self.answer_wrapper) + calls[0], *calls[1:])

    def observe(self, results: Sequence[str], tools: Sequence[Tool]) -> str:
        """The results in their tag. Tags inside a result lose their angle brackets: a tool cannot speak for the
        policy, close its own result or end the episode."""
        text = self._tag_pattern(tools).sub(lambda tag: f"[{tag.group()[1:-1]}]", "\n".join(results))
        return self.result_template.replace("{result}", text)

    def _asked(self, question: str) -> str:
        return self.prompt_template.replace("{question}", question)

    def _written(self, example: Example, tools: Sequence[Tool]) -> str:
        """The worked episode as one text, as the model would have seen its own."""
        text = ""
        for turn in example.turns:
            for call, result in zip(self.write(Action(turn.calls), turn.thought), turn.results, strict=True):
                text += call + self.observe([result if isinstance(result, str) else self.layout(result)], tools)
        (answer,) = self.write(Action(answer=example.answer))
        return prefixed(self.assistant_prefix, text + answer)

    def _tag(self, name: str) -> str:
        return (self.call_tags or {}).get(name, name)

    def _closing(self, tools: Sequence[Tool]) -> tuple[str, ...]:
        return tuple(f"</{tag}>" for tag in (*(self._tag(tool.name) for tool in tools), self.answer_tag))

    def _tag_pattern(self, tools: Sequence[Tool]) -> re.Pattern[str]:
        tags = ("think", self.result_tag, self.answer_tag, *(self._tag(tool.name) for tool in tools))
        return re.compile(rf"</?(?:{'|'.join(map(re.escape, tags))})>")


def _argument(call: ToolCall) -> str:
    return argument_to_text(next(iter(call.arguments.values()), ""))


def _call(tool: Tool, body: str) -> Action | None:
    if not tool.parameters:
        return None if body else Action((ToolCall(tool.name, {}),))
    name, parameter = next(iter(tool.parameters.items()))
    argument = argument_from_text(body, parameter)
    return None if argument is None else Action((ToolCall(tool.name, {name: argument}),))
