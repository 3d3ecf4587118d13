"""What is rolled out: tasks, turns and trajectories. Plain immutable data, no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Split(StrEnum):
    """Which part of a question set a task belongs to."""

    TRAIN = "train"
    VALIDATION = "val"
    TEST = "test"

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise ValueError(f"split={value}: expected {', '.join(cls)}")


class StopReason(StrEnum):
    """Why an episode ended."""

    ANSWERED = "answered"
    """A well-formed answer was given."""
    MAX_TURNS = "max_turns"
    """The policy asked for one more tool call than allowed."""
    MAX_TOKENS = "max_tokens"
    """An action was cut by a token limit, or a tool result used up what was left."""
    INVALID_ACTION = "invalid_action"
    """The action is neither one tool call nor one answer."""
    TOOL_FAILURE = "tool_failure"
    """The tool failed more often than the environment tolerates."""

    @property
    def keeps_format(self) -> bool:
        """Whether every action was whole and well-formed: none was malformed or cut off."""
        return self not in (StopReason.INVALID_ACTION, StopReason.MAX_TOKENS)


@dataclass(frozen=True)
class Task:
    """One question with its accepted answers."""

    task_id: str
    question: str
    answers: tuple[str, ...]
    """Accepted answers; the first is the canonical one."""
    corpus: str = ""
    """Which collection of passages the retriever searches; empty where it has only one."""
    reference_calls: tuple[str, ...] = ()
    """The arguments of the tool calls that lead to the answer, where the task knows them."""
    evidence: tuple[str, ...] = ()
    """What those calls bring to light (passages, results; `"Title"` is any passage of that page): the truth about which
    call was useful. Empty where the task does not know it."""
    kind: str = ""
    """The kind of question, for reports."""


class CallResult(StrEnum):
    """How a tool call went."""

    FOUND = "found"
    """It brought something."""
    EMPTY = "empty"
    """It was carried out and brought nothing."""
    REFUSED = "refused"
    """The tool told the policy what is wrong with the call."""
    FAILED = "failed"
    """The tool broke, or took too long."""


@dataclass(frozen=True)
class Call:
    """One tool call, as a person reads of it."""

    tool: str
    """The tool's name."""
    result: CallResult
    why: str = ""
    """Why it brought nothing, with all the details that the policy is not bothered with."""


@dataclass(frozen=True)
class Turn:
    """One action as it was sampled, and the tool result that answered it: token deltas, never re-tokenised."""

    action_ids: tuple[int, ...]
    action_logprobs: tuple[float, ...]
    """Log-prob of each sampled token under the distribution it was sampled from."""
    observation_ids: tuple[int, ...] = ()
    action_text: str = ""
    observation_text: str = ""
    useful: bool | None = None
    """Did the tool return evidence not seen before? None where nobody knows."""
    calls: tuple[Call, ...] = ()
    """How the action's tool calls went; empty where the environment does not say."""
    state: str | None = None
    """The anchor state in which the action was taken; None where the environment does not know it."""
    action: str | None = None
    """What the action did, however it was put; None where the environment does not say."""
    n_new_pieces: int = 0
    """Texts and passages in the tool result that no earlier one of the episode had."""
    weights_version: int | None = None
    """Of the weights that sampled the action: the iterations that made them. None where the engine does not say."""

    @property
    def is_process(self) -> bool:
        """A process turn is an action that a tool result followed; only these have an information gain."""
        return bool(self.observation_ids)


@dataclass(frozen=True)
class Trajectory:
    """One episode: prompt, turns, how it ended and what it earned."""

    task: Task
    group: int
    """Index of the prompt in its rollout set: trajectories of one prompt share it."""
    sample: int
    """Index inside the group, 0 … G−1."""
    prompt_ids: tuple[int, ...]
    turns: tuple[Turn, ...]
    outcome: float
    """The outcome reward."""
    stop: StopReason
    metrics: Mapping[str, float] = field(default_factory=dict)
    n_shared: int = 0
    """Turns at its beginning that belong to another trajectory of its group: context here, trained on there."""
    values: tuple[float, ...] = ()
    """Value of the state before each turn and, at the end, the outcome; empty where no forks were played."""

    @property
    def well_formed_actions(self) -> int:
        """How many actions were whole and well-formed: all but the one that was malformed or cut off."""
        return len(self.turns) - (not self.stop.keeps_format and not self.turns[-1].is_process)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Prompt, then action and observation of every turn: exactly what the policy saw."""
        return self.prompt_ids + tuple(i for turn in self.turns for i in (*turn.action_ids, *turn.observation_ids))

    @property
    def token_turns(self) -> tuple[int, ...]:
        """For each of `token_ids` the index of the turn whose action it is, −1 for prompt, observation and what another
        trajectory is trained on."""
        ids = [-1] * len(self.prompt_ids)
        for index, turn in enumerate(self.turns):
            ids += [index if index >= self.n_shared else -1] * len(turn.action_ids) + [-1] * len(turn.observation_ids)
        return tuple(ids)

    @property
    def context_lengths(self) -> tuple[int, ...]:
        """Tokens known at each belief state: after the prompt, then after each process turn's tool result."""
        lengths = [len(self.prompt_ids)]
        end = lengths[0]
        for turn in self.turns:
            end += len(turn.action_ids) + len(turn.observation_ids)
            if turn.is_process:
                lengths.append(end)
        return tuple(lengths)
