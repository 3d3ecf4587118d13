"""Drawing tokens with noise that depends on its key alone."""

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase, TopPLogitsWarper


def keyed_uniforms(key: tuple[int, ...], count: int) -> np.ndarray:
    """`count` uniforms in [0, 1) that are a pure function of `key`."""
    return np.random.default_rng((len(key), *key)).random(count)  # alone, trailing zeros would not count


def draw(
    logits: Float[Tensor, "B V"],
    uniforms: Float[Tensor, " B"],
    greedy: bool,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> tuple[Int[Tensor, " B"], Float[Tensor, " B"]]:
    """One token a row by inverting the CDF, with its log-prob in the distribution it was drawn from; or the most likely
    one, with its log-prob at temperature 1.

    The CDF is summed in float64, so that a change of batch moves a draw only when the uniform falls within rounding
    of a boundary.
    """
    logits = logits.float()
    if not greedy:
        logits = _truncated(logits / temperature, top_p)
    logprobs = logits.log_softmax(-1)
    if greedy:
        ids = logprobs.argmax(-1)
    else:
        cdf = logprobs.double().exp().cumsum(-1)
        ids = (cdf <= uniforms[:, None] * cdf[:, -1:]).sum(-1)  # the first that holds more: never one of probability 0
    return ids, logprobs.gather(-1, ids[:, None])[:, 0]


def _truncated(logits: Float[Tensor, "B V"], top_p: float) -> Float[Tensor, "B V"]:
    return logits if top_p == 1.0 else TopPLogitsWarper(top_p)(None, logits)


class StopStringMatcher:
    """Says whether a sampled action is complete. Decodes only after a token that could be the end of a stop text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop_strings: tuple[str, ...]) -> None:
        self._tokenizer = tokenizer
        self._stop_texts = stop_strings
        last_characters = {text[-1] for text in stop_strings}
        pieces = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
        self._may_end = {i for i, piece in enumerate(pieces) if last_characters.intersection(piece)}

    def complete(self, ids: list[int]) -> bool:
        """Does the text of `ids` hold a stop text, now that its last token may have finished one?"""
        if ids[-1] not in self._may_end:
            return False
        text = self._tokenizer.decode(ids)
        return any(stop in text for stop in self._stop_texts)
