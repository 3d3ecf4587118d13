"""Whether a model can be served from a cache of keys and values, as the engine and the scoring do."""

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from a2tgpo.policies.policy import Policy, evaluation_mode

CACHED, NEW = (16, 1), 4
"""Tokens in the cache of each row of the probe, far apart because positions are what may go wrong; and behind it."""
TOLERANCE, LOW_PRECISION_TOLERANCE = 0.02, 0.1
"""How far log-probs may move, in their standard deviations: rounding moves those of float32 by 1e-6 (TF32 by 1e-3),
those of bfloat16 by 0.02, and a wrong distance by 0.1 to 1."""


@torch.no_grad()
def require_cached_forward(policy: Policy) -> None:
    """Raises ValueError where `policy` predicts otherwise from a cache than without one, or keeps more than keys and
    values: recurrent, convolution, chunked or indexed layers, and distances that go by the place in the cache
    (ALiBi). A few tokens are read, once."""
    kind = policy.model.config.model_type
    expected = "expected full, sliding-window or latent attention with position ids, as in Llama, Qwen3 or DeepSeek-V3"
    try:
        with evaluation_mode(policy.model):
            moved = _moved(policy)
    except Exception as error:  # each kind of model fails in its own way
        why = f"{type(error).__name__}: {error}"
        raise ValueError(f"a {kind} model does not run from a cache of keys and values ({why}); {expected}") from error
    if not moved <= (TOLERANCE if policy.model.dtype == torch.float32 else LOW_PRECISION_TOLERANCE):
        raise ValueError(
            f"a {kind} model predicts otherwise from a cache of keys and values than without one (log-probs move by "
            f"{moved:.2g} of their standard deviation); {expected}"
        )


def _moved(policy: Policy) -> float:
    """How far the log-probs of the new tokens move when the tokens before them are read from a cache: root mean
    square, in standard deviations, in the worst row."""
    model, width, device = policy.model, max(CACHED), policy.device
    rows, cached = torch.arange(len(CACHED), device=device)[:, None], torch.tensor(CACHED, device=device)[:, None]
    columns = torch.arange(width + NEW, device=device)
    ids = (7 * columns + 11 * rows + 5) % model.get_input_embeddings().weight.shape[0]
    positions = cached + columns[:NEW]
    plain = _logprobs(model(ids).logits[rows, positions])

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
    difference = _logprobs(out.logits) - plain
    return float((difference.square().mean(-1).sqrt() / plain.std(-1)).mean(-1).max())


def _logprobs(logits: Float[Tensor, "B Q V"]) -> Float[Tensor, "B Q V"]:
    return logits.float().log_softmax(-1)
