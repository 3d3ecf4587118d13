"""What process turns are worth: the truth where it is known, and what a server says of them."""

import json
import re
from dataclasses import replace

import pytest
import torch

from a2tgpo.method.signals.process_reward import ProcessReward
from a2tgpo.rollouts.trajectory import StopReason, Task, Trajectory, Turn
from a2tgpo.rollouts.turn_scorers.served import ServedScorer
from a2tgpo.rollouts.turn_scorers.usefulness import usefulness
from a2tgpo.system.errors import SettingError
from tests.helpers.misbehaving_server import Misbehaving
from tests.helpers.observed import from_beliefs
from tests.helpers.shipped import settings

TASK = Task("t", "Who?", ("Varo", "V."), evidence=("Varo is a town.",))


def searched(*useful, task=TASK, answered=True):
    """A trajectory whose searches were useful or not; then an answer, which nothing follows."""
    turns = [Turn((1,), (-1.0,), (2,), f"search {i}", f"result {i}", value) for i, value in enumerate(useful)]
    turns += [Turn((3,), (-1.0,), action_text="answer")] * answered
    return Trajectory(task, 0, 0, (1,), tuple(turns), 0.0, StopReason.ANSWERED)


THREE = [searched(True, False), searched(), searched(None, True, answered=False)]


def test_a_useful_call_scores_one_and_any_other_nothing():
    assert usefulness(THREE) == [[1.0, 0.0], [], [0.0, 1.0]]


def test_the_truth_is_refused_where_nobody_knows_it():
    with pytest.raises(SettingError, match=r"^model\.signal\.scorer=usefulness: task t does not .*; expected questi"):
        usefulness([searched(None, task=replace(TASK, evidence=()))])


def reward(scorer, trajectories=THREE):
    """The gains of these trajectories."""
    counts = torch.tensor([sum(turn.is_process for turn in t.turns) for t in trajectories])
    states = torch.arange(4) <= counts[:, None]
    turn_mask = torch.arange(3) < torch.tensor([len(t.turns) for t in trajectories])[:, None]
    seen = from_beliefs(torch.full(states.shape, 0.5), states, turn_mask=turn_mask)
    return ProcessReward(scorer)(replace(seen, trajectories=trajectories))


def test_scores_stand_at_their_turns():
    gains = reward(usefulness)
    assert gains.gain.tolist() == [[1.0, 0.0, 0.0], [0.0] * 3, [0.0, 1.0, 0.0]]
    assert gains.gain_mask.tolist() == [[True, True, False], [False] * 3, [True, True, False]]
    assert not gains.belief.any() and ProcessReward(usefulness).answers(TASK) == ()


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([[1.0, 0.0], []], "one list of scores a trajectory"),
        ([[1.0, 0.0], [], [1.0]], "with one a process turn"),
        ([[1.0, 0.0], [], [1.0, float("nan")]], "a score is no finite number"),
    ],
)
def test_a_scorer_that_says_anything_else_is_refused(scores, expected):
    with pytest.raises(ValueError, match=rf"^model\.signal\.scorer: .*{expected}"):
        reward(lambda trajectories: scores)


def served(server, **changes):
    given = settings("model/signal/served_process_reward", "scorer") | {"url": server.url} | changes
    return ServedScorer(**{name: value for name, value in given.items() if name != "_target_"})


def answer(*scores):
    return json.dumps({"scores": scores}).encode()


def test_a_server_is_told_the_turns_and_says_what_they_are_worth():
    with Misbehaving(lambda n: [answer([0.5, -1], []), answer([0, 2.5])][n]) as server:
        assert served(server, batch_size=2)(THREE) == [[0.5, -1], [], [0, 2.5]]
    first, second = (request["trajectories"] for request in server.asked)
    turns = [{"action": f"search {i}", "observation": f"result {i}"} for i in range(2)]
    assert first[0] == {"question": "Who?", "answers": ["Varo", "V."], "turns": turns}
    assert first[1]["turns"] == [] and [len(one["turns"]) for one in second] == [2]


def test_a_server_that_is_busy_is_asked_again():
    with Misbehaving(lambda n: [503, "close", answer([1.0])][n]) as server:
        assert served(server)([searched(True)]) == [[1.0]]
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (404, "the request was refused with status 404"),
        (500, "no answer for 0.2 s (model.signal.scorer.patience); last status 500"),
        (b"{}", "expected {'scores': […]} with one list of numbers a trajectory, one a turn, found {}"),
        (b"well", 'found "well"'),
        (answer([1.0, 2.0]), 'one a turn, found {"scores": [[1.0, 2.0]]}'),
        (answer(["good"]), 'found {"scores": [["good"]]}'),
        (answer([True]), 'found {"scores": [[true]]}'),
        (answer(1.0), 'found {"scores": [1.0]}'),
        (json.dumps({"scores": 1}).encode(), 'found {"scores": 1}'),
    ],
)
def test_a_server_that_says_anything_else_ends_the_run_by_its_address(act, said):
    with Misbehaving(lambda n: act) as server:
        with pytest.raises(ValueError, match=re.escape(said)) as error:
            served(server, patience=0.2)([searched(True)])
        assert str(error.value).startswith(f"model.signal.scorer.url={server.url}: ")


@pytest.mark.parametrize(
    ("name", "value"), [("batch_size", 0), ("patience", -1.0), ("timeout", 0.0), ("url", "server")]
)
def test_what_cannot_work_is_refused_by_its_key(name, value):
    with pytest.raises(SettingError, match=rf"^model\.signal\.scorer\.{name}="):
        ServedScorer(**{"url": "http://127.0.0.1:1", "timeout": 1.0, "patience": 1.0, "batch_size": 1} | {name: value})
