"""Rollouts from a real vLLM: the same tokens, log-probs that follow the weights, and a server that dies."""

import json
import subprocess
import threading
import time
from dataclasses import dataclass, replace

import pytest
import torch
from hydra.utils import instantiate
from lightning import Callback

from a2tgpo.engines.huggingface import HuggingFaceEngine
from a2tgpo.engines.weight_sync.ipc import update_info
from a2tgpo.engines.weight_sync.nccl import init_info
from a2tgpo.engines.weight_sync.weights import description
from a2tgpo.rollouts.trajectory import Split
from a2tgpo.scoring.batch import collate
from a2tgpo.scoring.score import token_stats
from a2tgpo.system.http_client import HttpClient, Unavailable
from tests.helpers.tiny_runs import ROOT, SMALL, fit

pytestmark = pytest.mark.vllm
LORA = ("experiment=a2tgpo", "model/policy=tiny_lora", "model/reference=disabled_adapter")
QUESTIONS, GROUP = 8, 2


@pytest.fixture
def parts(composed, vllm):
    """`parts(override, …)`: a LoRA policy with an adapter that does something, its rollout from vLLM, and tasks."""

    def build(*overrides):
        config = composed(*LORA, "data/engine=vllm", f"data.engine.url={vllm.url}", *overrides)
        data = instantiate(config.data.module, _convert_="all")
        policy = instantiate(config.model.policy, _convert_="all")
        update(policy, seed=0)
        return policy, data.rollout, list(enumerate(data.tasks.split(Split.TEST)[i] for i in range(QUESTIONS)))

    return build


