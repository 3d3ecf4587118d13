"""How found passages are written into a tool result."""

from collections.abc import Sequence
from dataclasses import dataclass

from a2tgpo.retrievers.passages import split_title


@dataclass(frozen=True)
class PassageLayout:
    """Each passage through `template`, which may use {index} (from 1), {contents}, {title} and {text}.

    A passage `"Title"\\ntext` has a title and a text; any other is all text. `nothing` stands for an empty result.
    """

    template: str
    separator: str
    nothing: str

    def __post_init__(self) -> None:
        try:
            self._write(1, "")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                f"data.dialect.layout.template={self.template!r}: "
                "expected no fields but {index}, {contents}, {title} and {text}"
            ) from error

    def __call__(self, passages: Sequence[str]) -> str:
        return self.separator.join(self._write(i, passage) for i, passage in enumerate(passages, 1)) or self.nothing

    def _write(self, index: int, contents: str) -> str:
        title, text = split_title(contents)
        return self.template.format(index=index, contents=contents, title=title, text=text)
