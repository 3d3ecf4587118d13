"""Can the gain tell turns apart? Beliefs behind calls that help and calls that do not, by wrapper and answer length."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from a2tgpo.check.actions import graded
from a2tgpo.check.findings import Finding, Verdict
from a2tgpo.environments.protocols import Action
from a2tgpo.environments.tool_use import ToolUse
from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.demonstrated import DemonstratedEngine
from a2tgpo.rollouts.loop import Rollout
from a2tgpo.rollouts.trajectory import Task, Trajectory
from a2tgpo.scoring.batch import collate
from a2tgpo.scoring.beliefs import encode_answer, plan_beliefs
from a2tgpo.scoring.score import read
from a2tgpo.tasks.demonstrations import from_reference_calls

Wrapper = tuple[str, str]
LENGTHS = {"1 token": (1, 1), "2 or 3": (2, 3), "4 and more": (4, 10**9)}
"""Answers by how many tokens they have."""
CHANCE, SURE = 0.55, 0.65
"""Shares of pairs that are ranked right: up to the first it might be chance, from the second the gain is a signal."""


@dataclass(frozen=True)
class Pairs:
    """Of each task the episode of its own reference calls, and one of another task's, which do not help it."""

    tasks: Sequence[Task]
    own: Sequence[Trajectory]
    foreign: Sequence[Trajectory]


def force(rollout: Rollout, policy: Policy, tasks: Sequence[Task]) -> Pairs | None:
    """Play them with the real tools; None where fewer than two tasks know their reference calls."""
    episodes = {task.task_id: rollout.environment(task) for task in tasks if task.reference_calls}
    known = [task for task in tasks if isinstance(episodes.get(task.task_id), ToolUse)]
    known = [task for task in known if len(episodes[task.task_id].schemas) == 1]
    if len(known) < 2:
        return None
    calls = [task.reference_calls for task in known]
    played = [
        _play(rollout, policy, known, [_actions(episodes[t.task_id], t, c) for t, c in zip(known, some, strict=True)])
        for some in (calls, [*calls[1:], *calls[:1]])
    ]
    both = [n for n in range(len(known)) if n in played[0] and n in played[1]]
    if len(both) < 2:
        return None
    return Pairs([known[n] for n in both], *([side[n] for n in both] for side in played))


def _actions(episode: ToolUse, task: Task, calls: Sequence[str]) -> list[str]:
    example = from_reference_calls(replace(task, reference_calls=tuple(calls)), episode.schemas)
    said = [text for turn in example.turns for text in episode.dialect.write(Action(turn.calls), turn.thought)]
    return [*said, *episode.dialect.write(Action(answer=task.answers[0]))]


def _play(
    rollout: Rollout, policy: Policy, tasks: Sequence[Task], actions: Sequence[Sequence[str]]
) -> dict[int, Trajectory]:
    """By number of the task, those that had a result."""
    player = replace(rollout, engine=DemonstratedEngine(lambda key: actions[key[-2]]))
    played = player.run(policy, list(enumerate(tasks)), 1, (0,), greedy=False)
    return {trajectory.group: trajectory for trajectory in played if len(trajectory.context_lengths) > 1}


@dataclass(frozen=True)
class WrapperBeliefs:
    """Log-beliefs (nats, per token) in the first accepted answer of each task, inside one wrapper."""

    wrapper: Wrapper
    before: Float[Tensor, " N"]
    own: Float[Tensor, " N"]
    """After the last of its reference calls."""
    foreign: Float[Tensor, " N"]
    lengths: Sequence[int]
    """Tokens of each answer."""

    @property
    def ranked(self) -> float:
        """Share of tasks whose own calls raise the belief by more than those of another."""
        return float((self.own > self.foreign).float().mean())

    def row(self, rows: Sequence[int]) -> dict[str, float]:
        """Figures of these tasks."""
        index = torch.tensor(rows)
        before, own, foreign = (part[index] for part in (self.before, self.own, self.foreign))
        return {
            "questions": len(rows),
            "belief_before": float(before.median().exp()),
            "gain_own": float((own.exp() - before.exp()).mean()),
            "gain_foreign": float((foreign.exp() - before.exp()).mean()),
            "log_gain_own": float((own - before).mean()),
            "log_gain_foreign": float((foreign - before).mean()),
            "ranked": float((own > foreign).float().mean()),
        }

    def by_length(self) -> dict[str, dict[str, float]]:
        """Figures by the number of tokens of the answer, and of all."""
        rows = {name: [n for n, size in enumerate(self.lengths) if a <= size <= b] for name, (a, b) in LENGTHS.items()}
        every = list(range(len(self.lengths)))
        return {name: self.row(some) for name, some in {**rows, "all": every}.items() if some}


