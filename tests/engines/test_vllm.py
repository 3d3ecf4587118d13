"""A served rollout equals one in process, follows the weights, and survives its server; over real sockets."""

import asyncio
import copy
import json
import math
import threading
import time
from dataclasses import replace

import pytest
import torch
from hydra.utils import instantiate
from peft import LoraConfig, get_peft_model

from a2tgpo.engines.vllm import VllmEngine, request_seed
from a2tgpo.engines.weight_sync.ipc import IpcSync
from a2tgpo.engines.weight_sync.lora import LoraSync
from a2tgpo.engines.weight_sync.nccl import NcclSync
from a2tgpo.engines.weight_sync.reload import ReloadSync
from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.protocols import Sampling
from a2tgpo.scoring.batch import collate
from a2tgpo.scoring.score import read
from a2tgpo.system.errors import SettingError
from tests.engines.test_huggingface import PROMPTS, assert_same, favour_end, play
from tests.helpers.completions_server import CompletionsServer
from tests.helpers.plain_engine import PlainEngine
from tests.helpers.shipped import pretrained_policy
from tests.helpers.tiny_runs import SHIPPED, SMALL, finish, start, table


@pytest.fixture
def policy(random_policy):
    """A policy with a LoRA adapter that does something."""
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=4, lora_alpha=8)
    adapted = Policy(get_peft_model(copy.deepcopy(random_policy.model), lora).eval(), random_policy.tokenizer)
    move(adapted)
    return adapted


@pytest.fixture
def servers(policy_dir, random_policy):
    """All servers of a test, the newest last; they are stopped after it."""
    running = [CompletionsServer(policy_dir, random_policy.tokenizer)]
    yield running
    running[-1].stop()


@pytest.fixture
def server(servers):
    return servers[0]


@pytest.fixture
def engine(server, tmp_path):
    return make(server, LoraSync(str(tmp_path / "served")))


def make(server, weight_sync, **changes):
    settings = {"max_staleness": 0, "timeout": 20.0, "patience": 10.0, "max_concurrency": 8}
    return VllmEngine(server.url, "policy", weight_sync, **(settings | changes))


