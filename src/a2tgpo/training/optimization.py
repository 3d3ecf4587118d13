"""The optimizer with its schedule."""

from collections.abc import Callable, Iterable

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from a2tgpo.policies.sharding import local
from a2tgpo.system.distributed import max_over_ranks
from a2tgpo.system.errors import SettingError


def optimizer_with_schedule(
    weights: Iterable[torch.nn.Parameter],
    make_optimizer: Callable[..., torch.optim.Optimizer],
    make_scheduler: Callable[..., LRScheduler],
    n_steps: int,
) -> dict:
    """A new optimizer over those of the `weights` that are trained, and its schedule over `n_steps`.

    Raises SettingError for arguments that they do not take.
    """
    key = "model.optimizer"
    try:
        optimizer = make_optimizer([p for p in weights if p.requires_grad])
        key = "model.scheduler"
        scheduler = make_scheduler(optimizer=optimizer, num_training_steps=n_steps)
    except (TypeError, ValueError) as error:
        raise SettingError(f"{key}: {error}; expected arguments that it takes") from error
    return {"optimizer": optimizer, "lr_scheduler": scheduler}


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
