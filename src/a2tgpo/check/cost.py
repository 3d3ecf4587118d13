"""What an iteration and the whole run take, from a part that was timed."""

import resource
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from a2tgpo.check.findings import Finding, Verdict
from a2tgpo.policies.pretrained import checkpoints_activations

GIB = 2**30
THREADED_FROM = 50_000_000
"""Parameters from which on a second thread is worth having; the embedded policy has a hundredth of them."""


@dataclass(frozen=True)
class Timed:
    """Seconds of each phase, and what was done in them."""

    rollout: float
    trajectories: int
    scoring: float
    scored_tokens: int
    update: float
    updated_tokens: int
    rounding: float
    """Of what a run measures once."""


def cost(
    timed: Timed, trajectories: int, iterations: int, parameters: int, trained: int, device: torch.device
) -> Iterator[Finding]:
    """Findings about a run of `iterations` with `trajectories` each. Episodes get longer or shorter as it learns."""
    tokens = timed.scored_tokens / timed.trajectories * trajectories
    seconds = {
        "rollout": timed.rollout / timed.trajectories * trajectories,
        "scoring": timed.scoring / timed.scored_tokens * tokens,
        "update": timed.update / timed.updated_tokens * tokens,
    }
    spent = ", ".join(f"{phase} {_time(value)}" for phase, value in seconds.items())
    whole = sum(seconds.values())
    says = f"one iteration is {trajectories} episodes, {tokens:,.0f} tokens, about {_time(whole)} ({spent}); "
    run = iterations * whole + timed.rounding
    says += f"{iterations} iterations about {_time(run)}, validation not counted"
    figures = {"seconds": seconds, "tokens": tokens, "iterations": iterations, "run": run}
    yield Finding("time", Verdict.GOOD, says, "", figures)
    yield _memory(parameters, trained, device)


def checkpointing(computes_again: bool, parameters: int) -> Iterator[Finding]:
    """A finding where activations are computed twice without need."""
    if computes_again and not checkpoints_activations("auto", parameters):
        says = f"activations are computed twice, a third more time, for a model of {parameters / 1e6:.0f} M parameters"
        yield Finding("activations", Verdict.DOUBTFUL, says, "model.policy.gradient_checkpointing=auto")


def one_thread(threads: int, cores: int, parameters: int) -> Iterator[Finding]:
    """A finding where a model that would keep several cores busy has one."""
    if threads == 1 < cores and parameters >= THREADED_FROM:
        says = f"one of {cores} cores computes, for a model of {parameters / 1e6:.0f} M parameters"
        yield Finding("threads", Verdict.DOUBTFUL, says, "threads=auto")


def _memory(parameters: int, trained: int, device: torch.device) -> Finding:
    figures: Mapping[str, float]
    if device.type == "cuda":
        peak, total = torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
        figures = {"peak": peak, "total": total}
        says = f"{peak / GIB:.1f} of {total / GIB:.0f} GiB of the device at the peak"
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        figures, says = {"peak": peak}, f"{peak / GIB:.1f} GiB at the peak"
    optimizer = 8 * trained
    says += f", of one micro-batch; the optimizer adds {optimizer / GIB:.2g} GiB for {trained / 1e6:.1f} M of "
    says += f"{parameters / 1e6:.0f} M parameters"
    fits = peak + optimizer <= figures.get("total", float("inf"))
    mend = "" if fits else "model/policy=pretrained_lora, model.module.micro_batch_tokens=…, data.module.max_sessions=…"
    return Finding("memory", Verdict.GOOD if fits else Verdict.BAD, says, mend, {**figures, "optimizer": optimizer})


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
