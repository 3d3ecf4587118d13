"""Where an episode begins, and what keys its noise."""

from dataclasses import dataclass
from typing import Protocol
from zlib import crc32

from a2tgpo.rollouts.trajectory import Task, Turn

TRAINING_NOISE, EVALUATION_NOISE, FORK_NOISE, ORACLE_NOISE = range(4)
"""Second part of the key of the sampling noise, after the seed: none repeats another's draws."""


class Noise(Protocol):
    """Keys the sampling noise of an episode."""

    def __call__(self, turn: int, state: str | None, context: tuple[int, ...]) -> tuple[int, ...]:
        """Key of the action at index `turn`, taken in this anchor state (None: unknown) behind these tokens."""
        ...


@dataclass(frozen=True)
class SampleNoise:
    """Noise of one sample of a prompt: each turn has draws of its own, whatever happened before."""

    key: tuple[int, ...]

    def __call__(self, turn: int, state: str | None, context: tuple[int, ...]) -> tuple[int, ...]:
        """The key, then the turn."""
        return (*self.key, turn)


@dataclass(frozen=True)
class ForkNoise:
    """Noise of a fork: episodes of a task that meet in a state at the same turn have the same draws, and so differ by
    where they came from and not by chance."""

    key: tuple[int, ...]
    task_id: str
    fork: int

    def __call__(self, turn: int, state: str | None, context: tuple[int, ...]) -> tuple[int, ...]:
        """The key, then state (the context where it is unknown), fork and turn."""
        place = crc32(f"{self.task_id} {context if state is None else state}".encode())
        return (*self.key, place, self.fork, turn)


@dataclass(frozen=True)
class Start:
    """An episode begins with its task alone, or behind turns that were recorded."""

    task: Task
    group: int
    sample: int
    noise: Noise
    prompt_ids: tuple[int, ...] | None = None
    """What was recorded as the prompt of `turns`; None where nothing was recorded."""
    turns: tuple[Turn, ...] = ()
