"""What a run costs at the real model's size: memory of a device and tokens of an iteration, from counts alone."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from transformers import PretrainedConfig

from a2tgpo.scoring.projection import CHUNK_BYTES
from a2tgpo.system.settings import require_all

GIB = 2**30
USABLE = 0.9
"""Share of a device's memory that is left by its context, by temporaries and by fragments."""
GRADIENT_BYTES = 4
ADAM_BYTES = 8
"""Two float32 moments a trained parameter."""
CODED_BYTES = 2 * (1 + 4 / 256)
"""Two moments as codes, with a float32 scale for each block of 256."""
ACTIVATION_COPIES = 34
"""Hidden states that a layer keeps for its backward pass, in units of tokens × hidden size, without checkpointing."""
LOGIT_COPIES = 5
"""Logits of a chunk, their softmax and gradients: what a backward pass was measured to hold at once."""


@dataclass(frozen=True)
class Hardware:
    """What the arithmetic is held against; `tflops` is what a device sustains, not its peak."""

    name: str
    devices: int
    memory_gib: float
    tflops: float

    def __post_init__(self) -> None:
        require_all(vars(self), "callbacks.sizing.hardware")


@dataclass(frozen=True)
class Plan:
    """The counts of one iteration. Token limits are upper bounds: real episodes are shorter."""

    prompts: int
    group_size: int
    prompt_tokens: int
    response_tokens: int
    max_sessions: int
    micro_batch_tokens: int
    models_scored: int
    """1, or 2 with a reference model."""
    reference_copy: bool
    weight_bytes: int
    compute_bytes: int
    gradient_checkpointing: bool
    shards: int
    """Devices that share each copy of the weights; 1 under DDP."""
    coded_moments: bool
    """`model/optimizer=adamw_8bit`."""


def memory(real: PretrainedConfig, parameters: int, trained: int, plan: Plan) -> dict[str, float]:
    """Bytes on one device, by what they are for; the two phases do not overlap.

    `rollout` (the running batch and what sessions keep between turns) and `update` come on top of all others. They hold
    what is gathered of sharded weights, too.
    """
    if plan.shards > 1:
        return _sharded(real, parameters, memory(real, parameters, trained, replace(plan, shards=1)), plan)
    cast = 2 * parameters if plan.compute_bytes < plan.weight_bytes else 0  # autocast keeps its copies of the weights
    layers, hidden, heads = real.num_hidden_layers, real.hidden_size, real.num_attention_heads
    head_size, cached_heads = getattr(real, "head_dim", hidden // heads), getattr(real, "num_key_value_heads", heads)
    per_position = 2 * layers * cached_heads * head_size * plan.compute_bytes
    copies = 1 if plan.gradient_checkpointing else ACTIVATION_COPIES
    activations = (layers * copies + ACTIVATION_COPIES) * plan.micro_batch_tokens * hidden * plan.compute_bytes
    logits = min(4 * plan.micro_batch_tokens * real.vocab_size, CHUNK_BYTES)
    head = 4 * real.vocab_size * hidden  # in float32: the sum of its chunks' gradients, or a copy of frozen weights
    trained_bytes = 4 if trained < parameters else plan.weight_bytes  # adapters are float32
    in_ends = _ends(real) if trained == parameters else 0  # their moments are never coded
    coded = trained - in_ends if plan.coded_moments else 0
    return {
        "weights": parameters * plan.weight_bytes,
        "cast": cast,
        "reference": parameters * plan.weight_bytes if plan.reference_copy else 0,
        "gradients": trained * trained_bytes,
        "optimizer": coded * CODED_BYTES + (trained - coded) * ADAM_BYTES,
        "rollout": 2 * plan.max_sessions * (plan.prompt_tokens + plan.response_tokens) * per_position,
        "update": activations + LOGIT_COPIES * logits + head,
    }


def _sharded(real: PretrainedConfig, parameters: int, replicated: dict[str, float], plan: Plan) -> dict[str, float]:
    """`replicated` with the weights in shards. The rollout gathers all of them. The update gathers embedding and head,
    and two layers at a time, for one of which it has all gradients."""
    ends = _ends(real)
    layers = parameters - ends
    layer = layers / real.num_hidden_layers
    parts = {name: replicated[name] / plan.shards for name in ("weights", "reference", "gradients", "optimizer")}
    rollout = layers * plan.compute_bytes + ends * plan.weight_bytes
    update = layer * (2 * plan.compute_bytes + GRADIENT_BYTES) + ends * (plan.weight_bytes + GRADIENT_BYTES)
    phases = {"rollout": replicated["rollout"] + rollout, "update": replicated["update"] + update}
    return replicated | parts | phases | {"cast": 0}


def _ends(real: PretrainedConfig) -> int:
    """Parameters of embedding and head."""
    return real.vocab_size * real.hidden_size * (1 if real.tie_word_embeddings else 2)


def peak(bytes_for: Mapping[str, float]) -> float:
    """The most that is held at once."""
    phases = ("rollout", "update")
    return sum(v for k, v in bytes_for.items() if k not in phases) + max(bytes_for[phase] for phase in phases)


def tokens(plan: Plan) -> dict[str, int]:
    """Token positions of one iteration, over all devices: at most so many are sampled or read, scored and trained."""
    trajectories = plan.prompts * plan.group_size
    whole = trajectories * (plan.prompt_tokens + plan.response_tokens)
    return {
        "rollout": plan.prompts * plan.prompt_tokens + trajectories * plan.response_tokens,
        "scoring": whole * plan.models_scored,
        "update": whole,
    }


def seconds(parameters: int, plan: Plan, hardware: Hardware) -> dict[str, float]:
    """Seconds of each phase at the sustained speed: 2 floating-point operations a parameter and position forwards, 4
    backwards, and 2 more where activations are computed again. Sampling is bound by memory and slower than this."""
    passes = {"rollout": 2, "scoring": 2, "update": 8 if plan.gradient_checkpointing else 6}
    speed = hardware.devices * hardware.tflops * 1e12
    return {phase: passes[phase] * parameters * n / speed for phase, n in tokens(plan).items()}
