"""The optimizer with its schedule."""

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any, Protocol, runtime_checkable

import torch
from torch.nn import Parameter
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import PreTrainedModel

from a2tgpo.policies.sharding import local
from a2tgpo.system.distributed import max_over_ranks
from a2tgpo.system.errors import SettingError


@runtime_checkable
class LowBit(Protocol):
    """An optimizer that keeps its moments in few bits."""

    def keep_whole(self, weights: Iterable[Parameter]) -> None:
        """Keep those of these weights in all bits."""


def optimizer_with_schedule(
    model: PreTrainedModel,
    make_optimizer: Callable[..., torch.optim.Optimizer],
    make_scheduler: Callable[..., LRScheduler],
    n_steps: int,
) -> dict:
    """A new optimizer over those weights of `model` that are trained, and its schedule over `n_steps`.

    Raises SettingError for arguments that they do not take.
    """
    key = "model.optimizer"
    try:
        optimizer = make_optimizer([p for p in model.parameters() if p.requires_grad])
        if isinstance(optimizer, LowBit):
            optimizer.keep_whole(_rows_of_tokens(model))
        key = "model.scheduler"
        scheduler = make_scheduler(optimizer=optimizer, num_training_steps=n_steps)
    except SettingError:
        raise
    except (TypeError, ValueError) as error:
        raise SettingError(f"{key}: {error}; expected arguments that it takes") from error
    return {"optimizer": optimizer, "lr_scheduler": scheduler}


def _rows_of_tokens(model: PreTrainedModel) -> list[Parameter]:
    """Embedding and head. Where a token occurs in one batch and not in the next, its gradients differ by orders of
    magnitude from those beside them: of a block in few bits the second moment may be lost where the first is not, and
    a step that divides one by the other has no bound."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    return [end.weight for end in ends if end is not None]


def eight_bit_adamw(weights: Iterable[Parameter], **settings: Any) -> LowBit:
    """An AdamW whose moments take a byte each. Raises SettingError where torchao is not installed."""
    if find_spec("torchao") is None:
        raise SettingError(
            "model/optimizer=adamw_8bit: the package 'torchao' is not installed; expected the extra 'torchao': "
            "pip install --editable '.[torchao]'"
        )
    from a2tgpo.training.eight_bit_adamw import EightBitAdamW

    return EightBitAdamW(weights, **settings)


def apply_schedule(scheduler: LRScheduler) -> None:
    """Take the schedule's learning rate: a resumed run has that of the run before, which may have been of another
    length."""
    if isinstance(scheduler, LambdaLR):
        groups = scheduler.optimizer.param_groups
        for group, base, factor in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
            group["lr"] = base * factor(scheduler.last_epoch)


def require_finite_weights(weights: Iterable[torch.nn.Parameter]) -> None:
    """Raises FloatingPointError where an optimizer step left a weight that is not finite: no checkpoint may hold it."""
    finite = all(bool(local(weight).isfinite().all()) for weight in weights if weight.requires_grad)
    if max_over_ranks(not finite):
        raise FloatingPointError(
            "an optimizer step left weights that are not finite; expected smaller steps (model.optimizer.lr); "
            "checkpoints/last.ckpt holds the policy before this rollout set"
        )
