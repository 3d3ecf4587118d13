"""An adapter merged into the model under it."""

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel

TOLERANCE = 1e-3
"""How far logits may move, in their standard deviation: in float32 a merge rounds by 1e-5 of it."""


@torch.no_grad()
def merged(adapted: PeftModel) -> PreTrainedModel:
    """The model with what its adapter adds, in place and in float32: in bfloat16 most of that would be rounded away.

    Raises ValueError where it predicts otherwise than the model under its adapter did.
    """
    adapted.float().eval()
    _untie(adapted.get_base_model())
    ids = torch.arange(64, device=adapted.device)[None] % adapted.get_input_embeddings().weight.shape[0]
    before = adapted(ids).logits
    model = adapted.merge_and_unload(safe_merge=True)
    moved = float((model(ids).logits - before).abs().max() / before.std())
    if not moved <= TOLERANCE:
        raise ValueError(
            f"model.policy.lora: the merged model predicts otherwise than the adapter on its model (logits move by "
            f"{moved:.2g} of their standard deviation); expected equal logits. The adapter alone can be had: --adapter"
        )
    return model


def _untie(model: PreTrainedModel) -> None:
    """Give the output layer weights of its own where it shares those of the embedding and one of them has an adapter:
    what that adds would reach the other."""
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    adapters = any(isinstance(layer, BaseTunerLayer) for layer in ends)
    embedding, head = (layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer for layer in ends)
    if adapters and head.weight is embedding.weight:
        head.weight = torch.nn.Parameter(head.weight.clone())
        model.config.tie_word_embeddings = False