def move(policy, seed=0):
    """An update: other trainable weights."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in policy.model.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn_like(weight))


def complete(engine, prompt, **changes):
    sampling = Sampling(**({"max_tokens": 12, "stop_strings": ("@@",), "greedy": False, "key": (1, 2)} | changes))

    async def both():
        (session,) = await engine.open(prompt, 1)
        return await engine.extend(session, (), sampling)

    return asyncio.run(both())


def greedy_episodes(policy, engine):
    return play(policy, engine, group_size=1, greedy=True)


# ---- Tokens ----------------------------------------------------------------------------------------------------------


def test_greedy_episodes_equal_those_in_process(policy, engine):
    assert_same(greedy_episodes(policy, engine), greedy_episodes(policy, PlainEngine()))


def test_each_turn_sends_the_exact_ids_of_the_episode_so_far(policy, engine, server):
    (trajectory,) = play(policy, engine, prompts=PROMPTS[:1], group_size=1)
    expected, ids = [], list(trajectory.prompt_ids)
    for turn in trajectory.turns:
        expected.append(list(ids))
        ids += [*turn.action_ids, *turn.observation_ids]
    assert [body["prompt"] for body in server.asked("/v1/completions")] == expected and len(expected) == 4


def test_served_logprobs_are_the_scored_ones(policy, engine):
    batch = collate(play(policy, engine, group_size=2), policy.pad_id)
    scored = read(policy, batch, [], 100_000).tokens.logprobs
    torch.testing.assert_close(batch.rollout_logprobs, scored, rtol=0, atol=1e-5)


def test_served_logprobs_are_the_scored_ones_at_any_temperature(policy, engine, server):
    policy = replace(policy, temperature=0.7)
    batch = collate(play(policy, engine, group_size=2), policy.pad_id)
    scored = read(policy, batch, [], 100_000).tokens.logprobs
    torch.testing.assert_close(batch.rollout_logprobs, scored, rtol=0, atol=1e-5)


def test_a_request_says_how_it_is_sampled(policy, engine, server):
    warm = replace(policy, temperature=0.7, top_p=0.9)
    for played, greedy in ((warm, True), (warm, False), (policy, False)):
        engine.sync(played)
        complete(engine, range(10, 20), greedy=greedy)
    asked = [(body["temperature"], body["top_p"], body["max_tokens"]) for body in server.asked("/v1/completions")]
    assert asked == [(0.0, 1.0, 12), (0.7, 1e-4, 1), (0.7, 0.9, 12), (1.0, 1.0, 12)]


@pytest.mark.parametrize("how", [{"temperature": 0.7}, pytest.param({"top_p": 0.9}, marks=pytest.mark.slow)], ids=str)
def test_a_server_that_tells_other_logprobs_than_it_draws_from_is_refused(policy, engine, server, how):
    server.raw_logprobs = True
    engine.sync(replace(policy, **how))
    with pytest.raises(SettingError, match=r"^data.engine.url=.*expected .*--logprobs-mode processed_logprobs"):
        complete(engine, range(10, 20))
    assert play(replace(policy, **how), engine, greedy=True) and play(policy, engine)


def test_how_an_action_ended_is_told_by_its_last_token(policy, engine, server):
    engine.sync(policy)
    favour_end(list(server.policies.values())[-1], 4.0)
    done = [complete(engine, range(10, 20), stop_strings=("e",), key=(key,)) for key in range(30)]
    ended = {completion.finish: completion.ids for completion in done}
    assert ended["eos"][-1] == policy.tokenizer.eos_token_id and ended["eos"].count(ended["eos"][-1]) == 1
    assert "e" in policy.tokenizer.decode(ended["stop"]) and "e" not in policy.tokenizer.decode(ended["stop"][:-1])
    assert len(complete(engine, range(10, 20), max_tokens=1).ids) == 1


def test_seeds_are_a_function_of_the_key():
    keys = [(1, 2), (2, 1), (1, 2, 0), (0, 1, 2), (1,)]
    assert len({request_seed(key) for key in keys}) == len(keys)
    assert request_seed((1, 2)) == request_seed((1, 2)) and all(0 <= request_seed(key) < 2**63 for key in keys)


# ---- Weights ---------------------------------------------------------------------------------------------------------


def greedy_logprobs(engine, policy):
    engine.sync(policy)
    return complete(engine, range(10, 20), greedy=True).logprobs


def test_an_adapter_is_pushed_when_it_changed_and_the_last_one_dropped(policy, engine, server, tmp_path):
    before = greedy_logprobs(engine, policy)
    assert greedy_logprobs(engine, policy) == before
    assert len(server.asked("/v1/load_lora_adapter")) == 1
    move(policy, seed=1)
    after, plain = greedy_logprobs(engine, policy), PlainEngine()
    assert after == pytest.approx(greedy_logprobs(plain, policy), abs=1e-5)
    assert max(abs(a - b) for a, b in zip(after, before, strict=True)) > 1e-3
    assert len(server.policies) == 2 and len(list((tmp_path / "served").iterdir())) == 1


def test_whole_models_are_reloaded_in_place(random_policy, server, tmp_path):
    engine = make(server, ReloadSync(str(tmp_path / "served")))
    greedy_logprobs(engine, random_policy)
    move(random_policy)
    assert greedy_logprobs(engine, random_policy) == pytest.approx(
        greedy_logprobs(PlainEngine(), random_policy), abs=1e-5
    )
    assert len(server.asked("/collective_rpc")) == len(server.asked("/reset_prefix_cache")) == 2


def test_stale_weights_are_allowed_in_training_only(policy, server, tmp_path):
    engine = make(server, LoraSync(str(tmp_path / "served")), max_staleness=3)
    staleness, versions = [], []
    for update in range(5):
        move(policy, seed=update)
        policy.model.train()
        engine.version = update
        engine.sync(policy)
        staleness.append(engine.staleness)
        versions.append(complete(engine, range(10, 20)).weights_version)
    # what is sampled is trained on an iteration later, three behind at most
    assert staleness == [0, 1, 2, 0, 1] and len(server.asked("/v1/load_lora_adapter")) == 2
    assert versions == [0, 0, 0, 3, 3]
    policy.model.eval()
    engine.sync(policy)
    assert engine.staleness == 0 and len(server.asked("/v1/load_lora_adapter")) == 3
    assert complete(engine, range(10, 20)).weights_version == 4


def test_weights_that_did_not_change_have_the_newest_version(policy, engine):
    for version in (None, 4, 5):
        engine.version = version
        engine.sync(policy)
        assert complete(engine, range(10, 20)).weights_version == version


def test_a_server_on_a_cpu_is_not_asked_to_load_in_place(random_policy, server, tmp_path):
    server.device = "cpu"
    with pytest.raises(ValueError, match=r"data/engine/weight_sync=reload: the server at .* computes on a CPU"):
        make(server, ReloadSync(str(tmp_path))).sync(random_policy)
    assert not server.asked("/collective_rpc")


@pytest.mark.parametrize("path", ["/collective_rpc", "/reset_prefix_cache", "/update_weight_version"])
def test_a_server_that_cannot_take_weights_says_so_at_once(random_policy, server, tmp_path, path):
    server.broken = {path}
    with pytest.raises(
        ValueError, match=rf"data.engine.url={server.url}: weights were not taken; {path}.*not configured"
    ):
        make(server, ReloadSync(str(tmp_path)), patience=1000.0).sync(random_policy)


@pytest.mark.parametrize("kind", ["lora", "reload", "ipc", "nccl"])
def test_a_pusher_names_the_policy_it_cannot_push(kind, policy, random_policy, server, tmp_path):
    weight_sync = {
        "lora": LoraSync(str(tmp_path)),
        "reload": ReloadSync(str(tmp_path)),
        "ipc": IpcSync(),
        "nccl": NcclSync(),
    }
    with pytest.raises(ValueError, match=f"^data/engine/weight_sync={kind}: expected a policy with"):
        make(server, weight_sync[kind]).sync(random_policy if kind == "lora" else policy)


@pytest.mark.parametrize(("kind", "weight_sync"), [("ipc", IpcSync()), ("nccl", NcclSync())])
def test_weights_in_main_memory_are_not_sent_to_a_gpu(kind, weight_sync, random_policy, server):
    with pytest.raises(ValueError, match=f"^data/engine/weight_sync={kind}: the policy is on cpu"):
        make(server, weight_sync).sync(random_policy)


@pytest.mark.slow
@pytest.mark.parametrize("max_staleness", [0, 1])
def test_of_two_ranks_one_pushes_and_both_sample_from_what_it_pushed(tmp_path, max_staleness):
    server = CompletionsServer(SHIPPED, pretrained_policy(str(SHIPPED)).tokenizer)
    settings = ("experiment=a2tgpo", "model/policy=tiny_lora", "model/reference=disabled_adapter", *SMALL)
    settings += ("data/engine=vllm", f"data.engine.url={server.url}", f"data.engine.max_staleness={max_staleness}")
    settings += ("model.optimizer.lr=1e-2", "trainer=ddp_cpu", "trainer.max_epochs=2", f"hydra.run.dir={tmp_path}")
    process = start("train.py", *settings)
    _, errors = finish(process, 200)
    server.stop()
    assert process.returncode == 0, errors[-2000:]
    loaded = [body["lora_name"] for body in server.asked("/v1/load_lora_adapter")]
    assert len(loaded) == len(set(loaded)) == len(server.asked("/v1/unload_lora_adapter")) + 1 >= 3
    _, *rows = table(tmp_path)
    gaps = [float(row["policy/rollout_gap_max"]) for row in rows]
    assert len(gaps) == 2 and gaps[0] < 1e-4 and (gaps[1] < 1e-4) == (max_staleness == 0)
    assert [float(row["policy/rollout_staleness_max"]) for row in rows] == [0.0, float(max_staleness)]


@pytest.mark.slow
def test_ranks_that_refill_do_not_play_ahead(tmp_path):
    settings = ("experiment=a2tgpo", "model/policy=tiny_lora", "model/reference=disabled_adapter", *SMALL)
    settings += ("data/engine=vllm", "data.engine.max_staleness=1", "data.module.refill_rounds=2")
    process = start("train.py", *settings, "trainer=ddp_cpu", f"hydra.run.dir={tmp_path}")
    _, errors = finish(process, 200)
    said = "error: data.engine.max_staleness=1: expected 0 with data.module.refill_rounds=2 on 2 ranks"
    assert process.returncode == 1 and said in errors


# ---- Failures --------------------------------------------------------------------------------------------------------


GATEWAY = [b"<html>Bad gateway</html>", b'{"choices": [{"token_i', b'{"error": "try later"}']
"""What stands in a server's place says, with status 200."""