def update(policy, seed):
    """Other trainable weights."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in policy.model.parameters():
            if weight.requires_grad:
                weight.add_(0.02 * torch.randn_like(weight))


def gap(policy, batch):
    """Largest distance of the rollout's log-probs from `policy`'s own."""
    mask = batch.turn_ids >= 0
    with torch.no_grad():
        own = token_stats(policy, batch.input_ids, batch.turn_ids).logprobs
    return float((own - batch.rollout_logprobs)[mask].abs().max())


def tokens(trajectories):
    return [(t.group, t.sample, t.token_ids, t.token_turns, t.stop) for t in trajectories]


def test_greedy_episodes_equal_those_in_process(parts):
    policy, served, prompts = parts()
    local = replace(served, engine=HuggingFaceEngine(max_sessions=64, deterministic=True))
    played = served.run(policy, prompts, 1, (0,), greedy=True)
    assert max(len(t.turns) for t in played) > 1
    assert tokens(played) == tokens(local.run(policy, prompts, 1, (0,), greedy=True))
    assert gap(policy, collate(played, policy.pad_id)) < 1e-4


def test_sampled_logprobs_are_those_of_the_policy_and_draws_depend_on_the_key(parts):
    policy, served, prompts = parts()
    first, again, other = (served.run(policy, prompts, 4, key, greedy=False) for key in ((0,), (0,), (1,)))
    assert tokens(first) == tokens(again) != tokens(other)
    measured = gap(policy, collate(first, policy.pad_id))
    print(f"largest gap of a sampled log-prob: {measured:.1e}")
    assert measured < 1e-4


def test_sampled_logprobs_are_those_of_the_policy_at_its_temperature(parts):
    policy, served, prompts = parts("model.policy.temperature=0.7")
    measured = gap(policy, collate(served.run(policy, prompts, GROUP, (0,), greedy=False), policy.pad_id))
    print(f"largest gap of a log-prob sampled at temperature 0.7: {measured:.1e}")
    assert measured < 1e-4


def test_served_logprobs_follow_each_update(parts):
    policy, served, prompts = parts()
    served.run(policy, prompts, GROUP, (0,), greedy=False)
    stale = {name: weight.clone() for name, weight in policy.model.state_dict().items()}
    update(policy, seed=1)
    batch = collate(served.run(policy, prompts, GROUP, (1,), greedy=False), policy.pad_id)
    to_new = gap(policy, batch)
    policy.model.load_state_dict(stale)
    print(f"gap to the new weights {to_new:.1e}, to those before {gap(policy, batch):.1e}")
    assert to_new < 1e-4 and gap(policy, batch) > 1e-2


def test_stale_rollouts_have_the_log_probs_of_the_weights_before(parts):
    policy, served, prompts = parts("data.engine.max_staleness=2")
    policy.model.train()
    served.run(policy, prompts, GROUP, (0,), greedy=False)
    update(policy, seed=1)
    batch = collate(served.run(policy, prompts, GROUP, (1,), greedy=False), policy.pad_id)
    assert served.engine.staleness == 1 and gap(policy, batch) > 1e-2
    update(policy, seed=2)
    batch = collate(served.run(policy, prompts, GROUP, (2,), greedy=False), policy.pad_id)
    assert served.engine.staleness == 0 and gap(policy, batch) < 1e-4


def test_two_iterations_train_on_served_rollouts(composed, vllm):
    settings = (*LORA, *SMALL, "data/engine=vllm", f"data.engine.url={vllm.url}")
    config = composed(*settings, "trainer.max_epochs=2", "model.optimizer.lr=1e-2")
    learner = fit(config, []).lightning_module
    batch = learner.rollout_batch
    start = instantiate(config.model.policy, _convert_="all")
    print(f"gap {learner.metrics['policy/rollout_gap_max']:.1e}, to the start {gap(start, batch):.1e}")
    assert learner.metrics["policy/rollout_gap_max"] < 1e-4 < 1e-2 < gap(start, batch)


class Versions(Callback):
    """Which weights sampled each rollout set, and how far its log-probs are from those that are trained."""

    def __init__(self):
        self.found, self.gaps, self.began = [], [], time.perf_counter()

    def on_train_epoch_end(self, trainer, pl_module):
        self.found.append({turn.weights_version for t in pl_module.trajectories for turn in t.turns})
        self.gaps.append(pl_module.metrics["policy/rollout_gap_max"])
        seconds = {name: pl_module.metrics.get(f"seconds/{name}", pl_module.seconds.get(name)) for name in PHASES}
        print(f"after {time.perf_counter() - self.began:.1f} s: {seconds}")


PHASES = ("rollout", "rollout_ahead", "scoring", "update")


@pytest.mark.parametrize(("max_staleness", "versions"), [(0, [0, 1, 2]), (1, [0, 0, 1])])
def test_rollouts_an_iteration_ahead_lag_by_one_version(composed, vllm, max_staleness, versions):
    settings = (*LORA, *SMALL, "data/engine=vllm", f"data.engine.url={vllm.url}", "model.optimizer.lr=1e-2")
    watch = Versions()
    fit(composed(*settings, f"data.engine.max_staleness={max_staleness}", "trainer.max_epochs=3"), [watch])
    assert watch.found == [{version} for version in versions]
    lags = [i - version for i, version in enumerate(versions)]
    assert all(gap < 1e-4 if lag == 0 else gap > 1e-2 for gap, lag in zip(watch.gaps, lags, strict=True)), watch.gaps


# ---- What this server cannot do --------------------------------------------------------------------------------------


def test_loading_in_place_is_refused_on_a_cpu(composed, vllm, tmp_path):
    config = composed("experiment=a2tgpo", "data/engine=vllm", "data/engine/weight_sync=reload")
    config.data.engine.url, config.data.engine.weight_sync.directory = vllm.url, str(tmp_path)
    engine, policy = (instantiate(part, _convert_="all") for part in (config.data.engine, config.model.policy))
    with pytest.raises(ValueError, match=r"data/engine/weight_sync=reload: .* computes on a CPU"):
        engine.sync(policy)


def test_an_adapter_that_does_not_fit_is_refused_at_once(parts):
    policy, served, _ = parts("model.policy.lora.r=16")
    with pytest.raises(ValueError, match=r"data/engine/weight_sync=lora: .*rank"):
        served.engine.sync(policy)


def test_an_episode_that_does_not_fit_is_refused_at_once(parts):
    policy, served, prompts = parts()
    with pytest.raises(ValueError, match=r"was refused with status 400: .*max_model_len"):
        replace(served, max_action_tokens=600, max_response_tokens=900).run(policy, prompts[:1], 1, (0,), greedy=True)


# ---- A server that dies ----------------------------------------------------------------------------------------------


@dataclass
class Deadly:
    """Makes environments; the tool call number `at` of all of them kills the server first."""

    make: object
    vllm: object
    at: int
    calls: int = 0

    def __call__(self, task):
        environment = self.make(task)
        step = environment.step

        def deadly_step(text):
            self.calls += 1
            if self.calls == self.at:
                self.vllm.kill()
            return step(text)

        environment.step = deadly_step
        return environment


def test_a_killed_server_ends_the_rollout_in_one_line_and_in_bounded_time(parts, vllm):
    policy, served, prompts = parts("data.engine.patience=2")
    served = replace(served, environment=Deadly(served.environment, vllm, at=5))
    start = time.monotonic()
    with pytest.raises(ValueError, match=rf"data.engine.url={vllm.url}: no answer for 2 s .*start it again"):
        served.run(policy, prompts, GROUP, (0,), greedy=True)
    print(f"ended after {time.monotonic() - start:.1f} s")
    assert time.monotonic() - start < 15


def test_a_rollout_goes_on_when_the_server_comes_back_and_nothing_is_lost(parts, vllm):
    policy, served, prompts = parts("data.engine.patience=240")
    expected = replace(served, engine=HuggingFaceEngine(max_sessions=64, deterministic=True)).run(
        policy, prompts, GROUP, (0,), greedy=True
    )
    deadly = replace(served, environment=Deadly(served.environment, vllm, at=5))

    def start_again():
        vllm.process.wait()
        vllm.start()

    watcher = threading.Thread(target=start_again)
    watcher.start()
    played = deadly.run(policy, prompts, GROUP, (0,), greedy=True)
    watcher.join()
    assert len(played) == QUESTIONS * GROUP and tokens(played) == tokens(expected)
    assert gap(policy, collate(played, policy.pad_id)) < 1e-4


# ---- Weights in the memory of a GPU ----------------------------------------------------------------------------------

READ = """
import json, sys
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferInitInfo, NCCLWeightTransferUpdateInfo
start, update = json.load(sys.stdin)
start, update = NCCLWeightTransferInitInfo(**start), NCCLWeightTransferUpdateInfo(**update)
print(json.dumps([list(start.nccl_unique_id_bytes), start.world_size, update.names, update.dtype_names, update.shapes]))
"""


def test_what_nccl_sends_is_what_vllm_reads():
    weights = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}
    command = [str(ROOT / ".venv-vllm" / "bin" / "python"), "-c", READ]
    sent = json.dumps([init_info(bytes(range(128)), 2), description(weights)])
    read = subprocess.run(command, input=sent, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    assert json.loads(read) == [list(range(128)), 3, ["a", "b"], ["float32", "bfloat16"], [[2, 3], [4]]]


def test_an_offer_through_ipc_is_understood_as_far_as_a_machine_without_cuda_can(vllm):
    server = HttpClient(vllm.url, 60.0, "data.engine", max_connections=1)
    weights = {"model.norm.weight": torch.ones(128)}
    server.post("/init_weight_transfer_engine", {"init_info": {"packed": False}})
    server.post("/start_weight_update", {})
    with pytest.raises(Unavailable, match="Torch not compiled with CUDA enabled"):
        server.post("/update_weights", {"update_info": update_info(weights, "GPU-1")})
    server = HttpClient(vllm.url, 60.0, "data.engine", max_connections=1)  # vLLM drops a connection after an error
    server.post("/start_weight_update", {})
    with pytest.raises(Unavailable, match="`dtype_names` should be of the same size"):
        server.post("/update_weights", {"update_info": update_info(weights, "GPU-1") | {"dtype_names": []}})
    vllm.kill()  # its layers wait for weights that never come
