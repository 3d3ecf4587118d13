"""Can the gain tell turns apart? Beliefs behind calls that help and calls that do not, by wrapper and answer length."""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from a2tgpo.check.findings import Finding, Verdict, graded
from a2tgpo.check.forced import Pairs
from a2tgpo.method.normalizers.turn_group import TurnGroup
from a2tgpo.method.signals.information_gain import InformationGain
from a2tgpo.method.turns import Observed
from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.trajectory import Task
from a2tgpo.scoring.batch import collate
from a2tgpo.scoring.beliefs import encode_answer, plan_beliefs
from a2tgpo.scoring.score import observe, read

Wrapper = tuple[str, str]
LENGTHS = {"1 token": (1, 1), "2 or 3 tokens": (2, 3), "4 tokens and more": (4, 10**9)}
"""Answers by how many tokens they have."""
CHANCE, SURE = 0.55, 0.65
"""Shares of pairs that are ranked right: up to the first it might be chance, from the second the gain is a signal."""
LOST = 0.2
"""Share of right calls that may be worth nothing."""
GAINS = ("prob", "log_prob")


@dataclass(frozen=True)
class WrapperBeliefs:
    """Beliefs in the first accepted answer of N tasks, inside one wrapper."""

    wrapper: Wrapper
    observed: Observed
    """Of each task the episode of its own calls, then of each that of another's; a group a task."""
    lengths: Sequence[int]
    """Tokens of each answer."""

    @property
    def before(self) -> Float[Tensor, " N"]:
        """Log-beliefs (nats, per token) behind the prompt."""
        return self.observed.answer_logprob[: len(self.lengths), 0, 0]

    @property
    def after(self) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
        """Log-beliefs behind the last of a task's own calls, and of another's."""
        states = self.observed.state_mask.sum(1) - 1
        last = self.observed.answer_logprob[torch.arange(len(states)), states, 0]
        own, foreign = last.split(len(self.lengths))
        return own, foreign

    @property
    def ranked(self) -> float:
        """Share of tasks whose own calls raise the belief by more than those of another."""
        own, foreign = self.after
        return float((own > foreign).float().mean())

    def row(self, rows: Sequence[int]) -> dict[str, float]:
        """Figures of these tasks."""
        index = torch.tensor(rows)
        before, own, foreign = (part[index] for part in (self.before, *self.after))
        figures = {
            "questions": len(rows),
            "belief_before": float(before.exp().mean()),
            "belief_own": float(own.exp().mean()),
            "belief_foreign": float(foreign.exp().mean()),
            "log_gain_own": float((own - before).mean()),
            "log_gain_foreign": float((foreign - before).mean()),
            "ranked": float((own > foreign).float().mean()),
        }
        for gain in GAINS:
            gains = InformationGain(gain, "query", "first")(self.observed)
            normalized = TurnGroup("auto")(gains.gain, gains.gain_mask, self.observed.group_ids, gains.noise)
            figures |= {f"pairs_{gain}": self._pairs(gains.gain, gains.gain_mask, rows)}
            figures |= {f"live_{gain}": self._live(normalized, gains.gain_mask, index)}
        return figures

    def _pairs(self, gain: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], rows: Sequence[int]) -> float:
        """Of all pairs of a task's own calls and another's, the share in which its own have the larger gain."""
        n = len(self.lengths)
        above = [(gain[r][mask[r], None] - gain[n + r][mask[n + r]]).flatten() for r in rows]
        return float(torch.cat(above).sign().add(1).div(2).mean())

    def _live(self, normalized: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], index: Tensor) -> float:
        """Share of the turn groups of two that have spread at `resolution: auto`."""
        own, foreign = mask.split(len(self.lengths))
        either, other = normalized.split(len(self.lengths))
        alive = (either != 0) | (other != 0)
        return float(alive[index][(own & foreign)[index]].float().mean())

    def rows_by_length(self) -> dict[str, list[int]]:
        """Tasks by the number of tokens of the answer, and all."""
        rows = {name: [n for n, size in enumerate(self.lengths) if a <= size <= b] for name, (a, b) in LENGTHS.items()}
        rows["all"] = list(range(len(self.lengths)))
        return {name: some for name, some in rows.items() if some}

    def by_length(self) -> dict[str, dict[str, float]]:
        """Figures by the number of tokens of the answer, and of all."""
        return {name: self.row(rows) for name, rows in self.rows_by_length().items()}


def wrappers(own: Wrapper) -> list[Wrapper]:
    """The run's own wrapper first, then what is left of it without blanks beside the answer, and without a thought."""
    found = [own]
    for before, after in (own, (re.sub(r"(?s)\A.*</think>\s*", "", own[0]), own[1])):
        found += [(before, after), (before.rstrip(" "), after.lstrip(" "))]
    return [wrapper for wrapper in dict.fromkeys(found) if wrapper[0]]


def score_wrappers(
    policy: Policy, pairs: Pairs, made: Sequence[Wrapper], token_budget: int, noise: float
) -> list[WrapperBeliefs]:
    """Beliefs inside each of the wrappers `made`, all from one pass over the contexts; `noise` is the rounding error
    (nats) of a difference of two."""
    trajectories = [*pairs.own, *pairs.foreign]
    batch = collate(trajectories, policy.pad_id)
    plans = [
        plan_beliefs(trajectories, batch.context_ids, policy.tokenizer, wrapper, lambda task: task.answers[:1])
        for wrapper in made
    ]
    queries = [query for plan in plans for query in plan.queries]
    found = read(policy, batch, queries, token_budget, with_entropy=False).answer_logprobs
    results = []
    for wrapper, plan, part in zip(made, plans, found.split([len(plan.queries) for plan in plans]), strict=True):
        observed = replace(observe(trajectories, batch, *plan.scatter(part)), log_gain_noise=noise)
        lengths = [_length(policy, task, wrapper) for task in pairs.tasks]
        results.append(WrapperBeliefs(wrapper, observed, lengths))
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
    figures = {str(one.wrapper): one.by_length() for one in found}
    yield Finding("ranking", graded(own.ranked, CHANCE, SURE), says, "", figures)
    best = max(others, key=lambda other: other.ranked, default=own)
    if best.ranked > own.ranked + 0.1:
        says = f"inside {best.wrapper} {best.ranked:.0%} of the questions are ranked right, inside {own.wrapper} "
        says += f"{own.ranked:.0%}"
        yield Finding("wrapper", Verdict.DOUBTFUL, says, chosen(best.wrapper))
    if gain == "prob":
        yield from _size(own, resolution)


def chosen(wrapper: Wrapper) -> str:
    """The override that chooses it, as a shell takes it: a line break stands as itself."""
    before, after = (text.replace('"', '\\"') for text in wrapper)
    return shlex.quote(f'data.dialect.answer_wrapper=["{before}","{after}"]')


def _size(found: WrapperBeliefs, resolution: float) -> Iterator[Finding]:
    """A finding where right calls move small probabilities by less than the resolution."""
    gains = (found.after[0].exp() - found.before.exp()).abs()
    flat = {name: float((gains[rows] <= resolution).float().mean()) for name, rows in found.rows_by_length().items()}
    lost = {name: share for name, share in flat.items() if share > LOST}
    if lost:
        shares = ", ".join(f"{share:.0%} ({name})" for name, share in lost.items())
        says = f"of the gains of right calls {shares} are within {resolution:.1g}: beliefs are small"
        yield Finding(
            "size of gains", Verdict.DOUBTFUL, says, "model.signal.gain=log_prob", {"within_resolution": flat}
        )