LIKE_500 = [pytest.param(status, marks=pytest.mark.slow) for status in (503, 408, 429)]


@pytest.mark.parametrize("fault", [500, *LIKE_500, "drop", *GATEWAY])
def test_a_failed_request_is_sent_again(policy, engine, server, fault):
    expected = greedy_episodes(policy, engine)
    server.faults = [fault] * 3
    assert_same(greedy_episodes(policy, engine), expected)
    assert not server.faults


SAMPLED = {"finish_reason": "stop", "token_ids": [5, 6], "logprobs": {"token_logprobs": [-1.0, -2]}}
NO_SAMPLES = [
    {"token_ids": None},
    {"token_ids": [5]},
    {"token_ids": [5, "6"]},
    {"token_ids": [5, -6]},
    {"token_ids": [5, 10**6]},
    {"token_ids": [5] * 13, "logprobs": {"token_logprobs": [-1.0] * 13}},
    {"logprobs": None},
    {"logprobs": [-1.0, -2.0]},
    {"logprobs": {"token_logprobs": [-1.0, None]}},
    {"logprobs": {"token_logprobs": [-1.0, math.nan]}},
    {"logprobs": {"token_logprobs": [-1.0, -math.inf]}},
]


@pytest.mark.parametrize("choice", [None, 1, {}, *(SAMPLED | wrong for wrong in NO_SAMPLES)])
def test_a_completion_of_another_form_is_refused_at_once(policy, engine, server, choice):
    engine.sync(policy)
    server.faults = [json.dumps({"choices": [choice]}).encode()]
    with pytest.raises(ValueError, match=rf"^data.engine.url={server.url}: a completion without .*expected a server"):
        complete(engine, range(10, 20))
    server.faults = [json.dumps({"choices": [SAMPLED]}).encode()]
    assert complete(engine, range(10, 20)).ids == (5, 6)


