"""The table of what values may be covers every number of every yaml, and holds whatever is thrown at it."""

import math

import numpy as np
import pytest
from omegaconf import OmegaConf

from a2tgpo.system.errors import SettingError
from a2tgpo.system.limit_table import LIMITS
from a2tgpo.system.limits import number
from a2tgpo.system.settings import require, require_all
from tests.helpers.yaml_keys import NUMBERS, VALUES

NO_NUMBER = ["abc", "", [1], [], {"a": 1}, True, False, math.nan, -math.inf, 1e30, -1e30, 10**30, -(10**30), 10**400]
MAY_BE_NULL = {"questions", "data.tasks.limit", "data.tasks.size.objects", "data.tasks.size.person_words"}
MAY_BE_INF = {"model.clipper.eps_low", "model.clipper.eps_high", "model.module.max_grad_norm"}
ELSEWHERE = {"trainer.devices", "model.optimizer.betas"}
"""Not single numbers; see below."""
WHOLE = {key for key, value in NUMBERS.items() if isinstance(value, int)} - {"model.policy.lora.lora_alpha"}
WHOLE -= {key for key in NUMBERS if key.endswith((".hours", ".memory_gib", ".tflops"))}


def refused(key, value):
    """Is it refused, in words that begin with the key and say what was expected?"""
    try:
        require(key, value)
    except SettingError as error:
        assert str(error).startswith(f"{key}=") and ": expected " in str(error) and "\n" not in str(error)
        return True
    return False


def test_every_number_of_every_yaml_is_in_the_table():
    assert len(NUMBERS) > 60
    assert set(NUMBERS) <= set(LIMITS)


def test_every_entry_of_the_table_stands_in_a_yaml():
    nodes = {key.rsplit(".", depth)[0] for key in VALUES for depth in range(1, key.count(".") + 1)}
    assert set(LIMITS) <= set(VALUES) | nodes


@pytest.mark.parametrize("key", VALUES)
def test_what_stands_in_the_yamls_is_admitted(key):
    for value in VALUES[key]:
        if key in LIMITS and value != "???" and "${" not in str(value):
            require(key, value)


@pytest.mark.parametrize("key", sorted(set(NUMBERS) - ELSEWHERE))
def test_what_is_no_number_of_use_is_refused_by_its_key(key):
    wrong = NO_NUMBER + ([] if key in MAY_BE_NULL else [None]) + ([] if key in MAY_BE_INF else [math.inf])
    assert [value for value in wrong + [1.5] * (key in WHOLE) if not refused(key, value)] == []


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("trainer.devices", [0, -2, 1.5, True, None, "", "abc", "cpu", [-1], ["a"], {}, 10**30, math.nan]),
        (
            "model.optimizer.betas",
            [0.9, None, [0.9], [0.9, 1.0], [0.9, "a"], [0.9, True], [-0.1, 0.9], [math.nan, 0]],
        ),
        ("model.optimizer.lr", [0, -1, 11]),
        ("model.module.max_grad_norm", [0, -1]),
        ("model.module.max_skipped_steps", [0]),
        ("data.environment.max_tool_failures", [0]),
        ("data.environment.tool_timeout", [0, -1]),
        ("data.environment.tools.search.topk", [0]),
        ("callbacks.rollout_files.max_files", [0]),
        ("callbacks.histograms.every", [0]),
        ("callbacks.checkpoint.monitor", [None, "", "success", "train/reward", 1]),
        ("threads", [0, -1, 100_000]),
        ("trainer.max_epochs", [-1, 0]),
        ("trainer.check_val_every_n_epoch", [0]),
        ("trainer.accelerator", [None, "quantum", 1]),
        ("trainer.precision", ["16", 16, "bf16", None]),
        ("data.dialect.answer_tag", [None, "", "a b", "<answer>", 1]),
        ("data.dialect.answer_pattern", [None, "", "(", ".*", 3]),
        ("data.dialect.answer_wrapper", [None, "ab", ["a"], ["a", "b", "c"], ["a", 1]]),
        ("data.dialect.call_tags", ["query", ["query"], {"search": None}, {"search": "<q>"}]),
        ("data.dialect.prompt_template", [None, "", "no slot", 1]),
        ("data.dialect.chat", [None, "yes", 1]),
        (
            "data.retriever.url",
            [None, "", "localhost:8000", "ftp://a", "http://", "http://a:b", "http://a:99999", 80],
        ),
        ("data.retriever.protocol", [None, "grpc"]),
        ("data.tasks.train", [3, [3], True, ""]),
        ("model.policy.dtype", [None, "float16", "float64", 32]),
        ("model.signal.gain", [None, "logprob"]),
        ("model.clipper", [None, "fixed", 3, [], {}]),
        ("data.retriever", ["bm25", 3, [], {}]),
        ("seed", [-1, 2**32]),
        ("port", [-1, 65536]),
    ],
)
def test_what_cannot_work_is_refused_by_its_key(key, wrong):
    assert [value for value in wrong if not refused(key, value)] == []


@pytest.mark.parametrize(
    ("key", "right"),
    [
        ("trainer.devices", [1, 8, "auto", -1, "-1", "0,1", [0, 1]]),
        ("model.clipper.eps_high", [0.2, 1, math.inf, np.float32(0.5)]),
        ("model.module.max_grad_norm", [1, 0.5, math.inf]),
        ("model.combiner.alpha", [0, -1.0, 1.0]),
        ("data.module.group_size", [8, np.int64(8)]),
        ("data.retriever", [None, {"_target_": "mine.Retriever"}, object()]),
        ("data.dialect.call_tags", [None, {}, {"search": "query"}]),
        ("data.retriever.url", ["http://127.0.0.1:8000/retrieve", "https://a.b", "http://[::1]:80/x"]),
        ("data.tasks.train", [None, "a.jsonl", ["a.jsonl", "b.parquet"]]),
    ],
)
def test_what_can_work_is_admitted(key, right):
    assert [value for value in right if refused(key, value)] == []


def test_values_of_a_part_from_elsewhere_are_its_own_business():
    clipper = {"_target_": "mine.Clipper", "beta": 2, "eps_low": None}
    require_all({"model": {"clipper": clipper, "mine": 1}, "mine": None})
    with pytest.raises(SettingError, match=r"^model\.clipper\.beta=2: expected"):
        require_all({"model": {"clipper": clipper | {"_target_": "a2tgpo.method.clippers.fixed.Fixed"}}})


def test_a_limit_of_one_s_own():
    with pytest.raises(SettingError, match=r"^model\.normalizer\.scale=0: expected a number > 0$"):
        require("model.normalizer.scale", 0, number(above=0))


def test_one_value_of_a_configuration_is_refused_by_its_whole_key():
    config = OmegaConf.to_container(OmegaConf.create({"data": {"module": {"_target_": "a2tgpo.X", "seed": -1}}}))
    with pytest.raises(SettingError, match=r"^data\.module\.seed=-1: expected an integer >= 0 and <= 4294967295$"):
        require_all(config)