def wrappers(own: Wrapper) -> list[Wrapper]:
    """The run's own wrapper first, then what is left of it without blanks beside the answer, and without a thought."""
    found = [own]
    for before, after in (own, (re.sub(r"(?s)\A.*</think>\s*", "", own[0]), own[1])):
        found += [(before, after), (before.rstrip(" "), after.lstrip(" "))]
    return [wrapper for wrapper in dict.fromkeys(found) if wrapper[0]]


def score_wrappers(policy: Policy, pairs: Pairs, own: Wrapper, token_budget: int) -> list[WrapperBeliefs]:
    """Beliefs inside each of `wrappers(own)`, all from one pass over the contexts."""
    trajectories = [*pairs.own, *pairs.foreign]
    batch = collate(trajectories, policy.pad_id)
    made = wrappers(own)
    plans = [
        plan_beliefs(trajectories, batch.context_ids, policy.tokenizer, wrapper, lambda task: task.answers[:1])
        for wrapper in made
    ]
    queries = [query for plan in plans for query in plan.queries]
    found = read(policy, batch, queries, token_budget, with_entropy=False).answer_logprobs
    results = []
    for wrapper, plan, part in zip(made, plans, found.split([len(plan.queries) for plan in plans]), strict=True):
        logprobs, _, states = plan.scatter(part)
        last = logprobs[torch.arange(len(states)), states.sum(1) - 1, 0]
        n = len(pairs.tasks)
        lengths = [_length(policy, task, wrapper) for task in pairs.tasks]
        results.append(WrapperBeliefs(wrapper, logprobs[:n, 0, 0], last[:n], last[n:], lengths))
    return results


def _length(policy: Policy, task: Task, wrapper: Wrapper) -> int:
    encoded = encode_answer(policy.tokenizer, task.answers[0], wrapper)
    return len(encoded.ids) - encoded.start


def beliefs(found: Sequence[WrapperBeliefs], gain: str, resolution: float) -> Iterator[Finding]:
    """Findings about the run's own wrapper, and about a better one."""
    own, *others = found
    table = own.by_length()
    says = "after its own reference calls the belief in the answer is above that after another's in "
    says += ", ".join(f"{row['ranked']:.0%} of {row['questions']} questions ({name})" for name, row in table.items())
    figures = {str(beliefs.wrapper): beliefs.by_length() for beliefs in found}
    yield Finding("ranking", graded(own.ranked, CHANCE, SURE), says, "", figures)
    best = max(others, key=lambda other: other.ranked, default=own)
    if best.ranked > own.ranked + 0.1:
        says = f"inside {best.wrapper} {best.ranked:.0%} of the questions are ranked right, inside {own.wrapper} "
        says += f"{own.ranked:.0%}"
        mend = f"data.dialect.answer_wrapper={list(best.wrapper)!r}"
        yield Finding("wrapper", Verdict.DOUBTFUL, says, mend)
    gains = (own.own.exp() - own.before.exp()).abs()
    flat = float((gains <= resolution).float().mean())
    if gain == "prob" and flat > 0.2:
        says = f"{flat:.0%} of the gains of right calls are within {resolution:.1g}: beliefs are small"
        yield Finding(
            "size of gains", Verdict.DOUBTFUL, says, "model.signal.gain=log_prob", {"within_resolution": flat}
        )
