"""Reading the documents of a corpus, in whatever layout they come."""

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
    """The contents of one document: `contents`, or `title` and `text`, joined as `"title"`, newline, text; the text
    alone where the title is empty or missing.

    Raises ValueError naming the field that is missing or wrong.
    """
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object, found {type(record).__name__}")
    if "contents" not in record and "text" in record:
        text = _text(record, "text")
        return text if record.get("title") in (None, "") else f'"{_text(record, "title")}"\n{text}'
    return _text(record, "contents")


def _text(record: dict[str, Any], field: str) -> str:
    value = record.get(field)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"field {field!r}: expected a text that is not blank, found {_shown(record, field)}")
    return value


def _shown(record: dict[str, Any], field: str) -> str:
    return repr(record[field])[:80] if field in record else "no such field"
