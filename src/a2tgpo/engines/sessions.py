"""What the engine in process keeps of an episode, and of an action while it is being sampled."""

import asyncio
from dataclasses import dataclass, field

import numpy as np

from a2tgpo.engines.row_cache import LayerStates
from a2tgpo.policies.memory import Memory
from a2tgpo.rollouts.protocols import Sampling

States = list[LayerStates] | Memory
"""What a model has read of one sequence."""


@dataclass(eq=False)
class Prompt:
    """A prompt but for its last token, read once for all sessions of its group."""

    ids: tuple[int, ...]
    to_begin: int
    """Sessions that will still need its states."""
    states: States | None = None


@dataclass(eq=False)
class Session:
    """One episode as the engine sees it: what the model keeps of it, and which tokens still have to be read."""

    prompt: Prompt
    pending: list[int]
    begun: bool = False
    states: States | None = None
    """None before it has begun, and while an action is being sampled."""
    cached: int = 0
    """Number of tokens in `states`."""


@dataclass
class Row:
    """A session while an action is being sampled for it."""

    session: Session
    sampling: Sampling
    uniforms: np.ndarray
    done: asyncio.Future
    joined: bool = False
    """Is it in the batch?"""
    length: int = 0
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: str | None = None


@dataclass
class Usage:
    """How well the machine was used."""

    places: int = 0
    """Rows that its steps could have had: of the sessions that were open when the batch was made as many as are sampled
    side by side."""
    taken: int = 0
    """Rows that they had, less finished ones."""
    idle: float = 0.0
    """Seconds in which it waited for tools."""
