"""The step from hidden states to the vocabulary: where a token is predicted and nowhere else, in fp32, by chunks."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.checkpoint import checkpoint

from a2tgpo.policies.policy import Policy
from a2tgpo.scoring.float32 import tf32

CHUNK_BYTES = 2**28
"""Size of the fp32 logits of a chunk; several copies of them are held at once."""


def predict(
    policy: Policy,
    row: Int[Tensor, " P"],
    column: Int[Tensor, " P"],
    target: Int[Tensor, " P"],
    *inputs: Tensor,
    temperature: float = 1.0,
    with_entropy: bool = False,
    **options: Any,
) -> tuple[Float[Tensor, " P"], Float[Tensor, " P"]]:
    """Log-prob of `target[p]` behind position `column[p]` of row `row[p]`, from one forward over `inputs`, in fp32; and
    the entropy of the distribution it came from (without gradient; 0 unless wanted).

    bf16 logits move in steps of 1/8 at the sizes that a vocabulary has, which is coarser than the ratios and gains that
    are read off them. The other positions are not projected: with a large vocabulary that step is what costs. Logits of
    more than CHUNK_BYTES are made chunk by chunk, and again in the backward pass. Raises ValueError where a model's
    logits are not made of its head's.
    """
    head = policy.model.get_output_embeddings()
    hidden, behind, vocabulary = _forward(policy, head, row, column, inputs, options)

    def statistics(hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        with _in_fp32(head):
            logits = behind(head(hidden[None]))[0]
        return _statistics(logits, target, temperature, with_entropy)

    n_chunks = -(-4 * len(target) * vocabulary // CHUNK_BYTES)
    if n_chunks <= 1:
        return statistics(hidden, target)
    again = partial(checkpoint, statistics, use_reentrant=False, preserve_rng_state=False)
    chunks = [again(*chunk) for chunk in zip(hidden.chunk(n_chunks), target.chunk(n_chunks), strict=True)]
    logprobs, entropy = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    return logprobs, entropy


def _statistics(
    logits: Float[Tensor, "P V"], target: Int[Tensor, " P"], temperature: float, with_entropy: bool
) -> tuple[Float[Tensor, " P"], Float[Tensor, " P"]]:
    if temperature != 1.0:  # spares a copy of the logits
        logits = logits / temperature
    normaliser = logits.logsumexp(-1)
    logprobs = logits.gather(-1, target[:, None])[:, 0] - normaliser
    if not with_entropy:
        return logprobs, torch.zeros_like(logprobs)
    with torch.no_grad():
        return logprobs, normaliser - (logits.softmax(-1) * logits).sum(-1)


# ---- A model's own forward, taken apart at its head ------------------------------------------------------------------


def _forward(
    policy: Policy, head: nn.Module, row: Tensor, column: Tensor, inputs: Sequence[Tensor], options: dict[str, Any]
) -> tuple[Float[Tensor, "P H"], Callable[[Tensor], Tensor], int]:
    """The hidden states before the head at the places picked, what the model does with logits behind it, and how many
    it has a token."""
    picked: list[Tensor] = []
    behind: list[_Recorder] = []
    with ExitStack() as stack:

        def pick(_: nn.Module, args: tuple[Tensor]) -> Tensor:
            picked.append(args[0][row, column])
            return picked[-1][None, :1]  # what comes behind shows at one place as well

        def record(_: nn.Module, args: tuple[Tensor], logits: Tensor) -> None:
            behind.append(stack.enter_context(_Recorder(logits)))

        with head.register_forward_pre_hook(pick), head.register_forward_hook(record):
            logits = policy.model(*inputs, **options).logits
    again = behind[-1].up_to(logits)
    if again is None:
        raise ValueError(
            f"model.policy.path: a {policy.model.config.model_type} model makes its logits in a way that cannot be "
            "repeated; expected functions of torch on those of its head"
        )
    return picked[-1], again, logits.shape[-1]


class _Recorder(TorchFunctionMode):
    """Writes down what is made of a head's logits, to make the same of others."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.made: list[Any] = [logits]
        self.steps: list[tuple[Callable, Any]] = []
        """Each function, and its arguments with a `_Made` where something that was made stood."""

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        call = (args, kwargs or {})
        result = function(*args, **call[1])
        numbers = {id(made): _Made(i) for i, made in enumerate(self.made) if isinstance(made, Tensor)}
        if any(id(x) in numbers for x in tree_leaves(call)):
            self.steps.append((function, tree_map(lambda x: numbers.get(id(x), x), call)))
            self.made.append(result)
        return result

    def up_to(self, logits: Tensor) -> Callable[[Tensor], Tensor] | None:
        """What makes `logits` of those of the head; None where they come from elsewhere."""
        steps = self.steps
        end = max((i for i, made in enumerate(self.made) if made is logits), default=None)

        def again(logits: Tensor) -> Tensor:
            made: list[Any] = [logits]
            for function, call in steps:
                args, kwargs = tree_map(lambda x: made[x.number] if isinstance(x, _Made) else x, call)
                made.append(function(*args, **kwargs))
            return made[end]

        return None if end is None else again


@dataclass(frozen=True)
class _Made:
    number: int


@contextmanager
def _in_fp32(head: nn.Module) -> Iterator[None]:
    """Inside, `head` projects in fp32, but for what an adapter adds to it."""
    linear = getattr(head, "base_layer", head)  # under an adapter
    linear.forward = lambda hidden: _linear(linear, hidden)
    try:
        yield
    finally:
        del linear.forward


def _linear(linear: nn.Module, hidden: Tensor) -> Tensor:
    kind = hidden.device.type
    from_bf16 = torch.is_autocast_enabled(kind) or hidden.dtype == torch.bfloat16
    product = _Product.apply if from_bf16 else F.linear
    with torch.autocast(kind, enabled=False):
        logits = product(hidden.float(), linear.weight.float())
        return logits if linear.bias is None else logits + linear.bias.float()


class _Product(torch.autograd.Function):
    """hidden · weightᵀ in fp32, where bf16 layers made the hidden states: on a GPU in TF32, backwards too."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        with tf32():
            return F.linear(hidden, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        hidden, weight = ctx.saved_tensors
        to_hidden, to_weight = ctx.needs_input_grad
        with tf32():
            return (
                gradient @ weight if to_hidden else None,
                gradient.flatten(0, -2).T @ hidden.flatten(0, -2) if to_weight else None,
            )
