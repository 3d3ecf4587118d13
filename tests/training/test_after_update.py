"""What an update made of each turn: ratios of the hand at every level, clipped where the surrogate clips; how many
characters of a text are a token's."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from a2tgpo.method.method import PAPER
from a2tgpo.method.ratios.sequence import SequenceRatio
from a2tgpo.method.ratios.token import TokenRatio
from a2tgpo.policies.policy import Policy
from a2tgpo.scoring.batch import collate
from a2tgpo.training.after_update import after_update
from a2tgpo.training.record import credit_record, update_record
from tests.helpers.build import build_trajectory

CHANGES = ((0.03, -0.01), (-0.05, -0.05, 0.01))
"""Of the tokens of two turns: means 0.01 and −0.03, over both −0.014."""


@pytest.fixture
def moved(random_policy):
    """A trajectory of two turns of two and three tokens whose log-probs changed by `CHANGES`; bounds 0.02, Â of −1."""
    trajectory = build_trajectory(random_policy, ["a", "b"], [""])
    turns = tuple(
        replace(turn, action_ids=(5,) * len(change), action_logprobs=(-1.0,) * len(change))
        for turn, change in zip(trajectory.turns, CHANGES, strict=True)
    )
    trajectory = replace(trajectory, turns=turns)
    batch = collate([trajectory], random_policy.pad_id)
    bound = torch.full((1, 2), 0.02)
    credit = replace(batch.credit, advantage=torch.full((1, 2), -1.0), clip_low=bound, clip_high=bound)
    change = torch.zeros(batch.turn_ids.shape)
    change[batch.turn_ids >= 0] = torch.tensor([c for turn in CHANGES for c in turn])
    return trajectory, replace(batch, credit=credit), batch.old_logprobs + change


@pytest.mark.parametrize(
    ("ratio", "means", "clipped"),
    [
        (PAPER.ratio, [0.01, -0.03], [0.0, 1.0]),
        (SequenceRatio(), [-0.014, -0.014], [0.0, 0.0]),
        (TokenRatio(), [0.01, -0.03], [0.0, 2 / 3]),
    ],
)
def test_ratios_and_clipped_tokens_are_those_of_the_hand(moved, ratio, means, clipped):
    _, batch, logprobs = moved
    after = after_update(replace(PAPER, ratio=ratio), batch, logprobs)
    torch.testing.assert_close(after.ratio, torch.tensor([means]).exp(), rtol=0, atol=1e-6)
    torch.testing.assert_close(after.clipped, torch.tensor([clipped]), rtol=0, atol=1e-6)


def test_only_the_side_that_the_advantage_pulls_to_is_clipped(moved):
    _, batch, logprobs = moved
    raised = replace(batch, credit=replace(batch.credit, advantage=torch.ones(1, 2)))
    assert after_update(PAPER, raised, logprobs).clipped.tolist() == [[0.0, 0.0]]
    further = torch.where(batch.turn_ids == 0, logprobs + 0.02, logprobs)
    assert after_update(PAPER, raised, further).clipped.tolist() == [[1.0, 0.0]]


def test_the_record_has_the_change_of_each_token(moved, random_policy):
    trajectory, batch, logprobs = moved
    line = update_record(trajectory, batch, 0, after_update(PAPER, batch, logprobs), random_policy)
    assert line["logprob_change"] == [list(turn) for turn in CHANGES]
    assert [len(lengths) for lengths in line["token_lengths"]] == [2, 3]
    assert len(line["ratio"]) == len(line["clipped"]) == 2
    assert json.loads(json.dumps(credit_record(trajectory, batch, 0) | line))["version"] == 4


def bytes_policy():
    """A policy that knows bytes alone, and an end token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate([*alphabet, "<end>"])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    return Policy(SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=None)), tokenizer)


@pytest.mark.parametrize(
    ("text", "cut", "lengths"),
    [
        ("ab c", None, [1, 1, 1, 1]),
        ("aé€b", None, [1, 0, 1, 0, 0, 1, 1]),  # two and three bytes
        ("😀", None, [0, 0, 0, 1]),
        ("a€", 3, [1, 0, 1]),  # cut inside a character, which is shown as one that is not known
        ("a<end>", None, [1, 0]),
        ("", None, []),
    ],
)
def test_characters_of_a_text_belong_to_tokens(text, cut, lengths):
    policy = bytes_policy()
    ids = policy.tokenizer(text, add_special_tokens=False).input_ids[:cut]
    assert policy.text_lengths(ids) == lengths
    assert sum(lengths) == len(policy.decode(ids))
