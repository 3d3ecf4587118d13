"""A value that cannot work is refused at once, by the name it has on the command line."""

import math
import re
from pathlib import Path

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue

CONFIGS = Path(__file__).parents[2] / "configs" / "model"

BAD = [
    ("clipper/adaptive_turn", "beta", 1.2, "model.clipper.beta=1.2: expected a number >= 0 and < 1"),
    ("clipper/adaptive_turn", "beta", 1.0, "model.clipper.beta=1.0: expected a number >= 0 and < 1"),
    ("clipper/adaptive_turn", "beta", -0.1, "model.clipper.beta=-0.1: expected a number >= 0 and < 1"),
    ("clipper/adaptive_turn", "eps_low", 0.0, "model.clipper.eps_low=0.0: expected a number or inf > 0"),
    ("clipper/adaptive_turn", "eps_high", math.nan, "model.clipper.eps_high=nan: expected a number or inf > 0"),
    ("clipper/fixed", "eps_low", -1.0, "model.clipper.eps_low=-1.0: expected a number or inf > 0"),
    ("clipper/fixed", "eps_high", 0.0, "model.clipper.eps_high=0.0: expected a number or inf > 0"),
    ("accumulator/discounted", "gamma", 0.0, "model.accumulator.gamma=0.0: expected a number > 0 and <= 1"),
    ("accumulator/variance_rescaled", "gamma", 1.1, "model.accumulator.gamma=1.1: expected a number > 0 and <= 1"),
    (
        "normalizer/turn_group",
        "resolution",
        -1e-9,
        "model.normalizer.resolution=-1e-09: expected a number >= 0 or auto",
    ),
    (
        "normalizer/prompt_group",
        "resolution",
        math.nan,
        "model.normalizer.resolution=nan: expected a number >= 0 or auto",
    ),
    ("normalizer/batch", "resolution", -1.0, "model.normalizer.resolution=-1.0: expected a number >= 0 or auto"),
    ("accumulator/window", "length", 0, "model.accumulator.length=0: expected an integer >= 1"),
    ("credit/turn_leave_one_out", "lone", "mean", "model.credit.lone='mean': expected outcome or raw"),
    ("credit/belief_baseline", "lam", 1.1, "model.credit.lam=1.1: expected a number >= 0 and <= 1"),
    ("credit/belief_baseline", "penalty", 0.0, "model.credit.penalty=0.0: expected a number > 0"),
    ("signal/reference_progress", "offset", 0.0, "model.signal.offset=0.0: expected a number > 0"),
    ("combiner/additive", "alpha", math.inf, "model.combiner.alpha=inf: expected a number <= 1000000000"),
    ("signal/information_gain", "gain", "logprob", "model.signal.gain='logprob': expected prob or log_prob"),
    ("signal/information_gain", "baseline", "none", "model.signal.baseline='none': expected query or first_turn"),
    ("signal/information_gain", "aliases", "all", "model.signal.aliases='all': expected first, max or mean"),
    ("outcome/successes", "threshold", math.nan, "model.outcome.threshold=nan: expected a number"),
    ("aggregation/token_sum_norm", "max_length", 0, "model.aggregation.max_length=0: expected an integer >= 1"),
]


@pytest.mark.parametrize(("file", "field", "value", "message"), BAD)
def test_refused_in_one_line(file, field, value, message):
    config = OmegaConf.load(CONFIGS / f"{file}.yaml")
    config[field] = value
    with pytest.raises(InstantiationException, match=re.escape(message)) as caught:
        instantiate(config)
    assert isinstance(caught.value.__cause__, ValueError)
    assert str(caught.value.__cause__) == message


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        ("clipper/adaptive_turn", "beta", 0.0),
        ("clipper/adaptive_turn", "eps_high", math.inf),
        ("clipper/fixed", "eps_low", math.inf),
        ("accumulator/discounted", "gamma", 1.0),
        ("normalizer/turn_group", "resolution", 0.0),
        ("combiner/additive", "alpha", 0.0),
        ("aggregation/token_sum_norm", "max_length", 1),
    ],
)
def test_the_edge_of_what_is_allowed(file, field, value):
    config = OmegaConf.load(CONFIGS / f"{file}.yaml")
    config[field] = value
    assert getattr(instantiate(config), field) == value


def test_misspelt_argument_is_refused():
    config = OmegaConf.load(CONFIGS / "clipper" / "fixed.yaml")
    config["eps_hihg"] = 0.1
    with pytest.raises(InstantiationException, match="eps_hihg"):
        instantiate(config)


def test_max_length_has_no_default():
    with pytest.raises(MissingMandatoryValue, match="max_length"):
        instantiate(OmegaConf.load(CONFIGS / "aggregation" / "token_sum_norm.yaml"))
