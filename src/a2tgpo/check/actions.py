"""Does the policy act? Form, calls, cut actions and what tools bring, in sampled episodes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from a2tgpo.check.findings import Finding, Verdict, graded
from a2tgpo.rollouts.trajectory import CallResult, StopReason, Trajectory
from a2tgpo.system.entry_points import as_called

FEW, MANY = 0.1, 0.5
"""Below the first share of episodes that go well a run hardly starts, above the second it does."""


@dataclass(frozen=True)
class Ways:
    """What would help a policy that does not act, in this run."""

    examples: str
    """The override that shows it worked episodes; empty where it is shown some."""
    max_action_tokens: int
    max_response_tokens: int

    @property
    def to_the_form(self) -> str:
        """Examples first, then a cold start."""
        return self.examples or as_called("python src/warm_up.py, with the same overrides")


def actions(trajectories: Sequence[Trajectory], ways: Ways) -> Iterator[Finding]:
    """Findings about the actions of sampled episodes."""
    yield _form(trajectories, ways)
    yield _calls(trajectories, ways)
    yield _cut(trajectories, ways)
    yield from _results(trajectories)


def _form(trajectories: Sequence[Trajectory], ways: Ways) -> Finding:
    actions = sum(len(t.turns) for t in trajectories)
    well_formed = sum(t.well_formed_actions for t in trajectories)
    kept = sum(t.stop.keeps_format for t in trajectories) / len(trajectories)
    says = f"{well_formed} of {actions} sampled actions are well-formed, {kept:.0%} of the episodes from end to end"
    empty = sum(not turn.action_text.strip() for t in trajectories for turn in t.turns)
    if empty:
        says += f"; {empty} say nothing at all"
    verdict = graded(kept, FEW, MANY)
    figures = {"actions": actions, "well_formed": well_formed, "episodes": kept, "empty": empty}
    return Finding("form", verdict, says, "" if verdict is Verdict.GOOD else ways.to_the_form, figures)


def _calls(trajectories: Sequence[Trajectory], ways: Ways) -> Finding:
    calling = sum(any(turn.calls for turn in t.turns) for t in trajectories) / len(trajectories)
    answering = sum(t.stop is StopReason.ANSWERED for t in trajectories) / len(trajectories)
    verdict = graded(min(calling, answering), FEW, MANY)
    says = f"{calling:.0%} of the episodes call a tool, {answering:.0%} answer; only turns with a result have a gain"
    mend = "" if verdict is Verdict.GOOD else ways.to_the_form
    return Finding("calls and answers", verdict, says, mend, {"calling": calling, "answering": answering})


def _cut(trajectories: Sequence[Trajectory], ways: Ways) -> Finding:
    lengths = [len(turn.action_ids) for t in trajectories for turn in t.turns]
    cut = sum(length == ways.max_action_tokens for length in lengths) / len(lengths)
    ended = [t for t in trajectories if t.stop is StopReason.MAX_TOKENS]
    full = sum(len(t.turns[-1].action_ids) < ways.max_action_tokens for t in ended) / len(trajectories)
    says = f"actions of {sum(lengths) / len(lengths):.0f} tokens, at most {max(lengths)}; {cut:.0%} reach the limit"
    mends = []
    if cut > FEW:
        mends.append(f"data.module.max_action_tokens={2 * ways.max_action_tokens}")
    if full > FEW:
        says += f"; {full:.0%} of the episodes use up their tokens"
        mends.append(f"data.module.max_response_tokens={2 * ways.max_response_tokens}")
    verdict = Verdict.DOUBTFUL if mends else Verdict.GOOD
    return Finding("length", verdict, says, " ".join(mends), {"cut": cut, "longest": max(lengths)})


def _results(trajectories: Sequence[Trajectory]) -> Iterator[Finding]:
    calls = [call for t in trajectories for turn in t.turns for call in turn.calls]
    if not calls:
        return
    found = [call for call in calls if call.result is CallResult.FOUND]
    says = f"{len(found)} of {len(calls)} calls bring something"
    wanting = next((call for call in calls if call.result is not CallResult.FOUND), None)
    if wanting is not None:
        says += f"; the first that does not: {wanting.tool}, {wanting.why}"
    known = [turn.useful for t in trajectories for turn in t.turns if turn.useful is not None]
    if known:
        says += f"; {sum(known) / len(known):.0%} of the turns bring something useful that is new"
    verdict = graded(len(found) / len(calls), FEW, MANY)
    mend = "" if verdict is Verdict.GOOD else "data.retriever…, data.environment.tools…"
    yield Finding("results", verdict, says, mend, {"calls": len(calls), "found": len(found)})
