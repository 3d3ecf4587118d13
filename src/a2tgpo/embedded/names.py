"""Invented names, spelt in two pieces, of which no word is shared between splits."""

from collections.abc import Sequence
from zlib import crc32

import numpy as np

from a2tgpo.rollouts.trajectory import Split

VOWELS = "aeiou"
START_CONSONANTS = "B D F G H J K L M N P R S T V W Z Br Dr Kr Pl St Tr"
END_CONSONANTS = "b d f g k l m n p r s t v z"
STARTS = tuple(c + v for c in START_CONSONANTS.split(" ") for v in VOWELS)
ENDS = tuple(c + v for c in END_CONSONANTS.split(" ") for v in VOWELS)
_TEST_BUCKET, _VALIDATION_BUCKET, _BUCKETS = 0, 1, 10


def split_of(word: str) -> Split:
    """The one split that may use `word`: a tenth each for test and validation, the rest for training."""
    bucket = crc32(word.encode()) % _BUCKETS
    return {_TEST_BUCKET: Split.TEST, _VALIDATION_BUCKET: Split.VALIDATION}.get(bucket, Split.TRAIN)


WORDS: dict[Split, tuple[str, ...]] = {
    split: tuple(start + end for start in STARTS for end in ENDS if split_of(start + end) == split) for split in Split
}

SHARED_WORDS = tuple(start + ENDS[crc32(start.encode()) % len(ENDS)] for start in STARTS)
"""Names of worlds with collections, in all splits: few enough that a tokenizer has each as one piece, and no two begin
alike."""


def draw_words(rng: np.random.Generator, words: Sequence[str], count: int) -> list[str]:
    """`count` different ones of `words`."""
    return [words[i] for i in rng.choice(len(words), size=count, replace=False)]
