"""The shapes in the annotations of `method/` and `scoring/` are executed by the tests, and by nothing else."""

import importlib
import os
import pkgutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

from a2tgpo.method import functional
from a2tgpo.method.method import PAPER
from a2tgpo.method.turns import Gains
from a2tgpo.rollouts.trajectory import StopReason, Task, Trajectory, Turn
from a2tgpo.scoring.batch import collate
from a2tgpo.scoring.beliefs import BeliefPlan
from a2tgpo.scoring.score import TokenStats
from tests.helpers.checked_shapes import CHECKED
from tests.helpers.observed import credit_inputs, random_observed, random_tokens

B, T, A, L = 5, 3, 2, 7
"""All different, and none a state more than another."""

MODULES = [
    module.name
    for package in map(importlib.import_module, CHECKED)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
]


def floats(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


def integers(*shape):
    return torch.zeros(shape, dtype=torch.long)


def bools(*shape):
    return torch.ones(shape, dtype=torch.bool)


# ---- the check is there ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*CHECKED, *MODULES])
def test_every_module_was_imported_through_the_hook(name):
    assert type(importlib.import_module(name).__loader__).__module__.startswith("jaxtyping."), name


def test_packages_are_checked_whole():
    assert CHECKED == ("a2tgpo.method", "a2tgpo.scoring", "a2tgpo.oracle")
    named = {"a2tgpo.method.credits.staged", "a2tgpo.scoring.score", "a2tgpo.oracle.metrics"}
    assert len(MODULES) > 40 and named <= set(MODULES)


UNCHECKED = """
import sys, torch
from a2tgpo.method.method import PAPER
assert "beartype" not in sys.modules
assert PAPER.clipper(torch.zeros(3))[0].shape == (3,)  # one axis too few
"""


def test_a_run_neither_checks_nor_imports_beartype():
    source = Path(__file__).parents[2] / "src"
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", UNCHECKED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---- what it refuses -------------------------------------------------------------------------------------------------

FUNCTIONS = {
    "a mask with a turn too many": lambda: functional.discounted_sum(floats(B, T), bools(B, T + 1), 1.0),
    "a belief without the query's state": lambda: functional.information_gain(floats(B, T), bools(B, T)),
    "an axis too few": lambda: functional.turn_groups(integers(B, 1), T),
    "integers for floats": lambda: functional.clip_scale(integers(B, T), 0.3),
    "floats for a mask": lambda: functional.sqrt_rescale(floats(B, T), floats(B, T)),
    "floats for turn ids": lambda: functional.turn_mean(floats(B, L), floats(B, L)),
    "swapped arguments": lambda: functional.to_tokens(integers(B, L), floats(B, T)),
    "swapped arguments of one type": lambda: functional.log_belief(bools(B, A), floats(B, T + 1, A), "first"),
    "text for a number": lambda: functional.clip_scale(floats(B, T), "0.3"),
}


@pytest.mark.parametrize("case", FUNCTIONS)
def test_a_function_refuses(case):
    with pytest.raises(TypeCheckError):
        FUNCTIONS[case]()


def observed():
    return random_observed(0, rows=B, turns=T, aliases=A)


def inputs():
    return credit_inputs(floats(B, T), bools(B, T), bools(B, T), floats(B))


def batch():
    """Five trajectories of three turns and seven tokens."""
    turns = (Turn((3,), (-1.0,), (5,)), Turn((3,), (-1.0,), (5,)), Turn((6,), (-1.0,)))
    task = Task("t", "q", ("a",))
    made = [Trajectory(task, 0, sample, (1, 2), turns, 1.0, StopReason.ANSWERED) for sample in range(B)]
    return collate(made, 0)


def changed(build, name, change):
    """`build()`, which is accepted, with another field."""
    value = build()
    return replace(value, **{name: change(getattr(value, name))})


def swapped(build, first, second):
    value = build()
    return replace(value, **{first: getattr(value, second), second: getattr(value, first)})


def longer(tensor):
    return torch.cat([tensor, tensor], dim=-1)


def more_rows(tensor):
    return torch.cat([tensor, tensor])


FIELDS = {
    observed: ("turn_mask", "process_mask", "state_mask", "state_ids", "node_ids", "action_ids", "n_new_pieces"),
    inputs: ("turn_mask", "gain", "gain_mask", "gain_noise", "belief", "state_ids", "node_ids", "action_ids"),
    batch: ("input_ids", "turn_ids", "rollout_logprobs", "turn_mask", "context_ids", "state_ids"),
}


@pytest.mark.parametrize(("build", "name"), [(build, name) for build, names in FIELDS.items() for name in names])
def test_a_dataclass_refuses_a_field_of_another_shape_or_dtype(build, name):
    other_dtype = torch.Tensor.bfloat16 if name.endswith(("ids", "mask", "pieces")) else torch.Tensor.long
    for fault in (longer, more_rows, other_dtype):
        with pytest.raises(TypeCheckError):
            changed(build, name, fault)


DATACLASSES = {
    "Observed: outcome and group ids swapped": lambda: swapped(observed, "outcome", "group_ids"),
    "Observed: alias and state mask swapped": lambda: swapped(observed, "alias_mask", "state_mask"),
    "CreditInputs: gain and mask swapped": lambda: swapped(inputs, "gain", "gain_mask"),
    "CreditInputs: gain and belief swapped": lambda: swapped(inputs, "gain", "belief"),
    "RolloutBatch: contexts and states swapped": lambda: swapped(batch, "context_ids", "state_ids"),
    "RolloutBatch: lengths and outcome swapped": lambda: swapped(batch, "lengths", "outcome"),
    "Observed: no trajectories": lambda: changed(observed, "trajectories", lambda _: None),
    "RolloutBatch: no credit": lambda: changed(batch, "credit", lambda _: None),
    "Gains: the query's state is missing": lambda: Gains(floats(B, T), bools(B, T), floats(B, T)),
    "BeliefPlan: an index of floats": lambda: BeliefPlan([], floats(B, T + 1, A)),
    "TokenStats: entropy of other tokens": lambda: TokenStats(floats(B, L), floats(B, L + 1)),
    "Method: a part that is none": lambda: replace(PAPER, clipper=0.2),
    "StagedCredit: a stage that is none": lambda: replace(PAPER.credit, normalizer=PAPER.clipper),
    "AdaptiveTurn: text for a number": lambda: replace(PAPER.clipper, eps_low="0.1"),
}


@pytest.mark.parametrize("case", DATACLASSES)
def test_a_dataclass_refuses(case):
    with pytest.raises(TypeCheckError):
        DATACLASSES[case]()


def loss(**others):
    """The method's loss of credit and tokens that belong together."""
    seen = observed()
    tokens = random_tokens(seen.turn_mask, 0, drift=0.1)
    arguments = {
        "logprobs": tokens.logprobs,
        "old_logprobs": tokens.old_logprobs,
        "turn_ids": tokens.turn_ids,
        "credit": PAPER.assign(seen),
        "loss_weight": PAPER.weigh(tokens.turn_ids, tokens.old_logprobs, tokens.rollout_logprobs),
    }
    return PAPER.loss(**arguments | others)


STRATEGIES = {
    "groups of other trajectories": lambda: PAPER.credit.normalizer(floats(B, T), bools(B, T), integers(B + 1)),
    "reward and mask swapped": lambda: PAPER.credit.normalizer(bools(B, T), floats(B, T), integers(B)),
    "a mask of integers": lambda: PAPER.credit.accumulator(floats(B, T), integers(B, T)),
    "an outcome a turn": lambda: PAPER.credit.combiner.combine(floats(B, T), bools(B, T), floats(B, T), bools(B, T)),
    "bounds of one trajectory": lambda: PAPER.clipper(floats(T)),
    "turn ids of floats": lambda: PAPER.ratio(floats(B, L), floats(B, L), floats(B, L)),
    "a bound a turn": lambda: PAPER.surrogate(*[floats(B, L)] * 3, floats(B, T), floats(B, T)),
    "log-probs for turn ids": lambda: PAPER.aggregation(floats(B, L)),
    "log-probs of other tokens": lambda: PAPER.correction(floats(B, L), floats(B, L + 1), integers(B, L)),
    "gains for what was observed": lambda: PAPER.signal(Gains(floats(B, T), bools(B, T), floats(B, T + 1))),
    "what was observed for inputs of credit": lambda: PAPER.credit(observed()),
    "log-probs and turn ids swapped": lambda: PAPER.weigh(floats(B, L), integers(B, L), floats(B, L)),
    "a loss without old log-probs": lambda: loss(old_logprobs=None),
    "a loss of other tokens": lambda: loss(loss_weight=floats(B, L + 50)),
}


@pytest.mark.parametrize("case", STRATEGIES)
def test_a_strategy_or_the_method_refuses(case):
    with pytest.raises(TypeCheckError):
        STRATEGIES[case]()


# ---- what it accepts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_float_is_of_any_precision(dtype):
    gain = torch.tensor([[0.1, 0.3, 0.2]], dtype=dtype)
    assert PAPER.credit.accumulator(gain, bools(1, 3)).dtype == dtype
    assert PAPER.clipper(gain)[0].dtype == dtype
    assert functional.turn_mean(gain, integers(1, 3)).dtype == dtype


def test_an_int_serves_as_a_hyper_parameter_and_an_empty_axis_as_an_axis():
    assert replace(PAPER.clipper, beta=0).beta == 0
    loss()
    scored = {"answer_logprob": floats(B, T + 1, 0), "alias_mask": bools(B, 0), "answer_logprob_without": None}
    nobody = replace(observed(), **scored)
    assert nobody.answer_logprob.shape[-1] == 0
