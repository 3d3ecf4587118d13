"""A run directory of one small group whose arithmetic can be done by hand, and variations of it."""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

PARTS = "a2tgpo.method"
PARTS_OF_METHOD = {
    "signal": {
        "_target_": f"{PARTS}.signals.information_gain.InformationGain",
        "gain": "prob",
        "baseline": "query",
        "aliases": "first",
    },
    "credit": {
        "_target_": f"{PARTS}.credits.staged.StagedCredit",
        "outcome": {"_target_": f"{PARTS}.normalizers.prompt_group.PromptGroup", "resolution": 1e-6},
        "normalizer": {"_target_": f"{PARTS}.normalizers.turn_group.TurnGroup", "resolution": "auto"},
        "accumulator": {"_target_": f"{PARTS}.accumulators.variance_rescaled.VarianceRescaled", "gamma": 1.0},
        "combiner": {"_target_": f"{PARTS}.combiners.additive.Additive", "alpha": 0.5},
    },
    "clipper": {
        "_target_": f"{PARTS}.clippers.adaptive_turn.AdaptiveTurn",
        "beta": 0.3,
        "eps_low": 0.01,
        "eps_high": 0.02,
    },
}
REST = {
    "ratio": {"_target_": f"{PARTS}.ratios.turn.TurnRatio"},
    "surrogate": {"_target_": f"{PARTS}.surrogates.ppo.PPO"},
    "aggregation": {"_target_": f"{PARTS}.aggregations.seq_mean_token_mean.SeqMeanTokenMean"},
    "correction": {"_target_": f"{PARTS}.corrections.none.NoCorrection"},
}
MODEL = PARTS_OF_METHOD | {"method": {"_target_": f"{PARTS}.method.Method"} | PARTS_OF_METHOD | REST}
NARROW, WIDE = 0.86136484, 1.1386352
"""1 + 0.3·(2σ(∓1) − 1)"""


def turn(action: str, observation: str = "", useful: bool | None = None) -> dict[str, Any]:
    """A turn as rollout files have it."""
    ids = {"action_ids": [1], "action_logprobs": [-0.5], "observation_ids": [2] if observation else []}
    calls = [{"tool": "search", "result": "found", "why": ""}] if observation else []
    return {"action": action, "observation": observation, **ids, "useful": useful, "calls": calls}


def line(sample: int, outcome: float, turns: Sequence[Mapping[str, Any]], **credit: Sequence[Any]) -> dict[str, Any]:
    """A line of version 3; each action is one token."""
    n_turns = len(turns)
    return {
        "task_id": "t-1",
        "question": "Who rules Kinu?",
        "answers": ["Nore"],
        "kind": "2",
        "group": 0,
        "sample": sample,
        "n_shared": 0,
        "prompt_ids": [1, 2],
        "turns": list(turns),
        "outcome": outcome,
        "stop": "answered",
        "metrics": {"success": outcome},
        "version": 3,
        "state_ids": list(range(n_turns)),
        "did_ids": [10 * sample + t for t in range(n_turns)],
        "n_new_pieces": [0] * n_turns,
        "values": [],
        "ratio": [1.0] * n_turns,
        "clipped": [0.0] * n_turns,
        "logprob_change": [[0.0]] * n_turns,
        "token_lengths": [[len(turn["action"])] for turn in turns],
        **credit,
    }


GROUP = [
    line(
        0,
        0.0,
        [turn("ask for Sivo", "nothing of use", False), turn("answer Sivo")],
        belief=[0.05, 0.15],
        gain=[0.1, 0.0],
        has_gain=[True, False],
        normalized_gain=[-1.0, 0.0],
        advantage=[-1.5, -1.0],
        turn_credit=[-0.5, 0.0],
        clip_low=[0.01 * NARROW, 0.01],
        clip_high=[0.02 * NARROW, 0.02],
        ratio=[0.984127, 1.0],
        clipped=[1.0, 0.0],
        logprob_change=[[-0.04, 0.008], [0.0]],
        token_lengths=[[4, 8], [11]],
    ),
    line(
        1,
        1.0,
        [turn("ask for Kinu", "Kinu has a king", True), turn("ask for the king", "Nore", True), turn("answer Nore")],
        belief=[0.05, 0.35, 0.85],
        gain=[0.3, 0.5, 0.0],
        has_gain=[True, True, False],
        normalized_gain=[1.0, 0.0, 0.0],
        advantage=[1.3535534, 1.0, 1.0],
        turn_credit=[0.35355338, 0.0, 0.0],
        clip_low=[0.01 * WIDE, 0.01, 0.01],
        clip_high=[0.02 * WIDE, 0.02, 0.02],
    ),
]
"""Turn 1: gains 0.1 and 0.3, mean 0.2, σ 0.1, so îg is −1 and 1. Turn 2: one gain. R̂ is −1 and 1, α 0.5."""


UPDATED = ("ratio", "clipped", "logprob_change", "token_lengths")
NEWER = ("state_ids", "did_ids", "n_new_pieces", "values", "weights_version", *UPDATED)
"""What version 2 has not."""


def older(version: int) -> list[dict[str, Any]]:
    """The lines of `GROUP` as version 1 or 2 wrote them."""
    gone = NEWER if version == 2 else (*NEWER, "version", "turn_credit")
    known = {} if version == 1 else {"version": version}
    return [{key: value for key, value in one.items() if key not in gone} | known for one in group()]


def group(**changes: Any) -> list[dict[str, Any]]:
    """The lines of `GROUP`, with other values of keys that stand once in a line."""
    return [copy.deepcopy(one) | changes for one in GROUP]


Files = Mapping[str, Sequence[Mapping[str, Any]]]
"""Lines by the stem of their file."""


def leave_viewed_run(directory: Path, files: Files, forks: Files | None = None) -> Path:
    """A run with these lines in `rollouts/` and `forks/`."""
    (directory / "rollouts").mkdir(parents=True)
    told = {"experiment": "a2tgpo", "overrides": ["experiment=a2tgpo", "seed=3"]}
    config = {"seed": 3, "model": MODEL, "callbacks": {"summary": told}}
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    (directory / "summary.json").write_text('{"val/success/start": 0.25, "test/success": 0.75}')
    columns = "iteration,train/success,update/clip_fraction,val/success\n"
    (directory / "metrics.csv").write_text(f"{columns}0,,,0.25\n1,0.5,0.0,\n2,0.625,0.0312,0.5\n")
    for folder, own in (("rollouts", files), ("forks", forks or {})):
        (directory / folder).mkdir(exist_ok=True)
        for stem, lines in own.items():
            text = "".join(json.dumps(one) + "\n" for one in lines)
            (directory / folder / f"{stem}.jsonl").write_text(text)
    return directory
