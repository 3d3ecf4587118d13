"""In which way a model reads on from what it has read, as the engine and the scoring do."""

import logging
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from a2tgpo.policies.memory import fresh, read, side_by_side
from a2tgpo.policies.policy import Policy, evaluation_mode

CACHED, NEW = (16, 1), 4
"""Tokens that each row of the probe has read, far apart because positions are what may go wrong; and those behind."""
PIECES = (2, 1, 1)
"""The new tokens as they are read into a memory of the model's own: a state forgotten at the first shows in all."""
TOLERANCE, LOW_PRECISION_TOLERANCE = 0.005, 0.1
"""How far log-probs may move, in their standard deviations: rounding moves those of float32 by 1e-6 (TF32 by 1e-3),
those of bfloat16 by 0.01 to 0.04, and a wrong distance or a forgotten state by 0.1 to 1."""

log = logging.getLogger(__name__)


@torch.no_grad()
def with_way_to_read(policy: Policy) -> Policy:
    """`policy` with the cheapest way to read on in which it predicts as it does without a memory (`Policy.reads`).

    A few tokens are read, once, and nothing goes by names. Raises ValueError where no way is right: models that see
    what follows, keep their state in their layers, or count places otherwise than by position ids.
    """
    with evaluation_mode(policy.model):
        for reads in ("block", "segments", "tokens"):
            able = replace(policy, reads=reads)
            why = _failure(able, _behind_keys_and_values if reads == "block" else _in_own_memory)
            if why is None:
                return able
            log.info("a %s model is not read by %s: %s", policy.model.config.model_type, reads, why)
    raise ValueError(
        f"a {policy.model.config.model_type} model {why}; expected a causal language model that predicts from a cache "
        "what it predicts without one"
    )


def _failure(policy: Policy, predict: Callable) -> str | None:
    """What speaks against the policy's way to read: an error, or log-probs that move too far."""
    ids = _probe(policy)
    try:
        plain = _logprobs(policy.model(ids, use_cache=False).logits)
        logits, columns = predict(policy, ids)
    except Exception as error:  # each kind of model fails in its own way
        return f"does not run from a cache ({type(error).__name__}: {error})"
    expected = plain[torch.arange(len(ids), device=ids.device)[:, None], columns]
    difference = _logprobs(logits) - expected
    moved = float((difference.square().mean(-1).sqrt() / expected.std(-1)).mean(-1).max())
    if moved <= (TOLERANCE if policy.model.dtype == torch.float32 else LOW_PRECISION_TOLERANCE):
        return None
    return f"predicts otherwise from a cache than without one (log-probs move by {moved:.2g} standard deviations)"


def _probe(policy: Policy) -> Int[Tensor, "B L"]:
    rows, columns = (torch.arange(n, device=policy.device) for n in (len(CACHED), max(CACHED) + NEW))
    return (7 * columns + 11 * rows[:, None] + 5) % policy.model.get_input_embeddings().weight.shape[0]


def _behind_keys_and_values(
    policy: Policy, ids: Int[Tensor, "B L"]
) -> tuple[Float[Tensor, "B Q V"], Int[Tensor, "B Q"]]:
    """Logits of the new tokens in one block behind a cache of padded rows, and their columns."""
    model, width, device = policy.model, max(CACHED), policy.device
    rows, cached = torch.arange(len(CACHED), device=device)[:, None], torch.tensor(CACHED, device=device)[:, None]
    columns = torch.arange(width + NEW, device=device)
    positions = cached + columns[:NEW]
    cache = DynamicCache()
    model(ids[:, :width], past_key_values=cache, use_cache=True, logits_to_keep=1)
    key_positions = torch.cat([columns[:width].expand(len(rows), -1), positions], dim=1)
    real = torch.cat([columns[:width] < cached, torch.ones_like(positions, dtype=torch.bool)], dim=1)
    mask = real[:, None, None, :] & (key_positions[:, None, None, :] <= positions[:, None, :, None])
    out = model(
        ids[rows, positions],
        attention_mask=policy.attention_mask(mask, positions, key_positions),
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=columns[:NEW],
    )
    return out.logits, positions


def _in_own_memory(policy: Policy, ids: Int[Tensor, "B L"]) -> tuple[Float[Tensor, "B Q V"], Int[Tensor, "B Q"]]:
    """Logits of the last token of each new piece, and their columns. Rows are put side by side and taken apart."""
    alone = [read(policy, ids[[i], :length], fresh(policy, 1))[1] for i, length in enumerate(CACHED)]
    logits, columns, read_on = [], [], torch.tensor(CACHED, device=ids.device)
    for piece in PIECES:
        place = read_on[:, None] + torch.arange(piece, device=ids.device)
        found, memory = read(policy, ids.gather(1, place), side_by_side(alone))
        alone = [memory.row(i) for i in range(len(CACHED))]
        logits.append(found)
        columns.append(place[:, -1])
        read_on = read_on + piece
    return torch.stack(logits, 1), torch.stack(columns, 1)


def _logprobs(logits: Float[Tensor, "B Q V"]) -> Float[Tensor, "B Q V"]:
    return logits.float().log_softmax(-1)
