"""Is what a model reads cut into tokens as it knows it? Where a result ends and an action begins."""

from collections.abc import Iterator

from transformers import PreTrainedTokenizerBase

from a2tgpo.check.findings import Finding, Verdict


def borders(tokenizer: PreTrainedTokenizerBase, result: str, action: str) -> Iterator[Finding]:
    """A finding where `result` and the `action` behind it would be one token at their border, if they were one text.

    Results are appended as tokens of their own: a model that always saw `><` as one token has never seen `>` in front
    of a tag, and goes on with something else.
    """
    text = result + action
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    joined = next((text[start:end] for start, end in offsets if start < len(result) < end), None)
    if joined is not None:
        ends = result[result.rfind("<") :]
        says = f"the model knows {joined!r} as one token, and after {ends!r} it has to go on within it"
        mend = f"a data.dialect.result_template that ends with a line break behind {ends}"
        yield Finding("borders", Verdict.DOUBTFUL, says, mend, {"joined": joined})
