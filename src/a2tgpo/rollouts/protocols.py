"""Who plays an episode: the environment that answers actions, and the engine that samples them. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from a2tgpo.rollouts.trajectory import Call, StopReason, Trajectory

if TYPE_CHECKING:  # environments stay free of torch
    from a2tgpo.policies.policy import Policy


@dataclass(frozen=True)
class Chat:
    """Messages for the model's own chat template: a prompt, or the tool results that follow an action."""

    messages: tuple[Mapping[str, str], ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    """JSON schemas of the tools that the template tells the model of."""
    template: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the template, such as `enable_thinking`."""
    without_tools: tuple[Mapping[str, str], ...] = ()
    """The same messages for a template that knows no tools: told of and answered in messages of system and user."""
    prefix: str = ""
    """What the model's message begins with, behind what the template opens it with; the model goes on from there."""


@dataclass(frozen=True)
class StepResult:
    """What the environment says to one action."""

    observation: str | Chat = ""
    """The tool result as the policy will see it; empty where none follows."""
    stop: StopReason | None = None
    """Why the episode is over; None while it goes on."""
    useful: bool | None = None
    """Did the tool return evidence not seen before? None where nobody knows."""
    calls: tuple[Call, ...] = ()
    """How the action's tool calls went, for those who watch the run; empty where nobody says."""
    action: str | None = None
    """What was done, however it was put: equal for equal tool calls and for equal answers. None where nobody says; then
    only equal tokens are the same action."""
    n_new_pieces: int = 0
    """Texts and passages in the tool result that no earlier one of the episode had; 0 where nobody counts."""


class Environment(Protocol):
    """One object is one episode: it is built from a task, asked for its prompt, played once, dropped. Before a run some
    are only asked for their prompts, to see whether these fit; so what costs much is best begun at the first step.

    What it raises costs this one episode; a SettingError ends the run.
    """

    stop_strings: Sequence[str]
    """Texts that end an action; without any, the model's end token does."""
    deterministic: bool
    """A promise: the same actions on the same task give the same results, so a recorded episode can be replayed."""

    def prompt(self) -> str | Chat:
        """What opens the episode."""
        ...

    def step(self, action_text: str) -> StepResult:
        """Carry out one action."""
        ...

    def state(self) -> str | None:
        """The anchor state: equal where two episodes of a task stand at the same point, whatever was said on the way (a
        search: the set of passages seen). None where nobody knows; then only equal contexts are the same state."""
        ...

    def finish(self, stop: StopReason) -> Mapping[str, float]:
        """Metrics of the episode, however it ended. `success` in [0, 1] is what checkpoints, progress and summary read;
        all others are logged as they are. Of those named `family/member`, held-out figures tell the least and how many
        are high."""
        ...


@runtime_checkable
class Forkable(Protocol):
    """An environment that can be copied where it stands: a prefix is replayed once for all its continuations."""

    def fork(self) -> Environment:
        """A copy that goes on by itself; neither hears of the other's later actions."""
        ...


class Reward(Protocol):
    """What episodes earn. Sees whole groups, so it may compare the trajectories of a prompt."""

    def __call__(self, trajectories: Sequence[Trajectory]) -> Sequence[float]:
        """One finite outcome a trajectory, in order; the trajectories' own `outcome` is not set yet."""
        ...


@dataclass(frozen=True)
class Sampling:
    """How one action is sampled."""

    max_tokens: int
    stop_strings: Sequence[str]
    greedy: bool
    key: tuple[int, ...]
    """Keys the noise: the same key gives the same uniforms, however trajectories are batched or spread over ranks."""


@dataclass(frozen=True)
class Completion:
    """One sampled action: token ids, the log-prob of each in the distribution it was drawn from, and what ended it
    (stop, eos or length). A greedy one may have the log-probs of temperature 1."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: str
    weights_version: int | None = None
    """Of the weights that sampled it, as whoever trains them numbers them; None where nobody does."""


class Engine(Protocol):
    """Samples actions, at the policy's temperature and `top_p` or greedily. Sessions keep what the policy has already
    read; whatever is waiting is batched."""

    async def open(self, prompt_ids: Sequence[int], n: int) -> list[Any]:
        """`n` sessions over one prompt, which is read once for all of them."""
        ...

    async def extend(self, session: Any, new_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Append `new_ids` to what the session has read and sample one action."""
        ...

    def close(self, session: Any) -> None:
        """The session's episode is over."""
        ...

    def sync(self, policy: Policy) -> None:
        """From now on sample from `policy`. Every rank asks.

        An engine that goes forward through the policy's own model gathers its weights (`policies.sharding.gather`),
        since ranks do so differently often; when the rollout is over they are scattered again.
        """
        ...


@runtime_checkable
class OwnWeights(Engine, Protocol):
    """An engine that samples from weights of its own, never through the policy's model: it may play while the policy is
    trained."""

    max_staleness: int
    """Iterations by which the weights that sampled a set may lag behind those that train on it; from 1 on, each set is
    played while the one before is trained on."""
    version: int | None
    """Of the policy's present weights: the iterations that made them. Whoever trains says so before `sync`."""


@runtime_checkable
class Metered(Protocol):
    """An engine that says how well it used the machine."""

    def take_usage(self) -> Mapping[str, float]:
        """Figures since it was asked last."""
        ...