@pytest.mark.parametrize("models", [{}, {"data": None}, {"data": [None, {"name": "policy"}]}, ["policy"]])
def test_a_list_of_models_of_another_form_ends_in_one_line(policy, server, tmp_path, monkeypatch, models):
    monkeypatch.setattr(CompletionsServer, "get", lambda self, path: (200, models))
    monkeypatch.setattr(CompletionsServer, "post", lambda self, path, body: (404, {}))
    with pytest.raises(ValueError, match=r"no answer for 0 s .* expected an answer with data|data/engine/weight_sync"):
        make(server, LoraSync(str(tmp_path)), patience=0.0).sync(policy)


def test_an_adapter_that_the_server_forgot_is_loaded_again(policy, engine, server):
    engine.sync(policy)
    expected = complete(engine, range(10, 20), greedy=True)
    (name,) = server.policies.keys() - {"policy"}
    del server.policies[name]
    assert complete(engine, range(10, 20), greedy=True) == expected and name in server.policies


def test_a_silent_server_is_asked_again_after_the_time_limit(policy, server, tmp_path):
    engine = make(server, LoraSync(str(tmp_path / "served")), timeout=1.0)
    engine.sync(policy)
    server.faults = [3.0]
    assert len(complete(engine, range(10, 20), max_tokens=1).ids) == 1
    assert len(server.asked("/v1/completions")) == 2


def test_a_dead_server_ends_the_rollout_in_one_line_and_in_bounded_time(policy, server, tmp_path):
    engine = make(server, LoraSync(str(tmp_path / "served")), patience=1.0)
    server.die_after = 5
    start = time.monotonic()
    with pytest.raises(ValueError, match=rf"data.engine.url={server.url}: no answer for 1 s .*start it again"):
        greedy_episodes(policy, engine)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("kind", ["lora", "reload"])
def test_nothing_is_lost_when_the_server_comes_back(kind, policy, random_policy, servers, tmp_path):
    played = policy if kind == "lora" else random_policy
    weight_sync = {"lora": LoraSync, "reload": ReloadSync}[kind](str(tmp_path / "served"))
    engine, server = make(servers[0], weight_sync), servers[0]
    move(played, seed=3)
    server.die_after = 5

    def start_again():
        server.closed.wait()
        servers.append(server.start_again())

    watcher = threading.Thread(target=start_again)
    watcher.start()
    trajectories = greedy_episodes(played, engine)
    watcher.join()
    assert_same(trajectories, greedy_episodes(played, PlainEngine()))
    assert len(servers) == 2 and servers[1].asked("/v1/completions")


def test_a_refusal_ends_the_rollout_at_once(policy, engine, server):
    engine.sync(policy)
    with pytest.raises(ValueError, match=r"was refused with status 400.*max_model_len"):
        complete(engine, range(10, 20), max_tokens=510)
    assert len(server.asked("/v1/completions")) == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.engine.url=localhost:8000", "data.engine.url='localhost:8000': expected http"),
        ("data.engine.timeout=0", "data.engine.timeout=0: expected seconds > 0"),
        ("data.engine.patience=-1", "data.engine.patience=-1: expected seconds >= 0"),
        ("data.engine.max_staleness=-1", "data.engine.max_staleness=-1: expected an integer >= 0"),
        ("data.engine.max_concurrency=0", "data.engine.max_concurrency=0: expected an integer >= 1"),
    ],
)
def test_a_bad_setting_is_named(composed, override, message):
    config = composed("experiment=a2tgpo", "data/engine=vllm", override)
    with pytest.raises(Exception, match=r"data\.engine") as caught:
        instantiate(config.data.engine, _convert_="all")
    assert message in str(caught.value.__cause__)
