"""Every Protocol of the project on one page: what can be swapped, and through which calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from a2tgpo.rollouts.trajectory import Split, StopReason, Task, Trajectory

if TYPE_CHECKING:  # environments and retrievers stay free of torch
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from a2tgpo.engines.http_client import Server
    from a2tgpo.engines.weight_sync.weights import Served
    from a2tgpo.policies.policy import Policy
    from a2tgpo.scoring.batch import RolloutBatch
    from a2tgpo.system.timing import PhaseTimer

# ---- Rollouts --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chat:
    """Messages for the model's own chat template: a prompt, or the tool results that follow an action."""

    messages: tuple[Mapping[str, str], ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    """JSON schemas of the tools that the template tells the model of."""
    template: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the template, such as `enable_thinking`."""


@dataclass(frozen=True)
class StepResult:
    """What the environment says to one action."""

    observation: str | Chat = ""
    """The tool result as the policy will see it; empty where none follows."""
    stop: StopReason | None = None
    """Why the episode is over; None while it goes on."""
    useful: bool | None = None
    """Did the tool return evidence not seen before? None where nobody knows."""
    empty: bool = False
    """The tool was called and found nothing."""


class EmptyCorpus(ValueError):
    """A retriever has nothing to search in: a wrong setting, not a tool that failed, so it ends the run."""


class Retriever(Protocol):
    """Finds passages. Raises EmptyCorpus where there are none at all."""

    def search(self, query: str, topk: int, corpus: str = "") -> list[str]:
        """The best `topk` passages for `query`, best first."""
        ...


@dataclass(frozen=True)
class Tool:
    """A tool as the policy is told of it; all arguments are texts."""

    name: str
    description: str
    parameters: Mapping[str, str]
    """Description of each argument."""


@dataclass(frozen=True)
class ToolCall:
    """A tool's name and its arguments, as the policy wrote them."""

    name: str
    arguments: Mapping[str, str]


@dataclass(frozen=True)
class Action:
    """One well-formed action: tool calls, or an answer."""

    calls: tuple[ToolCall, ...] = ()
    answer: str | None = None


class Dialect(Protocol):
    """How an environment and a policy speak with each other."""

    answer_wrapper: tuple[str, str]
    """The text around an answer that makes it a well-formed action; beliefs are scored inside it."""
    layout: Callable[[Sequence[str]], str]
    """How found passages are written into a result."""

    def stop_texts(self, tools: Sequence[Tool]) -> Sequence[str]:
        """Texts that end an action; without any, the model's end token does."""
        ...

    def prompt(self, question: str, tools: Sequence[Tool]) -> str | Chat:
        """What opens the episode."""
        ...

    def parse(self, text: str, tools: Sequence[Tool]) -> Action | None:
        """The action that `text` stands for, None where it is malformed."""
        ...

    def observe(self, results: Sequence[str], tools: Sequence[Tool]) -> str | Chat:
        """The results of an action's tool calls, as the policy will see them."""
        ...


class Environment(Protocol):
    """One object is one episode: build it from a task, run it once, drop it."""

    stop_texts: Sequence[str]
    """Texts that end an action; without any, the model's end token does."""
    answer_wrapper: tuple[str, str]

    def prompt(self) -> str | Chat:
        """What opens the episode."""
        ...

    def step(self, action_text: str) -> StepResult:
        """Carry out one action."""
        ...

    def finish(self, stop: StopReason) -> tuple[float, dict[str, float]]:
        """Outcome reward and metrics of the episode, however it ended. `em` and `f1` are expected among the metrics:
        checkpoints, progress and summary go by them."""
        ...


@dataclass(frozen=True)
class Sampling:
    """How one action is sampled."""

    max_tokens: int
    stop_texts: Sequence[str]
    greedy: bool
    key: tuple[int, ...]
    """Keys the noise: the same key gives the same uniforms, however trajectories are batched or spread over ranks."""


@dataclass(frozen=True)
class Completion:
    """One sampled action: token ids, the log-prob each was sampled with, and what ended it (stop, eos or length)."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: str


class Engine(Protocol):
    """Samples actions. Sessions keep what the policy has already read; whatever is waiting is batched."""

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
        """From now on sample from `policy`."""
        ...


class Pusher(Protocol):
    """Brings new weights to a server that an engine samples from."""

    def save(self, policy: Policy, weights: dict[str, Tensor], base: str) -> Served:
        """Write `weights` where the server finds them; `base` names the model that the server was started with."""
        ...

    def load(self, server: Server, served: Served) -> None:
        """Have the server sample from them; nothing where it already does."""
        ...

    def drop(self, server: Server, served: Served) -> None:
        """Forget weights that were replaced."""
        ...


class Tasks(Protocol):
    """A set of questions in three splits."""

    def split(self, split: Split) -> Sequence[Task]:
        """The tasks of one split in a fixed order; may make each when it is asked for."""
        ...


class Learner(Protocol):
    """What the data module needs of the learner."""

    policy: Policy
    phases: PhaseTimer

    def require_room(self, tasks: Sequence[Task], longest: int) -> None:
        """Raises ValueError where a trajectory of `longest` tokens would leave no room to score an answer."""
        ...

    def prepare(self, trajectories: Sequence[Trajectory]) -> RolloutBatch:
        """Score trajectories and give credit to their turns; groups must be complete."""
        ...


# ---- Strategies. Axes: B trajectories, T turns, L tokens, A accepted answers -----------------------------------------


class Signal(Protocol):
    """What each turn taught."""

    @property
    def max_aliases(self) -> int:
        """How many accepted answers must be scored; 0 for none."""
        ...

    def __call__(
        self,
        answer_logprob: Float[Tensor, "B T+1 A"],
        alias_mask: Bool[Tensor, "B A"],
        state_mask: Bool[Tensor, "B T+1"],
    ) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T+1"], Bool[Tensor, "B T"]]:
        """Gain, belief and gain mask."""
        ...


class Normalizer(Protocol):
    """Makes rewards comparable. Serves as `model/normalizer`, and on [B, 1] as `model/outcome`."""

    def __call__(
        self, reward: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], group_ids: Int[Tensor, " B"]
    ) -> Float[Tensor, "B T"]:
        """Normalised reward, 0 where ~mask."""
        ...


class Accumulator(Protocol):
    """Sums what is still to come."""

    def __call__(self, reward: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """Accumulated reward, 0 where ~mask."""
        ...


class Combiner(Protocol):
    """Brings turn rewards and outcome together: before the normaliser (`place`) or after the accumulator."""

    def place(
        self,
        gain: Float[Tensor, "B T"],
        gain_mask: Bool[Tensor, "B T"],
        outcome: Float[Tensor, " B"],
        turn_mask: Bool[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "B T'"], Bool[Tensor, "B T'"]]:
        """The rewards that are pooled, and their mask; the first T columns stay the turns."""
        ...

    def combine(
        self,
        accumulated: Float[Tensor, "B T'"],
        outcome_hat: Float[Tensor, " B"],
        turn_mask: Bool[Tensor, "B T"],
    ) -> Float[Tensor, "B T"]:
        """Advantage of every turn."""
        ...


class Credit(Protocol):
    """From gains and outcomes to advantages."""

    def __call__(
        self,
        gain: Float[Tensor, "B T"],
        belief: Float[Tensor, "B T+1"],
        gain_mask: Bool[Tensor, "B T"],
        turn_mask: Bool[Tensor, "B T"],
        outcome: Float[Tensor, " B"],
        group_ids: Int[Tensor, " B"],
        state_ids: Int[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
        """Normalised gain and advantage of every turn."""
        ...


class Clipper(Protocol):
    """How far a turn's ratio may move."""

    def __call__(self, normalized: Float[Tensor, "B T"]) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
        """(low, high): the ratio is kept in [1 − low, 1 + high]; inf opens a side."""
        ...


class Ratio(Protocol):
    """At which level the new policy is compared with the old one."""

    def __call__(
        self,
        logprobs: Float[Tensor, "B L"],
        old_logprobs: Float[Tensor, "B L"],
        turn_ids: Int[Tensor, "B L"],
    ) -> Float[Tensor, "B L"]:
        """Log-ratio of every action token, with its plain gradient."""
        ...


class Surrogate(Protocol):
    """The loss of a token."""

    def __call__(
        self,
        log_ratio: Float[Tensor, "B L"],
        logprobs: Float[Tensor, "B L"],
        advantage: Float[Tensor, "B L"],
        low: Float[Tensor, "B L"],
        high: Float[Tensor, "B L"],
    ) -> Float[Tensor, "B L"]:
        """Loss per token."""
        ...


class Aggregation(Protocol):
    """Share of each token in the loss of its global mini-batch: loss = Σ weight · loss per token."""

    def __call__(self, turn_ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """Weight per token, 0 where no action token is."""
        ...


class Correction(Protocol):
    """What a token counts that was not sampled by the trainer's own policy: a factor of its share in the loss."""

    def __call__(
        self,
        old_logprobs: Float[Tensor, "B L"],
        rollout_logprobs: Float[Tensor, "B L"],
        turn_ids: Int[Tensor, "B L"],
    ) -> Float[Tensor, "B L"]:
        """Factor per action token, 0 elsewhere."""
        ...
