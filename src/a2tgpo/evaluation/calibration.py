"""A policy's beliefs in the embedded world held against Bayes, state by state."""

from collections.abc import Sequence
from dataclasses import dataclass

from a2tgpo.embedded.posterior import posterior
from a2tgpo.embedded.tasks import world_of
from a2tgpo.embedded.world import World, WorldSize
from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.trajectory import Trajectory
from a2tgpo.scoring.score import score


@dataclass(frozen=True)
class BeliefState:
    """A state of an episode: the probability of the accepted answer to the policy, and to Bayes."""

    kind: str
    """Of the question."""
    results: int
    """That were seen."""
    belief: float
    posterior: float


def belief_states(
    policy: Policy, trajectories: Sequence[Trajectory], size: WorldSize, wrapper: tuple[str, str], token_budget: int
) -> list[BeliefState]:
    """All states of `trajectories`: after the prompt, and after every result.

    The belief is the probability of the whole answer; what signals go by is that of one of its tokens.
    Raises ValueError where relations have no fixed number of objects: the prior of the posterior needs one.
    """
    if size.objects is None:
        raise ValueError("data.tasks.size.objects=null: expected a number, as in data/tasks=embedded_credit")
    scored = score(policy, trajectories, lambda task: task.answers[:1], wrapper, token_budget)
    states = []
    for row, trajectory in enumerate(trajectories):
        world, task = world_of(trajectory.task.corpus, size), trajectory.task
        for results in range(len(trajectory.context_lengths)):
            answer = scored.plan.queries[scored.plan.index[row, results, 0]].answer
            n_tokens = len(answer.ids) - answer.start
            belief = (scored.observed.answer_logprob[row, results, 0] * n_tokens).exp()
            bayes = posterior(world, task, passages_seen(world, trajectory, results), size.objects)
            states.append(BeliefState(task.kind, results, float(belief), bayes[task.answers[0]]))
    return states


def passages_seen(world: World, trajectory: Trajectory, results: int) -> set[str]:
    """The passages in the first so many results of an episode."""
    texts = [turn.observation_text for turn in trajectory.turns if turn.is_process][:results]
    return {passage for passage in world.passages.values() if any(passage in text for text in texts)}


def calibration_gap(states: Sequence[BeliefState]) -> float:
    """Mean |belief − posterior|. Raises ValueError without a state."""
    if not states:
        raise ValueError("calibration_gap: expected at least one state")
    return sum(abs(state.belief - state.posterior) for state in states) / len(states)
