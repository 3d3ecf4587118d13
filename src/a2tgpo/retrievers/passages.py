"""Documents of a corpus: read in whatever layout they come, and their contents written and split."""

from typing import Any


def read_document(record: Any) -> tuple[str, str]:
    """Id and contents of one document.

    Raises ValueError naming the field that is missing or wrong.
    """
    contents = read_contents(record)
    name = record.get("id")
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise ValueError(f"field 'id': expected a text or an integer, found {_shown(record, 'id')}")
    return str(name), contents


def read_contents(record: Any) -> str:
    """The contents of one document: `contents`, or `title` and `text`, joined; the text alone where the title is empty
    or missing.

    Raises ValueError naming the field that is missing or wrong.
    """
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object, found {type(record).__name__}")
    if "contents" not in record and "text" in record:
        text = _text(record, "text")
        return text if record.get("title") in (None, "") else titled(_text(record, "title"), text)
    return _text(record, "contents")


def page(title: str) -> str:
    """The first line of all passages of the page `title`: the title in quotation marks."""
    return f'"{" ".join(title.split())}"'


def titled(title: str, text: str) -> str:
    """The contents of a passage: the line of its page, then `text`; `text` alone where the title is blank."""
    return f"{page(title)}\n{text}" if title.strip() else text


def split_title(contents: str) -> tuple[str, str]:
    """Title and text of a passage; the title is empty where the first line is none."""
    line, newline, text = contents.partition("\n")
    has_title = newline and len(line) > 1 and line[0] == line[-1] == '"'
    return (line[1:-1], text) if has_title else ("", contents)


def _text(record: dict[str, Any], field: str) -> str:
    value = record.get(field)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"field {field!r}: expected a text that is not blank, found {_shown(record, field)}")
    return value


def _shown(record: dict[str, Any], field: str) -> str:
    return repr(record[field])[:80] if field in record else "no such field"
