"""What ails a run, or the model in it, is among the findings."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hydra.utils import instantiate

from a2tgpo.check.actions import Ways
from a2tgpo.check.check import Check
from a2tgpo.rollouts.trajectory import Split


@pytest.fixture
def sound(composed):
    """Two episodes of each of two questions of the embedded run."""
    config = composed("experiment=a2tgpo", config_name="check")
    data, learner = (instantiate(part.module, _convert_="all") for part in (config.data, config.model))
    return Check(learner, data, Ways("", 32, 384), nullcontext(), questions=2, samples=2, iterations=3)


def topics(check):
    return {finding.topic: finding for finding in check.run().findings}


def random_in_training(check):
    """A layer that draws numbers of its own in training, as dropout or the router of a mixture of experts may do."""
    layer = check.learner.model.model.layers[0].mlp
    layer.register_forward_hook(lambda m, _, out: torch.dropout(out, 0.3, m.training))


def computed_twice(check):
    check.learner.model.activation_checkpointing_enable({"use_reentrant": False})


def without_reference_calls(check):
    tasks = check.data.tasks.split(Split.TRAIN)
    check.data.tasks = SimpleNamespace(split=lambda split: [replace(tasks[n], reference_calls=()) for n in range(4)])


@torch.no_grad()
def without_a_notion(check):
    for weight in check.learner.model.parameters():
        weight.normal_(0.0, 0.02)


@pytest.mark.parametrize(
    ("ailment", "topic", "verdict", "mend"),
    [
        (random_in_training, "first ratio", "bad", "trainer.precision=32-true"),
        (computed_twice, "activations", "doubtful", "model.policy.gradient_checkpointing=auto"),
        (without_reference_calls, "ranking", "doubtful", "a question file that says what its answers rest on"),
        (without_a_notion, "form", "bad", "python src/warm_up.py"),
    ],
)
def test_an_ailment_is_found_with_what_mends_it(sound, ailment, topic, verdict, mend):
    ailment(sound)
    finding = topics(sound)[topic]
    assert finding.verdict == verdict and finding.mend.startswith(mend)


def test_what_a_run_measures_once_is_no_part_of_an_iteration(sound):
    """With weights in bf16, measuring takes as long as scoring or longer."""
    sound.learner.policy.model.to(torch.bfloat16)
    time = topics(sound)["time"]
    phases = sound.learner.phases.seconds
    assert phases["rounding"] > 0 and sound.learner.log_gain_noise > 0
    whole = sound.data.prompts_per_iteration * sound.data.group_size
    assert time.figures["seconds"]["scoring"] == pytest.approx(phases["scoring"] / 4 * whole)
    per_iteration = sum(time.figures["seconds"].values())
    assert time.figures["run"] == pytest.approx(3 * per_iteration + phases["rounding"])
