"""What a model that was read from a folder must be: whole, finite, and with a tokenizer that fits it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def require_whole(loading: Mapping[str, Any]) -> None:
    """Raises ValueError naming the tensors that the folder lacks, has in another shape, or has too many.

    `loading` is what transformers says of a load; it would start missing tensors at random.
    """
    found = {
        "missing": sorted(loading["missing_keys"]),
        "of another shape": sorted(name for name, *_ in loading["mismatched_keys"]),
        "unknown to the model": sorted(loading["unexpected_keys"]),
    }
    for what, names in found.items():
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(f"{names[0]}{more} {what}; expected the weights that its config.json describes")


def require_finite(weights: Mapping[str, Tensor]) -> None:
    """Raises ValueError naming the first of `weights` that holds NaN or an infinity. One pass over each: its extremes
    are NaN where one entry is. Empty tensors and those of one byte an entry are not looked at."""
    for name, weight in weights.items():
        if weight.numel() and weight.itemsize > 1 and not torch.stack(weight.aminmax()).isfinite().all():
            raise ValueError(f"{name} is not finite; expected weights without NaN and infinities")


def require_fitting_tokenizer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ValueError where the tokenizer knows no offsets, no text or no end, or has tokens without an embedding.

    A special token that no prompt opens with and the chat template does not spell needs none: published text models
    have some for images.
    """
    if not tokenizer.is_fast:
        raise ValueError("a slow tokenizer; expected a fast one, which knows offsets")
    if tokenizer.eos_token_id is None:
        raise ValueError("its tokenizer has no end token (eos_token); expected one")
    vocabulary = tokenizer.get_vocab().values()
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    if not special < set(vocabulary):
        raise ValueError("its tokenizer has no vocabulary; expected the tokenizer's files in the model folder")
    used = set(vocabulary) - special | {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id} - {None}
    used.update(tokenizer(str(tokenizer.chat_template), add_special_tokens=False).input_ids)
    rows = min(len(embedding.weight) for embedding in (model.get_input_embeddings(), model.get_output_embeddings()))
    if max(used) >= rows:
        raise ValueError(
            f"its tokenizer has the token {tokenizer.convert_ids_to_tokens(max(used))!r} with id {max(used)}, its "
            f"embedding {rows} rows; expected a row for every token"
        )
