"""Arithmetic word problems, made from their number: nothing to download, as many as are wanted."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from random import Random

from a2tgpo.environments.safe_arithmetic import evaluate, write_number
from a2tgpo.rollouts.trajectory import Split, Task
from a2tgpo.system.settings import require_all

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Edith", "Finn", "Grace", "Hugo", "Ines", "Jan", "Kira", "Leo")
THINGS = ("apples", "books", "cards", "coins", "eggs", "pens", "shells", "stamps")
_PARTS = {Split.TRAIN: range(0, 8), Split.VALIDATION: range(8, 9), Split.TEST: range(9, 10)}
"""Tenths of all chains of calculations; a chain's checksum says in which it falls."""

SMALL = range(2, 10)


def _steps(name: str, amount: Fraction, rng: Random) -> list[tuple[str, str]]:
    """What may happen to the things that `name` has: a sentence, and the operation on their amount."""
    more, fewer, factor = rng.randint(2, 99), rng.randint(1, max(1, int(amount) - 1)), rng.choice(SMALL)
    steps = [(f"{name} gets {more} more.", f"+ {more}"), (f"Then {name} has {factor} times as many.", f"* {factor}")]
    if fewer < amount:
        steps.append((f"{name} gives {fewer} away.", f"- {fewer}"))
    if parts := [n for n in SMALL if amount % n == 0]:
        part = rng.choice(parts)
        steps.append((f"{name} splits them into {part} equal parts and keeps one.", f"/ {part}"))
    return steps


def make_problem(split: Split, index: int, max_steps: int) -> Task:
    """Problem `index` of `split`; the same whenever it is made. No chain of calculations is in two splits."""
    for attempt in count():
        task = _draw(split, index, max_steps, attempt)
        if zlib.crc32(" ; ".join(task.reference_calls).encode()) % 10 in _PARTS[split]:
            return task


def _draw(split: Split, index: int, max_steps: int, attempt: int) -> Task:
    rng = Random(f"{split}-{index}-{attempt}")
    amount, name, things = Fraction(rng.randint(2, 60)), rng.choice(NAMES), rng.choice(THINGS)
    n_steps, sells = rng.randint(1, max_steps), rng.random() < 0.25
    told, calls, evidence = [f"{name} has {amount} {things}."], [], []
    for step in range(n_steps):
        sentence, operation = rng.choice(_steps(name, amount, rng))
        if sells and step == n_steps - 1:
            price = write_number(Fraction(rng.randint(5, 995), 100))
            sentence, operation, things = f"{name} sells them all for {price} dollars each.", f"* {price}", "dollars"
        calls.append(f"{write_number(amount)} {operation}")
        amount = evaluate(calls[-1])
        evidence.append(write_number(amount))
        told.append(sentence)
    return Task(
        task_id=f"arithmetic-{split}-{index}",
        question=" ".join([*told, f"How many {things} does {name} have now?"]),
        answers=(evidence[-1],),
        reference_calls=tuple(calls),
        evidence=tuple(evidence),
        kind=f"{n_steps} step{'s' * (n_steps > 1)}",
    )


@dataclass(frozen=True)
class WordProblems(Sequence[Task]):
    """The problems of one split, each made when it is asked for."""

    part: Split
    total: int
    max_steps: int

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: int) -> Task:
        if not 0 <= index < self.total:
            raise IndexError(index)
        return make_problem(self.part, index, self.max_steps)


@dataclass(frozen=True)
class ArithmeticTasks:
    """Problems of 1 to `max_steps` calculations with whole or exact decimal answers."""

    max_steps: int
    train_questions: int
    val_questions: int
    test_questions: int

    def __post_init__(self) -> None:
        require_all(vars(self), "data.tasks")

    def split(self, split: Split) -> WordProblems:
        """The problems of `split`."""
        counts = {
            Split.TRAIN: self.train_questions,
            Split.VALIDATION: self.val_questions,
            Split.TEST: self.test_questions,
        }
        return WordProblems(split, counts[split], self.max_steps)
