"""Three tasks whose every advantage is known: a mistake that can be mended, an early choice, when to stop.

After agent-credit-bench v0.5 (https://github.com/hectopascal/agent-credit-bench), under the policy that chooses
uniformly, or stops with probability ½. Rewards come with the last turn, so they are the outcome.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from a2tgpo.method.turns import CreditInputs
from tests.helpers.observed import credit_inputs

Then = str | float
"""What follows an action: the next state, or the outcome that ends the episode."""
Task = Mapping[str, Mapping[str, Mapping[Then, float]]]
"""By state and action what follows, with its probability; `start` opens the episode."""

RECOVERY: Task = {
    "start": {"good": {1.0: 1.0}, "bad": {"mistake": 1.0}},
    "mistake": {"recover": {1.0: 1.0}, "give up": {0.0: 1.0}},
}
"""A bad first turn can be mended by the second."""


def delayed(horizon: int, good: float = 0.8, bad: float = 0.2) -> Task:
    """The first turn decides how likely success is; `horizon` − 1 turns follow that change nothing."""
    task = {"start": {"good": {"good 1": 1.0}, "bad": {"bad 1": 1.0}}}
    for t in range(1, horizon):
        for kind, success in (("good", good), ("bad", bad)):
            then = {1.0: success, 0.0: 1 - success} if t == horizon - 1 else {f"{kind} {t + 1}": 1.0}
            task[f"{kind} {t}"] = {"left": then, "right": then}
    return task


def stopping(rewards: tuple[float, ...] = (0.0, 2.0, 1.0, 3.0, 0.0)) -> Task:
    """Each turn stops for its reward or goes on, the last must stop. Going on is right at turns 0 and 2 alone."""
    names = ["start", *(f"alive {t}" for t in range(1, len(rewards)))]
    task = {
        name: {"stop": {reward: 1.0}, "go on": {then: 1.0}}
        for name, then, reward in zip(names, names[1:], rewards, strict=False)
    }
    return task | {names[-1]: {"stop": {rewards[-1]: 1.0}}}


def value(task: Task, state: Then) -> float:
    """V(s) under the uniform policy; an outcome is worth itself."""
    if not isinstance(state, str):
        return state
    return sum(worth(task, state, action) for action in task[state]) / len(task[state])


def worth(task: Task, state: str, action: str) -> float:
    """Q(s, a) under the uniform policy."""
    return sum(probability * value(task, then) for then, probability in task[state][action].items())


def paths(task: Task, state: Then = "start") -> Iterator[tuple[float, tuple[tuple[str, str], ...], float]]:
    """Every course an episode can take: its probability, its (state, action) pairs, its outcome."""
    if not isinstance(state, str):
        yield 1.0, (), state
        return
    for action, results in task[state].items():
        for then, chance in results.items():
            for probability, further, outcome in paths(task, then):
                share = chance * probability / len(task[state])
                yield share, ((state, action), *further), outcome


@dataclass(frozen=True)
class Population:
    """A group in which every course occurs as often as its probability says, with each turn's exact advantage."""

    inputs: CreditInputs
    value: Tensor
    """V where each turn is taken."""
    advantage: Tensor
    """Q − V of each turn."""
    courses: list[tuple[str, ...]]
    """The actions of each trajectory."""

    def given_to(self, course: tuple[str, ...], advantage: Tensor) -> list[float]:
        """What `advantage` gives to the turns of the first trajectory that took this course."""
        return advantage[self.courses.index(course), : len(course)].tolist()


def population(task: Task, size: int) -> Population:
    """`size` trajectories of one prompt; every probability times `size` must be whole."""
    courses = [course for course in paths(task) for _ in range(round(course[0] * size))]
    assert len(courses) == size
    width = max(len(steps) for _, steps, _ in courses)
    turn_mask = torch.arange(width) < torch.tensor([len(steps) for _, steps, _ in courses])[:, None]
    values, exact = torch.zeros(2, size, width, dtype=torch.float64)
    state_ids, action_ids = torch.full((2, size, width), -1)
    known: dict[str, int] = {}
    for row, (_, steps, _) in enumerate(courses):
        for t, (state, action) in enumerate(steps):
            values[row, t] = value(task, state)
            exact[row, t] = worth(task, state, action) - value(task, state)
            state_ids[row, t], action_ids[row, t] = (known.setdefault(name, len(known)) for name in (state, action))
    outcome = torch.tensor([outcome for *_, outcome in courses], dtype=torch.float64)
    inputs = credit_inputs(torch.zeros_like(exact), turn_mask & False, turn_mask, outcome)
    inputs = replace(inputs, state_ids=state_ids, action_ids=action_ids)
    return Population(inputs, values, exact, [tuple(action for _, action in steps) for _, steps, _ in courses])
