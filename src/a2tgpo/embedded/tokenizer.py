"""The embedded policy's tokenizer: whole words for what worlds are told in, two pieces a name, bytes for the rest."""

import re
from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from a2tgpo.embedded.names import ENDS, SHARED_WORDS, STARTS
from a2tgpo.embedded.placement import NAMES
from a2tgpo.embedded.world import FIRST_YEAR, LAST_YEAR, RELATIONS

PAD, END = "<pad>", "<eos>"
TAGS = tuple(f"<{slash}{tag}>" for tag in ("think", "search", "result", "answer") for slash in ("", "/"))
_PHRASES = "Question: What is the older of and need done Nothing was found. The search failed no answer within seconds"
_WORD_SCORE, _BYTE_SCORE = -1.0, -10.0


def _words() -> list[str]:
    templates = " ".join(t.format(s="", o="") for relation in RELATIONS.values() for t in relation.templates)
    words = re.findall(r"\w+", f"{_PHRASES} {templates} {' '.join(RELATIONS)}")
    return [*dict.fromkeys(words), *map(str, range(FIRST_YEAR, LAST_YEAR + 1))]


COLLECTION_PIECES = (
    ",",
    *(f"▁{word}" for word in ("Which", "film", "person", "city", "company", *NAMES, *SHARED_WORDS)),
)
"""What worlds with collections add: a name is one piece, and so is a choice of collection."""


def build_tokenizer(more: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """A Unigram tokenizer in which " Varo" is two tokens and every text survives encode and decode unchanged.

    The pieces of `more` come last, so that all others keep their ids.
    """
    pieces = [f"▁{piece}" for piece in (*_words(), *STARTS)] + ["Question", *ENDS, ".", "?", ":", "▁", *more]
    vocabulary = [(piece, 0.0) for piece in (PAD, END, *TAGS)]
    vocabulary += [(f"<0x{byte:02X}>", _BYTE_SCORE) for byte in range(256)]
    vocabulary += [(piece, _WORD_SCORE) for piece in dict.fromkeys(pieces)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(PAD, special=True), AddedToken(END, special=True)])
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)
